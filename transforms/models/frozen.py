"""Frozen graphs, kept on disk for the next process: loading and freezing a model takes most of a start."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from labelbeam.transforms.errors import describe_error
from labelbeam.transforms.models.folders import cache_folder, write_cached
from labelbeam.transforms.models.measurements import digest_of

_LOG = logging.getLogger(__name__)
# Largest graph that is kept, because TensorFlow can't write graphs of 2 GB.
_MAX_BYTES = 1 << 30


def read_frozen(conditions: dict[str, Any]) -> Any | None:
    """Return the function that `keep_frozen` kept under the same conditions; None if there is none."""
    try:
        digest, _, data = _file_of(conditions).read_bytes().partition(b"\n")
    except OSError:  # no file yet
        return None
    # Compared, because TensorFlow runs a graph with a flipped bit, and labels would be wrong.
    if digest != _digest_of(data):
        return None
    ends, _, graph = data.partition(b"\n")
    try:
        return _function_of(graph, *json.loads(ends))
    except Exception as e:  # whatever TensorFlow raises: the model itself is loaded then
        _LOG.warning("The kept graph of the model can't be read, and the model is loaded: %s", e)
        return None


def keep_frozen(conditions: dict[str, Any], function: Any) -> None:
    """Keep a frozen function.

    Args:
      conditions: Everything that the graph depends on, as plain data.
      function: The function, of one input.
    """
    graph = function.graph.as_graph_def()
    # One input, because a table that the model looks words up in would be another, and is no constant.
    if len(function.inputs) != 1 or graph.ByteSize() > _MAX_BYTES:
        return
    ends = [[tensor.name for tensor in tensors] for tensors in (function.inputs, function.outputs)]
    data = json.dumps(ends).encode() + b"\n" + graph.SerializeToString()
    file = _file_of(conditions)
    try:
        write_cached(file, _digest_of(data) + b"\n" + data)
    except OSError as e:  # the next process loads the model again
        _LOG.info("The frozen graph can't be kept in %s: %s", file.parent, describe_error(e))


def _file_of(conditions: dict[str, Any]) -> Path:
    return cache_folder() / "frozen" / f"{digest_of({'code': _digest_of_code(), **conditions})[:32]}.graph"


@functools.cache
def _digest_of_code() -> str:
    """Return a digest of the modules beside this one, because they build the graph around a model."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _digest_of(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _function_of(graph: bytes, inputs: list[str], outputs: list[str]) -> Any:
    import tensorflow as tf

    def restore() -> None:
        tf.import_graph_def(tf.compat.v1.GraphDef.FromString(graph), name="")

    return tf.compat.v1.wrap_function(restore, []).prune(inputs, outputs)
