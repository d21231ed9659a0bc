"""Sources: where images are kept. Modules here import neither Beam nor TensorFlow."""

from labelbeam.transforms.sources.limits import Fetched, HttpSettings, Limits, Manners
from labelbeam.transforms.sources.sources import Sources

__all__ = ["Fetched", "HttpSettings", "Limits", "Manners", "Sources"]
