"""Outcomes: the outputs of a step that can fail, and how a DoFn yields them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, get_origin

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

import labelbeam.transforms.coders  # noqa: F401  (registers the coders)
from labelbeam.transforms.elements import Failure, Unchanged
from labelbeam.transforms.notes import Notes


class Outcomes(NamedTuple):
    """The outputs of a step that can fail.

    Attributes:
      ok: Results.
      failures: `Failure`, one for each element without a result.
    """

    ok: beam.PCollection
    failures: beam.PCollection


# Output of a DoFn under `par_do` by type of element; elements of other types go to `ok`.
_OUTPUTS: dict[type, str] = {
    Failure: "failures",
    Unchanged: "unchanged",
    Notes: "notes",
    tuple: "counts",
    str: "stale_ids",
}


def to_output(element: Any, is_last: bool = False) -> Any:
    """Return the value that a DoFn under `par_do` yields for an element.

    Args:
      element: The element.
      is_last: Whether `finish_bundle` yields the element. Beam takes windowed values alone from there,
        because no input element is at hand whose window the element could inherit.
    """
    yielded = GlobalWindows.windowed_value(element) if is_last else element
    tag = _OUTPUTS.get(type(element))
    return beam.pvalue.TaggedOutput(tag, yielded) if tag else yielded


class NotingFn(beam.DoFn):
    """A DoFn under `par_do` that adds to `self.notes`, and yields them once a bundle."""

    def start_bundle(self) -> None:
        # One value a bundle, because a note for each file that is left out would be as many elements as rows.
        self.notes = Notes()

    def finish_bundle(self) -> Iterator:
        if self.notes:
            yield to_output(self.notes, is_last=True)


def par_do(
    label: str, elements: beam.PCollection, fn: beam.DoFn, ok: type, *others: Any, side_input: Any = None
) -> dict[str, beam.PCollection]:
    """Apply a DoFn with several outputs.

    Args:
      label: Label of the transform.
      elements: Input.
      fn: A DoFn that yields values of `to_output`.
      ok: Type of the results.
      others: Types of the further outputs; by default `Failure`.
      side_input: Further argument of the DoFn, if it takes one.

    Returns:
      The outputs by name, `ok` first.
    """
    # Typed, because Beam would otherwise pickle the elements, and could not choose the registered coders.
    types = {"ok": ok} | {_OUTPUTS[get_origin(other) or other]: other for other in others or (Failure,)}
    _, *tags = types
    arguments = () if side_input is None else (side_input,)
    outputs = elements | label >> beam.ParDo(fn, *arguments).with_outputs(*tags, main="ok")
    for name, element_type in types.items():
        outputs[name].element_type = element_type
    return {name: outputs[name] for name in types}


def par_do_each(
    label: str, collections: tuple[beam.PCollection, ...], fn: beam.DoFn, kind: Any
) -> beam.PCollection:
    """Apply a DoFn to each of several collections, and return all results in one."""
    # Each collection by itself, because a flatten before the DoFn would break fusion on some runners, and
    # failures would wait behind it.
    return [
        elements | f"{label}{n}" >> beam.ParDo(fn).with_output_types(kind)
        for n, elements in enumerate(collections)
    ] | beam.Flatten()
