"""Keras files: names and choice of their outputs, and files that can't be loaded."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.contract import Contract
from labelbeam.transforms.models.keras_file import keras_outputs, load_keras, read_contract
from tests.models.test_contract import BLUE, RED, top_1

keras = tf.keras
layers = keras.layers


def save(path: Path, *middle, last=(), **of_input) -> Path:
    """Save a model of three classes: an image's mean red, green and blue."""
    start = keras.Input(**{"shape": (16, 16, 3)} | of_input)
    keras.Sequential([start, *middle, layers.GlobalAveragePooling2D(), *last]).save(path)
    return path


def save_heads(path: Path, make, names=("straight", "turned")) -> Path:
    """Save a model of the colours and of the negated colours; `make` gives the structure of both outputs."""
    images = keras.Input((16, 16, 3))
    straight = layers.GlobalAveragePooling2D(name=names[0])(images)
    model = keras.Model(images, make(straight, layers.Rescaling(-1.0, name=names[1])(straight)))
    model.save(path)
    return path


class Custom(layers.Layer):
    def call(self, x):
        return x


class CustomModel(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.pooling = layers.GlobalAveragePooling2D()

    def call(self, x):
        return self.pooling(x)


def double(x):
    return x * 2.0


def test_contract__keras_file__holds_what_can_be_read(tmp_path):
    head = layers.Dense(3, activation="sigmoid")
    path = save(tmp_path / "m.keras", layers.Rescaling(1 / 255), last=[head], batch_size=2)
    assert read_contract(path) == Contract(
        batch=2, size_px=16, classes=3, input_range=(0, 255), outputs="probabilities", multilabel=True
    )


@pytest.mark.parametrize(
    ("shape", "size_px"), [((None, None, 3), None), ((16, None, 3), 16), ((None, 16, 3), 16)]
)
def test_contract__open_sides__are_of_any_size(tmp_path, shape, size_px):
    path = save(tmp_path / "m.keras", shape=shape)
    assert read_contract(path).size_px == size_px
    assert top_1(path, RED, BLUE, image_size=16) == [0, 2]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (None, False),
        ("binary_crossentropy", True),
        (keras.losses.BinaryCrossentropy(from_logits=True), True),
        (keras.losses.BinaryFocalCrossentropy(), True),
        (keras.losses.binary_crossentropy, True),
        ("categorical_crossentropy", False),
        (double, False),
    ],
)
def test_contract__loss_of_a_linear_head__decides_on_multilabel(tmp_path, loss, expected):
    images = keras.Input((16, 16, 3))
    model = keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(images)))
    if loss:
        model.compile(loss=loss)
    model.save(tmp_path / "m.keras")
    contract = read_contract(tmp_path / "m.keras")
    assert (contract.outputs, contract.multilabel) == ("logits", expected)


@pytest.mark.parametrize("loss", [{"a": "mse", "b": "binary_crossentropy"}, ["mse", "binary_crossentropy"]])
def test_contract__losses_by_head__are_those_of_the_chosen_one(tmp_path, loss):
    images = keras.Input((16, 16, 3))
    pooled = layers.GlobalAveragePooling2D()(images)
    model = keras.Model(images, [layers.Dense(3, name=name)(pooled) for name in "ab"])
    model.compile(loss=loss)
    model.save(tmp_path / "m.keras")
    chosen = [read_contract(tmp_path / "m.keras", output=name).multilabel for name in "ab"]
    assert chosen == [False, True]


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda a, b: [a, b], ["straight", "turned"]),
        (lambda a, b: {"y": a, "x": b}, ["y", "x"]),
        (lambda a, b: {"p": [a], "q": {"r": b}}, ["p/0", "q/r"]),
        (lambda a, b: [[a], {"z": b}], ["straight", "turned"]),
    ],
)
def test_several_outputs__chosen_by_name__give_their_own_numbers(tmp_path, make, names):
    path = save_heads(tmp_path / "m.keras", make)
    with pytest.raises(UserError, match=f"choose one with --output_name: {', '.join(sorted(names))}"):
        read_contract(path)
    assert [top_1(path, RED, output_name=name) for name in names] == [[0], [1]]


@pytest.mark.parametrize("make", [lambda a, _: [a], lambda a, _: {"x": a}])
def test_one_output__in_a_list_or_dictionary__needs_no_name(tmp_path, make):
    path = save_heads(tmp_path / "m.keras", make)
    assert read_contract(path).output_name == "" and top_1(path, RED, BLUE) == [0, 2]


def test_input__in_a_dictionary__is_fed(tmp_path, recwarn):
    images = {"image": keras.Input((16, 16, 3), name="image")}
    keras.Model(images, layers.GlobalAveragePooling2D()(images["image"])).save(tmp_path / "m.keras")
    recwarn.clear()
    assert top_1(tmp_path / "m.keras", RED, BLUE) == [0, 2]
    assert not [w for w in recwarn if "structure" in str(w.message)]


def test_shared_head__two_outputs_of_one_name__get_names_of_their_own(tmp_path):
    images = keras.Input((16, 16, 3))
    head = layers.GlobalAveragePooling2D(name="head")
    other = layers.Activation("linear", name="head_1")(head(images))
    keras.Model(images, [head(images), head(-images), other]).save(tmp_path / "m.keras")
    assert list(keras_outputs(load_keras(tmp_path / "m.keras"))) == ["head", "head_2", "head_1"]
    assert [top_1(tmp_path / "m.keras", RED, output_name=n) for n in ("head", "head_2")] == [[0], [1]]


def custom_model(path):
    model = CustomModel()
    model(np.ones((1, 16, 16, 3)))
    model.save(path)


def unbuilt(path):
    keras.Sequential([layers.GlobalAveragePooling2D()]).save(path)


def keras_2(path):
    import tf_keras

    tf_keras.Sequential([tf_keras.layers.GlobalAveragePooling2D(input_shape=(16, 16, 3))]).save(path)


def half(path):
    content = save(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def without_weights(path):
    import zipfile

    save(path, layers.Dense(2))
    parts = zipfile.ZipFile(path)
    kept = {name: parts.read(name) for name in parts.namelist() if not name.endswith(".h5")}
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in kept.items():
            packed.writestr(name, content)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: save(p, layers.Lambda(lambda x: x * 2.0, name="mine")), "layer 'mine' .Lambda.*export"),
        (lambda p: save(p, layers.Lambda(double, name="mine")), "layer 'mine' .Lambda.*export"),
        (lambda p: save(p, Custom(name="mine")), "layer 'mine' .custom class 'Custom'.*export"),
        (lambda p: save(p, keras.Sequential([Custom(name="mine")])), "layer 'mine' .custom class 'Custom'"),
        (
            lambda p: save(p, layers.Dense(3, double, name="mine")),
            "function 'double' of layer 'mine'.*export",
        ),
        (custom_model, "the model .custom class 'CustomModel'.*export"),
        (unbuilt, "lacks the shape of its input. Put keras.Input"),
        (keras_2, "Keras 2.* saved it, and this is Keras 3.*export"),
        (lambda p: p.write_bytes(b"no zip"), "damaged.*again"),
        (half, "damaged.*again"),
        (without_weights, "damaged.*again"),
    ],
)
def test_load_keras__file_that_cannot_be_loaded__is_refused_in_one_short_line(tmp_path, make, words):
    path = tmp_path / "m.keras"
    make(path)
    with pytest.raises(UserError, match=words) as caught:
        load_keras(path)
    message = str(caught.value)
    assert len(message) - len(str(path)) < 300 and "\n" not in message and "{" not in message


@pytest.mark.parametrize(
    ("shape", "last", "words"),
    [
        ((16, 16, 1), [], r"takes \[N, 16, 16, 1\].*rgb_to_grayscale"),
        ((3, 16, 16), [], r"takes \[N, 3, 16, 16\].*Permute\(\(3, 1, 2\)\)"),
        ((16, 20, 3), [], r"20 x 16 px; they must be square.*Resizing\(16, 20\)"),
        ((16, 16, 3), [layers.Reshape((1, 3))], r"returns \[N, 1, 3\] as 'reshape.*flattens it"),
        ((16, 16, 3), [layers.Reshape((1, 1, 3))], r"returns \[N, 1, 1, 3\].*GlobalAveragePooling2D"),
        ((16, 16, 3), [layers.Dense(1, activation="softmax")], "softmax over one class.*sigmoid or a linear"),
    ],
)
def test_contract__model_of_other_shapes__is_refused_with_a_remedy(tmp_path, shape, last, words):
    path = save(tmp_path / "m.keras", shape=shape, last=last)
    with pytest.raises(UserError, match=words) as caught:
        read_contract(path)
    assert len(str(caught.value)) - len(str(path)) < 300


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: ([x, keras.Input((4,), name="meta")], x), "takes 2 inputs .*'meta' float32"),
        (lambda x: (x, keras.ops.argmax(x, -1)), "returns int32 as .*; labels need a score"),
    ],
)
def test_contract__more_than_images_or_less_than_scores__is_refused(tmp_path, make, words):
    inputs, output = make(keras.Input((16, 16, 3), name="image"))
    keras.Model(inputs, output).save(tmp_path / "m.keras")
    with pytest.raises(UserError, match=words):
        read_contract(tmp_path / "m.keras")


def test_contract__int8_input__is_refused(tmp_path):
    with pytest.raises(UserError, match="int8, which can't hold 0 to 255"):
        read_contract(save(tmp_path / "m.keras", layers.Rescaling(1.0), dtype="int8"))


def test_load_tensorflow__other_backends_in_the_environment__do_no_harm(tmp_path):
    """Load in a new process, because Keras reads its environment only once."""
    path = save(tmp_path / "m.keras", layers.Rescaling([1.0, 2.0, 3.0]))
    (tmp_path / "keras.json").write_text('{"backend": "jax", "image_data_format": "channels_first"}')
    code = """if True:
        import sys, pathlib, numpy
        from labelbeam.transforms.models.runtime import load_tensorflow
        from labelbeam.transforms.models.keras_file import load_keras
        load_tensorflow()
        print(load_keras(pathlib.Path(sys.argv[1]))(numpy.ones((1, 16, 16, 3))).numpy().tolist())
    """
    others = {"KERAS_BACKEND": "jax", "TF_USE_LEGACY_KERAS": "1", "KERAS_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env=os.environ | others, capture_output=True, text=True)
    assert done.stdout == "[[1.0, 2.0, 3.0]]\n", done.stderr
