"""Faster graphs: bounds of their changes, and graphs that change more."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.models import meter, optimise
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.devices import load_models
from labelbeam.transforms.models.optimise import Optimisation, compare, optimise_model, photo_pixels
from labelbeam.transforms.models.spec import ModelOptions
from tests.specs import resolve_spec
from tests.tiny_model import save_tiny_model

BFLOAT16 = Optimisation(precision="bfloat16")


@pytest.fixture
def plain_precision():
    """Reset TensorFlow's precision after a test."""
    yield
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": False})


@pytest.fixture
def tiny(tmp_path):
    return resolve_spec(ModelOptions(str(save_tiny_model(tmp_path / "tiny", 16))))


@pytest.fixture
def lite0(lite0_dir):
    return resolve_spec(ModelOptions("efficientnet-lite0"))


@pytest.mark.parametrize(
    ("how", "on_gpu", "words"),
    [
        (Optimisation(), False, None),
        (Optimisation(), True, None),
        (BFLOAT16, False, None),
        (BFLOAT16, True, "Use --precision float16"),
        (Optimisation(precision="float16"), True, None),
        (Optimisation(precision="float16"), False, "Use --precision bfloat16"),
        (Optimisation(xla="on"), True, None),
        (Optimisation(xla="on"), False, "11 times slower"),
        (Optimisation(xla="force"), False, None),
        (Optimisation(precision="bfloat16", xla="force"), False, "can't be combined"),
        (Optimisation(precision="float16", xla="on"), True, "can't be combined"),
    ],
)
def test_unfit__precision_and_xla__are_for_devices_that_have_them(how, on_gpu, words):
    unfit = how.unfit(on_gpu)
    assert unfit is None if words is None else words in unfit


def test_compare__outputs__counts_best_classes_and_measures_the_change():
    expected = np.array([[1, 0], [0, 1], [3, 0], [0, 3]], np.float32)
    assert compare(expected, expected) == (4, 4, 0)
    other = expected.copy()
    other[1] = (2, 1)
    same, photos, change = compare(expected, other)
    assert (same, photos) == (3, 4) and change == pytest.approx(np.sqrt(4 / 8) / expected.std())


def test_build_graph__a_frozen_graph__is_called_by_its_signature(tiny):
    graph = optimise_model(tiny, 1, Optimisation(), 8)
    pixels = tf.zeros((2, 16, 16, 3), tf.uint8)
    assert graph.frozen and graph.function.function_type.bind(pixels).args == (pixels,)


def test_build_graph__bfloat16__is_checked_on_photos_and_changes_little(lite0, plain_precision):
    pixels = photo_pixels(lite0.resize)
    plain = optimise_model(lite0, 5, Optimisation(), 8).function(tf.constant(pixels))[3].numpy()
    graph = optimise_model(lite0, 5, BFLOAT16, 8)
    outputs = graph.function(tf.constant(pixels))[3].numpy()
    same, photos, change = compare(plain, outputs)
    assert graph.frozen and graph.optimised == (change > 0)  # no change on a processor that has no bfloat16
    assert same >= 0.95 * photos and change < 0.1


def test_build_graph__more_change_than_allowed__is_refused_or_runs_plain(lite0, plain_precision, monkeypatch):
    if optimise_model(lite0, 5, BFLOAT16, 8).optimised is False:
        pytest.skip("this processor computes bfloat16 as float32")
    monkeypatch.setattr(optimise, "MAX_OUTPUT_CHANGE", 1e-6)
    with pytest.raises(
        RunError, match=r"best class of \d+ of 57 sample photos stays .* or add --on_disagreement plain"
    ):
        optimise_model(lite0, 5, BFLOAT16, 8)
    graph = optimise_model(lite0, 5, Optimisation(precision="bfloat16", otherwise="plain"), 8)
    assert graph.optimised is False
    pixels = photo_pixels(lite0.resize)[:8]
    plain = optimise_model(lite0, 5, Optimisation(), 8).function(tf.constant(pixels))[3]
    np.testing.assert_allclose(graph.function(tf.constant(pixels))[3], plain, atol=1e-4)


def test_build_graph__top_1_agreement_below_the_least__is_refused(tiny, monkeypatch):
    with_signature = optimise.with_signature

    def negated(function, jit_compile=False):
        if not jit_compile:
            return with_signature(function)
        return lambda x: [*function(x)[:3], -function(x)[3]]

    monkeypatch.setattr(optimise, "with_signature", negated)
    monkeypatch.setattr(optimise, "MAX_OUTPUT_CHANGE", 100)
    with pytest.raises(RunError, match="xla=force change the outputs of model"):
        optimise_model(tiny, 1, Optimisation(xla="force"), 8)


def test_build_graph__a_graph_that_fails__is_refused_or_runs_plain(tiny, monkeypatch):
    with_signature = optimise.with_signature

    def fail(function, jit_compile=False):
        def run(_pixels):
            raise tf.errors.InvalidArgumentError(None, None, "XLA can't compile this")

        return run if jit_compile else with_signature(function)

    monkeypatch.setattr(optimise, "with_signature", fail)
    with pytest.raises(RunError, match="fail with model .* XLA can't compile this.*--on_disagreement plain"):
        optimise_model(tiny, 1, Optimisation(xla="force"), 8)
    graph = optimise_model(tiny, 1, Optimisation(xla="force", otherwise="plain"), 8)
    assert graph.optimised is False and graph.function(tf.zeros((1, 16, 16, 3), tf.uint8))[0].shape == (1, 1)


def test_build_graph__asked_again__remembers_that_photos_agree(tiny, monkeypatch):
    optimise_model(tiny, 1, Optimisation(xla="force"), 8)
    monkeypatch.setattr(optimise, "photo_pixels", None)
    assert optimise_model(tiny, 1, Optimisation(xla="force"), 8).optimised
    monkeypatch.setattr(optimise, "MAX_OUTPUT_CHANGE", -1)
    with pytest.raises(RunError, match="best class of 57 of 57"):
        optimise_model(tiny, 1, Optimisation(xla="force"), 8)


def test_build_graph__xla__gives_the_same(tiny):
    pixels = tf.constant(photo_pixels(tiny.resize)[:4])
    plain, compiled = (
        optimise_model(tiny, 2, Optimisation(xla=xla), 8).function(pixels) for xla in ("off", "force")
    )
    for one, other in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_load_models__a_faster_model__counts_what_it_was_compared_on(tiny):
    how = Optimisation(xla="force")
    faster = load_models(tiny, 5, 4, how, threads=1, require_gpu=False).meter.take()
    devices = faster[meter.LOADED]
    assert faster[meter.COMPARED] == faster[meter.AGREED] == 57 * devices
    assert faster[meter.BATCH_SIZE] == 4 * devices
    plain = load_models(tiny, 5, 4, Optimisation(), threads=1, require_gpu=False).meter.take()
    assert plain[meter.COMPARED] == plain[meter.AGREED] == 0


def test_classifier__xla__labels_batches_of_every_size(tiny):
    classifier = Classifier(tiny, 1, 4, Optimisation(xla="force"))
    images = [
        np.full((16, 16, 3), colour, np.uint8) for colour in [(200, 0, 0), (0, 200, 0), (0, 0, 200)] * 2
    ]
    assert [int(r.class_ids[0]) for r in classifier.classify(images)] == [0, 1, 2, 0, 1, 2]


_SEVERAL_DEVICES = """
import os, sys, threading
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
import numpy as np
from collections import Counter
from labelbeam.transforms.elements import DecodedImage, ImageMetadata, ImageRef
from labelbeam.transforms.models import optimise
from labelbeam.transforms.models.spec import ModelOptions
from tests.specs import resolve_spec
from labelbeam.transforms.predict import PredictLabels, _Labeler
if sys.argv[2] == "not frozen":
    def refuse(function):
        raise ValueError("not today")
    optimise.freeze = refuse
spec = resolve_spec(ModelOptions(sys.argv[1]))
labeler = _Labeler(PredictLabels(spec, top_k=1, batch_size=2, threads=3))
everyone = threading.Barrier(3, timeout=60)
devices = Counter()
for classifier in labeler.models.classifiers:
    function = classifier.graph.function
    def seen(pixels, function=function):
        outputs = function(pixels)
        assert outputs[1].device == pixels.device, (outputs[1].device, pixels.device)
        devices[pixels.device[-5:]] += 1
        if devices[pixels.device[-5:]] == 1:
            everyone.wait()  # no batch ends before each device has one
        return outputs
    classifier.graph = classifier.graph._replace(function=seen)
futures = []
for n in range(120):
    pixels = np.zeros((16, 16, 3), np.uint8); pixels[..., n % 3] = 200
    metadata = ImageMetadata(1, 1, "PNG", 1, 1, 1, "s")
    futures.append(labeler.submit(DecodedImage(ImageRef(str(n), "u"), pixels, metadata)))
labeler.batcher.flush()
assert [f.result(60).labels[0].class_id for f in futures] == [n % 3 for n in range(120)]
counts = labeler.take_counts()
names = ("models_loaded", "models_not_frozen", "images_run")
print(sorted(devices), sum(devices.values()), *(counts[name] for name in names))
"""


@pytest.mark.parametrize(("kind", "not_frozen"), [("frozen", 0), ("not frozen", 3)])
def test_labeler__several_devices__each_has_its_model_and_takes_from_one_queue(tmp_path, kind, not_frozen):
    model = save_tiny_model(tmp_path / "tiny", 16)
    done = subprocess.run(
        [sys.executable, "-c", _SEVERAL_DEVICES, str(model), kind],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == f"['CPU:0', 'CPU:1', 'CPU:2'] 60 3 {not_frozen} 120"
