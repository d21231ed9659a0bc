"""What a run knows of its model before a worker loads it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from transforms.errors import UserError
from transforms.images.resize import ResizeRule
from transforms.models.contract import Contract, read_contract
from transforms.models.labels import fit_labels, read_labels
from transforms.models.presets import EMBEDDING, Outputs, Preset, find_preset
from transforms.models.store import digest_model, resolve_model

# What 0 and 255 become where nothing else is known: in floats, and in whole numbers.
_FLOAT_RANGE, _INTEGER_RANGE = (0.0, 1.0), (0.0, 255.0)


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What the user says of a model; None is what its preset or signature says.

    Attributes:
      model: Preset, handle or folder.
      image_size: Width and height of the input, px.
      resize: `center_crop` or `stretch`.
      decoding: `good` or `fast`.
      input_range: What the colours 0 and 255 become.
      outputs: `logits`, `probabilities`, or `embedding` of a model that names no classes.
      labels: `imagenet`, or the path of a label map.
      signature: Which of a SavedModel's signatures to use.
      output_name: Which of the model's outputs.
    """

    model: str
    image_size: int | None = None
    resize: Literal["center_crop", "stretch"] | None = None
    decoding: Literal["good", "fast"] = "good"
    input_range: tuple[float, float] | None = None
    outputs: Outputs | None = None
    labels: str | None = None
    signature: str | None = None
    output_name: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A resolved model: all that a worker needs to load and use it.

    Attributes:
      handle: Where each worker loads it from.
      resize: How an image is brought to the model's input size.
      input_range: What the colours 0 and 255 become.
      outputs: What the model gives.
      labels: Labels by class index; none for an embedding.
      length: How many numbers the model gives for an image.
      digest: SHA-256 of the model, which each worker checks.
      contract: What it takes and gives.
    """

    handle: str
    resize: ResizeRule
    input_range: tuple[float, float]
    outputs: Outputs
    labels: tuple[str, ...]
    length: int
    digest: str
    contract: Contract

    @property
    def model_fingerprint(self) -> str:
        """Changes with the graph, the variables, the label map or what the outputs mean; 16 hex digits."""
        head = (self.contract.signature, self.contract.output_name)
        facts = {"digest": self.digest, "head": head, "labels": self.labels, "outputs": self.outputs}
        return _fingerprint(facts)

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
    path = resolve_model(handle)
    contract = read_contract(path, options.signature, options.output_name)
    size_px = options.image_size or (preset.image_size_px if preset else contract.size_px)
    outputs = options.outputs or (preset.outputs if preset else "logits")
    labels = (
        () if outputs == EMBEDDING else _labels(options, preset.labels if preset else None, contract.classes)
    )
    return ModelSpec(
        handle=handle,
        resize=ResizeRule(
            _checked_size(size_px, contract, options.model),
            options.resize or (preset.resize if preset else "center_crop"),
            decoding=options.decoding,
        ),
        input_range=_input_range(options, preset, contract),
        outputs=outputs,
        labels=labels,
        length=len(labels) or _embedding_length(options, contract),
        digest=digest_model(path),
        contract=contract,
    )


def _checked_size(size_px: int | None, contract: Contract, model: str) -> int:
    if not size_px:
        raise UserError(f"The input size of model {model!r} is not known: give it with --image_size.")
    if contract.size_px not in (None, size_px):
        raise UserError(
            f"image_size={size_px}: model {model!r} takes images of {contract.size_px} px and no others."
        )
    return size_px


def _input_range(options: ModelOptions, preset: Preset | None, contract: Contract) -> tuple[float, float]:
    whole_numbers = "int" in contract.input_dtype
    usual = _INTEGER_RANGE if whole_numbers else preset.input_range if preset else _FLOAT_RANGE
    wanted = options.input_range or usual
    if whole_numbers and wanted != _INTEGER_RANGE:
        raise UserError(
            f"input_range={wanted}: model {options.model!r} takes {contract.input_dtype}, which is 0 to 255."
        )
    return wanted


def _embedding_length(options: ModelOptions, contract: Contract) -> int:
    if options.labels:
        raise UserError(f"labels={options.labels!r}: an embedding names no classes. Leave --labels out.")
    if contract.classes is None:
        raise UserError(
            f"The length of the embedding of model {options.model!r} is not known: it has no signature that "
            "tells it. Export it with one."
        )
    return contract.classes


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


def _fingerprint(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
