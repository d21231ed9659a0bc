"""Estimates and their 95 % confidence intervals."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from labelbeam.transforms.calibration import Estimate

__all__ = ["Estimate", "error_of_bins", "interval", "proportion", "wilson_bounds"]


def wilson_bounds(hits: Any, images: Any, confidence: float = 0.95) -> tuple[Any, Any]:
    """Return the lower and the upper bounds of shares: Wilson's interval, of numbers or of arrays."""
    # Not by scipy, because it takes no arrays.
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / images
    centre = share + z**2 / (2 * images)
    half = z * np.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    low, high = ((centre + part) / (1 + z**2 / images) for part in (-half, half))
    # Exact at the ends, because rounding would otherwise leave a bound such as 1e-17.
    return np.where(share == 0, 0.0, low), np.where(share == 1, 1.0, high)


def proportion(hits: int, images: int) -> Estimate | None:
    """Return a share with Wilson's interval; None of no images."""
    if not images:
        return None
    low, high = wilson_bounds(hits, images)
    return Estimate(hits / images, float(low), float(high), images)


def interval(value: float, variance: float, images: int) -> Estimate:
    """Return a share with its normal interval, cut to [0, 1].

    Args:
      value: The share.
      variance: Variance of the share, as a square of its standard error.
      images: Number of images.
    """
    half = NormalDist().inv_cdf(0.975) * math.sqrt(max(variance, 0.0))
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), images)


def error_of_bins(gaps: np.ndarray, squared_gaps: float, labels: int) -> Estimate:
    """Return the expected calibration error: mean difference of score and share of right labels, in bins.

    Args:
      gaps: Sum in each bin of the gaps, which are 1 - score of right labels and -score of wrong ones.
      squared_gaps: Sum of the squares of all gaps.
      labels: Number of labels, at least 1.
    """
    error = float(np.abs(gaps).sum() / labels)
    # Once the sign of each bin is taken as given, the error is a mean of signed gaps.
    variance = squared_gaps / labels - error**2
    return interval(error, variance / labels, labels)
