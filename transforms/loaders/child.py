"""The loader process. It imports neither Beam nor TensorFlow.

python -P -m labelbeam.transforms.loaders.child SOCKET BOARD LOCK   (descriptors that its parent passes on)

It ends with its parent: when the socket closes, and by the system's signal if a decoder holds the GIL.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import queue
import re
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from labelbeam.transforms.elements import AnyImage, BoxedImage, ImageRef, InlineImage
from labelbeam.transforms.images.memory import tune_malloc
from labelbeam.transforms.loaders.board import Board, Stage
from labelbeam.transforms.loaders.channel import CHUNK, Channel, Result, Task, result_of
from labelbeam.transforms.loaders.image import MAX_ENCODED_BYTES, Loaded, Loader, Loading

# prctl(2): the signal that this process gets when its parent's thread ends.
_PR_SET_PDEATHSIG = 1
# Address space of a thread's stack, and of the two arenas of glibc's malloc that the pool allows.
_STACK_BYTES, _ARENAS_BYTES = 8 << 20, 2 * (64 << 20)
# Results wait for others up to that time and length, because messages of several cost fewer switches.
_HOLD_SEC, _HOLD_BYTES = 0.05, 1 << 20
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
    threading.stack_size(_STACK_BYTES)
    outbox = _Outbox(channel)
    # Results leave before a wait for the lock, because another loader may hold it for minutes.
    loader = Loader(loading, 1, _FileLock(lock_fd, outbox.flush))
    worker = _Worker(outbox, loader, Board(board_fd, threads))
    for row in range(threads):
        threading.Thread(target=worker.run, args=(row,), daemon=True).start()
    channel.send(os.getpid())
    try:
        while True:
            for task in channel.receive():
                worker.tasks.put(task)
    except (EOFError, OSError):
        # Without waiting for threads, because one may be inside a decoder that never returns.
        os._exit(0)


class _Worker:
    """The work of the threads of the process.

    Attributes:
      tasks: Tasks that no thread has begun.
    """

    def __init__(self, outbox: _Outbox, loader: Loader, board: Board) -> None:
        # A queue, because a pool of `concurrent.futures` makes a future for each task, which nobody needs.
        self.tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._outbox, self._loader, self._board = outbox, loader, board
        self._thread = threading.local()

    def run(self, row: int) -> None:
        """Load images one after another; the thread has a row of the board."""
        self._thread.row = row
        try:
            while True:
                self._load(self.tasks.get())
        except BaseException:
            # The process ends, because its parent then loads the images again, and would wait for ever for an
            # outcome that could not be sent for want of memory.
            traceback.print_exc()
            os._exit(1)

    def _load(self, task: Task) -> None:
        ref = ImageRef("", task.uri, (), task.known_version, task.signed)
        source = InlineImage(ref, bytes(task.inline[0]), task.inline[1]) if task.inline else ref
        boxes = tuple(ImageRef("", uri) for uri in task.boxes)
        image: AnyImage = BoxedImage(source, boxes) if boxes else source
        send = functools.partial(self._send, task.number)
        report = functools.partial(self._report, task.number)
        # Only where the parent waits for it.
        fetched = functools.partial(self._outbox.announce, task.number) if task.is_bounded else None
        self._loader.load(image, send, report, fetched)

    def _send(self, number: int, loaded: Loaded | Exception) -> None:
        if isinstance(loaded, Exception):  # a defect, which must end the run and not a thread alone
            # As text, because an error need not be picklable.
            loaded = RuntimeError("".join(traceback.format_exception(loaded)))
        try:
            self._outbox.put(result_of(number, loaded), self._loader.is_behind)
        except OSError:
            os._exit(0)

    def _report(self, number: int, stage: Stage | None, spent_ns: int) -> None:
        # The row of the thread at work, because a thread decodes what others have fetched.
        row = self._thread.row
        if stage is None:
            self._board.clear(row)
            return
        self._board.write(row, number, stage, spent_ns)
        # Before an image is decoded, because that may take long.
        self._outbox.flush(_HOLD_SEC)


class _Outbox:
    """Results that go to the parent, several in a message while further results are sure to follow."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._results: list[Result] = []
        self._bytes = 0
        self._oldest = 0.0

    def flush(self, age_sec: float = 0.0) -> None:
        """Send results that have waited for a time."""
        with self._lock:
            if not self._results or time.monotonic() - self._oldest < age_sec:
                return
            results = self._take()
        self._channel.send(results)

    def announce(self, number: int) -> None:
        """Send the news that an image is fetched, behind the results that wait."""
        with self._lock:
            results = [*self._take(), Result(number, None)]
        self._channel.send(results)

    def _take(self) -> list[Result]:
        results, self._results, self._bytes = self._results, [], 0
        return results

    def put(self, result: Result, more_follow: Callable[[], bool]) -> None:
        """Send a result, or keep it for the next message if further results are sure to follow.

        Raises:
          OSError: The parent is gone.
        """
        with self._lock:
            now = time.monotonic()
            if not self._results:
                self._oldest = now
            self._results.append(result)
            self._bytes += result.pixel_bytes()
            is_full = len(self._results) == CHUNK or self._bytes > _HOLD_BYTES
            # Called under the lock, because the image that follows must find this result here.
            if not is_full and now - self._oldest < _HOLD_SEC and more_follow():
                return
            results = self._take()
        self._channel.send(results)


class _FileLock:
    """A lock between processes. The system frees it when its holder dies."""

    def __init__(self, fd: int, before: Callable[[], None]) -> None:
        self._fd = fd
        self._before = before

    def __enter__(self) -> None:
        self._before()
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
        # Twice, because requests under way when the bound is reached may bring as much again. An image that
        # then lacks memory is fetched again later.
        + 2 * MAX_ENCODED_BYTES
        + 4 * loading.limits.max_bytes
        + _BYTES_PER_PIXEL * loading.max_pixels
        + loading.most_boxes * 3 * loading.rule.size_px**2
    )
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
