"""The probe: its reading of models of every kind, and refusals."""

import re
import threading

import numpy as np
import pytest
import tensorflow as tf

from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.models import probe as probing
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.heads import Head
from labelbeam.transforms.models.probe import understand_model
from labelbeam.transforms.models.scaling import NAMED_SCALINGS, Scaling
from labelbeam.transforms.models.spec import ModelOptions
from tests.specs import resolve_spec
from tests.tiny_model import save_tiny_model


def save(folder, function, shape=(None, 16, 16, 3), dtype=tf.float32, keeps=None):
    """Save a SavedModel with one signature, from images to one output."""
    module = tf.Module()
    module.keeps = keeps
    spec = [tf.TensorSpec(shape, dtype, name="images")]
    module.f = tf.function(lambda images: {"y": function(images)}, input_signature=spec, autograph=False)
    tf.saved_model.save(module, str(folder), {"serving_default": module.f})
    return str(folder)


def colours(images):
    return 8 * tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]) - 4


def understand(model, timeout_sec=60.0, **options):
    return understand_model(ModelOptions(str(model), **options), timeout_sec)


@pytest.mark.parametrize(
    ("function", "options", "head", "origin"),
    [
        (colours, {}, Head("single_label", "logits"), "probed"),
        (lambda x: tf.nn.softmax(colours(x)), {}, Head("single_label", "probabilities"), "probed"),
        (lambda x: tf.sigmoid(colours(x)), {}, Head("multilabel", "probabilities"), "probed"),
        (lambda x: colours(x)[:, :1], {}, Head("binary", "logits"), "probed"),
        (lambda x: tf.sigmoid(colours(x)[:, :1]), {}, Head("binary", "probabilities"), "probed"),
        (colours, {"outputs": "multilabel"}, Head("multilabel", "logits"), "given"),
        (
            lambda x: tf.sigmoid(colours(x)),
            {"outputs": "multilabel"},
            Head("multilabel", "probabilities"),
            "given",
        ),
        (lambda x: colours(x)[:, :1], {"outputs": "logits"}, Head("binary", "logits"), "given"),
        (colours, {"outputs": "embedding"}, Head("embedding", "embedding"), "given"),
    ],
)
def test_understand__head__is_probed_unless_configured(tmp_path, function, options, head, origin):
    spec = understand(save(tmp_path / "m", function), **options)
    assert (spec.head, spec.head_from, spec.doubts) == (head, origin, ())
    assert len(spec.labels) == head.classes(spec.length)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (lambda x: tf.nn.softmax(colours(x)[:, :1]), {}, "softmax over one class. Export it with a sigmoid"),
        (colours, {"outputs": "probabilities"}, "which are logits. Remove --outputs"),
        (lambda x: tf.reduce_mean(colours(x), axis=0, keepdims=True), {}, r"returns \[1, 3\] for 2 images"),
        (lambda x: colours(x) - tf.reduce_mean(colours(x), axis=0), {}, "training=False"),
        (lambda x: colours(x) * tf.random.uniform([3]), {}, "training=False"),
        (lambda x: colours(x) * float("nan"), {}, "NaN or infinity for every sample photo"),
        (
            lambda x: tf.ensure_shape(tf.reshape(colours(x), [-1]), [6])[:, None],
            {},
            "fails on the sample photos|returns .* for 2 images",
        ),
    ],
)
def test_understand__model_that_can_only_be_wrong__is_refused(tmp_path, function, options, message):
    with pytest.raises(UserError, match=message):
        understand(save(tmp_path / "m", function), **options)


# 57 photos: 29 is the largest batch with as many photos beside it, 64 exceeds the photos.
@pytest.mark.parametrize("batch", [3, 29, 30, 64])
def test_understand__fixed_batch__is_compared_with_other_neighbours(tmp_path, batch):
    shape = (batch, 16, 16, 3)
    normalised = save(tmp_path / "n", lambda x: colours(x) - tf.reduce_mean(colours(x), axis=0), shape)
    with pytest.raises(UserError, match="training=False"):
        understand(normalised)
    assert understand(save(tmp_path / "m", colours, shape)).contract.batch == batch


def test_understand__labels_of_a_binary_head__are_two(tmp_path):
    model = save(tmp_path / "m", lambda x: tf.sigmoid(colours(x)[:, :1]))
    for names in ("cat", "no cat\ncat", "a\nb\nc"):
        (tmp_path / "names.txt").write_text(names)
        if names == "no cat\ncat":
            assert understand(model, labels=str(tmp_path / "names.txt")).labels == ("no cat", "cat")
        else:
            with pytest.raises(UserError, match="Give two labels, that of the negative class first"):
                understand(model, labels=str(tmp_path / "names.txt"))


def grey_or_colours(images):
    """Expect pixels from 0 to 255: an image that is dark for this range counts as grey."""
    means = tf.reduce_mean(images, axis=[1, 2])
    return tf.concat([means, tf.fill([tf.shape(images)[0], 1], 110.0)], axis=1)


@pytest.mark.parametrize(
    ("function", "options", "doubt"),
    [
        (
            grey_or_colours,
            {},
            r"gives 57 of 57 .* 'class 3'. .* range 0,1 \(assumed\).*with 0,255: \d classes",
        ),
        (grey_or_colours, {"input_range": (-1.0, 1.0)}, r"range -1,1 \(given\)"),
        (grey_or_colours, {"input_range": (0.0, 255.0)}, None),
        (lambda x: 0 * colours(x), {}, "equal outputs for all 57 .* No other --input_range changes that"),
        (lambda x: tf.nn.softmax(colours(x)), {"outputs": "logits"}, "a softmax makes .* Remove --outputs"),
        (lambda x: tf.sigmoid(colours(x)), {"outputs": "probabilities"}, "give --outputs multilabel"),
    ],
)
def test_understand__outputs_that_contradict__are_doubted(tmp_path, function, options, doubt):
    spec = understand(save(tmp_path / "m", function), **options)
    if doubt is None:
        assert spec.doubts == ()
    else:
        (text,) = spec.doubts
        assert re.search(doubt, text), text


@pytest.fixture(scope="module")
def lite0(lite0_dir):
    return tf.saved_model.load(str(lite0_dir))


def expecting(lite0, scaling: Scaling):
    """Return a function that takes what `scaling` makes of pixels, and labels like EfficientNet-Lite0."""
    factors, offsets, order = (tf.constant(values) for values in scaling.factors())

    def function(images):
        return lite0((tf.gather(images, order, axis=-1) - offsets) / factors / 255)

    return function


@pytest.mark.parametrize("name", ["0,1", "0,255", "torch", "caffe"])
def test_understand__imagenet_model__has_the_range_that_labels_photos_rightly(tmp_path, lite0, name):
    model = save(tmp_path / "m", expecting(lite0, NAMED_SCALINGS[name]), (None, 224, 224, 3), keeps=lite0)
    spec = understand(model, labels="imagenet")
    assert (spec.scaling.name, spec.scaling_from) == (name, "probed")
    if name == "torch":  # 26 of 27 right, and 25 with -1,1: too near for the photos to decide
        doubt = "do not decide between --input_range torch (26 of 27 right) and -1,1 (25 right)"
        assert doubt in spec.doubts[0]
    else:
        assert spec.doubts == ()
    if name == "caffe":
        spec = understand(model, labels="imagenet", input_range=(0.0, 255.0))
        assert spec.scaling.name == "0,255" and spec.scaling_from == "given"
        assert "24 of 27" in spec.doubts[0] and "Give --input_range caffe" in spec.doubts[0]
        assert "Give --labels imagenet" in understand(model).doubts[0]


def test_understand__whole_numbers__have_one_range(tmp_path):
    model = save(tmp_path / "m", lambda x: colours(tf.cast(x, tf.float32) / 255), dtype=tf.uint8)
    spec = understand(model)
    assert (spec.scaling.name, spec.scaling_from, spec.doubts) == ("0,255", "read", ())
    assert understand(model, channel_order="bgr").scaling.order == "bgr"
    with pytest.raises(UserError, match="without means and deviations"):
        understand(model, channel_mean=(1.0, 2.0, 3.0))


def test_understand__name_and_channels__exclude_each_other(tmp_path):
    with pytest.raises(UserError, match="--input_range caffe sets means"):
        understand(save(tmp_path / "m", colours), input_range="caffe", channel_order="bgr")


def test_understand__callable_without_signature__has_its_length_probed(tmp_path):
    module = tf.Module()
    spec = tf.TensorSpec([None, None, None, 3], tf.float32)
    module.__call__ = tf.function(colours, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, str(tmp_path / "m"), {})
    assert understand(tmp_path / "m", image_size=16).length == 3


def test_understand__second_time__does_not_run_the_model(tmp_path, monkeypatch):
    model = save_tiny_model(tmp_path / "m", 16)
    spec = understand(model)
    monkeypatch.setattr(probing, "load_model", None)
    assert understand(model) == spec
    with pytest.raises(TypeError):
        understand(model, image_size=16, input_range=(0.0, 2.0))


def test_understand__preset__is_run_only_with_other_options(lite0_dir, monkeypatch):
    monkeypatch.setattr(probing, "load_model", None)
    spec = understand("efficientnet-lite0")
    assert (spec.scaling_from, spec.head_from) == ("preset", "preset")
    monkeypatch.undo()
    with pytest.raises(UserError, match="--outputs probabilities: .* which are logits"):
        understand("efficientnet-lite0", outputs="probabilities")
    assert (
        "with --input_range 0,1: 26 of 27"
        in understand("efficientnet-lite0", input_range=(0.0, 255.0)).doubts[0]
    )


def test_understand__right_scaling_without_a_name__is_not_doubted(lite0_dir):
    assert understand("efficientnet-lite0", channel_std=(1.0, 1.0, 1.001)).doubts == ()


def test_understand__slow_model__is_tried_on_few_photos(tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "_PROBE_SEC", 0.0)
    monkeypatch.setattr(probing, "_BATCH_PIXELS", 0)
    reading = probing.read_model(ModelOptions(save(tmp_path / "m", colours)))
    assert len(probing.probe(reading, Scaling()).configured.best) == 3


def test_understand__model_too_slow_for_other_ranges__is_doubted_and_tried_again(tmp_path, monkeypatch):
    model = save(tmp_path / "m", grey_or_colours)
    monkeypatch.setattr(probing, "_PROBE_SEC", 0.0)
    monkeypatch.setattr(probing, "_BATCH_PIXELS", 8 * 16 * 16)
    assert "too slow here to be tried in other input ranges than 0,1" in understand(model).doubts[0]
    monkeypatch.undo()
    assert "with 0,255" in understand(model).doubts[0]  # not remembered


def test_understand__saturated_sigmoid__is_no_softmax_over_one_class(tmp_path):
    model = save(tmp_path / "m", lambda x: tf.sigmoid(tf.reduce_mean(x, axis=[1, 2])[:, :1] - 110))
    spec = understand(model, input_range=(1000.0, 2000.0))
    assert spec.head.kind == "binary" and "equal outputs" in spec.doubts[0]


@pytest.mark.parametrize("batch", [32, 64])
def test_understand__fixed_batch_beyond_the_photos__is_probed(tmp_path, batch):
    spec = understand(save(tmp_path / "m", colours, (batch, 16, 16, 3)))
    assert (spec.contract.batch, spec.head.kind) == (batch, "single_label")


def test_understand__model_that_does_not_return__ends_with_its_name(tmp_path, monkeypatch):
    released = threading.Event()

    def wait(images):
        return tf.numpy_function(lambda x: (released.wait(), x)[1], [colours(images)], tf.float32)

    monkeypatch.setattr(probing, "load_model", lambda reading: wait)
    with pytest.raises(RunError, match=r"m' did not return within predict_timeout_sec=0\.2"):
        understand(save(tmp_path / "m", colours), timeout_sec=0.2)
    released.set()


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_classifier__head__gives_its_scores(tmp_path, kind):
    function = (lambda x: colours(x)[:, :1]) if kind == "binary" else colours
    options = {"outputs": "multilabel"} if kind == "multilabel" else {}
    classifier = Classifier(understand(save(tmp_path / "m", function), **options), 5, 2)
    (result,) = classifier.classify([np.full((16, 16, 3), (204, 128, 51), np.uint8)])
    logits = 8 * np.array([204, 128, 51]) / 255 - 4
    sigmoid = 1 / (1 + np.exp(-logits))
    expected = [sigmoid[0], 1 - sigmoid[0]] if kind == "binary" else sigmoid
    assert result.class_ids.tolist() == ([1, 0] if kind == "binary" else [0, 1, 2])
    np.testing.assert_allclose(result.scores, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: tf.reduce_mean(colours(x), axis=0, keepdims=True), "must return one row per image"),
        (lambda x: colours(x) - tf.reduce_mean(colours(x), axis=0), "training=False"),
    ],
)
@pytest.mark.parametrize("batch", [None, 3])
def test_classifier__wrong_rows_or_neighbours__is_found_by_the_warm_up(tmp_path, function, message, batch):
    spec = resolve_spec(ModelOptions(save(tmp_path / "m", function, (batch, 16, 16, 3))))
    with pytest.raises(RunError, match=message):
        Classifier(spec, 1, 4)


def test_understand__given_range_that_the_first_layers_contradict__is_doubted(tmp_path):
    pooling, dense = tf.keras.layers.GlobalAveragePooling2D(), tf.keras.layers.Dense(3)
    layers = [tf.keras.Input((16, 16, 3)), tf.keras.layers.Rescaling(1 / 255), pooling, dense]
    tf.keras.Sequential(layers).save(tmp_path / "m.keras")
    assert understand(tmp_path / "m.keras").scaling_from == "read"
    doubts = understand(tmp_path / "m.keras", input_range="caffe").doubts
    assert "the first layers of model" in doubts[0] and "expect 0,255. Remove --input_range" in doubts[0]
