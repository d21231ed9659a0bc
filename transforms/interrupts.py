"""Signals that ask a process to end: SIGINT (Ctrl-C) and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handle_ending_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """Install a handler; a signal that the parent process had ignored stays ignored, as under `nohup`."""
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, handler)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back while the body runs, and raise KeyboardInterrupt behind it.

    For imports of C++ libraries, because an exception inside the initialisers of TensorFlow aborts the
    process. Nothing happens in other threads than the main one, because Python raises no KeyboardInterrupt
    there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    handle_ending_signals(lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # None: a handler that C code installed, and that Python left alone
                signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt
