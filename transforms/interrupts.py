"""Signals that ask a process to end: SIGINT (Ctrl-C), SIGTERM, and SIGHUP, which a closed terminal sends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handle_ending_signals(handler: Handler, numbers: tuple[int, ...] = ENDING_SIGNALS) -> None:
    """Install a handler; a signal that the parent process had ignored stays ignored, as under `nohup`."""
    for number in numbers:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, handler)


@contextmanager
def ending_signals_handled(
    handler: Handler, numbers: tuple[int, ...] = ENDING_SIGNALS, if_ignored: Handler | None = None
) -> Iterator[None]:
    """Handle signals while the body runs, and put the handlers from before back.

    Nothing happens in other threads than the main one, where Python allows no handler.

    Args:
      handler: The handler.
      numbers: The signals.
      if_ignored: The handler of a signal that was ignored before; by default none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in numbers}
    handle_ending_signals(handler, numbers)
    try:
        for number, before in handlers.items():
            if if_ignored and before == signal.SIG_IGN:
                signal.signal(number, if_ignored)
        yield
    finally:
        for number, before in handlers.items():
            if before is not None:  # None: a handler that C code installed, and that Python left alone
                signal.signal(number, before)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold signals back while the body runs, and raise KeyboardInterrupt behind it.

    For imports of C++ libraries, because an exception inside the initialisers of TensorFlow aborts the
    process.
    """
    received: list[int] = []
    with ending_signals_handled(lambda number, _: received.append(number)):
        yield
    if received:
        raise KeyboardInterrupt
