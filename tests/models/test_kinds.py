"""Kinds of model: paths that are models, and refusals of all others."""

import pytest

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models import saved_model
from labelbeam.transforms.models.cache import resolve_model
from labelbeam.transforms.models.kinds import check_model, find_kind


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.h5", "HDF5 file.*model.export"),
        ("M.HDF5", "HDF5 file.*model.export"),
        ("m.weights.h5", "weights without a model.*model.export"),
        ("frozen.pb", "frozen graph.*simple_save"),
        ("saved_model.pb", "Give the folder"),
        ("m.tflite", "TensorFlow Lite.*SavedModel folder or .keras"),
        ("m.onnx", "ONNX.*SavedModel folder or .keras"),
        ("m.pt", "PyTorch.*SavedModel folder or .keras"),
        ("m.pth", "PyTorch.*SavedModel folder or .keras"),
        ("m.safetensors", "weights without a model"),
        ("m.bin", "is no SavedModel"),
    ],
)
def test_resolve_model__file_of_another_kind__is_refused_with_a_remedy(tmp_path, name, words):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=words):
        resolve_model(str(tmp_path / name))


@pytest.mark.parametrize(
    "handle", ["gs://bucket/m.h5", "https://host/m.onnx", "https://host/m.h5?download=1"]
)
def test_resolve_model__remote_file_of_another_kind__is_not_fetched(handle):
    with pytest.raises(UserError, match="can't be loaded: it is an (HDF5|ONNX)"):
        resolve_model(handle)


def test_resolve_model__file_that_is_not_there__is_no_model_of_another_kind(tmp_path):
    with pytest.raises(UserError, match="is no SavedModel"):
        resolve_model(str(tmp_path / "m.h5"))


def test_check_model__unpacked_keras_file__is_refused_with_a_remedy(tmp_path):
    folder = tmp_path / "m.keras"
    folder.mkdir()
    for name in ("metadata.json", "config.json"):
        (folder / name).write_text("{}")
    with pytest.raises(UserError, match="unpacked .keras file. Pack it: python -m zipfile -c NEW.keras"):
        check_model(folder, str(folder))


def test_check_model__folder_of_models__is_refused_and_names_one(tmp_path):
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=f"is a folder of models. Give one of them, such as '{tmp_path}/1'"):
        check_model(tmp_path, str(tmp_path))


def test_find_kind__saved_model_in_a_folder_named_keras__is_a_saved_model(tmp_path):
    folder = tmp_path / "m.keras"
    folder.mkdir()
    (folder / "saved_model.pb").touch()
    assert find_kind(folder) is saved_model


@pytest.mark.parametrize("name", ["m.keras", "m", "m.h5"])
def test_find_kind__hdf5_under_any_name__is_no_model(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x89HDF\r\n")
    assert find_kind(tmp_path / name) is None
    with pytest.raises(UserError, match="it is an HDF5 file, the format before .keras. Load it where"):
        check_model(tmp_path / name, "h")
