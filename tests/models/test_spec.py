import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

from labelbeam.transforms.errors import ImageError, RunError, UserError
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.presets import PRESETS, find_preset
from labelbeam.transforms.models.spec import ModelOptions
from tests.specs import resolve_spec
from tests.tiny_model import save_tiny_model


def image(size_px: int, *colour: int) -> np.ndarray:
    return np.full((size_px, size_px, 3), colour, np.uint8)


def test_presets__efficientnets__have_their_native_sizes():
    sizes = [PRESETS[f"efficientnet-b{n}"].image_size_px for n in range(8)]
    assert sizes == [224, 240, 260, 300, 380, 456, 528, 600]
    assert (
        PRESETS["efficientnet-b7"].handle == "https://tfhub.dev/tensorflow/efficientnet/b7/classification/1"
    )


@pytest.mark.parametrize(
    "model",
    [
        "efficientnet-b7",
        "https://tfhub.dev/tensorflow/efficientnet/b7/classification/1",
        "https://tfhub.dev/tensorflow/efficientnet/b7/classification/1/",
        "https://www.kaggle.com/models/tensorflow/efficientnet/tensorFlow2/b7-classification/1",
    ],
)
def test_find_preset__name_or_handle__has_its_preset(model):
    assert find_preset(model).name == "efficientnet-b7"


def test_resolve_spec__saved_model__reads_size_and_classes(tmp_path):
    folder = save_tiny_model(tmp_path / "m", size_px=16)
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    spec = resolve_spec(ModelOptions(str(folder), labels=str(tmp_path / "labels.txt")))
    assert (spec.resize, spec.labels) == (ResizeRule(16), ("red", "green", "blue"))
    assert resolve_spec(ModelOptions(folder.as_uri())).labels == ("class 0", "class 1", "class 2")


def test_fingerprints__what_matters__changes_them(tmp_path):
    folder = save_tiny_model(tmp_path / "m", size_px=16)
    again = shutil.copytree(folder, tmp_path / "n")
    fingerprint = FingerprintDef.FromString((again / "fingerprint.pb").read_bytes())
    fingerprint.uuid = "TensorFlow writes a random one"
    (again / "fingerprint.pb").write_bytes(fingerprint.SerializeToString())
    base = resolve_spec(ModelOptions(str(folder)))
    assert resolve_spec(ModelOptions(str(again))).model_fingerprint == base.model_fingerprint
    other = resolve_spec(ModelOptions(str(save_tiny_model(tmp_path / "o", size_px=16, gain=2.0))))
    assert other.model_fingerprint != base.model_fingerprint
    assert other.preprocessing_fingerprint == base.preprocessing_fingerprint
    for options in ({"resize": "stretch"}, {"input_range": (-1.0, 1.0)}):
        changed = resolve_spec(ModelOptions(str(folder), **options))
        assert changed.preprocessing_fingerprint != base.preprocessing_fingerprint
        assert changed.model_fingerprint == base.model_fingerprint


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "saved_model.pb").unlink(), "is no SavedModel"),
        (lambda f: (f / "saved_model.pb").write_bytes(b"\xff" * 50), "is damaged"),
    ],
)
def test_resolve_spec__damaged_folder__is_refused(tmp_path, damage, words):
    folder = save_tiny_model(tmp_path / "m", size_px=16)
    damage(folder)
    with pytest.raises(UserError, match=words):
        resolve_spec(ModelOptions(str(folder)))


def test_resolve_spec__size_not_known__asks_for_it(tmp_path):
    folder = save_tiny_model(tmp_path / "m", size_px=None)
    with pytest.raises(UserError, match="--image_size"):
        resolve_spec(ModelOptions(str(folder)))
    assert resolve_spec(ModelOptions(str(folder), image_size=20)).resize.size_px == 20


def tiny_classifier(tmp_path, top_k=3, batch_size=4, labels="red\ngreen\nblue", **options) -> Classifier:
    folder = save_tiny_model(tmp_path / "m", size_px=16, **options)
    (tmp_path / "labels.txt").write_text(labels)
    spec = resolve_spec(ModelOptions(str(folder), labels=str(tmp_path / "labels.txt")))
    return Classifier(spec, top_k, batch_size)


@pytest.mark.parametrize("images", range(1, 5))
def test_classify__any_batch__gives_each_image_its_own(tmp_path, images):
    classifier = tiny_classifier(tmp_path)
    assert classifier.sizes == (1, 2, 4)
    colours = [(200, 10, 50), (0, 90, 20), (10, 20, 30), (1, 2, 0)][:images]
    results = classifier.classify([image(16, *colour) for colour in colours])
    assert [r.class_ids.tolist() for r in results] == [
        sorted(range(3), key=lambda n: -colour[n]) for colour in colours
    ]
    for colour, result in zip(colours, results, strict=True):
        logits = np.array(colour) / 255
        expected = np.exp(logits) / np.exp(logits).sum()
        assert np.allclose(result.scores, np.sort(expected)[::-1], atol=1e-5)


def test_classify__background__is_no_label_and_leaves_scores_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("labelbeam.transforms.models.labels.IMAGENET_WITH_BACKGROUND", 3)
    classifier = tiny_classifier(tmp_path, labels="background\ngreen\nblue")
    (result,) = classifier.classify([image(16, 200, 10, 50)])
    logits = np.array((200, 10, 50)) / 255
    expected = np.exp(logits) / np.exp(logits).sum()
    assert result.class_ids.tolist() == [2, 1] and len(result.outputs) == 3
    assert np.allclose(result.scores, expected[[2, 1]], atol=1e-5)


def test_classify__not_finite__costs_that_image_alone(tmp_path):
    classifier = tiny_classifier(tmp_path, poison=True)
    results = classifier.classify([image(16, 1, 2, 3), image(16, 255, 255, 255), image(16, 9, 8, 7)])
    assert [isinstance(r, ImageError) for r in results] == [False, True, False]
    assert results[1].reason == "model_error"


def test_classify__model_raises_on_one_image__costs_that_image_alone(tmp_path):
    classifier = tiny_classifier(tmp_path, explode=True)
    images = [image(16, n, 2, 3) for n in range(3)] + [image(16, 255, 255, 255)]
    results = classifier.classify(images)
    assert [isinstance(r, ImageError) for r in results] == [False, False, False, True]
    assert "too bright" in str(results[3])


def test_classifier__model_changed_since_launch__is_refused(tmp_path):
    folder = save_tiny_model(tmp_path / "m", size_px=16)
    spec = resolve_spec(ModelOptions(str(folder)))
    save_tiny_model(folder, size_px=16, gain=3.0)
    with pytest.raises(RunError, match="changed since the run started"):
        Classifier(spec, 3, 4)


def test_classifier__labels_do_not_fit__names_the_remedy(tmp_path):
    folder = save_tiny_model(tmp_path / "m", size_px=16)
    (tmp_path / "two.txt").write_text("a\nb")
    with pytest.raises(UserError, match="has 3 classes, and its label map has 2"):
        resolve_spec(ModelOptions(str(folder), labels=str(tmp_path / "two.txt")))


def test_classifier__lite0__frozen_logits_order_is_the_reference(lite0_dir):
    from tests.conftest import DATA

    reference = np.load(DATA / "efficientnet_lite0_logits.npz")
    classifier = Classifier(resolve_spec(ModelOptions("efficientnet-lite0")), 5, 4)
    results = classifier.classify(list(reference["images"][:4]))
    scores = tf.nn.softmax(reference["logits"][:4]).numpy()
    for result, expected in zip(results, scores, strict=True):
        assert result.class_ids.tolist() == np.argsort(-expected)[:5].tolist()
        assert np.allclose(result.scores, np.sort(expected)[::-1][:5], atol=1e-5)
