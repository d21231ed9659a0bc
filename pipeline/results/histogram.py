"""Bars of histograms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar: images whose values lie from `low` to below `high`."""

    low: float
    high: float
    images: int
