"""`python -m pipeline` is `labelbeam`."""

from pipeline.cli import entry

if __name__ == "__main__":
    entry()
