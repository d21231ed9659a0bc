"""Facts of a run for a page, each with its origin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from labelbeam.pipeline.config import RUN_OPTIONS, inputs_of
from labelbeam.pipeline.report.bottleneck import Performance
from labelbeam.pipeline.report.model import ORIGINS, describe_crop
from labelbeam.pipeline.report.record import RunRecord
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.models.heads import Head
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.models.scaling import Scaling
from labelbeam.transforms.notes import describe_unparsed, describe_unread
from labelbeam.transforms.table.manifest import Manifest


class Fact(NamedTuple):
    """A fact: its name, its value, and a remark such as its origin."""

    name: str
    value: str
    remark: str = ""


def model_facts(manifest: Manifest) -> Iterator[Fact]:
    """Yield facts of the model and the preprocessing."""
    model, preprocessing, settings = manifest.model, manifest.preprocessing, manifest.labelled_with
    yield Fact("model", model["handle"], f"fingerprint {model['fingerprint']}")
    yield Fact("outputs", str(Head(model["head"], model["outputs"])), _origin(model["head_from"]))
    if model["head"] == EMBEDDING:
        yield Fact("embedding", f"{model['length']:,} numbers")
    else:
        labels = manifest.config.get("labels")
        classes = Head(model["head"], model["outputs"]).classes(model["length"])
        yield Fact("classes", f"{classes:,}", f"label map {labels}" if labels else "")
    if settings.threshold is not None:
        yield Fact("threshold", f"{settings.threshold:g}", "least score of a label")
    rule = preprocessing["resize"]
    crop = ResizeRule(rule["size_px"], rule["mode"], rule.get("crop_padding_px", 0))
    yield Fact("crop", describe_crop(crop))
    yield Fact("input size", f"{rule['size_px']} × {rule['size_px']} px")  # noqa: RUF001
    yield Fact("input range", _scaling(preprocessing).name, _origin(preprocessing["scaling_from"]))
    if known := model.get("photos_known"):
        right = ", ".join(f"{n} with {name}" for name, n in model["photos_right"].items())
        yield Fact("sample photos", f"right of {known} of known class: {right}")
    yield Fact("precision", settings.precision, "with XLA" if settings.xla else "")


def run_facts(manifest: Manifest, record: RunRecord | None) -> Iterator[Fact]:
    """Yield facts of the run that published the tables."""
    counts = manifest.counts
    yield Fact("input", ", ".join(inputs_of(manifest.config["input"])))
    yield Fact("run", manifest.labelling_run, f"labelbeam {manifest.labelbeam}")
    if record:
        rate = f"{record.images_per_sec:,.1f} images/s, start-up included" if record.images_per_sec else ""
        yield Fact("time", duration(record.seconds), rate)
        yield Fact("runner", record.runner)
    yield Fact("images", ", ".join(_counts(counts)))
    size, files = sum(file.size_bytes for file in manifest.files), len(manifest.files)
    yield Fact("tables", f"{sum(manifest.rows.values()):,} rows in {files:,} Parquet files", _megabytes(size))


def performance_facts(performance: Performance) -> Iterator[Fact]:
    """Yield what limited the run, and the numbers behind it."""
    if performance.bottleneck:
        yield Fact("bottleneck", performance.bottleneck, f"remedies: {', '.join(performance.remedies)}")
    if performance.image_ms:
        times = ", ".join(f"{name} {ms:,.1f} ms" for name, ms in performance.image_ms.items())
        yield Fact("time per image", times, "in the mean")
    shares = {
        "model waited": (performance.model_waited, "of the time, for images"),
        "batches full": (performance.batch_fill, "in the mean"),
        "padding": (performance.padding, "of what the model computed"),
        "agreement": (
            performance.agreement,
            "of the sample photos keep their best class in the faster model",
        ),
    }
    for name, (value, remark) in shares.items():
        if value is not None:
            yield Fact(name, f"{value:.1%}", remark)
    if performance.models:
        on_gpu = f"{performance.models_on_gpu:,} on GPUs" if performance.models_on_gpu else "on CPUs"
        yield Fact("loaded models", f"{performance.models:,}", on_gpu)
    for warning in performance.warnings:
        yield Fact("warning", warning)


def _counts(counts: Mapping[str, int]) -> Iterator[str]:
    words = {
        "listed": "listed",
        "labelled": "labelled",
        "failed": "failed",
        "duplicate": "listed twice",
        "kept": "done before",
        "not_chosen": "not chosen",
        "reused": "with the labels of another image of the same bytes",
        "unchecked": "not checked for changes",
        "other_uri": "under another URI before",
    }
    always = ("listed", "labelled", "failed")
    for name, text in words.items():
        if name in always or counts.get(name):
            yield f"{counts.get(name, 0):,} {text}"


def options(manifest: Manifest) -> list[tuple[str, str, bool]]:
    """Return name and value of each option of the run, and whether the value is not the default."""
    return [
        (name, _plain(value), name in RUN_OPTIONS and _plain(value) != _plain(RUN_OPTIONS[name].default))
        for name, value in manifest.config.items()
    ]


def _plain(value: Any) -> str:
    if value is None or value in ([], (), {}, ""):
        return "–"  # noqa: RUF001
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def warnings_of(manifest: Manifest) -> Iterator[str]:
    """Yield reservations about the labels, in words."""
    yield from manifest.model.get("doubts", ())
    if manifest.preprocessing["scaling_from"] == "assumed":
        yield "The input range is assumed: neither the model nor the sample photos show it."
    if not manifest.balanced:
        yield "The run does not balance: its own accounting lacks images. Run the same command again."
    if manifest.top_labels and all(top.label == f"class {top.class_id}" for top in manifest.top_labels):
        yield "Labels are numbers, because there is no label map."
    for column, values in (manifest.unparsed or {}).items():
        yield f"{describe_unparsed(column, values['count'])}."
    if manifest.unread:
        yield describe_unread(manifest.unread)
    if manifest.left_out:
        files = ", ".join(f"{n:,} {suffix}" for suffix, n in manifest.left_out.items())
        yield f"Files or rows of the input that are no images were left out: {files}."


def started_at(manifest: Manifest) -> str:
    """Return the time at which the run began; empty if its id has none."""
    try:
        time = datetime.strptime(manifest.labelling_run[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return ""
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


def duration(seconds: float) -> str:
    """Return a time in units that fit: `8.3 s`, `12 min 5 s`, `3 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def _origin(origin: str) -> str:
    return ORIGINS.get(origin, origin)


def _scaling(preprocessing: Mapping[str, Any]) -> Scaling:
    plain = Scaling()
    return Scaling(
        tuple(preprocessing["input_range"]),
        mean=tuple(preprocessing.get("channel_mean", plain.mean)),
        std=tuple(preprocessing.get("channel_std", plain.std)),
        order=preprocessing.get("channel_order", plain.order),
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"
