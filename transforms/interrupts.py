"""Signals that end a process: SIGINT (Ctrl-C), SIGTERM, and SIGHUP, which a closed terminal sends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handle_ending_signals(handler: Handler, numbers: tuple[int, ...] = ENDING_SIGNALS) -> None:
    """Install a handler, but keep ignoring signals that the parent process ignores, as under `nohup`."""
    # None stands for a handler of C code, which must stay, because Python could not install it again.
    for number in numbers:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, handler)


@contextmanager
def ending_signals_handled(
    handler: Handler, numbers: tuple[int, ...] = ENDING_SIGNALS, if_ignored: Handler | None = None
) -> Iterator[None]:
    """Handle signals while the body runs, then restore the handlers.

    Does nothing outside the main thread, because Python allows handlers there alone.

    Args:
      handler: The handler.
      numbers: The signals.
      if_ignored: Handler of signals that were ignored before; by default they stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Read before any is replaced, because the handlers must be restored even if the body fails.
    handlers = {number: signal.getsignal(number) for number in numbers}
    handle_ending_signals(handler, numbers)
    try:
        for number, before in handlers.items():
            if if_ignored and before == signal.SIG_IGN:
                signal.signal(number, if_ignored)
        yield
    finally:
        for number, before in handlers.items():
            if before is not None:
                signal.signal(number, before)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold signals back while the body runs, and raise KeyboardInterrupt afterwards.

    Used around imports of C++ libraries, because an exception within TensorFlow's initialisers aborts the
    process.
    """
    received: list[int] = []
    with ending_signals_handled(lambda number, _: received.append(number)):
        yield
    if received:
        raise KeyboardInterrupt
