"""Arguments of `label`: names, ranges and types. The ranges are those of the command's options."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from labelbeam.pipeline.config import RUN_OPTIONS, did_you_mean
from labelbeam.pipeline.headers import parse_headers
from labelbeam.transforms.models.spec import ModelOptions
from labelbeam.transforms.sources import HttpSettings, Limits, Manners

StrPath = str | os.PathLike[str]

# Names of the further arguments that `label` accepts.
_OF_MODELS = [field.name for field in dataclasses.fields(ModelOptions)]
# Arguments that may be None.
_OPTIONAL = {"batch_size", "calibration", *_OF_MODELS} - {"model"}
# Fields of `Limits`: the option with the same range, and the unit of the field in units of the option.
_OF_LIMITS = {
    "total_timeout_sec": ("image_timeout_sec", 1.0),
    "max_bytes": ("max_image_mb", 1e-6),
    "connections": ("fetch_threads", 1),
}
# Arguments that are fields of `Limits`, or options in place of these, and the way to give them.
_WITHIN_LIMITS = {
    **{field.name: f"Limits({field.name}=…)" for field in dataclasses.fields(Limits)},
    **{option: f"Limits({field}=…)" for field, (option, _) in _OF_LIMITS.items()},
    **{field.name: f"Limits(manners=Manners({field.name}=…))" for field in dataclasses.fields(Manners)},
    **{
        field.name: f"Limits(http=HttpSettings({field.name}=…))" for field in dataclasses.fields(HttpSettings)
    },
}


def check_arguments(
    values: Mapping[str, Any], limits: Limits, options: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Check arguments of `label`.

    Args:
      values: Arguments that are options of the command, by name.
      limits: Limits of one request.
      options: Further options of the model.

    Returns:
      The values in their order, and the options, parsed as on the command line.

    Raises:
      TypeError: There is no such option of a model.
      UserError: A value is out of range.
    """
    for name in options:
        if name in _WITHIN_LIMITS:
            raise TypeError(f"label() has no argument {name!r}. Give limits={_WITHIN_LIMITS[name]}.")
        if name not in _OF_MODELS:
            hint = did_you_mean(name, (*_OF_MODELS, *values, "images", "limits"))
            raise TypeError(f"label() has no argument {name!r}. {hint}See help(labelbeam.label).")
    for field, (option, unit) in _OF_LIMITS.items():
        # Multiplied with a whole number for counts, because the option's parser refuses 32.0.
        RUN_OPTIONS[option].parse(f"limits.{field} ({option})", getattr(limits, field) * unit)
    if limits.http.user_agent is not None:
        RUN_OPTIONS["user_agent"].parse("limits.http.user_agent", limits.http.user_agent)
    parse_headers(dict(limits.http.headers))
    return list(_parsed(values).values()), _parsed(options)


def _parsed(values: Mapping[str, Any]) -> dict[str, Any]:
    paths = {name: os.fspath(value) for name, value in values.items() if isinstance(value, os.PathLike)}
    return {
        name: None if value is None and name in _OPTIONAL else RUN_OPTIONS[name].parse(name, value)
        for name, value in {**values, **paths}.items()
    }


def check_images(images: StrPath | Iterable[StrPath]) -> StrPath | list[str]:
    """Return a path or URI as it is, and several as a list of texts.

    Raises:
      TypeError: An image is no path or URI.
    """
    if isinstance(images, str | os.PathLike):
        return images
    if isinstance(images, bytes) or not isinstance(images, Iterable):
        raise _no_path("images", images)
    # All before the model is loaded, because a mistake in the last one would otherwise cost the whole time.
    return list(_uris(images))


def _uris(images: Iterable[Any]) -> Iterator[str]:
    for n, image in enumerate(images):
        uri = os.fspath(image) if isinstance(image, os.PathLike) else image
        if not isinstance(uri, str):
            raise _no_path(f"images[{n}]", uri)
        yield uri


def _no_path(name: str, value: Any) -> TypeError:
    remedy = "Decode it with os.fsdecode" if isinstance(value, bytes) else "Give a str or a pathlib.Path"
    return TypeError(f"label(): {name} is {value!r:.100}, of type {type(value).__name__}. {remedy}.")
