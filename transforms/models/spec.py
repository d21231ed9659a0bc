"""What a run knows of its model before a worker loads it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from transforms.errors import UserError
from transforms.images.resize import ResizeRule
from transforms.models.labels import fit_labels, read_labels
from transforms.models.presets import Outputs, find_preset
from transforms.models.store import digest_model, resolve_model

if TYPE_CHECKING:
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What the user says of a model; None is what its preset or signature says.

    Attributes:
      model: Preset, handle or folder.
      image_size: Width and height of the input, px.
      resize: `center_crop` or `stretch`.
      input_range: What the colours 0 and 255 become.
      outputs: `logits` or `probabilities`.
      labels: `imagenet`, or the path of a text file with one label a line.
    """

    model: str
    image_size: int | None = None
    resize: Literal["center_crop", "stretch"] | None = None
    input_range: tuple[float, float] | None = None
    outputs: Outputs | None = None
    labels: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A resolved model: all that a worker needs to load and use it.

    Attributes:
      handle: Where each worker loads it from.
      resize: How an image is brought to the model's input size.
      input_range: What the colours 0 and 255 become.
      outputs: What the model gives for each class.
      labels: Labels by class index.
      digest: SHA-256 of the SavedModel, which each worker checks.
    """

    handle: str
    resize: ResizeRule
    input_range: tuple[float, float]
    outputs: Outputs
    labels: tuple[str, ...]
    digest: str

    @property
    def model_fingerprint(self) -> str:
        """Changes with the graph, the variables, the label map or what the outputs mean; 16 hex digits."""
        return _fingerprint({"digest": self.digest, "labels": self.labels, "outputs": self.outputs})

    @property
    def preprocessing_fingerprint(self) -> str:
        """Changes with anything that changes the pixels a model sees; 16 hex digits."""
        return _fingerprint({"resize": self.resize.describe(), "input_range": self.input_range})


def resolve_spec(options: ModelOptions) -> ModelSpec:
    """Brings the model to this machine and fills in what the user left open.

    Raises:
      UserError: The model can't be had, does not fit its label map, or its
        input size or label map is not known.
    """
    preset = find_preset(options.model)
    handle = preset.handle if preset else options.model
    folder = resolve_model(handle)
    signature = _read_signature(folder)
    size_px = options.image_size or (preset.image_size_px if preset else _input_size_px(signature))
    if not size_px:
        raise UserError(f"The input size of model {options.model!r} is not known: give it with --image_size.")
    return ModelSpec(
        handle=handle,
        resize=ResizeRule(size_px, options.resize or (preset.resize if preset else "center_crop")),
        input_range=options.input_range or (preset.input_range if preset else (0.0, 1.0)),
        outputs=options.outputs or (preset.outputs if preset else "logits"),
        labels=_labels(options, preset.labels if preset else None, _class_count(signature)),
        digest=digest_model(folder),
    )


def _labels(options: ModelOptions, preset_labels: str | None, classes: int | None) -> tuple[str, ...]:
    source = options.labels or preset_labels
    if source is None:
        if classes is None:
            raise UserError(
                f"The number of classes of model {options.model!r} is not known: "
                "give its label map with --labels."
            )
        return tuple(f"class {n}" for n in range(classes))
    labels = read_labels(source)
    return labels if classes is None else fit_labels(labels, classes, options.model)


def _read_signature(folder: Path) -> SignatureDef | None:
    """The serving signature, from the graph alone: nothing is loaded."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        saved = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    except DecodeError as e:
        raise UserError(
            f"{folder / 'saved_model.pb'} is damaged: {e}. Copy or download the model again."
        ) from e
    for graph in saved.meta_graphs:
        if "serve" in graph.meta_info_def.tags and _SIGNATURE in graph.signature_def:
            return graph.signature_def[_SIGNATURE]
    return None


def _input_size_px(signature: SignatureDef | None) -> int | None:
    if signature is None or len(signature.inputs) != 1:
        return None
    (tensor,) = signature.inputs.values()
    sizes = [d.size for d in tensor.tensor_shape.dim]
    return sizes[1] if len(sizes) == 4 and sizes[1] == sizes[2] > 0 else None


def _class_count(signature: SignatureDef | None) -> int | None:
    if signature is None or len(signature.outputs) != 1:
        return None
    (tensor,) = signature.outputs.values()
    sizes = [d.size for d in tensor.tensor_shape.dim]
    return sizes[-1] if len(sizes) == 2 and sizes[-1] > 0 else None


def _fingerprint(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
