"""Models of every kind: their contracts and their outputs."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from labelbeam.transforms.errors import ImageError, RunError, UserError
from labelbeam.transforms.models import optimise
from labelbeam.transforms.models.classifier import Classifier, is_out_of_memory
from labelbeam.transforms.models.contract import Contract
from labelbeam.transforms.models.meter import OOM_SPLITS
from labelbeam.transforms.models.saved_model import read_contract
from labelbeam.transforms.models.spec import ModelOptions
from tests.specs import resolve_spec
from tests.tiny_model import save_tiny_model

RED, GREEN, BLUE = ((200, 10, 50), (0, 90, 20), (10, 20, 130))


def save(folder, signatures, shape=(None, 16, 16, 3), dtype=tf.float32):
    """Save a model that is not callable; `signatures` are functions of its images by name."""
    module = tf.Module()
    spec = [tf.TensorSpec(shape, dtype, name="pixels")]
    made = {
        name: tf.function(f, spec, autograph=False).get_concrete_function() for name, f in signatures.items()
    }
    tf.saved_model.save(module, str(folder), made)
    return folder


def colours(images):
    return tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])


def top_1(model, *images, **options) -> list[int]:
    spec = resolve_spec(ModelOptions(str(model), **options))
    size = spec.resize.size_px
    classifier = Classifier(spec, 1, 4)
    return [
        int(r.class_ids[0])
        for r in classifier.classify([np.full((size, size, 3), c, np.uint8) for c in images])
    ]


def test_saved_model__other_names__are_read(tmp_path):
    folder = save(tmp_path / "m", {"serving_default": lambda x: {"scores": colours(x)}})
    assert read_contract(folder) == Contract("serving_default", "pixels", "float32", None, 16, "scores", 3)
    assert top_1(folder, RED, GREEN, BLUE) == [0, 1, 2]


def test_saved_model__several_heads__one_is_chosen_and_fingerprinted(tmp_path):
    heads = {"serving_default": lambda x: {"straight": colours(x), "turned": -colours(x)}}
    folder = save(tmp_path / "m", heads)
    with pytest.raises(UserError, match="several outputs: choose one with --output_name: straight, turned"):
        read_contract(folder)
    with pytest.raises(UserError, match="no such output; it has straight, turned"):
        read_contract(folder, output="bent")
    assert top_1(folder, RED, output_name="straight") == [0] and top_1(folder, RED, output_name="turned") == [
        1
    ]
    prints = {
        resolve_spec(ModelOptions(str(folder), output_name=name)).model_fingerprint
        for name in ("straight", "turned")
    }
    assert len(prints) == 2


def test_saved_model__several_signatures__one_is_chosen(tmp_path):
    both = {"a": lambda x: {"y": colours(x)}, "b": lambda x: {"y": -colours(x)}}
    folder = save(tmp_path / "m", both)
    with pytest.raises(UserError, match="several signatures: choose one with --signature: a, b"):
        read_contract(folder)
    assert top_1(folder, RED, signature="b") == [1]


def test_saved_model__one_batch_size__is_kept_to(tmp_path):
    folder = save(tmp_path / "m", {"serving_default": lambda x: {"y": colours(x)}}, shape=(3, 16, 16, 3))
    spec = resolve_spec(ModelOptions(str(folder)))
    assert Classifier(spec, 1, 8).sizes == (3,)
    assert top_1(folder, *[RED, GREEN, BLUE, BLUE, RED]) == [0, 1, 2, 2, 0]


@pytest.mark.parametrize("dtype", [tf.uint8, tf.int32, tf.float16])
def test_saved_model__input_type__is_kept(tmp_path, dtype):
    folder = save(tmp_path / "m", {"serving_default": lambda x: {"y": colours(x)}}, dtype=dtype)
    spec = resolve_spec(ModelOptions(str(folder)))
    assert spec.scaling.input_range == ((0, 1) if dtype == tf.float16 else (0, 255))
    assert top_1(folder, RED, BLUE) == [0, 2]
    if dtype != tf.float16:
        with pytest.raises(UserError, match="range must be 0,255"):
            resolve_spec(ModelOptions(str(folder), input_range=(0, 1)))


@pytest.mark.parametrize(
    ("input_range", "mean"), [((0.0, 1.0), 0.2), ((-1.0, 1.0), -0.6), ((0.0, 255.0), 51.0)]
)
def test_saved_model__input_range__is_what_the_model_sees(tmp_path, input_range, mean):
    """Label by distance: class 0 wins if the mean is the expected one, else class 1."""

    def distance(x):
        d = tf.abs(colours(x)[:, :1] - mean)
        return {"y": tf.concat([1 - d, d - 1], axis=1) * 1000}

    folder = save(tmp_path / "m", {"serving_default": distance})
    spec = resolve_spec(ModelOptions(str(folder), input_range=input_range))
    (result,) = Classifier(spec, 1, 1).classify([np.full((16, 16, 3), 51, np.uint8)])
    assert result.class_ids.tolist() == [0] and result.scores[0] > 0.999


def test_callable_without_signatures__is_called_itself(tmp_path):
    module = tf.Module()
    spec = [tf.TensorSpec([None, 16, 16, 3], tf.float32)]
    module.__call__ = tf.function(lambda x: colours(x), spec, autograph=False)
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={})
    labels = tmp_path / "labels.txt"
    labels.write_text("r\ng\nb")
    assert top_1(tmp_path / "m", GREEN, image_size=16, labels=str(labels)) == [1]
    with pytest.raises(UserError, match="without --signature"):
        read_contract(tmp_path / "m", signature="serving_default")


def check_refusal(folder, words):
    with pytest.raises(UserError, match=words) as caught:
        read_contract(folder)
    assert len(str(caught.value)) - len(str(folder)) < 300 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "function", "words"),
    [
        ((None, 3, 16, 16), lambda x: {"y": tf.reduce_mean(x, [2, 3])}, r"Permute\(\(3, 1, 2\)\)"),
        ((None, 16, 16, 1), lambda x: {"y": colours(x)}, r"takes \[N, 16, 16, 1\].*rgb_to_grayscale"),
        ((None, 16, 20, 3), lambda x: {"y": colours(x)}, "20 x 16 px; they must be square"),
        ((None, 300), lambda x: {"y": x}, r"takes \[N, 300\]; it must take images"),
        ((None, 16, 16, 3), lambda x: {"y": x}, r"returns \[N, 16, 16, 3\] as 'y'.*GlobalAveragePooling2D"),
        ((None, 16, 16, 3), lambda x: {"y": tf.reduce_mean(x, [1, 2, 3])}, r"returns \[N\] as 'y'.*flattens"),
        ((None, 16, 16, 3), lambda x: {"y": tf.argmax(colours(x), 1)}, "returns int64 as 'y'"),
        ((None, 16, 16, 3), lambda x: {"y": tf.as_string(colours(x))}, "returns string as 'y'"),
        (
            (None, 16, 16, 3),
            lambda x: dict.fromkeys("abcdefghijkl", colours(x)),
            "choose .*: a, b.* j, ...\\.$",
        ),
    ],
)
def test_saved_model__no_image_classifier__is_refused_with_a_remedy(tmp_path, shape, function, words):
    check_refusal(save(tmp_path / "m", {"serving_default": function}, shape=shape), words)


def test_saved_model__int8_input__is_refused(tmp_path):
    folder = save(tmp_path / "m", {"serving_default": lambda x: {"y": colours(x)}}, dtype=tf.int8)
    check_refusal(folder, "'pixels' int8, which can't hold 0 to 255")


TEXTS, PIXELS = tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 16, 16, 3])


@pytest.mark.parametrize(
    ("signatures", "words"),
    [
        ({"serving_default": {"png": TEXTS}}, "takes 'png' string, such as encoded images.*Export it where"),
        (
            {"serving_default": {"key": TEXTS, "png": TEXTS}},
            "takes 'key' string, 'png' string.*Export it where",
        ),
        (
            {"serving_default": {"png": TEXTS}, "raw": {"x": PIXELS}},
            "another signature with --signature: raw.$",
        ),
        ({"serving_default": {"x": PIXELS, "y": PIXELS}}, "takes 2 inputs .*'x' float32, 'y' float32"),
    ],
)
def test_saved_model__inputs_other_than_pixels__are_refused_with_a_remedy(tmp_path, signatures, words):
    made = {
        name: tf.function(lambda **_: {"y": tf.zeros([1, 3])}).get_concrete_function(**inputs)
        for name, inputs in signatures.items()
    }
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"), made)
    check_refusal(tmp_path / "m", words)


def test_saved_model__of_tensorflow_1__is_refused_with_a_remedy(tmp_path):
    folder = save_tiny_model(tmp_path / "m", size_px=16)
    (folder / "tfhub_module.pb").touch()
    with pytest.raises(UserError, match="module of TensorFlow 1.*Take the model's TF2 version"):
        read_contract(folder)


def test_resolve_spec__another_size_than_the_models__is_refused(tmp_path):
    folder = save_tiny_model(tmp_path / "m", size_px=16)
    with pytest.raises(UserError, match="takes images of 16 px and no others"):
        resolve_spec(ModelOptions(str(folder), image_size=20))


OOM = tf.errors.InternalError(None, None, "OOM when allocating tensor")
NO_KERNEL = tf.errors.InvalidArgumentError(None, None, "no kernel for this device")
LOST = tf.errors.InternalError(None, None, "the device is lost")


class Scarce:
    """A graph that runs out of memory above a batch size, and on images of some colour."""

    def __init__(self, function, most: int, error: Exception = OOM) -> None:
        self.function, self.most, self.error = function, most, error
        self.calls: list[int] = []

    def __call__(self, pixels):
        self.calls.append(len(pixels))
        if len(pixels) > self.most:
            raise self.error
        return self.function(pixels)


def starve(model: Classifier, most: int, error: Exception = OOM) -> Scarce:
    scarce = Scarce(model.graph.function, most, error)
    model.graph = model.graph._replace(function=scarce)
    return scarce


@pytest.fixture
def model(tmp_path):
    return Classifier(resolve_spec(ModelOptions(str(save_tiny_model(tmp_path / "m", 16)))), 1, 8)


def images(*colours) -> list[np.ndarray]:
    return [np.full((16, 16, 3), c, np.uint8) for c in colours]


def test_classify__memory_is_short__halves_once_and_keeps_to_it(model):
    scarce = starve(model, most=2)
    classes = [0, 1, 2, 0, 1, 2, 0, 1]
    batch = images(*[(RED, GREEN, BLUE)[n % 3] for n in range(8)])
    assert [int(r.class_ids[0]) for r in model.classify(batch)] == classes
    assert scarce.calls[:3] == [8, 4, 2] and model.meter.take()[OOM_SPLITS] >= 2
    scarce.calls.clear()
    assert [int(r.class_ids[0]) for r in model.classify(batch)] == classes
    assert scarce.calls == [2, 2, 2, 2]


def test_classify__memory_is_shorter_and_shorter__tries_no_larger_batch_again(model):
    scarce = starve(model, most=4)
    scarce.limits = iter([4, 4, 2])  # another process takes memory meanwhile
    call = scarce.__call__

    def shrinking(pixels):
        scarce.most = next(scarce.limits, scarce.most)
        return call(pixels)

    model.graph = model.graph._replace(function=shrinking)
    assert len(model.classify(images(*[RED] * 8))) == 8
    assert scarce.calls == sorted(scarce.calls[:-1], reverse=True) + scarce.calls[-1:]
    assert model.largest == 2


def test_classify__memory_is_short_for_a_fixed_batch__ends_the_run(tmp_path):
    folder = save(tmp_path / "m", {"serving_default": lambda x: {"y": colours(x)}}, shape=(3, 16, 16, 3))
    model = Classifier(resolve_spec(ModelOptions(str(folder))), 1, 8)
    starve(model, most=2)
    with pytest.raises(
        RunError, match="Memory is too short for a batch of 3, the only size that model .* takes"
    ):
        model.classify(images(RED))


def test_classifier__model_that_dislikes_black__starts_all_the_same(tmp_path, monkeypatch):
    def dislike(pixels):
        tf.debugging.assert_greater(tf.reduce_max(pixels), 0.0)
        return colours(pixels)

    folder = save(tmp_path / "m", {"serving_default": lambda x: {"y": dislike(x)}})
    classifier = Classifier(resolve_spec(ModelOptions(str(folder))), 1, 32)
    assert [int(r.class_ids[0]) for r in classifier.classify(images(RED, BLUE))] == [0, 2]


def test_classify__memory_is_short_for_one_image__is_a_model_oom_row(model):
    starve(model, most=0)
    results = model.classify(images(RED, GREEN, BLUE))
    assert [r.reason for r in results] == ["model_oom"] * 3


def test_classify__model_never_worked__gives_the_run_up(model):
    starve(model, 0, NO_KERNEL)
    model._works = False
    with pytest.raises(RunError, match="fails on every image: no kernel for this device"):
        for _ in range(5):
            model.classify(images(*[RED] * 8))


def test_classify__model_worked_before__bisects_and_goes_on(model):
    starve(model, 0, NO_KERNEL)
    results = [r for _ in range(5) for r in model.classify(images(*[RED] * 8))]
    assert all(isinstance(r, ImageError) and r.reason == "model_error" for r in results)


def test_classify__device_is_lost__is_no_images_fault(model):
    starve(model, 0, LOST)
    with pytest.raises(tf.errors.InternalError, match="the device is lost"):
        model.classify(images(RED, GREEN))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "x"), True),
        (tf.errors.InternalError(None, None, "CUDNN_STATUS_ALLOC_FAILED in x"), True),
        (tf.errors.UnknownError(None, None, "Failed to get convolution algorithm. cuDNN failed"), True),
        (MemoryError(), True),
        (tf.errors.InvalidArgumentError(None, None, "shape"), False),
    ],
)
def test_is_out_of_memory__messages_of_tensorflow__are_recognised(error, expected):
    assert is_out_of_memory(error) is expected


def test_classifier__model_cannot_be_frozen__runs_all_the_same(tmp_path, monkeypatch, caplog):
    def refuse(function):
        raise ValueError("a resource that is no variable")

    monkeypatch.setattr(optimise, "freeze", refuse)
    spec = resolve_spec(ModelOptions(str(save_tiny_model(tmp_path / "m", 16))))
    classifier = Classifier(spec, 1, 4)
    assert not classifier.graph.frozen and "is not frozen and will be slower" in caplog.text
    assert [int(r.class_ids[0]) for r in classifier.classify(images(RED, BLUE))] == [0, 2]


def test_classifier__copies_ahead__brings_the_next_batch_while_one_runs(tmp_path, monkeypatch):
    classifier = Classifier(
        resolve_spec(ModelOptions(str(save_tiny_model(tmp_path / "m", 16)))), 1, 1, copies_ahead=True
    )
    copied, identity, function = threading.Semaphore(0), tf.identity, classifier.graph.function
    running, at_once = threading.Lock(), []

    def bring(pixels):
        brought = identity(pixels)
        copied.release()
        return brought

    def run(pixels):
        at_once.append(running.acquire(blocking=False))
        if len(at_once) == 1:
            assert copied.acquire(timeout=60) and copied.acquire(timeout=60)  # its own, and the next one's
        outputs = function(pixels)
        running.release()
        return outputs

    monkeypatch.setattr(tf, "identity", bring)
    classifier.graph = classifier.graph._replace(function=run)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(classifier.classify, [images(RED), images(BLUE)]))
    assert [int(r.class_ids[0]) for (r,) in results] == [0, 2] and at_once == [True, True]
