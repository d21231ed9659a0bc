"""The command as a process: `labelbeam`, or `python -m labelbeam`."""

import os
import sys
from typing import NoReturn

from labelbeam.transforms.interrupts import handle_ending_signals


def _leave(*_: object) -> NoReturn:
    os.write(sys.stderr.fileno(), b"Interrupted. Nothing was started.\n")
    os._exit(130)


def main() -> NoReturn:
    """Run the command line."""
    # First of all, because the imports take a while, and a KeyboardInterrupt in them ends in a traceback.
    handle_ending_signals(_leave)
    from labelbeam.pipeline.cli import entry

    entry()


if __name__ == "__main__":
    main()
