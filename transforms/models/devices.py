"""The model on every device of a process."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Literal, NamedTuple

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.models import meter
from labelbeam.transforms.models.batching import batch_sizes
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.meter import Meter
from labelbeam.transforms.models.optimise import Optimisation, conditions_of
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.models.runtime import (
    NO_GPU,
    configure_tensorflow,
    has_gpu,
    model_devices,
)
from labelbeam.transforms.models.spec import ModelSpec
from labelbeam.transforms.models.tuning import tuned_batch_size

# Pixels in a full batch on a CPU: 8 images at 224 px and 1 at 600 px were fastest (measured).
_CPU_BATCH_PIXELS = 8 * 224 * 224
# On a GPU, 64 up to 424 px and 32 at 600 px: an estimate, not measured.
_GPU_BATCH_SIZE, _GPU_BATCH_PIXELS = 64, 32 * 600 * 600
# Largest batch as float32, bytes; it also bounds a requested batch size.
_MAX_BATCH_BYTES = 1 << 30
# Largest batch sizes to try, on CPUs (larger ones gain nothing, measured) and on GPUs (an estimate).
_LARGEST_TRIAL = {False: 16, True: 512}
# Threads that call the model on a GPU: two, because one copies its pixels to the device while the other runs.
_GPU_CALLERS = 2

BatchSize = int | Literal["auto"] | None


class Models(NamedTuple):
    """The model on every device of a process.

    Attributes:
      classifiers: One classifier per device.
      on_gpu: Whether the devices are GPUs.
      at_once: Number of batches that run at once on each device.
      callers: Number of threads that should call each classifier.
    """

    classifiers: Sequence[Classifier]
    on_gpu: bool
    at_once: int
    callers: int

    @property
    def meter(self) -> Meter:
        """Counts of all devices."""
        return self.classifiers[0].meter


def load_models(
    spec: ModelSpec,
    top_k: int,
    batch_size: BatchSize,
    optimisation: Optimisation,
    threads: int,
    require_gpu: bool,
) -> Models:
    """Load a model on every GPU, or else on the CPU.

    Args:
      spec: Model to load.
      top_k: Number of classes per image.
      batch_size: Images in a full batch. None: computed from the device. `auto`: tried.
      optimisation: Precision and XLA.
      threads: Cores that this process may use.
      require_gpu: Whether a process without a GPU is an error.

    Raises:
      RunError: A required GPU is missing, the device does not support the precision or XLA, or the model
        can't be loaded.
    """
    on_gpu = has_gpu()
    _check_device(optimisation, on_gpu, require_gpu)
    at_once, callers = (1, _GPU_CALLERS) if on_gpu else (threads, threads)
    configure_tensorflow(at_once, threads)
    size_px = spec.resize.size_px
    images = choose_batch_size(None if batch_size == "auto" else batch_size, size_px, on_gpu)
    # The first device is loaded and tried alone, because its frozen graph and batch size serve the others.
    first, *others = model_devices()
    classifier = Classifier(spec, top_k, images, optimisation, first, on_gpu)
    if batch_size == "auto" and not spec.contract.batch:
        images = _try_batch_sizes(classifier, optimisation, callers, on_gpu)
        classifier.meter.take()  # resets the counts, because trial images are no images of the corpus
        classifier.warm_up(batch_sizes(images))
    twins = [Classifier(spec, top_k, images, optimisation, device, on_gpu, classifier) for device in others]
    return _count(Models([classifier, *twins], on_gpu, at_once, callers))


def choose_batch_size(requested: int | None, size_px: int, on_gpu: bool) -> int:
    """Return the requested batch size, bounded by bytes, or else a good one for the device."""
    if requested:
        return _bounded(requested, size_px)
    if on_gpu:
        fitting = min(_GPU_BATCH_SIZE, _GPU_BATCH_PIXELS // (size_px * size_px))
    else:
        fitting = _CPU_BATCH_PIXELS // (size_px * size_px)
    return 1 << max(0, min(fitting, _GPU_BATCH_SIZE).bit_length() - 1)


def _bounded(batch_size: int, size_px: int) -> int:
    return max(1, min(batch_size, _MAX_BATCH_BYTES // (size_px * size_px * 3 * 4)))


def _check_device(optimisation: Optimisation, on_gpu: bool, require_gpu: bool) -> None:
    where = f"on the worker {platform.node()!r}"
    if require_gpu and not on_gpu:
        raise RunError(
            f"{NO_GPU} {where}, and --require_accelerator is set. Remove it, or use a worker with a GPU."
        )
    if unfit := optimisation.unfit(on_gpu):
        raise RunError(f"{unfit[:-1]} ({where}).")


def _try_batch_sizes(classifier: Classifier, optimisation: Optimisation, callers: int, on_gpu: bool) -> int:
    size_px = classifier.spec.resize.size_px
    conditions = conditions_of(classifier.spec, optimisation)
    return tuned_batch_size(classifier, callers, _bounded(_LARGEST_TRIAL[on_gpu], size_px), conditions)


def _count(models: Models) -> Models:
    graphs = [classifier.graph for classifier in models.classifiers]
    names_classes = models.classifiers[0].spec.outputs != EMBEDDING
    counts = {
        meter.LOADED: len(graphs),
        meter.ON_GPU: len(graphs) * models.on_gpu,
        meter.NOT_FROZEN: sum(not graph.frozen for graph in graphs),
        meter.NOT_OPTIMISED: sum(not graph.optimised for graph in graphs),
        meter.BATCH_SIZE: sum(classifier.sizes[-1] for classifier in models.classifiers),
        meter.COMPARED: sum(graph.agreement.photos for graph in graphs) * names_classes,
        meter.AGREED: sum(graph.agreement.same_top_1 for graph in graphs) * names_classes,
    }
    models.meter.add(**counts)
    return models
