"""Messages between a loader and its parent: pickled values, arrays beside them."""

from __future__ import annotations

import pickle
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from labelbeam.transforms.elements import AnyImage, ImageMetadata, parts_of, ref_of
from labelbeam.transforms.loaders.image import Loaded

# Length of the pickled value, and number of the arrays beside it, whose lengths follow.
_HEADER = struct.Struct("<QQ")
# A socket's buffer takes a message of images of 224 px, so that a loader seldom waits for its parent.
_BUFFER_BYTES = 2 << 20
# Length of the first piece of a message, padded, because most pickled values then come in one read: each read
# releases the GIL, and waits for it again.
_HEAD_BYTES = 4096
_PADDING = bytes(_HEAD_BYTES)
# Images that travel in one message. A few, because each message costs both processes a switch.
CHUNK = 8


class Task(NamedTuple):
    """An image to load.

    Attributes:
      inline: Bytes of an image inside a file, and the file's version; None for an image to fetch.
      boxes: URIs of the boxes of the image, whose regions they name.
    """

    number: int
    uri: str
    known_version: str | None
    signed: str | None
    is_bounded: bool
    inline: tuple[pickle.PickleBuffer, str | None] | None = None
    boxes: tuple[str, ...] = ()


class Result(NamedTuple):
    """The outcome of a task, or the news that its image is fetched.

    Flat and without the reference, which the parent has, because pickling takes twice as long for nested
    dataclasses.

    Attributes:
      number: Number of the image.
      error: The error of a defect; None if there is none.
      kind: Type of the loaded value; None without one.
      fields: Fields of the value between the reference and the metadata; of several values, their messages.
      metadata: Fields of the metadata; None if the value has none.
      usage: Fields of `Loaded` behind the value.
    """

    number: int
    error: Exception | None
    kind: Any = None
    fields: tuple[Any, ...] = ()
    metadata: tuple[Any, ...] | None = None
    usage: tuple[Any, ...] = ()

    @property
    def is_news(self) -> bool:
        """Whether the outcome is still to come."""
        return self.error is None and self.kind is None

    def pixel_bytes(self) -> int:
        """Return the length of the pixels, packed or not."""
        if self.kind is tuple:
            return sum(result.pixel_bytes() for result in self.fields)
        last = self.fields[-1] if self.fields else None
        return len(last) if isinstance(last, bytes) else getattr(last, "nbytes", 0)


def result_of(number: int, loaded: Loaded | Exception) -> Result:
    """Return the message about an outcome."""
    if isinstance(loaded, Exception):
        return Result(number, loaded)
    value, *usage = loaded
    if isinstance(value, tuple):  # of boxes
        each = tuple(result_of(number, loaded._replace(value=one)) for one in value)
        return Result(number, None, tuple, each, None, tuple(usage))
    fields = _fields_of(value)[1:]
    metadata = None
    if fields and isinstance(fields[-1], ImageMetadata):
        metadata = _fields_of(fields[-1])
        fields = fields[:-1]
    return Result(number, None, type(value), fields, metadata, tuple(usage))


def _fields_of(value: Any) -> tuple[Any, ...]:
    return tuple([getattr(value, name) for name in value.__slots__])


def loaded_of(result: Result, image: AnyImage) -> Loaded:
    """Return the outcome in a message."""
    if result.kind is tuple:
        boxes = parts_of(image)[1]
        each: Any = tuple(loaded_of(one, box).value for one, box in zip(result.fields, boxes, strict=True))
        return Loaded(each, *result.usage)
    ref = ref_of(parts_of(image)[0])
    last = () if result.metadata is None else (ImageMetadata(*result.metadata),)
    return Loaded(result.kind(ref, *result.fields, *last), *result.usage)


class Channel:
    """One end of a socket on which whole values travel.

    Pixels travel by socket and not in shared memory, because a slot of shared memory would have to outlive a
    bundle that fails: received pixels belong to the array that holds them. Measured on 150 KB (224 px), the
    receiving process spends 0.014 ms, and 0.007 ms with shared memory.
    """

    def __init__(self, end: socket.socket) -> None:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self._socket = end
        # Several threads send, and a value must arrive in one piece.
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """Return the number of the file descriptor, so that selectors take a channel."""
        return self._socket.fileno()

    def send(self, value: Any) -> None:
        """Send a value; arrays in it are not copied first.

        Raises:
          OSError: The other end is closed.
        """
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(value, 5, buffer_callback=buffers.append)
        arrays = [buffer.raw() for buffer in buffers]
        lengths = struct.pack(f"<{len(arrays)}Q", *map(len, arrays))
        head = _HEADER.pack(len(pickled), len(arrays)) + lengths + pickled
        pieces = [memoryview(head + _PADDING[len(head) :]), *arrays]
        with self._sending:
            while pieces:
                sent = self._socket.sendmsg(pieces)
                while pieces and sent >= len(pieces[0]):
                    sent -= len(pieces.pop(0))
                if pieces:
                    pieces[0] = pieces[0][sent:]

    def receive(self) -> Any:
        """Wait for the next value.

        Raises:
          EOFError: The other end is closed.
          OSError: The connection is broken, or the time limit of the socket is over.
        """
        (head,) = self._read([_HEAD_BYTES])
        pickled, arrays = _HEADER.unpack_from(head)
        lengths = struct.unpack_from(f"<{arrays}Q", head, _HEADER.size)
        start = _HEADER.size + 8 * arrays
        value: Any = head[start : start + pickled]
        if len(value) < pickled:
            value = b"".join((value, *self._read([pickled - len(value)])))
        return pickle.loads(value, buffers=self._read(lengths))

    def _read(self, lengths: Sequence[int]) -> list[memoryview]:
        # Arrays, because NumPy does not fill them with zeros first, as `bytearray` does.
        pieces = [np.empty(length, np.uint8).data for length in lengths]
        missing = list(pieces)
        while missing:
            received = self._socket.recvmsg_into(missing)[0]
            if not received:
                raise EOFError
            while missing and received >= len(missing[0]):
                received -= len(missing.pop(0))
            if missing:
                missing[0] = missing[0][received:]
        return pieces

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
