"""Specs: all properties of a model that are settled before a worker loads the model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.models.cache import resolve_model
from labelbeam.transforms.models.contract import Contract
from labelbeam.transforms.models.doubts import doubts_about, refuse_contradiction
from labelbeam.transforms.models.evidence import Evidence, Run
from labelbeam.transforms.models.heads import MULTILABEL, Head, HeadKind, OutputsOption
from labelbeam.transforms.models.kinds import digest_model, kind_of
from labelbeam.transforms.models.labels import IMAGENET, fit_labels, read_labels
from labelbeam.transforms.models.measurements import digest_of
from labelbeam.transforms.models.presets import EMBEDDING, Outputs, Preset, find_preset
from labelbeam.transforms.models.scaling import (
    BYTES,
    NAMED_SCALINGS,
    UNIT,
    ChannelOrder,
    Range,
    Scaling,
    Triple,
)

# Origin of a property of a model: an option, the preset's table, the model's own layers, its outputs for the
# sample photos, or none of them.
Origin = Literal["given", "preset", "read", "probed", "assumed"]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Options of a model; None leaves a property to the preset, the model or the probe.

    Attributes:
      model: Preset, handle or folder.
      image_size: Width and height of the input, px.
      resize: `center_crop` or `stretch`.
      decoding: `good` or `fast`.
      input_range: Values of the colours 0 and 255, or `caffe` or `torch`.
      channel_mean: Values subtracted from red, green and blue, in units of the range.
      channel_std: Values that red, green and blue are divided by.
      channel_order: `rgb` or `bgr`.
      outputs: `logits` or `probabilities` of one class per image, `multilabel`, or `embedding`.
      labels: `imagenet`, or the path of a label map.
      signature: Name of the SavedModel's signature.
      output_name: Name of the model's output.
    """

    model: str
    image_size: int | None = None
    resize: Literal["center_crop", "stretch"] | None = None
    decoding: Literal["good", "fast"] = "good"
    input_range: Range | Literal["caffe", "torch"] | None = None
    channel_mean: Triple | None = None
    channel_std: Triple | None = None
    channel_order: ChannelOrder | None = None
    outputs: OutputsOption | None = None
    labels: str | None = None
    signature: str | None = None
    output_name: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """Properties of a model that are read without a run of the model.

    Attributes:
      options: The user's options.
      preset: The preset, if the model is one.
      handle: Address that each worker loads the model from.
      contract: Inputs and outputs.
      digest: SHA-256 of the model.
      resize: Rule that brings an image to the model's input size.
    """

    options: ModelOptions
    preset: Preset | None
    handle: str
    contract: Contract
    digest: str
    resize: ResizeRule


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A resolved model, with all properties that a worker needs to load and use the model.

    Attributes:
      handle: Address that each worker loads the model from.
      resize: Rule that brings an image to the model's input size.
      scaling: How 8-bit colours become the model's input.
      head: Meaning of the outputs.
      labels: Labels by class index; none for an embedding.
      length: Numbers that the model returns for an image.
      digest: SHA-256 of the model, which each worker checks.
      contract: Inputs and outputs.
      scaling_from: Origin of the scaling.
      head_from: Origin of the head.
      doubts: Warnings for the user.
      photos_known: Sample photos of known class that the model was probed with.
      photos_right: Number of these with the right class, by the name of the scaling.
    """

    handle: str
    resize: ResizeRule
    scaling: Scaling
    head: Head
    labels: tuple[str, ...]
    length: int
    digest: str
    contract: Contract
    scaling_from: Origin = "assumed"
    head_from: Origin = "assumed"
    doubts: tuple[str, ...] = ()
    photos_known: int = 0
    photos_right: tuple[tuple[str, int], ...] = ()

    @property
    def outputs(self) -> Outputs:
        """The kind of number that the model returns."""
        return self.head.values

    @property
    def model_fingerprint(self) -> str:
        """A value that changes with the graph, the variables, the labels and the head; 16 hex digits."""
        # Labels and head are part of it, because rows of one table must not mix their meanings.
        content: dict[str, Any] = {
            "digest": self.digest,
            "head": (self.contract.signature, self.contract.output_name),
            "labels": self.labels,
            "outputs": self.outputs,
        }
        # Added, because a multi-label head may have the labels and outputs of a single-label head.
        if self.head.kind == MULTILABEL:
            content["kind"] = self.head.kind
        return digest_of(content)[:16]

    @property
    def preprocessing_fingerprint(self) -> str:
        """A value that changes with anything that changes the model's input; 16 hex digits."""
        return digest_of({"resize": self.resize.describe(), **self.scaling.describe()})[:16]


def read_model(options: ModelOptions) -> Reading:
    """Find or fetch a model and read it.

    Raises:
      UserError: The model can't be fetched or used, or its input size is unknown.
    """
    preset = find_preset(options.model)
    handle = preset.handle if preset else options.model
    path = resolve_model(handle)
    contract = kind_of(path).read_contract(path, options.signature, options.output_name)
    # The preset before the contract, because the file of a preset may accept any size.
    size_px = options.image_size or (preset.image_size_px if preset else contract.size_px)
    resize = ResizeRule(
        _checked_size(size_px, contract, options.model),
        options.resize or "center_crop",
        decoding=options.decoding,
    )
    return Reading(options, preset, handle, contract, digest_model(path), resize)


def decide_spec(reading: Reading, evidence: Evidence | None = None) -> ModelSpec:
    """Decide the meaning of a model's inputs and outputs.

    The first source that shows a property decides: option, preset, the model's layers, evidence, the
    usual case.

    Args:
      reading: The model.
      evidence: The model's outputs for the sample photos, of `usual_scaling` first.

    Raises:
      UserError: The options, the label map or the evidence contradict each other, or the number of classes
        is unknown.
    """
    scaling, scaling_from = _decide_scaling(reading, evidence)
    run = evidence.runs.get(scaling.name) if evidence else None
    length = reading.contract.classes or (evidence.length if evidence else None)
    head, head_from = _decide_head(reading, evidence, run, length)
    labels = () if head.kind == EMBEDDING else _labels(reading, head, length)
    spec = ModelSpec(
        handle=reading.handle,
        resize=reading.resize,
        scaling=scaling,
        head=head,
        labels=labels,
        length=_embedding_length(reading, length) if head.kind == EMBEDDING else length or len(labels),
        digest=reading.digest,
        contract=reading.contract,
        scaling_from=scaling_from,
        head_from=head_from,
    )
    if not evidence or not run:
        return spec
    refuse_contradiction(spec, evidence, run)
    right = [(name, tried.right) for name, tried in evidence.runs.items()] if evidence.photos else []
    return dataclasses.replace(
        spec,
        doubts=tuple(doubts_about(spec, evidence, run)),
        photos_known=evidence.photos,
        photos_right=tuple(right),
    )


def usual_scaling(reading: Reading) -> tuple[Scaling, Origin]:
    """Return a model's scaling by options, preset and layers, without evidence.

    Raises:
      UserError: The options contradict each other or the model.
    """
    dtype, configured = reading.contract.input_dtype, _configured_scaling(reading)
    if configured is None:
        return _default_scaling(reading)
    # Integers hold no fractions and, in part, no negative numbers, so any other range would be cut off.
    if "int" in dtype and dataclasses.replace(configured, order="rgb") != BYTES:
        raise UserError(
            f"--input_range {configured.name}: model {reading.options.model!r} takes {dtype}, so the range "
            "must be 0,255, without means and deviations. Remove these options."
        )
    return configured, "given"


def _default_scaling(reading: Reading) -> tuple[Scaling, Origin]:
    if "int" in reading.contract.input_dtype:
        return BYTES, "read"
    if reading.preset:
        return UNIT, "preset"
    if reading.contract.input_range:
        return Scaling(reading.contract.input_range), "read"
    return UNIT, "assumed"


def _configured_scaling(reading: Reading) -> Scaling | None:
    options = reading.options
    channels = {
        "mean": options.channel_mean,
        "std": options.channel_std,
        "order": options.channel_order,
    }
    channels = {name: value for name, value in channels.items() if value is not None}
    if isinstance(options.input_range, str):
        if channels:
            raise UserError(
                f"--input_range {options.input_range} sets means, deviations and channel order itself. "
                "Remove --channel_mean, --channel_std and --channel_order, or give the range as numbers."
            )
        return NAMED_SCALINGS[options.input_range]
    if options.input_range is None and not channels:
        return None
    input_range = options.input_range or _default_scaling(reading)[0].input_range
    return Scaling(input_range, **channels)  # type: ignore[arg-type]


def _decide_scaling(reading: Reading, evidence: Evidence | None) -> tuple[Scaling, Origin]:
    scaling, origin = usual_scaling(reading)
    # Evidence replaces an assumption only, because few photos prove less than an option, a preset or the
    # model's layers. A contradiction becomes a doubt instead.
    confirmed = evidence.best_scaling() if evidence and origin == "assumed" else None
    return (confirmed, "probed") if confirmed else (scaling, origin)


def _decide_head(
    reading: Reading, evidence: Evidence | None, run: Run | None, length: int | None
) -> tuple[Head, Origin]:
    option, preset, contract = reading.options.outputs, reading.preset, reading.contract
    probed = evidence.head(run) if evidence and run else None
    values: Outputs = contract.outputs or (probed.values if probed else "logits")
    one_class: HeadKind = "binary" if length == 1 else "single_label"
    if option == EMBEDDING:
        return Head("embedding", "embedding"), "given"
    if option == MULTILABEL:
        return Head("multilabel", values), "given"
    if option:
        return Head(one_class, option), "given"
    if preset:
        return Head(one_class, "logits"), "preset"
    if contract.outputs:
        return Head("multilabel" if contract.multilabel and length != 1 else one_class, values), "read"
    return (probed, "probed") if probed else (Head(one_class, values), "assumed")


def _checked_size(size_px: int | None, contract: Contract, model: str) -> int:
    if not size_px:
        raise UserError(f"The input size of model {model!r} is unknown. Give it with --image_size.")
    if contract.size_px not in (None, size_px):
        raise UserError(
            f"image_size={size_px}: model {model!r} takes images of {contract.size_px} px and no others."
        )
    return size_px


def _embedding_length(reading: Reading, length: int | None) -> int:
    options = reading.options
    if options.labels:
        raise UserError(f"labels={options.labels!r}: an embedding has no classes. Remove --labels.")
    if length is None:
        raise UserError(
            f"The length of the embedding of model {options.model!r} is unknown, because the model has no "
            "signature with it. Export it with a signature."
        )
    return length


def _labels(reading: Reading, head: Head, length: int | None) -> tuple[str, ...]:
    model = reading.options.model
    source = reading.options.labels or (IMAGENET if reading.preset else None)
    if source is None:
        if length is None:
            raise UserError(
                f"The number of classes of model {model!r} is unknown. Give its label map with --labels."
            )
        return tuple(f"class {n}" for n in range(head.classes(length)))
    labels = read_labels(source)
    if head.kind == "binary" and len(labels) != 2:
        raise UserError(
            f"labels={source!r}: model {model!r} has one output, which is a binary head of two classes, and "
            f"not {len(labels)}. Give two labels, that of the negative class first."
        )
    return labels if length is None else fit_labels(labels, head.classes(length), model)
