"""Stores: where images are kept. Knows neither Beam nor TensorFlow."""

from labelbeam.transforms.sources.limits import Fetched, Limits
from labelbeam.transforms.sources.sources import Stores

__all__ = ["Fetched", "Limits", "Stores"]
