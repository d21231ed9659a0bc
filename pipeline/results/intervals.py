"""Estimates and their 95 % confidence intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import binomtest

# Standard deviations of a normal distribution that 95 % lie within.
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % confidence interval.

    Attributes:
      low: Lower bound.
      high: Upper bound.
      images: Number of images that the value is about.
    """

    value: float
    low: float
    high: float
    images: int

    def __str__(self) -> str:
        """Describe the estimate, such as `0.963 (0.817 to 0.993)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def proportion(hits: int, images: int) -> Estimate | None:
    """Return a share with Wilson's interval; None of no images."""
    if not images:
        return None
    bounds = binomtest(hits, images).proportion_ci(method="wilson")
    return Estimate(hits / images, float(bounds.low), float(bounds.high), images)


def interval(value: float, variance: float, images: int) -> Estimate:
    """Return a share with its normal interval, cut to [0, 1].

    Args:
      value: The share.
      variance: Variance of the share, as a square of its standard error.
      images: Number of images.
    """
    half = _NORMAL_95 * math.sqrt(max(variance, 0.0))
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), images)
