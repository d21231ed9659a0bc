"""The command as a process: `labelbeam`, or `python -m labelbeam`."""

import os
import signal
import sys


def _leave(*_: object) -> None:
    os.write(sys.stderr.fileno(), b"Interrupted. Nothing was started.\n")
    os._exit(130)


# Before all other imports, because they take a while, and a KeyboardInterrupt in them ends in a traceback.
# The rule is `handle_ending_signals`'s: what the parent process ignores stays ignored.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) != signal.SIG_IGN:
        signal.signal(_number, _leave)


def main() -> None:
    """Run the command line; the process ends with its exit status."""
    from labelbeam.pipeline.cli import entry

    entry()


if __name__ == "__main__":
    main()
