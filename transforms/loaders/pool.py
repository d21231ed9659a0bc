"""The pool of loader processes: dealing images out, crashes, and time limits."""

from __future__ import annotations

import fcntl
import itertools
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import IO, Final

from labelbeam.transforms.attempts import failure_of
from labelbeam.transforms.elements import AnyImage, InlineImage, parts_of
from labelbeam.transforms.errors import ImageError, Reason, RunError, describe_error
from labelbeam.transforms.loaders.board import Board, Row, nameless_file
from labelbeam.transforms.loaders.channel import CHUNK, Channel, Task, loaded_of
from labelbeam.transforms.loaders.crew import Loaders
from labelbeam.transforms.loaders.image import Loaded, Loading
from labelbeam.transforms.loaders.orders import Finished, Orders
from labelbeam.transforms.loaders.schedule import Order

# Fewest threads of a loader, because one that decodes should find the next images fetched.
_LEAST_CONNECTIONS = 4
# Time between two looks at the clocks of images.
_LOOK_SEC = 0.5
# Time by which a request may exceed its limit, because the client ends most requests itself, with a reason.
_GRACE_SEC = 2.0
# Longest wait for a piece of a message, and for a start on a busy machine.
_MESSAGE_SEC, _START_SEC = 30.0, 120.0
# Longest wait for a process that was killed. One that waits for a dead disk ends when the disk answers.
_KILL_SEC = 5.0
# Starts in a row that may fail, and the pause behind each, because a machine can be short of memory for a
# moment.
_FAILED_STARTS, _PAUSE_SEC = 3, 1.0
# Length of a loader's output from which it is cut off, because a library may print a line for each image.
_MOST_OUTPUT_BYTES = 1 << 20
# Crashes after which an image is at fault.
_CRASHES = 2
# Few threads and heaps of libraries, because a loader decodes one image at a time.
_ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


@dataclass(eq=False, slots=True)
class _Process:
    """A loader process, as its parent sees it.

    Attributes:
      process: The process.
      channel: The parent's end of the socket.
      board: What its threads are at.
      errors: What it writes to its standard error.
      images: Images that it has, by the number of the request.
      start: Time of its start, as `time.monotonic` counts.
      ready: Whether it has started.
      late: Numbers of images that were late at the last look.
      alone: Whether it takes images that a loader died of, one by one, and no others.
    """

    process: subprocess.Popen[bytes]
    channel: Channel
    board: Board
    errors: IO[bytes]
    alone: bool
    images: dict[int, Order] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)
    ready: bool = False
    late: frozenset[int] = frozenset()

    def last_words(self) -> str:
        """Return the end of what the process has written to its standard error."""
        length = self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, length - 500))
        return self.errors.read().decode(errors="replace").strip()

    def close(self) -> int:
        """End the process and return its status."""
        self.process.kill()
        self.channel.close()
        self.board.close()
        self.errors.close()
        try:
            return self.process.wait(_KILL_SEC)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL


class _Stopped(Exception):
    """The pool is gone; no bundle waits for it any more."""


class LoaderPool(Loaders):
    """Loader processes.

    Attributes:
      pids: Function that returns the ids of the processes that have started.
    """

    def __init__(self, loading: Loading, processes: int) -> None:
        """Start the first process.

        Args:
          loading: What becomes of every image; its connections are shared among the processes.
          processes: Largest number of processes; they start when images wait.
        """
        crew = _Crew(loading, processes)
        super().__init__(crew)
        self.pids = crew.pids


class _Crew:
    """The processes of a pool, and their thread: it starts them, receives outcomes and looks at clocks.

    The thread alone starts processes, because the system ends a loader with the thread that started it.
    """

    def __init__(self, loading: Loading, processes: int) -> None:
        connections = max(_LEAST_CONNECTIONS, loading.limits.connections // processes)
        self._loading = replace(loading, limits=replace(loading.limits, connections=connections))
        self._timeout_sec = loading.limits.total_timeout_sec
        self._most_processes = processes
        self._threads = connections
        # More than a loader has threads, so that the next images are at hand when the first are loaded.
        self._most = connections + 2 * CHUNK
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._orders = Orders(loading, connections * processes)
        self._suspects: deque[Order] = deque()
        self._processes: list[_Process] = []
        self._failed_starts = 0
        self._next_start = 0.0
        self._next_look = 0.0
        self._broken: Exception | None = None
        self._large_fd = nameless_file()
        threading.Thread(target=self._run, name="loaders", daemon=True).start()

    def submit(self, image: AnyImage) -> Future[Loaded]:
        with self._lock:
            if self._broken:
                raise self._broken
            future = self._orders.add(image)
            self._deal()
        return future

    def is_hungry(self) -> bool:
        with self._lock:
            # Processes that can start count, because they start for images that could be requested now.
            has_room = len(self._processes) < self._most_processes or any(
                one.ready and len(one.images) < self._threads for one in self._processes
            )
            return has_room and not self._orders.has_ready()

    def watch(self, window: Finished) -> None:
        with self._lock:
            self._orders.watch(window)

    def taken(self) -> None:
        if self._orders.is_full:
            with self._lock:
                self._deal()

    def pids(self) -> list[int]:
        return [one.process.pid for one in self._processes if one.ready]

    def stop(self) -> None:
        """End the thread and its processes."""
        self._broken = _Stopped("The loaders have ended with their pool.")

    def _run(self) -> None:
        try:
            self._selector = selectors.DefaultSelector()
            # At once, because it then starts while TensorFlow is loaded.
            self._start()
            while self._broken is None:
                for key, _ in self._selector.select(self._wait_sec()):
                    self._receive(key.data)
                with self._lock:
                    self._deal()
                self._start_missing()
                # Seldom, because a look at every row costs as much as receiving an image.
                if time.monotonic() >= self._next_look:
                    self._look_at_clocks()
                    self._next_look = time.monotonic() + _LOOK_SEC
            self._end(self._broken)
        except Exception as e:  # whatever it is, no bundle may wait for a thread that is gone
            self._end(e)

    def _wait_sec(self) -> float:
        """Return the time until an image may start, or until the next look at the clocks."""
        with self._lock:
            wait_sec = self._orders.wait_sec()
        # Not 0, because an image that may start waits for a loader that has room.
        return min(_LOOK_SEC, wait_sec or _LOOK_SEC)

    def _start(self, alone: bool = False) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(_MESSAGE_SEC)
        board, board_fd = Board.create(self._loading.limits.connections)
        # A file without a name, because a pipe that nobody reads would fill and stop the loader.
        errors = os.fdopen(nameless_file(), "w+b")
        # Behind its end, because the file may be cut off while the loader writes.
        fcntl.fcntl(errors, fcntl.F_SETFL, os.O_APPEND)
        fds = (theirs.fileno(), board_fd, self._large_fd)
        try:
            process = subprocess.Popen(
                # -P, because `-m` would put the working folder, and whatever lies there, before all packages.
                [sys.executable, "-P", "-m", "labelbeam.transforms.loaders.child", *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                # With this process's own path, because a script may have set it, and so found the package.
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                # Of its own, because Ctrl-C is for the parent, which lets loaders finish.
                process_group=0,
            )
        except OSError as e:
            for end in (ours, board, errors):
                end.close()
            self._fail_start(f"can't be started ({describe_error(e)})")
            return
        finally:
            theirs.close()
            os.close(board_fd)
        one = _Process(process, Channel(ours), board, errors, alone)
        self._selector.register(one.channel, selectors.EVENT_READ, one)
        with self._lock:
            self._processes.append(one)
        self._send(one, self._loading)

    def _start_missing(self) -> None:
        """Start a process if images wait for it. A loader that ends with the run needs no successor."""
        if time.monotonic() < self._next_start:
            return
        with self._lock:
            alone = bool(self._suspects) and not any(one.alone for one in self._processes)
            is_short = len(self._processes) < self._most_processes and self._is_short()
        if alone or is_short:
            self._start(alone)

    def _is_short(self) -> bool:
        """Return whether more images wait than the processes can take; those that start now count."""
        # Few images need one process only, whose start takes longer than they do.
        starting = sum(not one.ready for one in self._processes)
        return self._orders.has_ready() and len(self._orders) > starting * self._most

    def _receive(self, one: _Process) -> None:
        try:
            received = one.channel.receive()
        except (EOFError, OSError):
            self._bury(one)
            return
        if not isinstance(received, list):
            self._failed_starts = 0
            with self._lock:
                one.ready = True
                self._deal()
            return
        with self._lock:
            for result in received:
                image = one.images[result.number]
                if result.is_news:
                    self._orders.release(image)
                    continue
                self._orders.settle(image, result.error or loaded_of(result, image.image))
                # Behind that, because images of the process get an outcome in any case.
                del one.images[result.number]

    def _deal(self) -> None:
        """Send images to processes that have room. The lock is held."""
        ready = [one for one in self._processes if one.ready]
        for one in ready:
            if one.alone and not one.images:
                one.alone = bool(self._suspects)
                if one.alone:
                    self._hand(one, [self._suspects.popleft()])
        others = [one for one in ready if not one.alone]
        while others and len(self._orders):
            one = min(others, key=lambda one: len(one.images))
            if idle := max(0, self._threads - len(one.images)):
                images = self._orders.take(min(idle, CHUNK))
            # Whole chunks where all threads are busy, because each message costs both processes a switch.
            elif min(self._most - len(one.images), len(self._orders)) >= CHUNK:
                images = self._orders.take(CHUNK, in_reserve=True)
            else:
                return
            if not images:
                return
            self._hand(one, images)

    def _hand(self, one: _Process, images: list[Order]) -> None:
        handed = {next(self._numbers): image for image in images}
        one.images.update(handed)
        self._send(one, [_task_of(number, image) for number, image in handed.items()])

    def _send(self, one: _Process, value: object) -> None:
        try:
            one.channel.send(value)
        except OSError:
            # Its images are taken back where its end is received.
            one.process.kill()

    def _look_at_clocks(self) -> None:
        for one in list(self._processes):
            if os.fstat(one.errors.fileno()).st_size > _MOST_OUTPUT_BYTES:
                os.ftruncate(one.errors.fileno(), 0)
            rows = [row for row in one.board.read() if row.number in one.images]
            late = [row for row in rows if self._is_late(row)]
            # At two looks, because an image may be finished by now, and its outcome on the way.
            twice = [row for row in late if row.number in one.late]
            one.late = frozenset(row.number for row in late)
            if twice or (not one.ready and time.monotonic() - one.start > _START_SEC):
                self._bury(one, twice)

    def _is_late(self, row: Row) -> bool:
        grace = _GRACE_SEC if row.stage == "fetch" else 0.0
        return row.usec > 1e6 * (self._timeout_sec + grace)

    def _bury(self, one: _Process, late: Iterable[Row] = ()) -> None:
        """End a process, judge the images that it had, and start another."""
        self._selector.unregister(one.channel)
        at = one.board.read()
        words = one.last_words()
        status = one.close()
        with self._lock:
            self._processes.remove(one)
            images = one.images
            for row in late:
                if image := images.pop(row.number, None):
                    self._fail_late(image, row)
            if not late:
                self._suspect(images, at, status)
            begun = {row.number for row in at}
            # Innocent images come first again, because bundles wait for them longest.
            for number, image in reversed(images.items()):
                self._orders.give_back(image, was_sent=number in begun or not image.is_request)
        if not one.ready:
            self._fail_start(f"{_describe(status)} before it was ready", words)

    def _fail_start(self, fault: str, output: str = "") -> None:
        """Count a start that has failed.

        Raises:
          RunError: It is one of several in a row, and no other loader works.
        """
        self._failed_starts += 1
        self._next_start = time.monotonic() + _PAUSE_SEC
        if self._failed_starts >= _FAILED_STARTS and not any(one.ready for one in self._processes):
            remedy = "Use fewer of them (--loaders 1), or none (--loaders 0)."
            printed = f" It printed: {output}" if output else ""
            raise RunError(f"A loader process {fault}. {remedy}{printed}")

    def _fail_late(self, image: Order, row: Row) -> None:
        reason = Reason.TIMEOUT if row.stage == "fetch" else Reason.DECODE_TIMEOUT
        message = f"took longer than image_timeout_sec={self._timeout_sec:g} allows"
        failure = failure_of(image.ref, row.stage, ImageError(reason, message))
        times = (row.usec, 0) if row.stage == "fetch" else (0, row.usec)
        self._orders.settle(image, Loaded(failure, *times))

    def _suspect(self, images: dict[int, Order], at: list[Row], status: int) -> None:
        """Set those images apart that a loader may have died of."""
        # The image that was being decoded, else all that were being fetched.
        for row in [row for row in at if row.stage == "decode"] or at:
            # A message about it may have been under way: then it is loaded, and not among the images.
            image = images.pop(row.number, None)
            if image is None:
                continue
            image.crashes += 1
            if image.crashes < _CRASHES:
                image.attempts += 1
                # No request of its host, because it may wait long for a loader of its own.
                self._orders.release(image)
                self._suspects.append(image)
                continue
            message = f"the loader process {_describe(status)} while it loaded this image, {_CRASHES} times"
            error = ImageError(Reason.DECODER_CRASHED, message)
            self._orders.settle(image, Loaded(failure_of(image.ref, row.stage, error), 0))

    def _end(self, error: Exception) -> None:
        with self._lock:
            self._broken = error
            waiting = [*self._orders.take_all(), *self._suspects]
            waiting += [image for one in self._processes for image in one.images.values()]
        for one in self._processes:
            one.close()
        os.close(self._large_fd)
        for image in waiting:
            image.finish(error)


def _task_of(number: int, order: Order) -> Task:
    ref, (source, boxes) = order.ref, parts_of(order.image)
    # As a buffer, because the channel does not copy these.
    inline = (pickle.PickleBuffer(source.data), source.version) if isinstance(source, InlineImage) else None
    uris = tuple(box.uri for box in boxes)
    return Task(number, ref.uri, ref.known_version, ref.signed, order.is_bounded, inline, uris)


def _describe(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    return f"was killed by {name}" + (", maybe for want of memory" if name == "SIGKILL" else "")
