"""`tf.train.Example`: the message in a TFRecord, without TensorFlow.

TensorFlow's own class is not used, because its import takes seconds and 400 MB in each process.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "labelbeam"
_BYTES, _FLOAT, _INT64, _MESSAGE = (
    *(_FIELD.TYPE_BYTES, _FIELD.TYPE_FLOAT),
    *(_FIELD.TYPE_INT64, _FIELD.TYPE_MESSAGE),
)
# Fields of the messages: name, number, type, and whether the field is repeated. The map of features is a list
# of entries, which has the same bytes; names are bytes, because a name that is not UTF-8 is no reason to
# refuse the record.
_MESSAGES: Final = {
    "BytesList": [("value", 1, _BYTES, True)],
    "FloatList": [("value", 1, _FLOAT, True)],
    "Int64List": [("value", 1, _INT64, True)],
    "Feature": [
        ("bytes_list", 1, "BytesList", False),
        ("float_list", 2, "FloatList", False),
        ("int64_list", 3, "Int64List", False),
    ],
    "Entry": [("key", 1, _BYTES, False), ("value", 2, "Feature", False)],
    "Features": [("feature", 1, "Entry", True)],
    "Example": [("features", 1, "Features", False)],
}


class Feature(NamedTuple):
    """Values of a feature, and their kind: `bytes`, `float` or `int64`, or None without values."""

    kind: str | None
    values: Any


def _make_example() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{_PACKAGE}/example.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, is_repeated in fields:
            label = _FIELD.LABEL_REPEATED if is_repeated else _FIELD.LABEL_OPTIONAL
            if isinstance(kind, str):
                message.field.add(
                    name=field_name,
                    number=number,
                    type=_MESSAGE,
                    label=label,
                    type_name=f".{_PACKAGE}.{kind}",
                )
            else:
                message.field.add(name=field_name, number=number, type=kind, label=label)
    # In a pool of its own, because TensorFlow's messages are in the common one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


_Example = _make_example()


def parse_example(data: bytes) -> dict[str, Feature]:
    """Parse a message: its features by name. Of a name that occurs twice, the last counts, as in TensorFlow.

    Raises:
      ValueError: The bytes are no message.
    """
    try:
        example = _Example.FromString(data)
    except DecodeError as e:
        raise ValueError("is no tf.train.Example") from e
    return {entry.key.decode("utf-8", "replace"): _feature(entry.value) for entry in example.features.feature}


def _feature(message: Any) -> Feature:
    for kind in ("bytes", "float", "int64"):
        if message.HasField(f"{kind}_list"):
            return Feature(kind, getattr(message, f"{kind}_list").value)
    return Feature(None, ())
