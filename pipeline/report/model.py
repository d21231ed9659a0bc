"""Models in words: inputs, outputs, and the origin of what is concluded about them."""

from __future__ import annotations

from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.models.spec import ModelSpec

# Words for each `Origin` of a fact about a model.
ORIGINS: dict[str, str] = {
    "given": "given",
    "preset": "of the preset",
    "read": "read from the model",
    "probed": "probed: the sample photos show it",
    "assumed": "assumed: neither the model nor the sample photos show it",
}


def describe_crop(rule: ResizeRule) -> str:
    """Describe the part of an image that a model sees."""
    if rule.mode == "stretch":
        return "the whole image, stretched to a square (stretch)"
    share = rule.size_px / (rule.size_px + rule.crop_padding_px)
    return f"the central square, {share:.0%} of the shorter side (center_crop)"


def describe_scaling(spec: ModelSpec) -> str:
    """Describe a model's input range and its origin."""
    return f"{spec.scaling.name} ({ORIGINS[spec.scaling_from]})"


def describe_head(spec: ModelSpec) -> str:
    """Describe the meaning of a model's outputs and its origin."""
    return f"{spec.head} ({ORIGINS[spec.head_from]})"


def describe_photos(spec: ModelSpec) -> str:
    """Describe how many photos of known class are right, in each input range."""
    # Other ranges are listed, too, because a small difference shows that the range is uncertain.
    right = dict(spec.photos_right)
    others = ", ".join(f"{n} with {name}" for name, n in right.items() if name != spec.scaling.name)
    mine = f"{right[spec.scaling.name]} of {spec.photos_known} of known class are right"
    return f"{mine}; {others}" if others else mine


def describe_use(spec: ModelSpec) -> str:
    """Describe the purpose that a model is fit for."""
    if not spec.labels:
        return f"an embedding of length {spec.length:,}"
    if may_be_embedding(spec):
        return f"a classifier, or an embedding of length {spec.length:,} with --outputs embedding"
    return "an image classifier"


def has_no_names(spec: ModelSpec) -> bool:
    """Return whether labels are numbers of classes alone, because there is no label map."""
    return spec.labels[:1] == ("class 0",)


def may_be_embedding(spec: ModelSpec) -> bool:
    """Return whether a model's outputs may be features, because nothing shows that they are classes."""
    # Photos show logits for features, too. Probabilities, an option or a known last layer mean classes.
    concluded = spec.head_from in ("probed", "assumed")
    return has_no_names(spec) and spec.length > 1 and spec.outputs == "logits" and concluded


def describe_missing_names(spec: ModelSpec) -> str:
    """Describe the labels of a model without a label map, and the remedies."""
    # Only hinted at, because a classifier without a label map looks the same.
    remedy = "Give one with --labels"
    if may_be_embedding(spec):
        remedy += ", or give --outputs embedding if the outputs are features"
    return f"There is no label map, so labels are 'class 0' and so on. {remedy}."
