"""Coders of the elements that may cross a shuffle; importing this registers them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import apache_beam as beam
from apache_beam.coders.coders import FastPrimitivesCoder

from transforms.elements import Failure, ImageRef, StagedFile


class _FieldsCoder(beam.coders.Coder):
    """Encodes a dataclass of primitives as the tuple of its fields."""

    element: Any  # the dataclass
    _fields = FastPrimitivesCoder()

    def encode(self, value: Any) -> bytes:
        return self._fields.encode(tuple(getattr(value, field.name) for field in fields(self.element)))

    def decode(self, encoded: bytes) -> Any:
        return self.element(*self._fields.decode(encoded))

    def to_type_hint(self) -> type:
        return self.element


class ImageRefCoder(_FieldsCoder):
    """Encodes an `ImageRef`."""

    element = ImageRef


class StagedFileCoder(_FieldsCoder):
    """Encodes a `StagedFile`."""

    element = StagedFile


class FailureCoder(_FieldsCoder):
    """Encodes a `Failure`, its `ImageRef` as bytes inside."""

    element = Failure
    _ref = ImageRefCoder()

    def encode(self, value: Failure) -> bytes:
        rest = (value.stage, value.reason, value.message, value.attempts, value.host)
        return self._fields.encode((self._ref.encode(value.ref), *rest))

    def decode(self, encoded: bytes) -> Failure:
        ref, *rest = self._fields.decode(encoded)
        return Failure(self._ref.decode(ref), *rest)


for _coder in (ImageRefCoder, StagedFileCoder, FailureCoder):
    beam.coders.registry.register_coder(_coder.element, _coder)
