"""Entry point of Dataflow's launcher: `labelbeam run` with the template's parameters."""

import sys

from labelbeam.pipeline.cli import entry

if __name__ == "__main__":
    # Dataflow passes the template's parameters as flags alone, without a command.
    sys.argv.insert(1, "run")
    entry()
