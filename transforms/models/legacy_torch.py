"""Weights in PyTorch's legacy format, read without PyTorch.

A file is a row of pickles (magic number, protocol, machine, tensors by name, keys of storages), followed by
the length and the raw values of each storage.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class _Tensor(NamedTuple):
    storage: tuple[np.dtype, str]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return the tensor, copied out of the values of its storage."""
        # Strides are applied, because kernels were saved in the order of TensorFlow's own weights.
        strides = [n * values.itemsize for n in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


_GLOBALS: dict[tuple[str, str], Callable | np.dtype] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    # Two more arguments are for training: whether a gradient is required, and hooks.
    ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _Tensor(*arguments[:4]),
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # All other names are refused, because a pickle may otherwise run any code.
        if (module, name) not in _GLOBALS:
            raise pickle.UnpicklingError(f"the file refers to {module}.{name}, which weights don't need")
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> tuple[np.dtype, str]:
        _kind, dtype, key, _location, _length, _view = pid
        return dtype, key


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors, by name, of a state dictionary that `torch.save` wrote before version 1.6."""
    # Nothing is checked here, because the caller has compared the digest of the file.
    with path.open("rb") as f:
        _magic, _protocol, _machine, tensors, keys = (_Unpickler(f).load() for _ in range(5))
        dtypes = {key: dtype for dtype, key in (tensor.storage for tensor in tensors.values())}
        values = {}
        for key in keys:
            length = int.from_bytes(f.read(8), "little")
            values[key] = np.frombuffer(f.read(length * dtypes[key].itemsize), dtypes[key])
    return {name: tensor.of(values[tensor.storage[1]]) for name, tensor in tensors.items()}
