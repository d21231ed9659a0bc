"""Configuration: one frozen dataclass per section, and one strict loader for file and flags.

A key of a `run_configs/*.yaml` file is the name of a flag without its dashes. The mapping `beam` has Beam's
own pipeline options.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from labelbeam import __version__
from labelbeam.pipeline.headers import parse_headers, without_values
from labelbeam.transforms.choose import Choice
from labelbeam.transforms.errors import Reason, UserError, describe_error
from labelbeam.transforms.inputs.corpus import BoxColumns
from labelbeam.transforms.inputs.formats import INPUT_FORMATS
from labelbeam.transforms.models.heads import DEFAULT_THRESHOLD
from labelbeam.transforms.sources.public import AllowedHosts, HostError

# Key of Beam's options in a file. They have a mapping of their own, because names of Beam and labelbeam may
# collide.
BEAM = "beam"


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a run: its meaning, and the values that it may have.

    Attributes:
      default: Value of the option if it is not set.
      help: Definition, with the unit.
      between: Smallest and largest number.
      words: Words that are values.
      type: Type of the other values, a key of `_TYPES`; None if there are none.
    """

    default: Any
    help: str
    between: tuple[float, float] = (-math.inf, math.inf)
    words: tuple[str, ...] = ()
    type: Any = None

    @property
    def allowed(self) -> str:
        """Description of the allowed values."""
        if self.type is None:
            return f"one of {', '.join(self.words)}"
        noun = ", or ".join((*self.words, _TYPES[self.type][0]))
        least, most = self.between
        return f"{noun} from {least:,} to {most:,}" if math.isfinite(most) else noun

    def parse(self, name: str, raw: Any) -> Any:
        """Parse and check a value from YAML or the command line.

        Raises:
          UserError: The value has another type or is out of range.
        """
        # Words first, because a type such as text would accept a word, too, and a number would refuse it.
        if isinstance(raw, str) and raw in self.words:
            return raw
        detail = ""
        try:
            value = _TYPES[self.type][1](raw)
        except HostError as e:
            value, detail = None, f"; {e}"
        except (KeyError, TypeError, ValueError):
            value = None
        is_outside = isinstance(value, (int, float)) and not self.between[0] <= value <= self.between[1]
        if value is None or is_outside:
            raise UserError(f"{name}={raw!r} is not allowed: it must be {self.allowed}{detail}.")
        return value


# The parsers take text, because the command line has no other type, and YAML's own types, because a file has
# them.
def _parse_text(raw: Any) -> str | None:
    return raw if isinstance(raw, str) and raw else None


def _parse_bool(raw: Any) -> bool | None:
    words = {"true": True, "false": False}
    return raw if isinstance(raw, bool) else words.get(raw.lower() if isinstance(raw, str) else "")


def _parse_integer(raw: Any) -> int | None:
    # bool and float are refused, because int() would turn true into 1 and 2.5 into 2.
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


# Without characters that end a name in a query, because such a name would hide nothing.
_NAME = re.compile(r"[^\s?&=#;/,]+")


def _parse_names(raw: Any) -> tuple[str, ...] | None:
    names = [name.strip() for name in raw.split(",")] if isinstance(raw, str) else list(raw)
    return tuple(names) if all(isinstance(name, str) and _NAME.fullmatch(name) for name in names) else None


def _parse_columns(raw: Any) -> tuple[str, ...] | None:
    """Parse names of columns, distinct without case, because readers of the tables ignore the case."""
    try:
        names = next(csv.reader([raw], strict=True)) if isinstance(raw, str) else list(raw)
    except (csv.Error, StopIteration):
        return None
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        return None
    are_distinct = len({name.strip().casefold() for name in names}) == len(names)
    return tuple(name.strip() for name in names) if are_distinct else None


def _parse_rates(raw: Any) -> tuple[tuple[str, float], ...] | None:
    pairs = _parse_mapping(raw)
    rates = tuple((reason, float(rate)) for reason, rate in pairs or ())
    allowed = all(reason in set(Reason) and 0 <= rate <= 1 for reason, rate in rates)
    return rates if allowed and pairs is not None else None


def _parse_line(raw: Any) -> str | None:
    return raw if isinstance(raw, str) and raw.strip() and raw.isprintable() else None


def _parse_delimiter(raw: Any) -> str | None:
    # Names, too, because a tab is hard to write in shells and files of options.
    character = {"tab": "\t", "\\t": "\t"}.get(raw, raw)
    is_one = isinstance(character, str) and len(character) == 1
    return character if is_one and not character.isalnum() and character not in '"\r\n\0' else None


def inputs_of(raw: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of inputs: one is a text, in manifests and configurations."""
    return (raw,) if isinstance(raw, str) else tuple(raw)


def _parse_inputs(raw: Any) -> str | tuple[str, ...] | None:
    names = inputs_of(raw) if isinstance(raw, (str, list, tuple)) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        return None
    return names if len(names) > 1 else names[0]


def _parse_hosts(raw: Any) -> tuple[str, ...] | None:
    entries = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        return None
    AllowedHosts(entries)
    return tuple(entry.strip() for entry in entries)


# Types of options, as annotations name them.
Pair = tuple[float, float]
Triple = tuple[float, float, float]
Divisors = Annotated[Triple, "above zero"]
Pairs = tuple[tuple[str, str], ...]
Rates = tuple[tuple[str, float], ...]
Headers = Annotated[Pairs, "of requests"]
Line = Annotated[str, "one line"]
Hosts = Annotated[tuple[str, ...], "hosts"]
Names = tuple[str, ...]
Delimiter = Annotated[str, "delimiter"]
Columns = Annotated[tuple[str, ...], "columns"]
Inputs = Annotated[str | tuple[str, ...], "inputs"]

# Description and parser of each type of option. A parser returns None or raises if a value is not allowed.
_TYPES: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    str: ("text", _parse_text),
    bool: ("true or false", _parse_bool),
    int: ("a whole number", _parse_integer),
    float: ("a number", _parse_number),
    Pair: ("two ascending numbers, such as 0,1", _parse_pair),
    Triple: ("three numbers, for red, green and blue", _parse_triple),
    Divisors: ("three numbers above zero, for red, green and blue", _parse_divisors),
    Names: ("names of query parameters, such as ticket,s, without = and ?", _parse_names),
    Columns: ("distinct names of columns, separated by commas", _parse_columns),
    Pairs: ("NAME=VALUE pairs, separated by commas", _parse_mapping),
    Rates: (
        "REASON=RATE pairs, separated by commas, with rates from 0 to 1, and with the reasons "
        f"{', '.join(Reason)}",
        _parse_rates,
    ),
    Headers: ("NAME=VALUE pairs, separated by commas, or in several options", parse_headers),
    Line: ("one line of text", _parse_line),
    Delimiter: ("one character other than letters, digits and quotes, or tab", _parse_delimiter),
    Inputs: ("one text, or several in as many options", _parse_inputs),
    Hosts: (
        "names, globs such as *.corp.example, addresses and CIDR blocks such as 10.0.0.0/8, separated by "
        "commas",
        _parse_hosts,
    ),
}


def _option(
    default: Any,
    help: str,
    between: tuple[float, float] = (-math.inf, math.inf),
    words: tuple[str, ...] = (),
) -> Any:
    return field(default=default, metadata={"option": Option(default, help, between, words)})


# The sections are frozen, because workers get copies of them, and a change here would not arrive there.
@dataclass(frozen=True, slots=True)
class ReadConfig:
    """Options of the input."""

    input: Annotated[str | tuple[str, ...], "inputs"] = _option(
        "",
        "list of URIs (text with one URI a line, CSV, Parquet or JSON), folder of images, files with images "
        "inside (tar, ZIP, TFRecord or Parquet), or glob of any of these; local or gs://; - for standard "
        "input; http:// or https:// address of a list; bigquery://PROJECT.DATASET.TABLE or bigquery:QUERY",
    )
    input_format: str = _option(
        "auto",
        "format of the input; auto: by its content, and then by its name",
        words=("auto", *INPUT_FORMATS),
    )
    uri_column: str | None = _option(
        None,
        "column with the URIs, in JSON and Parquet also a path such as data.image; by default uri, or the "
        "only column with a usual name, such as url, image or file_name",
    )
    uri_template: str | None = _option(
        None, "URI made from columns, such as gs://{bucket}/{name}, in place of a column with URIs"
    )
    header: Annotated[tuple[str, ...], "columns"] = _option(
        (), "names of the columns of CSV files without a line of names, such as bucket,key,size"
    )
    id_column: str | None = _option(None, "column with unique ids; by default ids are made from the URIs")
    column_types: tuple[tuple[str, str], ...] = _option(
        (),
        "types of the other columns, such as price=float64,day=date; by default those of the file, and text "
        "for CSV",
    )
    delimiter: Annotated[str, "delimiter"] | None = _option(
        None,
        "delimiter of the CSV's columns; by default that of its first line: comma, tab, semicolon or bar",
    )
    box_columns: Annotated[tuple[str, ...], "columns"] = _option(
        (),
        "columns with left, top, right and bottom of a box, or one column with a list of boxes, also a path "
        "such as objects.boxes: each box is labelled as an image of its own, with the id ID#n",
    )
    box_unit: Literal["pixels", "fractions"] | None = _option(
        None, "unit of the boxes; fractions are those of the image's width and height, from 0 to 1"
    )
    image_feature: str | None = _option(
        None,
        "feature of TFRecord files, or column of Parquet files, with the bytes of images; by default the one "
        "with a usual name, such as image/encoded",
    )
    secret_params: tuple[str, ...] = _option(
        (),
        "query parameters of URIs whose values are secret and don't name an image, beside signatures, keys "
        "and tokens of the usual names: they are in no output, and not part of ids",
    )
    sample: float = _option(
        1.0, "share of the images to label, the same ones every time, chosen by a hash of the id", (1e-9, 1)
    )
    limit: int | None = _option(
        None,
        "largest number of images to label, the same ones every time, chosen by a hash of the id",
        (1, 10_000_000),
    )

    @property
    def choice(self) -> Choice:
        """Images of the input to label."""
        return Choice(self.sample, self.limit, by_image=bool(self.box_columns))

    @property
    def boxes(self) -> BoxColumns | None:
        """Columns with boxes; None if whole images are labelled.

        Raises:
          UserError: An option of boxes lacks the other one, or the columns are neither one nor four.
        """
        if not self.box_columns:
            if self.box_unit:
                raise UserError(
                    f"box_unit={self.box_unit!r} has no boxes. Add --box_columns, or remove --box_unit."
                )
            return None
        if len(self.box_columns) not in (1, 4):
            raise UserError(
                f"box_columns={','.join(self.box_columns)!r} is not allowed: it must be four columns, for "
                "left, top, right and bottom, or one with a list of boxes."
            )
        if not self.box_unit:
            raise UserError(
                f"box_columns={','.join(self.box_columns)!r} needs a unit, because numbers do not show it. "
                "Add --box_unit=pixels or --box_unit=fractions."
            )
        return BoxColumns(self.box_columns, self.box_unit)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return inputs_of(self.input)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Options of the model; None leaves a property to the preset, the model or the probe."""

    model: str = _option(
        "",
        "preset (efficientnet-b0 … b7, efficientnet-lite0), TF Hub or Kaggle address, or SavedModel folder",
    )
    image_size: int | None = _option(None, "width and height of the model's input, px", (1, 4096))
    resize: Literal["center_crop", "stretch"] | None = _option(
        None, "method that brings an image to the input's size"
    )
    decoding: Literal["good", "fast"] = _option(
        "good",
        "quality of the decoding; fast: JPEGs are decoded at the model's own size instead of twice that, "
        "which changes a few labels",
    )
    input_range: tuple[float, float] | Literal["caffe", "torch"] | None = _option(
        None,
        "values of the colours 0 and 255 in the model's input, or the name of a rule: caffe (0 to 255, BGR, "
        "ImageNet's means subtracted), torch (0 to 1, means subtracted, divided by deviations)",
    )
    channel_mean: tuple[float, float, float] | None = _option(
        None, "values subtracted from red, green and blue after scaling to --input_range"
    )
    channel_std: Annotated[tuple[float, float, float], "above zero"] | None = _option(
        None, "divisors of red, green and blue after the means are subtracted"
    )
    channel_order: Literal["rgb", "bgr"] | None = _option(None, "order of the channels in the model's input")
    outputs: Literal["logits", "probabilities", "multilabel", "embedding"] | None = _option(
        None,
        "meaning of the model's outputs: logits or probabilities of one class per image, multilabel (each "
        "class has a probability of its own), or an embedding (feature_vector models)",
    )
    labels: str | None = _option(
        None, "label map: imagenet, or a file, local or gs://: text with one label a line, CSV or JSON"
    )
    signature: str | None = _option(None, "signature of the SavedModel, if it has several")
    output_name: str | None = _option(None, "output of the model, if it has several")


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """Limits of an image, and who loads images."""

    fetch_threads: int = _option(32, "number of simultaneous requests of a worker process", (1, 1024))
    loaders: int | None = _option(
        None,
        "largest number of processes of a worker process that fetch and decode; one per core by default; 0: "
        "none, images are loaded on threads beside the model, and nothing limits their decoding",
        (0, 256),
    )
    image_timeout_sec: float = _option(
        60.0, "longest time of one attempt at an image, without waiting for others, s", (0.1, 3600)
    )
    fetch_attempts: int = _option(
        5, "largest number of requests for an image, if a failure may heal by itself", (1, 100)
    )
    host_connections: int = _option(
        8, "largest number of simultaneous requests of a worker process to one web server", (1, 1024)
    )
    host_rate: float | None = _option(
        None, "largest number of requests per second of a worker process to one web server", (0.001, 10_000)
    )
    max_image_mb: float = _option(64.0, "largest size of an encoded image, MB", (0.001, 2048))
    max_megapixels: float = _option(100.0, "largest image that is decoded, millions of pixels", (0.001, 1000))
    user_agent: Annotated[str, "one line"] | None = _option(
        None,
        f"header User-Agent of requests; by default labelbeam/{__version__}; some servers require an address "
        "of yours in it",
    )
    http_header: Annotated[tuple[tuple[str, str], ...], "of requests"] = _option(
        (),
        "further headers of requests to http:// and https:// images; $NAME in a value is a variable of the "
        "environment",
    )
    ignore_opt_out: bool = _option(
        False, "fetch images whose server opts out by X-Robots-Tag: noai, noimageai, noindex or noimageindex"
    )
    allow_hosts: Annotated[tuple[str, ...], "hosts"] = _option(
        (),
        "hosts of your own, from which images are fetched though their addresses are not public",
    )


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """Options of the model's execution and of labels."""

    top_k: int = _option(5, "largest number of labels per image, also of multi-label models", (1, 1000))
    threshold: float | None = _option(
        None, "least score of a label, for multi-label models; 0.5 by default", (0, 1)
    )
    calibration: str | None = _option(
        None,
        "calibration file of labelbeam calibrate, local or gs://; rows get the columns decision and "
        "calibrated_score",
    )
    predict_timeout_sec: float = _option(
        600.0, "longest time of one call of the model, s; a longer call ends the run", (0.1, 86_400)
    )
    keep_outputs: bool = _option(
        False, "write the model's output for every class, too, in the column logits or probabilities"
    )
    batch_size: int | Literal["auto"] | None = _option(
        None,
        "number of images in a batch; computed from the device by default; auto: measured once per device",
        (1, 4096),
    )
    precision: Literal["float32", "bfloat16", "float16"] = _option(
        "float32", "number format of the model's layers; bfloat16 is faster on CPUs, float16 on GPUs"
    )
    xla: Literal["off", "on", "force"] = _option(
        "off", "compilation of the model with XLA; on: on GPUs, force: on CPUs, too"
    )
    on_disagreement: Literal["refuse", "plain"] = _option(
        "refuse",
        "action if precision or xla change outputs or labels too much: end the run, or run the plain model",
    )
    require_accelerator: bool = _option(False, "end the run if a worker has no GPU, because it would be slow")
    layout: Literal["fused", "split"] = _option(
        "fused",
        "division of the work; split: some workers fetch and decode images, others label them, with a "
        "shuffle in between",
    )
    accelerator_hint: str | None = _option(
        None,
        "Beam's resource hint for the workers that label, with --layout=split; on Dataflow such as "
        "type:nvidia-l4;count:1;machine_type:g2-standard-8;install-nvidia-driver",
    )
    dedupe: Literal["id", "content"] = _option(
        "id",
        "key of duplicates; content: images of the same bytes share one inference in a worker process, too",
    )

    @property
    def least_score(self) -> float:
        """Least score of a label of a multi-label model."""
        return DEFAULT_THRESHOLD if self.threshold is None else self.threshold


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """Options of the table folder."""

    output: str = _option("", "table folder, which gets the results; local or gs://")
    replace: bool = _option(False, "drop rows in the output that have another model or other settings")
    refresh: Literal["none", "changed"] = _option(
        "none", "changed: relabel images whose ETag, generation or mtime changed, and retry failed ones"
    )
    stage_rows: int = _option(10_000, "largest number of rows in a staged file", (1, 1_000_000))
    stage_sec: float = _option(30.0, "largest age of rows that are not staged yet, s", (0, 3600))
    target_file_mb: float = _option(256.0, "desired size of the published files, MB", (0.01, 4096))
    keep_generations: int = _option(1, "number of older generations of the tables to keep", (0, 1000))
    partition_by: str | None = _option(
        None, "key of partition folders: a column of the input (by_COLUMN=VALUE), or hash:N (by_hash=00 …)"
    )
    max_partitions: int = _option(1000, "largest number of partition folders per table", (1, 100_000))


@dataclass(frozen=True, slots=True)
class BudgetConfig:
    """Limits of the share of images that fail."""

    max_failure_rate: float = _option(
        0.1, "largest share of failed images; above it, a run stops or exits with status 1", (0, 1)
    )
    max_failure_rates: tuple[tuple[str, float], ...] = _option(
        (), "largest share of failed images by reason, such as timeout=0.01,not_found=0.2"
    )
    failure_floor: int = _option(
        1000,
        "number of finished images from which a worker process may stop the run",
        (1, 1_000_000_000),
    )


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """Options of the command."""

    no_wait: bool = _option(
        False,
        "return once the job is submitted, which publishes its results itself; not with a local runner",
    )
    metrics_file: str | None = _option(
        None,
        "file of this machine that gets the run's metrics at its end, as text for Prometheus; node_exporter "
        "reads files whose names end in .prom",
    )


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Configuration of a run: a section per step, and Beam's own flags."""

    read: ReadConfig = ReadConfig()
    model: ModelConfig = ModelConfig()
    load: LoadConfig = LoadConfig()
    predict: PredictConfig = PredictConfig()
    write: WriteConfig = WriteConfig()
    budget: BudgetConfig = BudgetConfig()
    launch: LaunchConfig = LaunchConfig()
    beam_flags: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as plain data, defaults included; Beam's flags are in `beam_flags`."""
        values = {
            name: _plain(getattr(getattr(self, section), name), option)
            # Sections are flattened, because `rerun` reads the manifest as if it were a file of options.
            for section, default in _SECTIONS.items()
            for name, option in _options_of(default).items()
        }
        return {**values, "beam_flags": list(self.beam_flags)}


def _plain(value: Any, option: Option) -> Any:
    if not isinstance(value, tuple):
        return value
    if option.type == Headers:
        return without_values(value)
    return dict(value) if option.type in (Pairs, Rates) else list(value)


def _options_of(section: Any) -> dict[str, Option]:
    annotations = get_type_hints(type(section), include_extras=True)
    return {f.name: _typed(f.metadata["option"], annotations[f.name]) for f in dataclasses.fields(section)}


def _typed(option: Option, annotation: Any) -> Option:
    """Complete an option with words and type of its annotation, so that each value is named in one place."""
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    words = tuple(word for one in members if get_origin(one) is Literal for word in get_args(one))
    types = [one for one in members if get_origin(one) is not Literal and one is not NoneType]
    # Words that the option itself has are all its values, because no Literal can list a computed tuple.
    types = [] if option.words else types
    return dataclasses.replace(option, words=option.words or words, type=types[0] if types else None)


_HEADINGS = {
    "read": "input",
    "model": "model",
    "load": "loading",
    "predict": "labelling",
    "write": "output",
    "budget": "failures",
    "launch": "launching",
}
_SECTIONS = {name: getattr(RunConfig(), name) for name in _HEADINGS}
# Options by name, by the heading of their section.
OPTIONS_BY_HEADING = {_HEADINGS[name]: _options_of(section) for name, section in _SECTIONS.items()}
RUN_OPTIONS = {name: one for section in OPTIONS_BY_HEADING.values() for name, one in section.items()}


def load_config(path: str | None, flags: Mapping[str, Any], beam_flags: Sequence[str] = ()) -> RunConfig:
    """Make a run's configuration from a YAML file, if any, and flags by name; flags win.

    Raises:
      UserError: A key is unknown, or a value is not allowed.
    """
    from_file = _read_yaml(path) if path else {}
    file_beam_flags = _beam_flags(path, from_file.pop(BEAM, None) or {})
    # The file's come first, because Beam takes the last of two equal flags.
    return make_config(from_file, f"{path}: ", flags, (*file_beam_flags, *beam_flags))


def make_config(
    values: Mapping[str, Any], source: str, flags: Mapping[str, Any], beam_flags: Sequence[str]
) -> RunConfig:
    """Make a run's configuration from values of a file and flags; flags win.

    Args:
      values: Options by name.
      source: Prefix of these names in errors.
      flags: Options by name, as on the command line.
      beam_flags: Beam's flags.

    Raises:
      UserError: A key is unknown, or a value is not allowed.
    """
    for name in values:
        if name not in RUN_OPTIONS:
            names = [*RUN_OPTIONS, BEAM]
            hint = did_you_mean(name, names)
            raise UserError(f"{source}unknown key {name!r}. {hint}Known keys: {', '.join(sorted(names))}.")
    values = {
        **{name: RUN_OPTIONS[name].parse(f"{source}{name}", raw) for name, raw in values.items()},
        **parse_flags(flags),
    }
    sections = {
        name: dataclasses.replace(default, **{n: values[n] for n in _options_of(default) if n in values})
        for name, default in _SECTIONS.items()
    }
    return RunConfig(**sections, beam_flags=tuple(beam_flags))


def parse_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Parse options of the command line, by name.

    Raises:
      UserError: A value is not allowed.
    """
    return {name: RUN_OPTIONS[name].parse(f"--{name}", raw) for name, raw in flags.items()}


def require_options(config: RunConfig) -> None:
    """Check that all required options are set.

    Apart from `load_config`, because unknown flags are reported first: a misspelt `--input` is missing, too.

    Raises:
      UserError: One is missing.
    """
    values = config.as_dict()
    for name in ("input", "output", "model"):
        if not values[name]:
            raise UserError(f"--{name} is missing: {RUN_OPTIONS[name].help}.")


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        # `safe_load`, because a plain load would run code that a file from elsewhere may hold.
        document = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"--config={path!r} cannot be read: {describe_error(e)}. Check its name.") from e
    except yaml.YAMLError as e:
        raise UserError(f"--config={path!r} is not YAML: {_yaml_fault(e)}.") from e
    if not isinstance(document, dict):
        raise UserError(f"--config={path!r} must hold `key: value` lines; it holds {document!r:.100}.")
    return {str(key): value for key, value in document.items() if value is not None}


def _yaml_fault(error: yaml.YAMLError) -> str:
    """Describe a fault without the excerpt of the file, which takes several lines."""
    if not isinstance(error, yaml.MarkedYAMLError) or not error.problem_mark:
        return " ".join(str(error).split())
    mark = error.problem_mark
    words = ", ".join(filter(None, (error.context, error.problem)))
    return f"{words}, line {mark.line + 1}, column {mark.column + 1}"


def did_you_mean(name: str, names: Iterable[str], dashes: str = "") -> str:
    """Return a question with the name that is most similar to a misspelt one; empty if none is similar."""
    close = difflib.get_close_matches(name, names, 1)
    return f"Did you mean {dashes}{close[0]}? " if close else ""


def _beam_flags(path: str | None, beam: Any) -> list[str]:
    """Turn the mapping `beam` into flags: true is a bare flag, false `--no_…`, a list repeats."""
    if not isinstance(beam, dict):
        raise UserError(f"{path}: {BEAM}={beam!r} is not allowed: it must map Beam's options to values.")
    flags = []
    for name, value in beam.items():
        # Booleans apart, because Beam's switches take no value.
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no_{name}")
        else:
            flags += [f"--{name}={one}" for one in (value if isinstance(value, list) else [value])]
    return flags
