"""Elements: the typed, immutable values that flow between the steps.

`ImageRef`, `Failure`, `DoneIds` and `TableFile` hold primitives alone and may cross a shuffle. Elements with
bytes or pixels stay within steps that Beam fuses, because a shuffle would write each image to disk; in the
split layout `PackedImage` crosses a shuffle in their place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from labelbeam.transforms.images.regions import MARK, region_of
from labelbeam.transforms.sources.secrets import public_uri


def id_of_uri(uri: str, secret_params: Collection[str] = ()) -> str:
    """Return the default id: the first 32 hexadecimal digits of the SHA-256 of the URI without secrets."""
    uri = public_uri(uri, secret_params)
    # "surrogateescape", because URIs of local names that are not UTF-8 have lone surrogates.
    return hashlib.sha256(uri.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def id_of_member(file_uri: str, member: str, secret_params: Collection[str] = ()) -> str:
    """Return the id of an image inside a file: half of the id of the file, and half of that of the member.

    All ids of a file begin alike, because done ids are brought to their file by this half.
    """
    return id_of_uri(file_uri, secret_params)[:FILE_ID_CHARS] + digest_of_member(member)


def digest_of_member(member: str) -> str:
    """Return the second half of the id of an image inside a file."""
    # Of the member as it is, because a name such as `a.jpg?sig=1.jpg` is no URI with secrets.
    return hashlib.sha256(member.encode("utf-8", "surrogateescape")).hexdigest()[:FILE_ID_CHARS]


def is_member(image_id: str, uri: str) -> bool:
    """Return whether a row is of an image inside a file, or of the rest of a damaged file."""
    if is_box(image_id, uri):
        image_id, uri = image_id_of(image_id), image_uri_of(uri)
    file_uri = uri.rpartition("#")[0] or uri
    return image_id.startswith(id_of_uri(file_uri)[:FILE_ID_CHARS]) and image_id != id_of_uri(uri)


def is_box(row_id: str, uri: str) -> bool:
    """Return whether a row is of a box of an image."""
    return "#" in row_id and region_of(uri) is not None


def box_key(row_id: str, uri: str) -> str:
    """Return the id of a row; of a box, the id of its image and its region.

    The number of a box is missing in rows of an input that has one box a row.
    """
    return image_id_of(row_id) + uri.removeprefix(image_uri_of(uri)) if is_box(row_id, uri) else row_id


def image_id_of(row_id: str) -> str:
    """Return the id of the image that a box is of, which stands before the number of the box."""
    return row_id.rpartition("#")[0] or row_id


def image_uri_of(uri: str) -> str:
    """Return the URI of the image that a box is of."""
    return uri.rpartition(MARK)[0] or uri


# Characters of an id that all images inside one file share. 64 bits, because a million files collide with a
# probability of 3e-8.
FILE_ID_CHARS = 16

# Length of `digest_of_uri`. 8 bytes, because of a billion changed URIs only some 5e-11 are missed.
URI_DIGEST_BYTES = 8


def digest_of_uri(uri: str) -> bytes:
    """Return a short digest that differs between the URIs of one id."""
    return hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=URI_DIGEST_BYTES).digest()


def host_of_uri(uri: str) -> str:
    """Return the host or bucket that serves a URI; "" for local files."""
    try:
        return urlsplit(uri).netloc.rpartition("@")[2]
    except ValueError:
        return ""


# Prefix of a version that is the digest of the bytes, because some sources have no versions.
DIGEST = "sha256:"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image to label.

    Attributes:
      id: Key of the output row; unique in the corpus.
      uri: A path, or a URI that starts with `file://`, `gs://`, `http://` or `https://`; without secrets,
        because it stands in tables and messages.
      columns: The user's own values, in the order of the corpus's schema.
      known_version: Version of the image that the table has labels of, or `DIGEST` and the SHA-256 of its
        bytes; None if it has none. The image is labelled only if its version differs.
      signed: The URI with its secrets, for the client that fetches it; None if it has none.
      listed_version: Version of the image in the list or listing, in the form that its source gives the
        image: an object's generation, an ETag in its quotes. None if the list has none. An image whose
        listed version is its `known_version` keeps its labels without a request.
      listed_digest: MD5, hexadecimal, and length of the stored object of `listed_version`, with `/` between;
        None if the list has none.
    """

    id: str
    uri: str
    columns: tuple[Any, ...] = ()
    known_version: str | None = None
    # Not in `repr`, because that ends up in logs.
    signed: str | None = field(default=None, repr=False)
    listed_version: str | None = None
    listed_digest: str | None = None

    @property
    def address(self) -> str:
        """The URI to fetch."""
        return self.signed or self.uri


@dataclass(frozen=True, slots=True)
class Unchanged:
    """An image that keeps its labels, because its version is unchanged or could not be checked."""

    ref: ImageRef
    checked: bool = True


# Without `__eq__`, here and in `DecodedImage`, because arrays don't compare to a bool and comparing megabytes
# is slow.
@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """An image in its file's encoding.

    Attributes:
      sha256: Digest of the bytes, hexadecimal.
      version: GCS generation, HTTP ETag or Last-Modified, a file's mtime and size, or None.
    """

    ref: ImageRef
    data: bytes
    sha256: str
    version: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class InlineImage:
    """An image inside a file, whose bytes were read with its reference.

    Attributes:
      version: Version of the file: GCS generation, or mtime and size.
    """

    ref: ImageRef
    data: bytes
    version: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BoxedImage:
    """An image of which boxes are labelled: it is requested and decoded once.

    Attributes:
      image: The image, with its own id and URI.
      boxes: References of the boxes, whose URIs name their regions.
    """

    image: ImageRef | InlineImage
    boxes: tuple[ImageRef, ...]

    @property
    def ref(self) -> ImageRef:
        """Reference of the first box."""
        return self.boxes[0]


# An image that loaders take.
AnyImage = ImageRef | InlineImage | BoxedImage


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """Columns of a prediction that describe the image, in the table's order.

    Attributes:
      width_px: Width as displayed, after orientation; of a box, its own width.
      height_px: Height as displayed; of a box, its own height.
      format: Name of the encoding, such as `JPEG`.
      orientation: Turn of the stored image, 1 to 8, as EXIF numbers it.
      frames: Frames or pages of the file; None if there are too many to count.
      size_bytes: Length of the encoded image.
      sha256: Digest of the encoded image, hexadecimal.
      version: As in `EncodedImage`.
    """

    width_px: int
    height_px: int
    format: str
    orientation: int
    frames: int | None
    size_bytes: int
    sha256: str
    version: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """An image of the model's input size, `[size, size, 3] uint8`, RGB, 0-255, and its file's metadata."""

    ref: ImageRef
    pixels: np.ndarray
    metadata: ImageMetadata


@dataclass(frozen=True, slots=True)
class PackedImage:
    """A `DecodedImage` in few bytes for a shuffle, packed by `labelbeam.transforms.images.packing`."""

    ref: ImageRef
    data: bytes
    metadata: ImageMetadata


@dataclass(frozen=True, slots=True)
class Label:
    """A class that the model gives an image; `score` is in [0, 1]."""

    class_id: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Model outputs for one image.

    Attributes:
      labels: Best first; none from a model without classes.
      outputs: Logits, probabilities or embedding, little-endian float32; empty unless they are kept.
      reused: Whether the labels were inferred for another image of the same bytes.
    """

    ref: ImageRef
    labels: tuple[Label, ...]
    metadata: ImageMetadata
    outputs: bytes = b""
    reused: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be labelled, and the reason.

    Attributes:
      stage: Step that failed: `read`, `select`, `fetch`, `decode` or `predict`. Named as the column.
      reason: A value of `labelbeam.transforms.errors.Reason`.
      message: Text for a person, with the offending value.
      attempts: Number of attempts to fetch the image, if it was not fetched or not decoded; 1 for other
        failures.
      host: Host or bucket of the URI; "" for local files.
    """

    ref: ImageRef
    stage: str
    reason: str
    message: str
    attempts: int
    host: str


def parts_of(image: AnyImage) -> tuple[ImageRef | InlineImage, tuple[ImageRef, ...]]:
    """Return the image to load, and its boxes; none if the whole image is labelled."""
    return (image.image, image.boxes) if isinstance(image, BoxedImage) else (image, ())


def ref_of(row: AnyImage | Failure) -> ImageRef:
    """Return the reference of a row."""
    return row if isinstance(row, ImageRef) else row.ref


@dataclass(frozen=True, slots=True)
class TableFile:
    """A finished Parquet file of a table, staged or published.

    Attributes:
      table: `predictions` or `failures`.
      sha256: Digest of the file, hexadecimal; None if unknown.
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
      versions: Version of each id's image, None for an image without one; empty if versions aren't compared.
      published: Whether the rows are published; staged rows are newer than published ones.
      retry: Whether the ids are selected again if the input still has them.
      uris: Digests of the rows' URIs, joined; empty if ids are made from URIs, because such an id has
        no other URI.
    """

    ids: tuple[str, ...]
    versions: tuple[str | None, ...]
    published: bool
    retry: bool = False
    uris: bytes = b""
