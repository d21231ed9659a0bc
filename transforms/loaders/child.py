"""The loader process. It imports neither Beam nor TensorFlow.

python -P -m labelbeam.transforms.loaders.child SOCKET BOARD LOCK   (descriptors that its parent passes on)

It ends with its parent: when the socket closes, and by the system's signal if a decoder holds the GIL.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.images.memory import tune_malloc
from labelbeam.transforms.loaders.board import Board, Stage
from labelbeam.transforms.loaders.channel import Channel, Task, result_of
from labelbeam.transforms.loaders.image import MAX_ENCODED_BYTES, Loaded, Loader, Loading

# prctl(2): the signal that this process gets when its parent's thread ends.
_PR_SET_PDEATHSIG = 1
# Address space of a thread's stack, and of the two arenas of glibc's malloc that the pool allows.
_STACK_BYTES, _ARENAS_BYTES = 8 << 20, 2 * (64 << 20)
# Most bytes that decoding takes for a pixel, copies included: an image of 9999 x 9999 takes 2 GB.
_BYTES_PER_PIXEL = 24


def main(socket_fd: int, board_fd: int, lock_fd: int) -> None:
    """Load images until the parent closes the socket."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    end = socket.socket(fileno=socket_fd)
    # The parent may have a default time limit for sockets, which leaves descriptors non-blocking.
    end.setblocking(True)
    channel = Channel(end)
    loading: Loading = channel.receive()
    threads = loading.limits.connections
    tune_malloc()
    if sys.platform == "linux":
        _bound_memory(loading)
    # A lock, because a semaphore is Python's own code, which the threads that wait would all run.
    loader = Loader(loading, threading.Lock(), _FileLock(lock_fd))
    board = Board(board_fd, threads)
    pool = ThreadPoolExecutor(threads, "load")
    worker = _Worker(channel, loader, board)
    channel.send(os.getpid())
    try:
        while True:
            for task in channel.receive():
                pool.submit(worker.run, task)
    except (EOFError, OSError):
        # Without waiting for threads, because one may be inside a decoder that never returns.
        os._exit(0)


class _Worker:
    """What each thread of the pool does with a task."""

    def __init__(self, channel: Channel, loader: Loader, board: Board) -> None:
        self._channel, self._loader, self._board = channel, loader, board
        self._rows = threading.local()
        self._numbers = iter(range(1 << 30))

    def run(self, task: Task) -> None:
        """Load an image and send the outcome."""
        if not hasattr(self._rows, "row"):
            self._rows.row = next(self._numbers)
        ref = ImageRef("", task.uri, (), task.known_version)
        try:
            loaded: Loaded | Exception = self._loader.load(ref, self._reporter(task.number))
        except Exception:  # a defect, which must end the run and not this thread alone
            # As text, because an error need not be picklable.
            loaded = RuntimeError(traceback.format_exc())
        try:
            self._channel.send(result_of(task.number, loaded))
        except OSError:
            os._exit(0)

    def _reporter(self, number: int) -> Callable[[Stage | None, int], None]:
        row = self._rows.row

        def report(stage: Stage | None, spent_ns: int) -> None:
            if stage is None:
                self._board.clear(row)
            else:
                self._board.write(row, number, stage, spent_ns)

        return report


class _FileLock:
    """A lock between processes. The system frees it when its holder dies."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN)


def _bound_memory(loading: Loading) -> None:
    """Limit the address space to what the largest permitted image may take."""
    taken = re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert taken
    limit = (
        (int(taken[1]) << 10)
        + loading.limits.connections * _STACK_BYTES
        + _ARENAS_BYTES
        # Twice, because requests under way when the bound is reached may bring as much again.
        + 2 * MAX_ENCODED_BYTES
        + loading.limits.max_bytes
        + _BYTES_PER_PIXEL * loading.max_pixels
    )
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
