"""Weights in PyTorch's legacy format, read without PyTorch.

A file is a row of pickles (magic number, protocol, machine, tensors by name, keys of storages), followed by
the raw bytes of the storages. The unpickler accepts four names and refuses all others, because a pickle may
otherwise run any code.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from labelbeam.transforms.errors import UserError

# torch/serialization.py: MAGIC_NUMBER, PROTOCOL_VERSION
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return the tensor, copied out of the values of its storage."""
        strides = [n * values.itemsize for n in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, strides).copy()


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple, strides: tuple, _requires_grad: bool, _hooks: Any
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_GLOBALS: dict[tuple[str, str], Callable | np.dtype] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise pickle.UnpicklingError(f"the file refers to {module}.{name}, which weights don't need")
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, length, view = pid
        if kind != "storage" or view is not None or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"an unknown kind of storage: {pid!r:.100}")
        return _Storage(key, dtype, length)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a legacy PyTorch file.

    Args:
      path: A state dictionary, as `torch.save` wrote it before version 1.6.

    Returns:
      Tensors by name, `float32` or `int64`.

    Raises:
      UserError: The file is of another format, damaged, or names anything but tensors.
    """
    try:
        with path.open("rb") as f:
            return _read_tensors(f)
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise UserError(f"{path} is no weights file in PyTorch's legacy format: {e}.") from e


def _read_tensors(f: BinaryIO) -> dict[str, np.ndarray]:
    if (_Unpickler(f).load(), _Unpickler(f).load()) != (_MAGIC, _PROTOCOL):
        raise ValueError("it has another magic number")
    _Unpickler(f).load()  # facts of the machine that wrote the file
    tensors: dict[str, _Tensor] = _Unpickler(f).load()
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    values = {key: _read_storage(f, storages[key]) for key in _Unpickler(f).load()}
    return {name: tensor.of(values[tensor.storage.key]) for name, tensor in tensors.items()}


def _read_storage(f: BinaryIO, storage: _Storage) -> np.ndarray:
    length = int.from_bytes(f.read(8), "little")
    data = f.read(length * storage.dtype.itemsize)
    if length != storage.length or len(data) != length * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} has {len(data)} bytes of {storage.length} values")
    return np.frombuffer(data, storage.dtype)
