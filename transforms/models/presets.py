"""Presets: models with a published input size.

All expect colours from 0 to 1 in a central crop, and return logits of ImageNet's 1000 classes: Tan and Le,
"EfficientNet: Rethinking Model Scaling", 2019, and the models' pages on TF Hub.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Outputs = Literal["logits", "probabilities", "embedding"]
EMBEDDING: Literal["embedding"] = "embedding"


class Preset(NamedTuple):
    """A model with published metadata.

    Attributes:
      name: Value of `--model`.
      handle: Address of the model; `embedded:` is converted from its weights package.
      image_size_px: Width and height of the input.
    """

    name: str
    handle: str
    image_size_px: int


_HUB = "https://tfhub.dev/tensorflow/efficientnet"
_SIZES_PX = (224, 240, 260, 300, 380, 456, 528, 600)
PRESETS: dict[str, Preset] = {
    "efficientnet-lite0": Preset("efficientnet-lite0", "embedded:efficientnet-lite0", 224),
    **{
        f"efficientnet-b{n}": Preset(f"efficientnet-b{n}", f"{_HUB}/b{n}/classification/1", size_px)
        for n, size_px in enumerate(_SIZES_PX)
    },
}


def find_preset(model: str) -> Preset | None:
    """Return the preset of a name, a TF Hub handle or its Kaggle address; None if there is none."""
    key = model.rstrip("/").lower()
    return next((p for p in PRESETS.values() if key in (p.name, p.handle, _kaggle_handle(p))), None)


def _kaggle_handle(preset: Preset) -> str:
    # Kaggle took over the models of TF Hub, and shows users this address.
    family, variant = preset.name.split("-")
    return f"https://www.kaggle.com/models/tensorflow/{family}/tensorflow2/{variant}-classification/1"
