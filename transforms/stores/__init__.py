"""Stores: where images are kept. Knows neither Beam nor TensorFlow."""

from transforms.stores.limits import Fetched, Limits
from transforms.stores.stores import Stores

__all__ = ["Fetched", "Limits", "Stores"]
