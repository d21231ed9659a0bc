"""TensorFlow in this process: import, environment variables, threads and devices."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from labelbeam.transforms.interrupts import interrupts_deferred

_LOG = logging.getLogger(__name__)

NO_GPU = "TensorFlow sees no GPU (check the driver, TensorFlow's CUDA libraries and CUDA_VISIBLE_DEVICES)"

# Environment variable that silences TensorFlow. TensorFlow logs before it reads the variable, hence
# `_silent_stderr`.
_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def load_tensorflow() -> None:
    """Import TensorFlow with Keras 3, without start-up notices if `TF_CPP_MIN_LOG_LEVEL` is 3."""
    # Set before TensorFlow is imported, because TensorFlow and Keras read both variables once. Another
    # backend can't run inside TensorFlow's graphs and may not be installed; KERAS_BACKEND also overrules
    # ~/.keras/keras.json. With TF_USE_LEGACY_KERAS, tf.keras is Keras 2, which can't read files of Keras 3.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    quiet = _silent_stderr() if os.environ.get(_LEVEL) == "3" else nullcontext()
    with interrupts_deferred(), quiet:
        importlib.import_module("tensorflow")


def silence_tensorflow() -> None:
    """Import TensorFlow without notices here and in children, unless the user has set the variable."""
    os.environ.setdefault(_LEVEL, "3")
    load_tensorflow()


@contextmanager
def file_errors_of_tensorflow() -> Iterator[None]:
    """Raise TensorFlow's own errors as OSErrors, because its functions for files raise no OSErrors."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as e:
        is_full = isinstance(e, tf.errors.ResourceExhaustedError)
        number = errno.ENOSPC if is_full else errno.EIO
        raise OSError(number, os.strerror(number) if is_full else e.message.partition("\n")[0]) from e


@contextmanager
def _silent_stderr() -> Iterator[None]:
    # Fd 2 itself is redirected, because TensorFlow's C++ code writes there directly, past `sys.stderr`.
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def configure_tensorflow(callers: int, threads: int) -> None:
    """Divide the cores among the callers, before TensorFlow's first operation in the process.

    Args:
      callers: Number of threads that run the model at once.
      threads: Cores that this process may use; callers times intra-op threads don't exceed them.
    """
    load_tensorflow()
    import tensorflow as tf

    try:
        for gpu in tf.config.list_physical_devices("GPU"):
            # Growth, because TensorFlow otherwise reserves the whole GPU, and other processes get nothing.
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.threading.set_inter_op_parallelism_threads(callers)
        tf.config.threading.set_intra_op_parallelism_threads(max(1, threads // callers))
    except RuntimeError:  # TensorFlow fixes these settings at its first operation
        _LOG.info("TensorFlow was already running in this process; its threads stay as they are")


def model_devices() -> list[str]:
    """Return TensorFlow's names of the devices that run the model: all GPUs, or else all CPU devices."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


def device_kind() -> str:
    """Return the product name of the first GPU, or of the processor."""
    import tensorflow as tf

    # Exact names, because measurements are shared by devices of one name, and clouds mix processors.

    if gpus := tf.config.list_physical_devices("GPU"):
        return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # not on Linux
        return f"{platform.machine()} {platform.processor()}"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def has_gpu() -> bool:
    """Return whether TensorFlow sees a GPU."""
    load_tensorflow()
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
