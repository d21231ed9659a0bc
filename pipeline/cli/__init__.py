"""The command line."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from labelbeam import __version__
from labelbeam.pipeline.cli import results, runs
from labelbeam.pipeline.cli.parser import INTERRUPTED, NOT_OK, USER_MISTAKE, Parser, normalise, refuse_unknown
from labelbeam.pipeline.copies import delete_copies, name_copies
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.interrupts import ENDING_SIGNALS, handle_ending_signals
from labelbeam.transforms.sources.secrets import hide_in_message


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status."""
    try:
        # Unknown flags are kept and not refused, because Beam may have them.
        args, rest = _parser().parse_known_args(normalise(sys.argv[1:] if argv is None else argv))
        _quieten(args.verbose)
        # Only now, because `labelbeam.__main__` handles signals until the modules are imported.
        handle_ending_signals(signal.default_int_handler)
        return args.command(args, rest)
    except UserError as e:
        return _fail(e, USER_MISTAKE)
    except RunError as e:
        return _fail(e, NOT_OK)
    except KeyboardInterrupt as e:
        if not logging.getLogger().isEnabledFor(logging.INFO):
            logging.disable(logging.CRITICAL)  # threads of Beam that lose their process would log tracebacks
        return _leave(str(e) or "Interrupted.", INTERRUPTED)
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        # Replaced, because Python flushes standard output at its end and would print another error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_OK
    finally:
        delete_copies()  # here, because `entry` ends the process without Python's own end


def _fail(error: Exception, status: int) -> int:
    if logging.getLogger().isEnabledFor(logging.INFO):
        logging.exception("labelbeam failed")
    # Hidden, because errors quote lines of lists and options, which may have secrets.
    return _leave(hide_in_message(f"labelbeam: {name_copies(str(error))}"), status)


def _leave(message: str, status: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return status


def entry() -> NoReturn:
    """Run a command as a process, and kill threads and children that it leaves behind."""
    from labelbeam.pipeline.runners.local import end_children

    status = main()
    # Ignored from here on, because a second Ctrl-C would leave children behind.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Threads of Beam and the children die with this process, because waiting for them could take minutes;
    # their tracebacks about lost connections are of no use.
    threading.excepthook = lambda _: None
    end_children()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="labelbeam", description="Label image corpora with TensorFlow Hub classifiers.")
    parser.add_argument("--version", action="version", version=f"labelbeam {__version__}")
    # Without a command, the only thing to do is to report an unknown flag, else the lack of a command.
    parser.set_defaults(command=refuse_unknown, parser=parser, verbose=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    runs.add_commands(commands)
    results.add_commands(commands)
    return parser


def _quieten(verbose: bool) -> None:
    """Keep start-up notices of TensorFlow and Beam away, here and in worker processes."""
    # Also if notices are to be shown, because the probe of a model silences TensorFlow otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if verbose else "3")
    if not verbose:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, handlers=[handler])


class _Formatter(logging.Formatter):
    """Hides secrets in logs, tracebacks included, because errors of libraries quote addresses."""

    def format(self, record: logging.LogRecord) -> str:
        return hide_in_message(super().format(record))
