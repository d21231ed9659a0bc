"""Doubts: contradictions between the evidence and the spec of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.evidence import Evidence, Run
from labelbeam.transforms.models.labels import imagenet_labels
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.models.scaling import NAMED_SCALINGS, Scaling

if TYPE_CHECKING:
    from labelbeam.transforms.models.spec import ModelSpec


def refuse_contradiction(spec: ModelSpec, evidence: Evidence, run: Run) -> None:
    """Refuse a model whose outputs can't be the kind of number in its spec.

    Raises:
      UserError: No scores can be computed from the outputs.
    """
    # Checked in every scaling, because a sigmoid also returns 1 for all photos if the range is far too large.
    ones = all(tried.equal and abs(tried.most - 1) < 1e-6 for tried in evidence.runs.values())
    if spec.length == 1 and ones:
        raise UserError(
            f"Model {spec.handle!r} has one output, which is 1 for every image: a softmax over one class. "
            "Export it with a sigmoid, or with one output per class."
        )
    if spec.head_from == "given" and spec.head.values == "probabilities" and not run.in_unit_range:
        raise UserError(
            f"--outputs probabilities: model {spec.handle!r} returns {run.least:.3g} to {run.most:.3g} for "
            "the sample photos, which are logits. Remove --outputs, or give --outputs logits."
        )


def doubts_about(spec: ModelSpec, evidence: Evidence, run: Run) -> Iterator[str]:
    """Yield a warning with a remedy for each contradiction; `run` is the one with the spec's scaling."""
    yield from _doubts_about_range(spec, evidence, run)
    if spec.head.kind != EMBEDDING:
        yield from _doubts_about_head(spec, run)
        yield from _doubts_about_labels(spec, evidence)


def _doubts_about_range(spec: ModelSpec, evidence: Evidence, run: Run) -> Iterator[str]:
    read = spec.contract.input_range
    if read and spec.scaling_from == "given" and spec.scaling != Scaling(read, order=spec.scaling.order):
        yield (
            f"--input_range {spec.scaling.name}: the first layers of model {spec.handle!r} expect "
            f"{Scaling(read).name}. Remove --input_range, --channel_mean and --channel_std."
        )
    if evidence.untried and spec.scaling_from == "assumed":
        yield (
            f"Model {spec.handle!r} is too slow here to be tried in other input ranges than "
            f"{spec.scaling.name}, which is assumed. Give the range that the model was trained with as "
            "--input_range."
        )
    if spec.scaling_from == "probed" and (rival := evidence.rival()):
        yield (
            f"The sample photos do not decide between --input_range {spec.scaling.name} "
            f"({run.right} of {evidence.photos} right) and {rival} ({evidence.runs[rival].right} right). "
            "Give the range that the model was trained with as --input_range."
        )
    best = evidence.best_scaling()
    better = best.name if best and best != spec.scaling else None
    # One warning of two, because a wrong range also makes a model return one class for all photos.
    if better:
        yield (
            f"{run.right} of {evidence.photos} sample photos of known class are right with --input_range "
            f"{spec.scaling.name}; with --input_range {better}: {evidence.runs[better].right} of "
            f"{evidence.photos}. Give --input_range {better}{_without_channels(spec)}."
        )
    elif _is_blind(spec, evidence, run):
        yield f"{_describe_blindness(spec, run)} {_likely_cause(spec, evidence)}"


def _without_channels(spec: ModelSpec) -> str:
    own = spec.scaling not in NAMED_SCALINGS.values() and spec.scaling != Scaling(spec.scaling.input_range)
    return "" if not own else " and remove --channel_mean, --channel_std and --channel_order"


def _is_blind(spec: ModelSpec, evidence: Evidence, run: Run) -> bool:
    return run.equal if spec.head.kind == EMBEDDING else evidence.is_blind(run)


def _describe_blindness(spec: ModelSpec, run: Run) -> str:
    if run.equal:
        return f"Model {spec.handle!r} returns equal outputs for all {len(run.best)} sample photos."
    class_id, photos = run.commonest
    label = spec.labels[class_id]
    return f"Model {spec.handle!r} gives {photos} of {len(run.best)} sample photos the class {label!r}."


def _likely_cause(spec: ModelSpec, evidence: Evidence) -> str:
    seeing = {name: run for name, run in evidence.runs.items() if not _is_blind(spec, evidence, run)}
    if not seeing:
        return (
            "No other --input_range changes that. Check that the model is trained and exported for inference."
        )
    classes = ", ".join(f"with {name}: {len(set(run.best))} classes" for name, run in seeing.items())
    return (
        f"The likely cause is the input range {spec.scaling.name} ({spec.scaling_from}); {classes}. "
        "Give the range that the model was trained with as --input_range."
    )


def _doubts_about_head(spec: ModelSpec, run: Run) -> Iterator[str]:
    if spec.head_from != "given" or spec.head.kind != "single_label":
        return
    if spec.head.values == "logits" and run.in_unit_range:
        yield (
            f"--outputs logits: the outputs of model {spec.handle!r} are all in [0, 1], so they are "
            "probabilities: a softmax makes all scores nearly equal. Remove --outputs."
        )
    if spec.head.values == "probabilities" and not run.sums_to_one:
        yield (
            f"--outputs probabilities: the outputs of model {spec.handle!r} do not sum to 1. If each class "
            "is judged by itself, give --outputs multilabel."
        )


def _doubts_about_labels(spec: ModelSpec, evidence: Evidence) -> Iterator[str]:
    most_right = max(run.right for run in evidence.runs.values())
    # The last 1000 labels, because a map of 1001 begins with the background.
    has_imagenet_labels = spec.labels[-1000:] == imagenet_labels()
    if evidence.has_imagenet_classes and spec.labels[0] == "class 0":
        yield (
            f"{most_right} of {evidence.photos} sample photos get the right ImageNet class, and there is no "
            "label map. Give --labels imagenet."
        )
    if evidence.photos and has_imagenet_labels and not evidence.has_imagenet_classes:
        yield (
            f"In every input range, at most {most_right} of {evidence.photos} sample photos of known class "
            "are right. Check that --labels is the model's own label map."
        )
