"""The command `model`: a description of a model before a run, or a copy of it for workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from labelbeam.pipeline.checks.findings import RESPONSE_SEC
from labelbeam.pipeline.checks.trial import describe_result, label_rows
from labelbeam.pipeline.config import PredictConfig, RunConfig, make_config
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.pipeline.plan import limits_of
from labelbeam.pipeline.report.model import (
    describe_crop,
    describe_head,
    describe_photos,
    describe_scaling,
    describe_use,
    has_no_names,
)
from labelbeam.transforms.elements import AnyImage, Failure
from labelbeam.transforms.errors import LabelbeamError, UserError
from labelbeam.transforms.files import file_errors_as, join_path, list_files, write_file
from labelbeam.transforms.models.cache import resolve_model
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.kinds import digest_model, kind_of
from labelbeam.transforms.models.labels import IMAGENET
from labelbeam.transforms.models.presets import Preset, find_preset
from labelbeam.transforms.models.probe import understand_model
from labelbeam.transforms.models.runtime import load_tensorflow
from labelbeam.transforms.models.spec import ModelOptions, ModelSpec
from labelbeam.transforms.sample import first_chosen


def inspect_model(handle: str, flags: Mapping[str, Any]) -> tuple[bool, str]:
    """Describe a model's inputs and outputs, and try the model.

    Args:
      handle: The model, as `--model` takes it.
      flags: Options of the model; with an input, also those of the input, some of whose images are labelled.

    Returns:
      Whether the model can be used, and a description of it, for a person.

    Raises:
      UserError: The model or the input does not exist.
    """
    config = make_config({}, "", {**flags, "model": handle}, ())
    # First, because its start-up notices must be silenced before anything else loads TensorFlow.
    load_tensorflow()
    rows = _images_of(config) if config.read.inputs != ("",) else []
    options = ModelOptions(**asdict(config.model))
    preset = find_preset(handle)
    path = resolve_model(preset.handle if preset else handle)
    lines = [f"model         {handle}", f"kept at       {path}", f"digest        {digest_model(path)}"]
    try:
        lines += [f"{heading:<14}{text}" for heading, text in kind_of(path).describe(path)]
        spec = understand_model(options, PredictConfig().predict_timeout_sec)
        # Built as on a worker, because freezing shows faults that reading the model does not.
        classifier = Classifier(spec, top_k=1, batch_size=2)
        lines += [*_describe_spec(spec), f"frozen        {'yes' if classifier.graph.frozen else _NOT_FROZEN}"]
    except LabelbeamError as e:
        return False, "\n".join([*lines, f"fits          no: {e}"])
    lines.append(f"fits          {_verdict(spec)}")
    labels = [describe_result(one, classifier) for one in label_rows(rows, classifier, config, RESPONSE_SEC)]
    heading = f"labels of {len(labels):,} of the input's images"
    return True, "\n".join([*lines, *(["", heading, *(f"  {line}" for line in labels)] if labels else [])])


def _images_of(config: RunConfig) -> list[AnyImage | Failure]:
    corpus = find_corpus(config.read, limits=lambda: limits_of(config))
    images = config.read.limit or _IMAGES
    choice = replace(config.read.choice, limit=images)
    return first_chosen(corpus, choice, images, limits_of(config).max_bytes)


# Images of an input that are labelled if there is no --limit.
_IMAGES = 10
# Further doubts stand below the first one.
_NEXT_DOUBT = f"\n{'':<14}"
_NOT_FROZEN = "no: it runs as it is, and slower"


def _verdict(spec: ModelSpec) -> str:
    if spec.doubts:
        return f"perhaps: {_NEXT_DOUBT.join(spec.doubts)}"
    assumed = spec.scaling_from == "assumed"
    condition = f", if it expects the input range {spec.scaling.name}, which is assumed" if assumed else ""
    return f"yes, {describe_use(spec)}{condition}"


def _describe_spec(spec: ModelSpec) -> list[str]:
    return [
        f"input         {spec.contract.input_dtype}, {spec.resize.size_px} px, {describe_crop(spec.resize)}",
        f"range         {describe_scaling(spec)}",
        f"outputs       {describe_head(spec)}",
        *([f"photos        {describe_photos(spec)}"] if spec.photos_known else []),
        f"batch         {spec.contract.batch or 'any'}",
        f"classes       {len(spec.labels):,}, such as {spec.labels[0]!r}{_remark_on_labels(spec)}"
        if spec.labels
        else f"length        {spec.length:,}",
        f"fingerprints  {spec.model_fingerprint} (model), {spec.preprocessing_fingerprint} (preprocessing)",
    ]


def _remark_on_labels(spec: ModelSpec) -> str:
    return " (there is no label map: give one with --labels)" if has_no_names(spec) else ""


def mirror_model(handle: str, target: str) -> tuple[str, str]:
    """Copy a model, its main file last, because a copy without it is refused as incomplete.

    Returns:
      The copy's path, for `--model`, and the options that the copy of a preset needs.

    Raises:
      UserError: The model does not exist, or the target is not empty or cannot be written.
    """
    load_tensorflow()
    preset = find_preset(handle)
    path = resolve_model(preset.handle if preset else handle)
    folder = target.rstrip("/")
    with file_errors_as(UserError, f"{target!r} cannot be written", "Check its name and rights."):
        if list_files(folder):
            raise UserError(f"{target!r} holds files already. Give a new folder.")
        # In this order, which ends with the main file.
        for name, file in kind_of(path).list_files(path).items():
            write_file(join_path(folder, *name.split("/")), file.read_bytes())
    copy = join_path(folder, path.name) if path.is_file() else folder
    return copy, _options_of_preset(preset) if preset else ""


def _options_of_preset(preset: Preset) -> str:
    """Return the options by which a copy gives the labels of its preset, because a folder has no preset."""
    return f"--labels {IMAGENET} --outputs logits --input_range 0,1 --image_size {preset.image_size_px}"
