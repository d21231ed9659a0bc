"""Probe: trial of a model on the sample photos, because its file may not show its input range and head.

Properties that the file shows are read by `kinds`. The rest follows from outputs for real photos, some of
known class. The evidence is cached.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from collections.abc import Callable

import numpy as np

from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.models.call_checks import (
    MAX_CHANGE,
    change_of,
    depends_on_neighbours,
    model_calls,
    run_in_time,
    wrong_rows,
)
from labelbeam.transforms.models.evidence import IMAGENET_LENGTHS, Evidence, make_run
from labelbeam.transforms.models.labels import IMAGENET_WITH_BACKGROUND
from labelbeam.transforms.models.loading import load_model
from labelbeam.transforms.models.measurements import Measurement, cached_measurement
from labelbeam.transforms.models.runtime import silence_tensorflow
from labelbeam.transforms.models.scaling import NAMED_SCALINGS, Scaling
from labelbeam.transforms.models.spec import (
    ModelOptions,
    ModelSpec,
    Reading,
    decide_spec,
    read_model,
    usual_scaling,
)
from labelbeam.transforms.photos import photo_pixels, right_classes

# Longest time of a probe without the load, and the share of it for the configured scaling. A slow model runs
# on fewer photos.
_PROBE_SEC, _FIRST_SHARE = 30.0, 0.5
# Fewest photos, however slow the model is, because one alone has nothing to be compared with.
_FEWEST_PHOTOS = 3
# Pixels of a batch: 8 images at 224 px, 1 at 600 px. Larger batches are slower on CPUs (docs/performance.md).
_BATCH_PIXELS = 8 * 224 * 224
# Raise this number when the evidence changes its form or meaning, so that cached evidence is not used.
_FORMAT = 3

# A function from pixels, `[N, size, size, 3] uint8`, and a scaling to outputs, `[N, length] float32`.
Call = Callable[[np.ndarray, Scaling], np.ndarray]


def understand_model(options: ModelOptions, timeout_sec: float) -> ModelSpec:
    """Find or fetch a model, and settle the meaning of its inputs and outputs.

    A preset without other options is not run, because its properties are published. Other models are read and
    probed, once for each digest.

    Args:
      options: The user's options.
      timeout_sec: Longest time of one call of the model.

    Raises:
      UserError: The model can't be fetched or used.
      RunError: A call of the model took too long.
    """
    silence_tensorflow()
    reading = read_model(options)
    scaling, _ = usual_scaling(reading)
    if reading.contract.classes or reading.preset:
        spec = decide_spec(reading)  # refuses a label map that does not fit before the model is loaded
        if spec.scaling_from == spec.head_from == "preset":
            return spec
    conditions = {
        "format": _FORMAT,
        "model": reading.digest,
        "contract": repr(reading.contract),
        "resize": reading.resize.describe(),
        "scaling": scaling.describe(),
    }

    def collect() -> tuple[Measurement, bool]:
        evidence = run_in_time(reading.handle, timeout_sec, lambda: probe(reading, scaling))
        # Not cached if scalings are untried, because an idle machine may try more.
        return dataclasses.asdict(evidence), not evidence.untried

    evidence = Evidence.from_json(cached_measurement("probes", conditions, collect))
    # Frees the probed model before a worker's copy is loaded in the same process, because TensorFlow keeps
    # models in reference cycles, and two copies of a large one may not fit into memory.
    gc.collect()
    return decide_spec(reading, evidence)


def probe(reading: Reading, scaling: Scaling) -> Evidence:
    """Run a model on the sample photos, in a scaling, and in all named ones if these can show something.

    Raises:
      UserError: The model fails, or its outputs for a photo depend on the other photos of a batch.
    """
    call = _load(reading)
    batch = reading.contract.batch or max(1, _BATCH_PIXELS // reading.resize.size_px**2)
    pixels = photo_pixels(reading.resize)
    _check_batches(call, pixels, scaling, reading)
    # Started after the load and the trace, because their time is no measure of the model's speed.
    start = time.monotonic()
    deadline = start + _PROBE_SEC
    outputs = _outputs(call, pixels, scaling, batch, start + _FIRST_SHARE * _PROBE_SEC)
    sec_a_photo = (time.monotonic() - start) / len(outputs)
    if not _some_finite(outputs):
        raise UserError(
            f"Model {reading.handle!r} returns NaN or infinity for every sample photo. "
            "Check that it is trained, and that --input_range is the range that it was trained with."
        )
    right = _right_classes(outputs.shape[1])
    evidence = Evidence(outputs.shape[1], 0, {scaling.name: make_run(outputs, ())})
    others = {name: other for name, other in NAMED_SCALINGS.items() if other != scaling}
    affordable = int((deadline - time.monotonic()) / (sec_a_photo * len(others)))
    photos = min(len(outputs), len(right_classes()), affordable)
    takes_floats = "int" not in reading.contract.input_dtype
    others_can_help = takes_floats and (right or evidence.is_blind(evidence.configured))
    if not others_can_help:
        return evidence
    if photos < _FEWEST_PHOTOS:
        return dataclasses.replace(evidence, untried=True)
    right = right[:photos]  # the same photos for all scalings, because their numbers are compared
    tried = {name: _outputs(call, pixels[:photos], other, batch) for name, other in others.items()}
    # The configured scaling comes first: see `Evidence.runs`.
    rows_by_name = {scaling.name: outputs, **tried}
    runs = {name: make_run(rows, right) for name, rows in rows_by_name.items() if _some_finite(rows)}
    return Evidence(outputs.shape[1], len(right), runs)


def _right_classes(length: int) -> list[frozenset[int]]:
    """Return the right class ids of the first photos; none if the model has other classes than ImageNet's."""
    if length not in IMAGENET_LENGTHS:
        return []
    shift = int(length == IMAGENET_WITH_BACKGROUND)  # class 0 is the background there
    return [frozenset(n + shift for n in classes) for classes in right_classes().values()]


def _load(reading: Reading) -> Call:
    import tensorflow as tf

    try:
        model = load_model(reading)
    except RunError as e:  # a mistake of the user, because the run has not started
        raise UserError(str(e)) from e
    dtype = tf.dtypes.as_dtype(reading.contract.input_dtype)

    # One graph for all scalings and batch sizes, because tracing a large model takes seconds and memory.
    vector = tf.TensorSpec([3], tf.float32)
    images = tf.TensorSpec([reading.contract.batch, *[reading.resize.size_px] * 2, 3], tf.float32)

    @tf.function(input_signature=[images, vector, vector, tf.TensorSpec([3], tf.int32)], autograph=False)
    def run(pixels: tf.Tensor, factors: tf.Tensor, offsets: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
        images = tf.gather(pixels * factors + offsets, order, axis=-1)
        return tf.cast(model(tf.cast(images, dtype)), tf.float32)

    def call(pixels: np.ndarray, scaling: Scaling) -> np.ndarray:
        factors, offsets, order = scaling.factors()
        arguments = [tf.constant(values, tf.float32) for values in (pixels, factors, offsets)]
        try:
            with model_calls.running():
                return run(*arguments, tf.constant(order)).numpy()
        except (tf.errors.OpError, ValueError, TypeError) as e:
            message = str(getattr(e, "message", e)).strip().splitlines()[0]
            raise UserError(f"Model {reading.handle!r} fails on the sample photos: {message[:300]}") from e

    return call


def _outputs(
    call: Call, pixels: np.ndarray, scaling: Scaling, batch: int, deadline: float = math.inf
) -> np.ndarray:
    """Run the model on photos until a deadline, but at least on `_FEWEST_PHOTOS`."""
    rows = [_call_padded(call, pixels[:batch], scaling, batch)]
    for first in range(batch, len(pixels), batch):
        if time.monotonic() > deadline and sum(map(len, rows)) >= _FEWEST_PHOTOS:
            break
        rows.append(_call_padded(call, pixels[first : first + batch], scaling, batch))
    return np.concatenate(rows)


def _call_padded(call: Call, pixels: np.ndarray, scaling: Scaling, batch: int) -> np.ndarray:
    missing = np.zeros((batch - len(pixels), *pixels.shape[1:]), np.uint8)
    return call(np.concatenate([pixels, missing]), scaling)[: len(pixels)]


def _check_batches(call: Call, pixels: np.ndarray, scaling: Scaling, reading: Reading) -> None:
    """Check that a model returns one row per image, and the same row in every batch."""
    # Two images, because a large model takes a gigabyte for each image at 600 px.
    size = reading.contract.batch or 2
    mixed = pixels[np.arange(size) % len(pixels)]  # repeated, because a fixed batch may exceed the photos
    alone = np.repeat(pixels[:1], reading.contract.batch or 1, axis=0)
    rows = call(mixed, scaling)
    if rows.ndim != 2 or len(rows) != size:
        raise UserError(wrong_rows(reading.handle, rows.shape, size))
    # The same batch again, because dropout is random. The first photo alone, because others may change it.
    for batch in (mixed, alone):
        if change_of(rows[0], call(batch, scaling)[0]) > MAX_CHANGE:
            raise UserError(depends_on_neighbours(reading.handle))


def _some_finite(outputs: np.ndarray) -> bool:
    return bool(np.isfinite(outputs).all(axis=1).any())
