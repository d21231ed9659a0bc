"""Checks of a model's calls: a row for each image, whatever the rest of the batch is, and in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from transforms.errors import RunError
from transforms.within import NoAnswerError, within

T = TypeVar("T")


# Largest change of an image's outputs between two batches, in units of their spread. Another batch size
# changes logits by rounding alone: by up to 4e-6 in float32, and by some hundredths in float16 and bfloat16.
# Batch normalisation that was exported for training changes them by about 1.
MAX_CHANGE = 0.1


def change_of(outputs: np.ndarray, others: np.ndarray) -> float:
    """Return the change between two outputs, `[length] float32`: root mean square, in units of their spread.

    The spread is the standard deviation, or a tenth of the largest output where the outputs are nearly
    equal (one output alone has no deviation). Outputs that are not finite are not compared.
    """
    if not (np.isfinite(outputs).all() and np.isfinite(others).all()):
        return 0.0
    spread = max(float(outputs.std()), 0.1 * float(np.abs(outputs).max()), 1e-12)
    return float(np.sqrt(np.mean((outputs - others) ** 2))) / spread


def wrong_rows(handle: str, shape: tuple[int, ...], images: int) -> str:
    """Return the message for outputs that are not one row per image."""
    return (
        f"Model {handle!r} returns {list(shape)} for {images} images; it must return a row for each. "
        "Export it with a batch dimension of None, or choose an output [N, classes] with --output_name."
    )


def depends_on_neighbours(handle: str) -> str:
    """Return the message for a model whose outputs for an image depend on the rest of its batch."""
    return (
        f"Model {handle!r} returns other outputs for the same image in another batch, as batch "
        "normalisation and dropout do in training. Export it for inference (training=False)."
    )


def call_in_time(handle: str, timeout_sec: float, call: Callable[[], T]) -> T:
    """Call a model in a thread of its own.

    Raises:
      RunError: The call did not return in time.
    """
    try:
        return within(timeout_sec, call)
    except NoAnswerError as e:
        raise never_returns(handle, timeout_sec) from e


def never_returns(handle: str, timeout_sec: float) -> RunError:
    """Return the error for a model whose call took too long."""
    return RunError(
        f"Model {handle!r} did not return within predict_timeout_sec={timeout_sec:g}. "
        "Check the model, or raise the limit."
    )
