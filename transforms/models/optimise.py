"""Graphs: pixels to top-k in one function, with lower precision or XLA if labels stay as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.models.call_checks import model_calls
from labelbeam.transforms.models.frozen import keep_frozen, read_frozen
from labelbeam.transforms.models.labels import first_class
from labelbeam.transforms.models.loading import Model, freeze, load_model, scaled, with_signature
from labelbeam.transforms.models.measurements import Measurement, cached_measurement
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.models.runtime import device_kind
from labelbeam.transforms.models.spec import ModelSpec
from labelbeam.transforms.photos import photo_pixels

if TYPE_CHECKING:
    import tensorflow as tf

_LOG = logging.getLogger(__name__)

# TensorFlow's graph optimisers that lower the precision, for oneDNN on CPUs and for CUDA.
_PRECISION_REWRITES = {
    "bfloat16": "auto_mixed_precision_onednn_bfloat16",
    "float16": "auto_mixed_precision",
}
_REMEDY = "Remove --precision and --xla, or add --on_disagreement plain."
# Least share of the sample photos whose best class stays, and largest change of the outputs (root mean
# square, in standard deviations of the plain model). Constants, because labels beyond them would be wrong.
MIN_AGREEMENT, MAX_OUTPUT_CHANGE = 0.95, 0.1


@dataclass(frozen=True, slots=True)
class Optimisation:
    """Ways to run a model faster than as a frozen graph in float32.

    Attributes:
      precision: Type that layers compute in: `bfloat16` on CPUs, `float16` on GPUs.
      xla: Whether XLA compiles the graph: `on` on GPUs, `force` on CPUs, too.
      otherwise: Action if outputs change by more than `MIN_AGREEMENT` and `MAX_OUTPUT_CHANGE` allow:
        `refuse` the run, or run the `plain` model.
    """

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    xla: Literal["off", "on", "force"] = "off"
    otherwise: Literal["refuse", "plain"] = "refuse"

    def __str__(self) -> str:
        """Return the options as messages name them."""
        return f"precision={self.precision} and xla={self.xla}"

    def contradiction(self) -> str | None:
        """Explain why no device can run a model so; return None if one can."""
        if self.precision != "float32" and self.xla != "off":
            return f"{self} can't be combined, because XLA compiles float32. Remove one of them."
        return None

    def unfit(self, on_gpu: bool) -> str | None:
        """Explain why a device can't or should not run a model so; return None if it can."""
        if on_gpu and self.precision == "bfloat16":
            return (
                "precision=bfloat16 is for CPUs. Use --precision float16, which TensorFlow mixes in on GPUs."
            )
        if not on_gpu and self.precision == "float16":
            return "precision=float16 is for GPUs, and there is none. Use --precision bfloat16 on CPUs."
        if not on_gpu and self.xla == "on":
            return (
                "xla=on is for GPUs, and there is none; on a CPU, XLA makes EfficientNet 11 times slower "
                "(measured). Remove --xla, or use --xla force."
            )
        return self.contradiction()


class Agreement(NamedTuple):
    """Comparison of the outputs of two graphs for the same photos.

    Attributes:
      same_top_1: Number of photos whose best class is the same.
      photos: Number of photos that were compared.
      change: Root mean square of the differences, in standard deviations of the first outputs.
    """

    same_top_1: int
    photos: int
    change: float


class Graph(NamedTuple):
    """A loaded model.

    Attributes:
      function: Function from pixels, `[N, size, size, 3] uint8`, to class ids `[N, k] int32` and scores
        `[N, k] float32`, best first, flags of finite outputs `[N] bool`, and outputs `[N, length] float32`.
      frozen: Whether the variables could be turned into constants.
      optimised: Whether the requested precision and XLA are in effect.
      agreement: Comparison with the plain model; empty for the plain model itself.
      keeps: Reference to the model, because a function that is not frozen doesn't keep its variables alive.
    """

    function: Callable[[Any], tuple[Any, Any, Any, Any]]
    frozen: bool
    optimised: bool
    agreement: Agreement = Agreement(0, 0, 0.0)
    keeps: Any = None


def optimise_model(spec: ModelSpec, top_k: int, optimisation: Optimisation, batch_size: int) -> Graph:
    """Load a model and optimise it.

    The precision applies to everything that TensorFlow runs in this process from now on. The comparison with
    the plain model, in batches of `batch_size`, is made once for a kind of device and then cached.

    Raises:
      RunError: The model can't be loaded, its outputs don't fit the label map, or the optimised model would
        return other labels.
    """
    # Reset first, because the setting belongs to the process and may be left over from another model.
    _set_precision("float32")
    plain = _plain(spec, top_k)
    uses_xla = optimisation.xla != "off"
    if optimisation.precision == "float32" and not uses_xla:
        return plain
    from tensorflow.errors import OpError

    function = with_signature(plain.function, jit_compile=True) if uses_xla else plain.function

    def measure() -> tuple[Measurement, bool]:
        pixels, batch = photo_pixels(spec.resize), spec.contract.batch or batch_size
        # The plain outputs first, because the precision applies to all that TensorFlow runs from then on.
        expected = _outputs_of(plain.function, pixels, batch)
        _set_precision(optimisation.precision)
        return compare(expected, _outputs_of(function, pixels, batch))._asdict(), True

    conditions = {**conditions_of(spec, optimisation), "frozen": plain.frozen}
    try:
        agreement = Agreement(**cached_measurement("agreements", conditions, measure))
        wrong = _disagreement(agreement, optimisation, spec)
    except OpError as e:  # at the first call only, because XLA compiles then and lacks some operations
        wrong = f"{optimisation} fail with model {spec.handle!r}: {e.message}"[:500] + "."
    if wrong and optimisation.otherwise == "refuse":
        raise RunError(f"{wrong} {_REMEDY}")
    if wrong:
        _LOG.warning("%s The plain model runs instead.", wrong)
        _set_precision("float32")
        return plain._replace(optimised=False)
    _set_precision(optimisation.precision)
    # Outputs that don't change at all show a graph that TensorFlow left as it was: for this processor, or for
    # variables, its optimiser has no faster operations.
    return Graph(function, plain.frozen, uses_xla or agreement.change > 0, agreement, plain)


def conditions_of(spec: ModelSpec, optimisation: Optimisation) -> dict[str, Any]:
    """Return the conditions of every measurement of a model in this process."""
    import tensorflow as tf

    return {
        "tensorflow": tf.__version__,
        "device": device_kind(),
        "model": spec.model_fingerprint,
        "preprocessing": spec.preprocessing_fingerprint,
        "precision": optimisation.precision,
        "xla": optimisation.xla,
    }


def compare(expected: np.ndarray, actual: np.ndarray) -> Agreement:
    """Compare two arrays of outputs, `[N, length] float32`."""
    same = int(np.sum(expected.argmax(axis=1) == actual.argmax(axis=1)))
    change = float(np.sqrt(np.mean((actual - expected) ** 2)) / max(float(expected.std()), 1e-12))
    return Agreement(same, len(expected), change)


def _disagreement(agreement: Agreement, optimisation: Optimisation, spec: ModelSpec) -> str | None:
    same, photos, change = agreement
    top_1_is_kept = spec.outputs == EMBEDDING or same >= MIN_AGREEMENT * photos
    if top_1_is_kept and change <= MAX_OUTPUT_CHANGE:  # false for NaN
        return None
    return (
        f"{optimisation} change the outputs of model {spec.handle!r}: "
        f"the best class of {same} of {photos} sample photos stays (at least {MIN_AGREEMENT:.0%} must), and "
        f"outputs change by {change:.3g} standard deviations (at most {MAX_OUTPUT_CHANGE:g} is allowed)."
    )


def _set_precision(precision: str) -> None:
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options(
        {rewrite: name == precision for name, rewrite in _PRECISION_REWRITES.items()}
    )


def _outputs_of(function: Any, pixels: np.ndarray, batch: int) -> np.ndarray:
    import tensorflow as tf

    padding = np.zeros((-len(pixels) % batch, *pixels.shape[1:]), np.uint8)
    padded = np.concatenate([pixels, padding])
    outputs = []
    for n in range(0, len(padded), batch):
        with model_calls.running():
            outputs.append(function(tf.constant(padded[n : n + batch]))[3].numpy())
    return np.concatenate(outputs)[: len(pixels)]


def _plain(spec: ModelSpec, top_k: int) -> Graph:
    """Return the whole graph. A model that can't be frozen runs with its variables."""
    conditions = {**conditions_of(spec, Optimisation()), "spec": repr(spec), "top_k": top_k}
    if kept := read_frozen(conditions):
        return Graph(with_signature(kept), True, True)
    model = scaled(load_model(spec), spec)
    function = _top_k_function(model, spec, top_k)
    try:
        frozen = freeze(function)
    except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as e:
        _LOG.warning("Model %r is not frozen and will be slower: %s", spec.handle, e)
        return Graph(function, False, True, keeps=model)
    keep_frozen(conditions, frozen)
    return Graph(with_signature(frozen), True, True)


def wrong_length(spec: ModelSpec, shape: tuple[int | None, ...]) -> str:
    """Return the message for outputs that don't fit the label map."""
    return (
        f"Model {spec.handle!r} returns {list(shape)}; its label map needs [batch, {spec.length}]. "
        "Give the model's own label map with --labels FILE."
    )


def _top_k_function(model: Model, spec: ModelSpec, top_k: int) -> Any:
    import tensorflow as tf

    # Scaling, model, head and top-k in one graph, because TensorFlow fuses within a graph only.
    size_px = spec.resize.size_px
    shape = [spec.contract.batch, size_px, size_px, 3]
    first = first_class(spec.labels)
    k = min(top_k, len(spec.labels) - first)  # none of an embedding

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8)], autograph=False)
    def top_k_of(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        outputs = model(pixels)
        if outputs.shape.rank != 2 or outputs.shape[-1] not in (None, spec.length):
            raise RunError(wrong_length(spec, tuple(outputs.shape)))
        finite = tf.reduce_all(tf.math.is_finite(outputs), axis=-1)
        scores = spec.head.scores(outputs)
        best = tf.math.top_k(scores[:, first:], k)
        return best.indices + first, best.values, finite, outputs

    return top_k_of.get_concrete_function()
