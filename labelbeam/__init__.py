"""labelbeam: labels large image corpora with TensorFlow Hub classifiers, on Apache Beam.

`label` labels a small corpus in memory. The steps are PTransforms for your own pipeline (docs/library.md).
"""

# No import of Python's own either, because the command handles signals first (`labelbeam.__main__`).
TYPE_CHECKING = False

__version__ = "0.1.0"

if TYPE_CHECKING:
    from labelbeam.pipeline.label import label
    from labelbeam.transforms.decode import DecodeImages, decode
    from labelbeam.transforms.elements import (
        DecodedImage,
        EncodedImage,
        Failure,
        ImageMetadata,
        ImageRef,
        Label,
        Prediction,
        id_of_uri,
    )
    from labelbeam.transforms.errors import ImageError, LabelbeamError, Reason, RunError, UserError
    from labelbeam.transforms.fetch import FetchImages, fetch_image
    from labelbeam.transforms.models.probe import understand_model
    from labelbeam.transforms.models.spec import ModelOptions, ModelSpec
    from labelbeam.transforms.predict import PredictLabels
    from labelbeam.transforms.read import ReadImageRefs
    from labelbeam.transforms.sources import Limits, Sources

# Module of each public name. Names are imported when they are first used, because Beam and TensorFlow take
# seconds, and because processes that only decode import neither.
_MODULES = {
    "pipeline.label": ("label",),
    "transforms.decode": ("DecodeImages", "decode"),
    "transforms.elements": (
        *("DecodedImage", "EncodedImage", "Failure", "ImageMetadata", "ImageRef", "Label", "Prediction"),
        "id_of_uri",
    ),
    "transforms.errors": ("ImageError", "LabelbeamError", "Reason", "RunError", "UserError"),
    "transforms.fetch": ("FetchImages", "fetch_image"),
    "transforms.models.probe": ("understand_model",),
    "transforms.models.spec": ("ModelOptions", "ModelSpec"),
    "transforms.predict": ("PredictLabels",),
    "transforms.read": ("ReadImageRefs",),
    "transforms.sources": ("Limits", "Sources"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    import importlib

    if name not in _MODULE_OF:
        raise AttributeError(f"module 'labelbeam' has no attribute {name!r}")
    return getattr(importlib.import_module(f"labelbeam.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
