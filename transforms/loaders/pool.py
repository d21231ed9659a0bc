"""The pool of loader processes: dealing images out, crashes, and time limits."""

from __future__ import annotations

import itertools
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import IO, Final

from labelbeam.transforms.attempts import failure_of
from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.errors import ImageError, Reason, RunError
from labelbeam.transforms.loaders.board import Board, Entry, nameless_file
from labelbeam.transforms.loaders.channel import CHUNK, Channel, Task, loaded_of
from labelbeam.transforms.loaders.image import Loaded, Loading

# Time between two looks at the clocks of images.
_LOOK_SEC = 0.5
# Time by which a request may exceed its limit, because the client ends most requests itself, with a reason.
_GRACE_SEC = 2.0
# Longest time between the first and the last byte of a message, and of a start on a busy machine.
_MESSAGE_SEC, _START_SEC = 30.0, 120.0
# Longest wait for a process that was killed. One that waits for a dead disk ends when the disk answers.
_KILL_SEC = 5.0
# Starts in a row that may fail, because a machine can be short of memory for a moment.
_FAILED_STARTS = 3
# Crashes after which an image is at fault.
_CRASHES = 2
# Few threads and heaps of libraries, because a loader decodes one image at a time.
_ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


@dataclass(eq=False, slots=True)
class _Image:
    """An image that is not loaded yet.

    Attributes:
      number: Number of the image in the pool.
      ref: The image.
      future: Receives the outcome.
      crashes: Number of loaders that died of it.
    """

    number: int
    ref: ImageRef
    future: Future[Loaded]
    crashes: int = 0

    def fail(self, stage: str, error: ImageError, usec: int = 0, attempts: int = 1) -> None:
        """Make a failure the outcome."""
        times = (usec, 0) if stage == "fetch" else (0, usec)
        self.future.set_result(Loaded(failure_of(self.ref, stage, error, attempts), *times))


@dataclass(eq=False, slots=True)
class _Process:
    """A loader process, as its parent sees it.

    Attributes:
      process: The process.
      channel: The parent's end of the socket.
      board: What its threads are at.
      errors: What it writes to its standard error.
      images: Images that it has, by number.
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
    images: dict[int, _Image] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)
    ready: bool = False
    late: frozenset[int] = frozenset()

    def last_words(self) -> str:
        """Return the end of what the process has written to its standard error."""
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace").strip()[-500:]

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


class LoaderPool:
    """Loader processes, which all bundles of a worker process share. They end with the pool."""

    def __init__(self, loading: Loading, processes: int, image_timeout_sec: float) -> None:
        """Start the first process.

        Args:
          loading: What becomes of every image; its connections are shared among the processes.
          processes: Largest number of processes; they start when images wait.
          image_timeout_sec: Longest time of an image, fetched and decoded.
        """
        self._crew = _Crew(loading, processes, image_timeout_sec)
        # The crew's thread keeps the crew alive, and must not keep the pool alive.
        weakref.finalize(self, self._crew.stop)

    def submit(self, ref: ImageRef) -> Future[Loaded]:
        """Load an image. Its future raises an error only for a defect."""
        return self._crew.submit(ref)

    def pids(self) -> list[int]:
        """Return the ids of the processes that have started."""
        return self._crew.pids()


class _Crew:
    """The processes of a pool, and their thread: it starts them, receives outcomes and looks at clocks.

    The thread alone starts processes, because the system ends a loader with the thread that started it.
    """

    def __init__(self, loading: Loading, processes: int, image_timeout_sec: float) -> None:
        connections = max(1, loading.limits.connections // processes)
        self._loading = replace(loading, limits=replace(loading.limits, connections=connections))
        self._timeout_sec = image_timeout_sec
        self._threads = connections
        # More than a loader has threads, so that the next images are at hand when the first are loaded.
        self._most = connections + 2 * CHUNK
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: deque[_Image] = deque()
        self._suspects: deque[_Image] = deque()
        self._processes: list[_Process] = []
        self._failed_starts = 0
        self._next_look = 0.0
        self._broken: Exception | None = None
        self._large_fd = nameless_file()
        threading.Thread(target=self._run, args=(processes,), name="loaders", daemon=True).start()

    def submit(self, ref: ImageRef) -> Future[Loaded]:
        image = _Image(next(self._numbers), ref, Future())
        # Running from now on, because a future that somebody cancels takes no outcome.
        image.future.set_running_or_notify_cancel()
        with self._lock:
            if self._broken:
                raise self._broken
            self._waiting.append(image)
            self._deal()
        return image.future

    def pids(self) -> list[int]:
        return [one.process.pid for one in self._processes if one.ready]

    def stop(self) -> None:
        """End the thread and its processes."""
        self._broken = _Stopped("The loaders have ended with their pool.")

    def _run(self, processes: int) -> None:
        try:
            self._selector = selectors.DefaultSelector()
            self._start()
            while self._broken is None:
                for key, _ in self._selector.select(_LOOK_SEC):
                    self._receive(key.data)
                if len(self._processes) < processes and self._is_short():
                    self._start()
                # Seldom, because a look at every row costs as much as receiving an image.
                if time.monotonic() >= self._next_look:
                    self._look_at_clocks()
                    self._next_look = time.monotonic() + _LOOK_SEC
            self._end(self._broken)
        except Exception as e:  # whatever it is, no bundle may wait for a thread that is gone
            self._end(e)

    def _start(self, alone: bool = False) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(_MESSAGE_SEC)
        board, board_fd = Board.create(self._loading.limits.connections)
        # A file without a name, because a pipe that nobody reads would fill and stop the loader.
        errors = os.fdopen(nameless_file(), "w+b")
        fds = (theirs.fileno(), board_fd, self._large_fd)
        process = subprocess.Popen(
            # -P, because `-m` would put the working folder, and whatever lies there, before all packages.
            [sys.executable, "-P", "-m", "labelbeam.transforms.loaders.child", *map(str, fds)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            # With this process's own path, because the package may have been found by a script that set it.
            env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            # Of its own, because Ctrl-C is for the parent, which lets loaders finish.
            process_group=0,
        )
        theirs.close()
        os.close(board_fd)
        one = _Process(process, Channel(ours), board, errors, alone)
        self._selector.register(one.channel, selectors.EVENT_READ, one)
        with self._lock:
            self._processes.append(one)
        self._send(one, self._loading)

    def _is_short(self) -> bool:
        """Return whether more images wait than the processes, those that are starting included, can take."""
        # Few images need one process only, whose start takes longer than they do.
        starting = sum(not one.ready for one in self._processes)
        return len(self._waiting) > starting * self._most

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
            images = [one.images.pop(result.number) for result in received]
            self._deal()
        for result, image in zip(received, images, strict=True):
            if result.error:
                image.future.set_exception(result.error)
            else:
                image.future.set_result(loaded_of(result, image.ref))

    def _deal(self) -> None:
        """Send images to processes that have room. The lock is held."""
        ready = [one for one in self._processes if one.ready]
        for one in ready:
            if one.alone and not one.images:
                one.alone = bool(self._suspects)
                self._hand(one, self._suspects, 1)
        others = [one for one in ready if not one.alone]
        while self._waiting and others:
            one = min(others, key=lambda one: len(one.images))
            room = self._most - len(one.images)
            has_idle_threads = len(one.images) < self._threads
            # Whole chunks where all threads are busy, because each message costs both processes a switch.
            if min(room, len(self._waiting)) < CHUNK and not has_idle_threads:
                return
            self._hand(one, self._waiting, CHUNK)

    def _hand(self, one: _Process, images: deque[_Image], most: int) -> None:
        handed = [images.popleft() for _ in range(min(most, len(images)))]
        if handed:
            one.images.update((image.number, image) for image in handed)
            refs = ((image.number, image.ref) for image in handed)
            self._send(one, [Task(n, ref.uri, ref.known_version, ref.signed) for n, ref in refs])

    def _send(self, one: _Process, value: object) -> None:
        try:
            one.channel.send(value)
        except OSError:
            # Its images are taken back where its end is received.
            one.process.kill()

    def _look_at_clocks(self) -> None:
        for one in list(self._processes):
            late = [entry for entry in one.board.read() if self._is_late(entry)]
            # At two looks, because an image may be finished by now, and its outcome on the way.
            twice = [entry for entry in late if entry.number in one.late]
            one.late = frozenset(entry.number for entry in late)
            if twice or (not one.ready and time.monotonic() - one.start > _START_SEC):
                self._bury(one, twice)

    def _is_late(self, entry: Entry) -> bool:
        grace = _GRACE_SEC if entry.stage == "fetch" else 0.0
        return entry.usec > 1e6 * (self._timeout_sec + grace)

    def _bury(self, one: _Process, late: Iterable[Entry] = ()) -> None:
        """End a process, judge the images that it had, and start another."""
        self._selector.unregister(one.channel)
        at = one.board.read()
        words = one.last_words()
        status = one.close()
        with self._lock:
            self._processes.remove(one)
            images = one.images
            for entry in late:
                if image := images.pop(entry.number, None):
                    self._fail_late(image, entry)
            if not late:
                self._suspect(images, at, status)
            # Innocent images come first again, because bundles wait for them longest.
            self._waiting.extendleft(reversed(images.values()))
            alone = bool(self._suspects)
        if not one.ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise RunError(f"Loader processes end when they start ({_describe(status)}): {words}")
        self._start(alone)

    def _fail_late(self, image: _Image, entry: Entry) -> None:
        reason = Reason.TIMEOUT if entry.stage == "fetch" else Reason.DECODE_TIMEOUT
        message = f"took longer than image_timeout_sec={self._timeout_sec:g} allows"
        image.fail(entry.stage, ImageError(reason, message), entry.usec)

    def _suspect(self, images: dict[int, _Image], at: list[Entry], status: int) -> None:
        """Set those images apart that a loader may have died of."""
        # The image that was being decoded, else all that were being fetched.
        decoded = [entry.number for entry in at if entry.stage == "decode"]
        for number in decoded or [entry.number for entry in at]:
            # A message about it may have been under way: then it is loaded, and not among the images.
            image = images.pop(number, None)
            if image is None:
                continue
            image.crashes += 1
            if image.crashes < _CRASHES:
                self._suspects.append(image)
                continue
            message = f"the loader process {_describe(status)} while it loaded this image, {_CRASHES} times"
            image.fail("decode", ImageError(Reason.DECODER_CRASHED, message), attempts=_CRASHES)

    def _end(self, error: Exception) -> None:
        with self._lock:
            self._broken = error
            waiting = [*self._waiting, *self._suspects]
            waiting += [image for one in self._processes for image in one.images.values()]
        for one in self._processes:
            one.close()
        os.close(self._large_fd)
        for image in waiting:
            image.future.set_exception(error)


def _describe(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    name = signal.Signals(-status).name
    return f"was killed by {name}" + (", maybe for want of memory" if name == "SIGKILL" else "")
