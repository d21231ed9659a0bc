"""Coders of the elements that may cross a shuffle; importing this module registers them.

Elements have coders of their own, because Beam would pickle them otherwise: an `ImageRef` would take 149
bytes in place of 83, and 4 us in place of 1.
"""

from __future__ import annotations

from dataclasses import astuple, fields
from operator import attrgetter
from typing import Any

import apache_beam as beam
from apache_beam.coders.coders import FastPrimitivesCoder

from labelbeam.transforms.elements import DoneIds, Failure, ImageMetadata, ImageRef, PackedImage, TableFile


class _FieldsCoder(beam.coders.Coder):
    """A coder of a dataclass of primitives, as the tuple of its fields."""

    element: Any  # the dataclass
    _primitives = FastPrimitivesCoder()

    def __init__(self) -> None:
        self._values = attrgetter(*(field.name for field in fields(self.element)))

    def encode(self, value: Any) -> bytes:
        return self._primitives.encode(self._values(value))

    def decode(self, encoded: bytes) -> Any:
        return self.element(*self._primitives.decode(encoded))

    def to_type_hint(self) -> type:
        return self.element

    # Equal by type, because runners compare the coders on both sides of a shuffle and each side has its own
    # instance.
    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class ImageRefCoder(_FieldsCoder):
    """A coder of `ImageRef`."""

    element = ImageRef


class DoneIdsCoder(_FieldsCoder):
    """A coder of `DoneIds`."""

    element = DoneIds


class TableFileCoder(_FieldsCoder):
    """A coder of `TableFile`."""

    element = TableFile


class _OfImageCoder(_FieldsCoder):
    """A coder of a dataclass whose first field is an `ImageRef`, encoded on its own."""

    _ref = ImageRefCoder()

    def encode(self, value: Any) -> bytes:
        ref, *rest = self._values(value)
        return self._primitives.encode((self._ref.encode(ref), *rest))

    def decode(self, encoded: bytes) -> Any:
        ref, *rest = self._primitives.decode(encoded)
        return self.element(self._ref.decode(ref), *rest)


class FailureCoder(_OfImageCoder):
    """A coder of `Failure`."""

    element = Failure


class PackedImageCoder(_OfImageCoder):
    """A coder of `PackedImage`, with metadata as a tuple, because the primitives' coder would pickle it."""

    element = PackedImage

    def encode(self, value: PackedImage) -> bytes:
        metadata = astuple(value.metadata)
        return self._primitives.encode((self._ref.encode(value.ref), value.data, metadata))

    def decode(self, encoded: bytes) -> PackedImage:
        ref, data, metadata = self._primitives.decode(encoded)
        return PackedImage(self._ref.decode(ref), data, ImageMetadata(*metadata))


class RowOfBucketCoder(beam.coders.Coder):
    """A coder of the elements of a bucket: `ImageRef`, `Failure` or `DoneIds`, after a byte for the type."""

    def __init__(self) -> None:
        self._coders: tuple[Any, ...] = (ImageRefCoder(), FailureCoder(), DoneIdsCoder())
        # Numbers, not names, because a corpus has billions of rows. They need not last longer than a run.
        self._tags = {coder.element: n for n, coder in enumerate(self._coders)}

    def encode(self, value: ImageRef | Failure | DoneIds) -> bytes:
        tag = self._tags[type(value)]
        return bytes((tag,)) + self._coders[tag].encode(value)

    def decode(self, encoded: bytes) -> ImageRef | Failure | DoneIds:
        return self._coders[encoded[0]].decode(encoded[1:])


for _coder in (ImageRefCoder, DoneIdsCoder, TableFileCoder, FailureCoder, PackedImageCoder):
    beam.coders.registry.register_coder(_coder.element, _coder)
