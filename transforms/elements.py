"""What flows between the steps: typed, immutable elements.

`ImageRef`, `Failure`, `DoneIds` and `TableFile` hold primitives alone and may
cross a shuffle. Elements that hold bytes or pixels stay inside a fused stage;
in the split layout `PackedImage` crosses a shuffle in their place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np


def id_of_uri(uri: str) -> str:
    """The default id: the first 32 hexadecimal digits of the URI's SHA-256."""
    return hashlib.sha256(uri.encode("utf-8", "surrogateescape")).hexdigest()[:32]


# Length of `digest_of_uri`: of a billion images whose URI changed, some 5e-11 would be missed.
URI_DIGEST_BYTES = 8


def digest_of_uri(uri: str) -> bytes:
    """Return a short digest that differs between the URIs of one id."""
    return hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=URI_DIGEST_BYTES).digest()


def host_of_uri(uri: str) -> str:
    """The host or bucket that serves a URI; "" for local files."""
    try:
        return urlsplit(uri).netloc.rpartition("@")[2]
    except ValueError:
        return ""


# How a version begins that is the digest of the bytes, for stores that tell none.
DIGEST = "sha256:"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image to label.

    Attributes:
      id: Unique in the corpus; the key of every output row.
      uri: Where the image is: a path, `file://`, `gs://`, `http://`, `https://`.
      columns: The user's own values, in the order of the corpus's schema.
      known_version: Of an image that has labels: the version they are of, or `DIGEST`
        and the SHA-256 of its bytes. It is labelled only if that is another now.
    """

    id: str
    uri: str
    columns: tuple[Any, ...] = ()
    known_version: str | None = None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """An image that keeps its labels: its version is still the same, or could not be checked."""

    ref: ImageRef
    checked: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """An image as it was fetched.

    Attributes:
      data: The encoded bytes.
      sha256: Their digest, hexadecimal.
      version: GCS generation, HTTP ETag or Last-Modified, a file's mtime and size, or None.
    """

    ref: ImageRef
    data: bytes
    sha256: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a prediction's row states about an image besides its labels.

    Attributes:
      width_px: Width as displayed, after orientation.
      height_px: Height as displayed.
      format: The encoding's name, such as `JPEG`.
      size_bytes: Length of the encoded image.
      sha256: Digest of the encoded image, hexadecimal.
      version: GCS generation, HTTP ETag or Last-Modified, a file's mtime and size, or None.
      orientation: How the stored image was turned, 1 to 8, as EXIF numbers it.
      frames: Frames or pages of the file; None if there are too many to count.
    """

    width_px: int
    height_px: int
    format: str
    size_bytes: int
    sha256: str
    version: str | None = None
    orientation: int = 1
    frames: int | None = 1


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """An image of the model's input size, and the facts of the file that it came from.

    Attributes:
      pixels: `[size, size, 3] uint8`, RGB, 0-255.
    """

    ref: ImageRef
    pixels: np.ndarray
    facts: ImageFacts


@dataclass(frozen=True, slots=True)
class PackedImage:
    """A `DecodedImage` as it crosses a shuffle; its pixels come back exactly.

    Attributes:
      data: The pixels, as `labelbeam.transforms.images.packing` packs them.
    """

    ref: ImageRef
    data: bytes
    facts: ImageFacts


@dataclass(frozen=True, slots=True)
class Label:
    """One of the classes a model names for an image; `score` is in [0, 1]."""

    class_id: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model gives for one image, and what was seen of it.

    Attributes:
      labels: Best first; none from a model that names no classes.
      outputs: Logits, probabilities or embedding, little-endian float32; empty where nobody asked.
      reused: Whether the labels are those inferred for another image of the same bytes.
    """

    ref: ImageRef
    labels: tuple[Label, ...]
    facts: ImageFacts
    outputs: bytes = b""
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """One image that could not be labelled, and why.

    Attributes:
      stage: The step that failed: `read`, `select`, `fetch`, `decode` or `predict`.
      reason: A value of `labelbeam.transforms.errors.Reason`.
      message: For a person; shows the offending value.
      attempts: How often the step was tried.
      host: Host or bucket of the URI; "" for local files.
    """

    ref: ImageRef
    stage: str
    reason: str
    message: str
    attempts: int
    host: str


@dataclass(frozen=True, slots=True)
class TableFile:
    """A finished Parquet file of a table, staged or published.

    Attributes:
      table: `predictions` or `failures`.
      path: Where it is.
      rows: How many rows it holds.
      size_bytes: Its length.
      sha256: Its digest, hexadecimal; None while nobody needs it.
    """

    table: str
    path: str
    rows: int
    size_bytes: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class DoneIds:
    """Ids that have a row already, staged or published.

    Attributes:
      ids: The ids.
      versions: The version of each one's image; None where it has none, empty where nobody asks.
      published: Whether readers see the rows; if not, they are newer than those readers see.
      again: Whether the ids are selected again if the input still has them.
      uris: The digests of the rows' URIs, joined; empty where ids are made from URIs and cannot stand
        for another one.
    """

    ids: tuple[str, ...]
    versions: tuple[str | None, ...]
    published: bool
    again: bool = False
    uris: bytes = b""
