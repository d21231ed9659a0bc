"""The commands over models: describing one before a run, and copying it to where workers load it from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labelbeam.pipeline.config import PredictConfig
from labelbeam.pipeline.config import options as known_options
from labelbeam.transforms.errors import LabelbeamError, UserError
from labelbeam.transforms.files import file_errors_as, join_path, list_files, write_file
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.models.cache import resolve_model
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.kinds import digest_model, kind_of
from labelbeam.transforms.models.presets import find_preset
from labelbeam.transforms.models.probe import understand_model
from labelbeam.transforms.models.runtime import load_tensorflow
from labelbeam.transforms.models.spec import ModelOptions, ModelSpec, Origin


def inspect_model(handle: str, flags: Mapping[str, Any]) -> tuple[bool, str]:
    """Describe a model's inputs and outputs, and try the model.

    Args:
      handle: Preset, handle or folder.
      flags: Options of the model by name, as the command line gave them.

    Returns:
      Whether the model can be used, and a description of it, for a person.

    Raises:
      UserError: There is no such model.
    """
    load_tensorflow()
    known = known_options()
    values = {name: known[name].metadata["kind"].parse(f"--{name}", raw) for name, raw in flags.items()}
    preset = find_preset(handle)
    path = resolve_model(preset.handle if preset else handle)
    lines = [f"model         {handle}", f"kept at       {path}", f"digest        {digest_model(path)}"]
    try:
        lines += [f"{heading:<14}{text}" for heading, text in kind_of(path).describe(path)]
        spec = understand_model(ModelOptions(model=handle, **values), PredictConfig().predict_timeout_sec)
        classifier = Classifier(spec, top_k=1, batch_size=2)
        lines += [*_describe_spec(spec), *_describe_graph(classifier)]
    except LabelbeamError as e:
        return False, "\n".join([*lines, f"fits          no: {e}"])
    if spec.doubts:
        return True, "\n".join(
            [*lines, f"fits          perhaps: {spec.doubts[0]}", *_further(spec.doubts[1:])]
        )
    what = "an image classifier" if spec.labels else f"gives embeddings of length {spec.length:,}"
    if spec.scaling_from == "assumed":
        what += f", if it expects the input range {spec.scaling.name}, which is assumed"
    return True, "\n".join([*lines, f"fits          yes, {what}"])


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


def has_no_names(spec: ModelSpec) -> bool:
    """Return whether labels are numbers of classes alone, because there is no label map."""
    return spec.labels[:1] == ("class 0",)


def describe_crop(rule: ResizeRule) -> str:
    """Describe the part of an image that a model sees."""
    if rule.mode == "stretch":
        return "the whole image, stretched to a square (stretch)"
    share = rule.size_px / (rule.size_px + rule.crop_padding_px)
    return f"the central square, {share:.0%} of the shorter side (center_crop)"


def describe_scaling(spec: ModelSpec) -> str:
    """Describe a model's input range and its origin."""
    return f"{spec.scaling.name} ({_ORIGINS[spec.scaling_from]})"


def describe_head(spec: ModelSpec) -> str:
    """Describe the meaning of a model's outputs and its origin."""
    return f"{spec.head} ({_ORIGINS[spec.head_from]})"


def describe_photos(spec: ModelSpec) -> str:
    """Describe how many photos of known class are right, in each input range."""
    right = dict(spec.photos_right)
    others = ", ".join(f"{n} with {name}" for name, n in right.items() if name != spec.scaling.name)
    mine = f"{right[spec.scaling.name]} of {spec.photos_known} of known class are right"
    return f"{mine}; {others}" if others else mine


_ORIGINS: dict[Origin, str] = {
    "given": "given",
    "preset": "of the preset",
    "read": "read from the model",
    "probed": "probed: the sample photos show it",
    "assumed": "assumed: neither the model nor the sample photos show it",
}


def _describe_graph(classifier: Classifier) -> list[str]:
    return [f"frozen        {'yes' if classifier.graph.frozen else 'no: it runs as it is, and slower'}"]


def _further(doubts: Sequence[str]) -> list[str]:
    return [f"              {doubt}" for doubt in doubts]


def mirror_model(handle: str, target: str) -> str:
    """Copy a model, its main file last, so that nobody takes half a copy for a whole one.

    Args:
      handle: Preset, handle or folder.
      target: A folder, local or `gs://`.

    Returns:
      What `--model` takes from now on.

    Raises:
      UserError: There is no such model, or the target holds something or cannot be written.
    """
    load_tensorflow()
    preset = find_preset(handle)
    path = resolve_model(preset.handle if preset else handle)
    folder = target.rstrip("/")
    with file_errors_as(UserError, f"{target!r} cannot be written", "Check its name and rights."):
        if list_files(folder):
            raise UserError(f"{target!r} holds files already. Give a new folder.")
        for name, file in kind_of(path).list_files(path).items():
            write_file(join_path(folder, *name.split("/")), file.read_bytes())
    return join_path(folder, path.name) if path.is_file() else folder
