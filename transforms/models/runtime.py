"""TensorFlow in this process: how it is loaded, and the cores it gets."""

from __future__ import annotations

import importlib
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from labelbeam.transforms.interrupts import interrupts_deferred
from labelbeam.transforms.models.spec import ModelSpec

_LOG = logging.getLogger(__name__)

NO_GPU = "TensorFlow sees no GPU (check the driver, TensorFlow's CUDA libraries and CUDA_VISIBLE_DEVICES)"

# What TensorFlow's users set to see no notices; it speaks before it has read it.
_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def load_tensorflow() -> None:
    """Import TensorFlow with Keras 3, without start-up notices where `TF_CPP_MIN_LOG_LEVEL` is 3."""
    # Set before TensorFlow is imported, because TensorFlow and Keras read both variables once. Another
    # backend can't run inside TensorFlow's graphs and may not be installed; KERAS_BACKEND also overrules
    # ~/.keras/keras.json. With TF_USE_LEGACY_KERAS, tf.keras is Keras 2, which can't read files of Keras 3.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    quiet = _silent_stderr() if os.environ.get(_LEVEL) == "3" else nullcontext()
    with interrupts_deferred(), quiet:
        importlib.import_module("tensorflow")


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Sends file descriptor 2 nowhere; what C++ writes is not Python's to catch."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def configure_tensorflow(callers: int, threads: int) -> None:
    """Shares the cores out, before TensorFlow's first operation in the process.

    Args:
      callers: Threads that run the model at once.
      threads: Cores this process may use; callers x intra-op threads don't exceed it.
    """
    load_tensorflow()
    import tensorflow as tf

    try:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.threading.set_inter_op_parallelism_threads(callers)
        tf.config.threading.set_intra_op_parallelism_threads(max(1, threads // callers))
    except RuntimeError:
        _LOG.info("TensorFlow was already running in this process; its threads stay as they are")


def model_devices() -> list[str]:
    """TensorFlow's names of what runs the model: every GPU it sees, or the CPU or what it was split into."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


def device_kind() -> str:
    """The model of the first GPU, or of the processor."""
    import tensorflow as tf

    if gpus := tf.config.list_physical_devices("GPU"):
        return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # not on Linux
        return f"{platform.machine()} {platform.processor()}"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def runtime_facts(spec: ModelSpec) -> dict[str, str]:
    """What measurements of a model in this process depend on."""
    import tensorflow as tf

    return {
        "tensorflow": tf.__version__,
        "device": device_kind(),
        "model": spec.model_fingerprint,
        "preprocessing": spec.preprocessing_fingerprint,
    }


def has_gpu() -> bool:
    """Whether TensorFlow sees a GPU."""
    load_tensorflow()
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
