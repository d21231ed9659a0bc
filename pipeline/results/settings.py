"""Settings in which two tables differ, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from labelbeam.pipeline.config import OPTIONS_BY_HEADING
from labelbeam.pipeline.report.model import describe_crop
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.models.heads import Head
from labelbeam.transforms.table.manifest import Manifest

# Options that are left out, because another setting has their effect in words, or because no row depends on
# them.
_LEFT_OUT = frozenset(
    {
        "output",
        "replace",
        *OPTIONS_BY_HEADING["launching"],
        "model",
        "precision",
        "xla",
        "top_k",
        "threshold",
        "resize",
        "image_size",
    }
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting in which two tables differ; None if a table has no such setting."""

    name: str
    a: str | None
    b: str | None


def find_differences(a: Manifest, b: Manifest) -> tuple[Setting, ...]:
    """Return the settings in which two tables differ: model, preprocessing, then options of the runs."""
    left, right = dict(_settings_of(a)), dict(_settings_of(b))
    if left.get("--decoding") != right.get("--decoding"):
        # The algorithm's name is that of the decoding, once more.
        left.pop("resizing", None)
        right.pop("resizing", None)
    return tuple(
        Setting(name, left.get(name), right.get(name))
        for name in {**left, **right}
        if left.get(name) != right.get(name)
    )


def _settings_of(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield from _model_settings(manifest)
    yield from _preprocessing_settings(manifest)
    rows = manifest.labelled_with
    yield "number format", f"{rows.precision}{', with XLA' if rows.xla else ''}"
    yield "labels of a row", f"at most {rows.top_k:,}"
    if rows.threshold is not None:
        yield "least score of a label", f"{rows.threshold:g}"
    if rows.calibration:
        yield "decisions", f"of the calibration {rows.calibration}"
    yield "labelbeam", manifest.labelbeam
    for name, value in manifest.config.items():
        if name not in _LEFT_OUT:
            yield f"--{name}", _plain(value)


def _model_settings(manifest: Manifest) -> Iterator[tuple[str, str]]:
    model = manifest.model
    # With the fingerprint, because a handle or a folder may hold another model later.
    yield "model", f"{model['handle']} ({manifest.labelled_with.model})"
    yield "model's outputs", str(Head(model["head"], model["outputs"]))
    if classes := model.get("classes"):
        yield "classes", f"{len(classes):,}"


def _preprocessing_settings(manifest: Manifest) -> Iterator[tuple[str, str]]:
    values = manifest.preprocessing
    if rule := values.get("resize"):
        yield "input size", f"{rule['size_px']} px"
        crop = ResizeRule(rule["size_px"], rule["mode"], rule.get("crop_padding_px", 0))
        yield "part of the image", describe_crop(crop)
        yield "resizing", rule["algorithm"]
    for name in ("input_range", "channel_mean", "channel_std", "channel_order"):
        if name in values:
            yield name.replace("_", " "), _plain(values[name])


def _plain(value: Any) -> str:
    if value in (None, "", [], {}):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{name}={_plain(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
