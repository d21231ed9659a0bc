"""Configuration: one frozen dataclass a section, one strict loader for file and flags.

A key of a `run_configs/*.yaml` file is the name of a flag without its dashes;
the mapping `beam` holds Beam's own pipeline options.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from labelbeam.transforms.errors import UserError, describe_error
from labelbeam.transforms.inputs.formats import INPUT_FORMATS
from labelbeam.transforms.models.heads import DEFAULT_THRESHOLD
from labelbeam.transforms.models.scaling import RANGE_NAMES

BEAM = "beam"


@dataclass(frozen=True, slots=True)
class Kind:
    """What values an option takes: the one place that parses and checks them."""

    type: type
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """What is allowed, for a person."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        noun = ", or ".join((*self.words, _NOUNS[self.type]))
        if self.at_least is None:
            return noun
        return f"{noun} from {self.at_least:,} to {self.at_most:,}"

    def parse(self, name: str, raw: Any) -> Any:
        """Check a value from YAML or the command line.

        Raises:
          UserError: It is of another type or out of range.
        """
        if isinstance(raw, str) and raw in self.words:
            return raw
        try:
            value = _PARSERS[self.type](raw)
        except (TypeError, ValueError):
            value = None
        if value is None or not self._in_range(value):
            raise UserError(f"{name}={raw!r} is not allowed: it must be {self.allowed}.")
        return value

    def _in_range(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if self.at_least is None or self.at_most is None:
            return True
        return self.at_least <= value <= self.at_most


def _parse_text(raw: Any) -> str | None:
    return raw if isinstance(raw, str) and raw else None


def _parse_bool(raw: Any) -> bool | None:
    words = {"true": True, "false": False}
    return raw if isinstance(raw, bool) else words.get(raw.lower() if isinstance(raw, str) else "")


def _parse_integer(raw: Any) -> int | None:
    return None if isinstance(raw, (bool, float)) else int(raw)


def _parse_number(raw: Any) -> float | None:
    value = None if isinstance(raw, bool) else float(raw)
    return value if value is not None and math.isfinite(value) else None


def _parse_pair(raw: Any) -> tuple[float, float] | None:
    low, high = (float(part) for part in (raw.split(",") if isinstance(raw, str) else raw))
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None


def _parse_triple(raw: Any) -> tuple[float, ...] | None:
    values = tuple(float(part) for part in (raw.split(",") if isinstance(raw, str) else raw))
    return values if len(values) == 3 and all(map(math.isfinite, values)) else None


def _parse_divisors(raw: Any) -> tuple[float, ...] | None:
    values = _parse_triple(raw)
    return values if values and min(values) > 0 else None


def _parse_mapping(raw: Any) -> tuple[tuple[str, str], ...] | None:
    if isinstance(raw, str):
        raw = dict(item.split("=", 1) for item in raw.split(","))
    return tuple((str(name), str(value)) for name, value in raw.items()) if isinstance(raw, Mapping) else None


class Triple:
    """The type of an option of three numbers, for red, green and blue."""


class Divisors:
    """The type of an option of three numbers above zero, for red, green and blue."""


_NOUNS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "two ascending numbers, such as 0,1",
    Triple: "three numbers, for red, green and blue",
    Divisors: "three numbers above zero, for red, green and blue",
    dict: "NAME=VALUE pairs, separated by commas",
}
_PARSERS: dict[type, Any] = {
    str: _parse_text,
    bool: _parse_bool,
    int: _parse_integer,
    float: _parse_number,
    tuple: _parse_pair,
    Triple: _parse_triple,
    Divisors: _parse_divisors,
    dict: _parse_mapping,
}


def _option(
    default: Any,
    help: str,
    type: type = str,
    between: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
) -> Any:
    low, high = between or (None, None)
    kind = Kind(type, low, high, choices, words)
    return field(default=default, metadata={"help": help, "kind": kind})


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """What the corpus is."""

    input: str = _option(
        "",
        "URIs to label: a text file (one a line), a CSV with a header, a folder or a glob; local or gs://",
    )
    input_format: str = _option(
        "auto",
        "what the input is; auto goes by the name",
        choices=("auto", *INPUT_FORMATS),
    )
    uri_column: str = _option("uri", "column of the CSV that holds the URI")
    id_column: str | None = _option(
        None, "column of the CSV that holds a unique id; made from the URI by default"
    )
    column_types: tuple[tuple[str, str], ...] = _option(
        (),
        "types of the CSV's own columns, which are text otherwise, such as price=float64,day=date",
        dict,
    )


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What labels the images; what is None comes from the preset or the model."""

    model: str = _option(
        "",
        "preset (efficientnet-b0 … b7, efficientnet-lite0), TF Hub or Kaggle address, SavedModel folder",
    )
    image_size: int | None = _option(None, "width and height of the model's input, px", int, (1, 4096))
    resize: str | None = _option(
        None, "how an image is brought to that size", choices=("center_crop", "stretch")
    )
    decoding: Literal["good", "fast"] = _option(
        "good",
        "fast: JPEGs may be decoded at the model's own size, not twice that; a few labels change",
        choices=("good", "fast"),
    )
    input_range: tuple[float, float] | Literal["caffe", "torch"] | None = _option(
        None,
        "values of the colours 0 and 255 in the model's input, or the name of a rule: caffe (0 to 255, BGR, "
        "ImageNet's means subtracted), torch (0 to 1, means subtracted, divided by deviations)",
        tuple,
        words=RANGE_NAMES,
    )
    channel_mean: tuple[float, float, float] | None = _option(
        None, "values subtracted from red, green and blue after scaling to --input_range", Triple
    )
    channel_std: tuple[float, float, float] | None = _option(
        None, "divisors of red, green and blue after the means are subtracted", Divisors
    )
    channel_order: Literal["rgb", "bgr"] | None = _option(
        None, "order of the channels in the model's input", choices=("rgb", "bgr")
    )
    outputs: Literal["logits", "probabilities", "multilabel", "embedding"] | None = _option(
        None,
        "meaning of the model's outputs: logits or probabilities of one class per image, multilabel (each "
        "class is judged by itself), or an embedding (feature_vector models)",
        choices=("logits", "probabilities", "multilabel", "embedding"),
    )
    labels: str | None = _option(
        None, "label map: imagenet, or a file, local or gs://: text with one label a line, CSV or JSON"
    )
    signature: str | None = _option(None, "signature of the SavedModel, if it has several")
    output_name: str | None = _option(None, "output of the model, if it has several")


@dataclass(frozen=True, slots=True)
class FetchConfig:
    """Limits of a single image's request."""

    fetch_threads: int = _option(32, "requests at once in a process", int, (1, 1024))
    fetch_timeout_sec: float = _option(
        60.0, "longest time for an image, and for a server's silence", float, (0.1, 3600)
    )
    max_image_mb: float = _option(64.0, "larger encoded images are refused", float, (0.001, 2048))


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """Limits of a single image's pixels."""

    max_megapixels: float = _option(100.0, "larger images are refused before decoding", float, (0.001, 1000))


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """How the model is run."""

    top_k: int = _option(5, "largest number of labels per image, also of multi-label models", int, (1, 1000))
    threshold: float | None = _option(
        None, "least score of a label, for multi-label models; 0.5 by default", float, (0, 1)
    )
    predict_timeout_sec: float = _option(
        600.0, "longest time of one call of the model, s; the run ends after it", float, (0.1, 86_400)
    )
    keep_outputs: bool = _option(
        False, "write what the model gives for every class, too, in the column logits or probabilities", bool
    )
    batch_size: int | Literal["auto"] | None = _option(
        None,
        "images in a batch; computed from the device by default, auto: tried out, once for a device",
        int,
        (1, 4096),
        words=("auto",),
    )
    precision: Literal["float32", "bfloat16", "float16"] = _option(
        "float32",
        "what the model computes in: bfloat16 is faster on CPUs, float16 on GPUs",
        choices=("float32", "bfloat16", "float16"),
    )
    xla: Literal["off", "on", "force"] = _option(
        "off", "compile the model: on GPUs, or force it on CPUs, too", choices=("off", "on", "force")
    )
    on_disagreement: Literal["refuse", "plain"] = _option(
        "refuse",
        "action if precision or xla change outputs or labels too much: end the run, or run the plain model",
        choices=("refuse", "plain"),
    )
    require_accelerator: bool = _option(
        False, "a worker without a GPU ends the run, where it would be slow otherwise", bool
    )
    layout: str = _option(
        "fused",
        "split: images are fetched and decoded by some workers and labelled by others, across a shuffle",
        choices=("fused", "split"),
    )
    accelerator_hint: str | None = _option(
        None,
        "with --layout=split, what labelling alone asks of its workers, as Beam's resource hint; on Dataflow "
        "such as type:nvidia-l4;count:1;machine_type:g2-standard-8;install-nvidia-driver",
    )
    dedupe: str = _option(
        "id",
        "content: images of the same bytes share one inference, within a worker process",
        choices=("id", "content"),
    )

    @property
    def least_score(self) -> float:
        """Least score of a label of a multi-label model."""
        return DEFAULT_THRESHOLD if self.threshold is None else self.threshold


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """Where results go, and how."""

    output: str = _option("", "folder for the results; local or gs://")
    replace: bool = _option(
        False, "drop rows of the output folder that were labelled with another model or other settings", bool
    )
    refresh: str = _option(
        "none",
        "changed: label images again whose version is another than in the table, and try failed ones again",
        choices=("none", "changed"),
    )
    stage_rows: int = _option(10_000, "rows are staged when there are this many", int, (1, 1_000_000))
    stage_sec: float = _option(30.0, "rows are staged when they are this old, in seconds", float, (0, 3600))
    target_file_mb: float = _option(256.0, "size of the published files", float, (0.01, 4096))
    keep_generations: int = _option(1, "older generations of the tables to keep", int, (0, 1000))
    partition_by: str | None = _option(
        None, "a column of the input, or hash:N: files go to folders by_COLUMN=VALUE or by_hash=N"
    )
    max_partitions: int = _option(1000, "more folders of a table are refused", int, (1, 100_000))


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    """How many images may fail."""

    max_failure_rate: float = _option(
        0.1, "a run with a larger share of failed images is stopped, or exits with status 1", float, (0, 1)
    )
    max_failure_rates: tuple[tuple[str, str], ...] = _option(
        (), "the same by reason, such as timeout=0.01,not_found=0.2", dict
    )
    failure_floor: int = _option(
        1000, "images that a worker process finishes before it may stop the run", int, (1, 1_000_000_000)
    )


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """How the command goes about a run."""

    no_wait: bool = _option(
        False,
        "return once the job is submitted, which publishes its results itself; not with a local runner",
        bool,
    )


@dataclass(frozen=True, slots=True)
class RunConfig:
    """All options of a run."""

    read: ReadConfig = ReadConfig()
    model: ModelConfig = ModelConfig()
    fetch: FetchConfig = FetchConfig()
    decode: DecodeConfig = DecodeConfig()
    predict: PredictConfig = PredictConfig()
    write: WriteConfig = WriteConfig()
    budget: BudgetConfig = BudgetConfig()
    launch: LaunchConfig = LaunchConfig()
    beam_flags: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as plain data, defaults included; Beam's flags are in `beam_flags`."""
        flat = {f.name: _plain(getattr(getattr(self, s.name), f.name), f) for s, f in _section_fields()}
        return {**flat, "beam_flags": list(self.beam_flags)}


def _plain(value: Any, f: dataclasses.Field) -> Any:
    if not isinstance(value, tuple):
        return value
    return dict(value) if f.metadata["kind"].type is dict else list(value)


def _section_fields() -> Iterator[tuple[dataclasses.Field, dataclasses.Field]]:
    for section in dataclasses.fields(RunConfig):
        if section.name != "beam_flags":
            for f in dataclasses.fields(getattr(RunConfig(), section.name)):
                yield section, f


def options() -> dict[str, dataclasses.Field]:
    """Every option by name; its metadata has `help` and `kind`."""
    return {f.name: f for _, f in _section_fields()}


def load_config(path: str | None, flags: Mapping[str, Any], beam_flags: Sequence[str] = ()) -> RunConfig:
    """Make a run's configuration from a file and flags; flags win.

    Args:
      path: A YAML file, or None.
      flags: Options by name, as the command line gave them.
      beam_flags: Pipeline options, as Beam takes them; they follow the file's and so win.

    Raises:
      UserError: A key is unknown, a value is not allowed, or a required one is missing.
    """
    from_file = _read_yaml(path) if path else {}
    file_beam_flags = _beam_flags(path, from_file.pop(BEAM, None) or {})
    return make_config(from_file, f"{path}: ", flags, (*file_beam_flags, *beam_flags))


def make_config(
    values: Mapping[str, Any], source: str, flags: Mapping[str, Any], beam_flags: Sequence[str]
) -> RunConfig:
    """Make a run's configuration from values of a file and flags; flags win.

    Args:
      values: Options by name.
      source: What errors put before their names.
      flags: Options by name, as the command line gave them.
      beam_flags: Pipeline options, as Beam takes them.

    Raises:
      UserError: A key is unknown, a value is not allowed, or a required one is missing.
    """
    known = options()
    for name in values:
        if name not in known:
            raise UserError(f"{source}{_unknown(name, [*known, BEAM])}")
    values = {
        **{n: known[n].metadata["kind"].parse(f"{source}{n}", raw) for n, raw in values.items()},
        **{n: known[n].metadata["kind"].parse(f"--{n}", raw) for n, raw in flags.items()},
    }
    for name in ("input", "output", "model"):
        if not values.get(name):
            raise UserError(f"--{name} is missing: {known[name].metadata['help']}.")
    sections: dict[str, dict[str, Any]] = {}
    for section, f in _section_fields():
        if f.name in values:
            sections.setdefault(section.name, {})[f.name] = values[f.name]
    made = {name: dataclasses.replace(getattr(RunConfig(), name), **v) for name, v in sections.items()}
    return RunConfig(**made, beam_flags=tuple(beam_flags))


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"--config={path!r} cannot be read: {describe_error(e)}. Check its name.") from e
    except yaml.YAMLError as e:
        raise UserError(f"--config={path!r} is not YAML: {' '.join(str(e).split())}.") from e
    if not isinstance(document, dict):
        raise UserError(f"--config={path!r} must hold `key: value` lines; it holds {document!r:.100}.")
    return {str(key): value for key, value in document.items() if value is not None}


def _unknown(name: str, known: Sequence[str]) -> str:
    return f"unknown key {name!r}. {did_you_mean(name, known)}Known keys: {', '.join(sorted(known))}."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names the nearest name; empty if none is near."""
    close = difflib.get_close_matches(name, known, 1)
    return f"Did you mean {close[0]!r}? " if close else ""


def _beam_flags(path: str | None, beam: Any) -> list[str]:
    """Turn the mapping `beam` into flags: true is a bare flag, false `--no_…`, a list repeats."""
    if not isinstance(beam, dict):
        raise UserError(f"{path}: {BEAM}={beam!r} is not allowed: it must map Beam's options to values.")
    flags = []
    for name, value in beam.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no_{name}")
        else:
            flags += [f"--{name}={one}" for one in (value if isinstance(value, list) else [value])]
    return flags
