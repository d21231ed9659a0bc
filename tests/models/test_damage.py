"""Damaged models: no flipped bit changes labels, and every damage is reported in one line with a remedy."""

import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

from labelbeam.transforms.errors import LabelbeamError, RunError, UserError
from labelbeam.transforms.models.cache import resolve_model
from labelbeam.transforms.models.contract import Contract
from labelbeam.transforms.models.efficientnet_lite import ensure_lite0_saved_model
from labelbeam.transforms.models.kinds import check_model, kind_of
from labelbeam.transforms.models.loading import load_model
from labelbeam.transforms.models.probe import understand_model
from labelbeam.transforms.models.saved_model import load
from labelbeam.transforms.models.spec import ModelOptions
from tests.specs import resolve_spec

IMAGES = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
GRAPH, INDEX, DATA = "saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"


@pytest.fixture(scope="module")
def keras_model():
    inputs = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.GlobalAveragePooling2D()(tf.keras.layers.Conv2D(4, 3)(inputs))
    return tf.keras.Model(inputs, tf.keras.layers.Dense(3)(x))


@pytest.fixture(scope="module")
def saved(keras_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "m"
    keras_model.export(folder, verbose=False)
    return folder


@pytest.fixture(scope="module")
def keras_file(keras_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "m.keras"
    keras_model.save(path)
    return path


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def cut(path: Path, place: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * place)])


def outputs(path: Path) -> np.ndarray:
    """Load a model as a run does, and call it."""
    resolve_model(str(path))
    contract = kind_of(path).read_contract(path, None, None)
    return kind_of(path).load(path, "h", contract, 8)(tf.constant(IMAGES)).numpy()


def assert_same_or_refused(path: Path, expected: np.ndarray) -> str:
    """Check outputs; return the line of the refusal, empty if the model loads."""
    try:
        assert np.array_equal(outputs(path), expected)
    except LabelbeamError as e:
        assert "\n" not in str(e) and len(str(e)) < 900 and path.name in str(e), e
        return str(e)
    return ""


@pytest.mark.parametrize("file", [GRAPH, INDEX, DATA])
def test_saved_model__any_damage__is_refused_or_harmless(saved, tmp_path, file):
    expected, rng, refused = outputs(saved), random.Random(file), []
    damages = [(flip, rng.random()) for _ in range(12)] + [(cut, place) for place in (0, 0.3, 0.99)]
    for n, (damage, place) in enumerate(damages):
        folder = shutil.copytree(saved, tmp_path / str(n))
        damage(folder / file, place)
        refused.append(assert_same_or_refused(folder, expected))
    # A few flips in the index alone are harmless, because some of its bytes are padding.
    assert refused[:12].count("") <= (3 if file == INDEX else 0) and all(refused[12:])
    assert all("whole copy" in line for line in filter(None, refused))


def test_keras_file__any_damage__is_refused_or_harmless(keras_file, tmp_path):
    expected, rng = outputs(keras_file), random.Random(0)
    damages = [(flip, rng.random()) for _ in range(12)] + [(flip, 1 - rng.random() * 0.01) for _ in range(6)]
    for n, (damage, place) in enumerate(damages + [(cut, place) for place in (0, 0.3, 0.99)]):
        path = Path(shutil.copy(keras_file, tmp_path / f"{n}.keras"))
        damage(path, place)
        assert bool(assert_same_or_refused(path, expected)) or (damage is flip and place > 0.99)


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_keras_file__without_a_member__is_refused(keras_file, tmp_path, member):
    path = tmp_path / "less.keras"
    with zipfile.ZipFile(keras_file) as whole, zipfile.ZipFile(path, "w") as less:
        for name in whole.namelist():
            if name != member:
                less.writestr(name, whole.read(name))
    with pytest.raises(UserError, match="is damaged: less.keras has no config.json or no model.weights.h5"):
        resolve_model(str(path))


def test_check_model__flipped_bit_in_variables__names_file_and_remedy(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "m")
    flip(folder / DATA, 0.5)
    message = "the files in .*variables are not what was saved .*Checksum does not match"
    with pytest.raises(
        UserError, match=f"^model='h' is damaged: {message}.*Give a whole copy of the model.$"
    ):
        check_model(folder, "h")


def test_check_model__another_graph_than_its_checksum__is_refused_if_comparable(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "m")
    file = folder / "fingerprint.pb"
    fingerprint = FingerprintDef.FromString(file.read_bytes())
    fingerprint.saved_model_checksum ^= 1
    file.write_bytes(fingerprint.SerializeToString())
    with pytest.raises(
        UserError, match="another checksum than fingerprint.pb holds .delete fingerprint.pb if"
    ):
        check_model(folder, "h")
    fingerprint.version.producer = 0  # of an older TensorFlow
    file.write_bytes(fingerprint.SerializeToString())
    check_model(folder, "h")
    file.unlink()
    check_model(folder, "h")


def load_with(error: Exception, path: Path, monkeypatch) -> None:
    def fail(_path):
        raise error

    monkeypatch.setattr(hub, "load", fail)
    load(path, "h", Contract(), 8)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            KeyError("re!d"),
            "cannot be loaded: 're!d'. Copy it again from where it is whole; if that does not",
        ),
        (tf.errors.DataLossError(None, None, "a\nb."), "cannot be loaded: a b. Copy it again"),
        (
            tf.errors.NotFoundError(None, None, "Op type not registered 'X'"),
            "Remove the operation from the model",
        ),
        (zipfile.BadZipFile("x"), "export it with TensorFlow 2"),
    ],
)
def test_load__any_error__is_one_line_with_a_remedy(tmp_path, monkeypatch, error, message):
    with pytest.raises(RunError, match=message):
        load_with(error, tmp_path / "m", monkeypatch)


def test_load__error_of_a_kept_model__names_what_to_delete(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELBEAM_CACHE_DIR", str(tmp_path))
    kept = tmp_path / "models" / "0"
    message = f"Delete {kept}, so that the next run fetches it again"
    with pytest.raises(RunError, match=message):
        load_with(ValueError("x"), kept, monkeypatch)


def test_load__error_of_the_device__passes(tmp_path, monkeypatch):
    with pytest.raises(tf.errors.ResourceExhaustedError):
        load_with(tf.errors.ResourceExhaustedError(None, None, "OOM"), tmp_path, monkeypatch)


@pytest.mark.parametrize("file", [GRAPH, INDEX, DATA])
@pytest.mark.parametrize("damage", [lambda path: flip(path, 0.3), lambda path: cut(path, 0.5), Path.unlink])
def test_lite0__conversion_was_damaged__is_converted_again(saved, tmp_path, monkeypatch, file, damage):
    made = []

    def export(_tensors, folder):
        made.append(folder)
        shutil.copytree(saved, folder)

    monkeypatch.setattr("labelbeam.transforms.models.efficientnet_lite._export", export)
    folder = ensure_lite0_saved_model(tmp_path)
    assert ensure_lite0_saved_model(tmp_path) == folder and len(made) == 1
    damage(folder / file)
    assert ensure_lite0_saved_model(tmp_path) == folder and len(made) == 2
    assert (folder / file).read_bytes() == (saved / file).read_bytes()


@pytest.mark.parametrize("name", [b"disablecopyonread", b"__inference_signature_wrapper", b"serving_default"])
def test_load__graph_damaged_without_a_checksum__is_one_line_at_launch_and_on_workers(saved, tmp_path, name):
    folder = shutil.copytree(saved, tmp_path / "m")
    (folder / "fingerprint.pb").unlink()
    graph = bytearray((folder / GRAPH).read_bytes())
    graph[graph.rindex(name) + 3] ^= 1
    (folder / GRAPH).write_bytes(graph)
    message = "m' cannot be loaded: .*Copy it again from where it is whole"
    options = ModelOptions(str(folder))
    with pytest.raises(UserError, match=message):
        understand_model(options, timeout_sec=60)
    with pytest.raises(RunError, match=message):
        load_model(resolve_spec(options))
