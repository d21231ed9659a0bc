"""The command line.

Exit status: 0 every image accounted for, within the failure budget; 1 not so;
2 a mistake of the user's; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from pipeline import __version__
from pipeline.config import load_config, options
from transforms.errors import RunError, UserError

OK, NOT_OK, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See {self.prog} --help.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; gives its exit status."""
    try:
        args, rest = _parser().parse_known_args(argv)
        _quieten(args.verbose)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return args.command(args, rest)
    except UserError as e:
        return _fail(e, USER_MISTAKE)
    except RunError as e:
        return _fail(e, NOT_OK)
    except KeyboardInterrupt:
        return _leave("Interrupted; nothing was published.", INTERRUPTED)


def _fail(error: Exception, status: int) -> int:
    if logging.getLogger().isEnabledFor(logging.INFO):
        logging.exception("labelbeam failed")
    return _leave(f"labelbeam: {error}", status)


def _leave(message: str, status: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return status


def entry() -> NoReturn:
    """Runs a command as a process: its end does not wait for what a broken-off run left behind."""
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="labelbeam", description="Label image corpora with TensorFlow Hub classifiers.")
    parser.add_argument("--version", action="version", version=f"labelbeam {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_sample(commands)
    return parser


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="label a corpus",
        description="Label a corpus. Flags not listed here go to Beam, such as --runner=DataflowRunner.",
        epilog=(__doc__ or "").partition("\n\n")[2],
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="the same settings from a YAML file; flags win")
    parser.add_argument("--verbose", action="store_true", help="show logs and tracebacks")
    for name, f in options().items():
        default = f" (default: {f.default})" if f.default not in ("", None, ()) else ""
        text = f"{f.metadata['help']}{default}".replace("%", "%%")
        parser.add_argument(f"--{name}", help=text, default=argparse.SUPPRESS, metavar="VALUE")
    parser.set_defaults(command=_run)


def _add_sample(commands: Any) -> None:
    parser = commands.add_parser("sample", help="label the sample photos with the embedded model")
    parser.add_argument("--output", default="labelbeam-sample", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--verbose", action="store_true", help="show logs and tracebacks")
    parser.set_defaults(command=_sample)


def _run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipeline.launch import run_and_report

    flags = {name: getattr(args, name) for name in options() if hasattr(args, name)}
    return OK if run_and_report(load_config(args.config, flags, rest)) else NOT_OK


def _sample(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from pipeline.sample import run_sample

    return OK if run_sample(args.output, rest) else NOT_OK


def _quieten(verbose: bool) -> None:
    """Keeps TensorFlow's and Beam's start-up chatter away, here and in worker processes."""
    if not verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(levelname)s %(message)s")
