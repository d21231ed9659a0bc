"""Charts as inline SVG, of Vega-Lite specifications; colours are variables of the page's style."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import vl_convert
from markupsafe import Markup

from labelbeam.pipeline.results import evaluation
from labelbeam.pipeline.results.histogram import Bin

# Size of a chart, px. A phone of 380 px shows it in full size, because small letters would shrink with it.
WIDTH, HEIGHT = 320, 190
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
_AXIS = {
    **{"labelColor": "var(--quiet)", "titleColor": "var(--quiet)", "domainColor": "var(--strong-line)"},
    **{"tickColor": "var(--strong-line)", "gridColor": "var(--line)", "labelFontSize": 11},
    **{"titleFontSize": 11, "titleFontWeight": "normal", "titlePadding": 8, "tickCount": 5, "tickSize": 4},
}
# The size is of the whole chart, because charts side by side would otherwise differ by their labels.
_FIT = {"type": "fit", "contains": "padding"}
# `aria` is off, because the chart as a whole has a text, and its numbers are in a table.
_CONFIG = {"aria": False, "view": {"stroke": None}, "axis": _AXIS, "axisY": {"domain": False, "ticks": False}}
# Numbers of images. Not as `format`, because that has one unit for all ticks: 0k, 0.5k, 1k.
_IMAGES = {"labelExpr": "format(datum.value, '~s')"}


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, and its numbers as a table.

    Attributes:
      title: Heading.
      summary: Description for readers who can't see the chart.
      svg: The picture.
      columns: Headings of the table of numbers, with their classes, as the macro `table` takes them.
      rows: Cells of this table.
    """

    title: str
    summary: str
    svg: Markup
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, ...], ...]


def draw(spec: Mapping[str, Any], summary: str) -> Markup:
    """Return a Vega-Lite chart as an SVG element that scales with its box."""
    svg = vl_convert.vegalite_to_svg(
        {"$schema": _SCHEMA, "background": None, "config": _CONFIG, "padding": 2, "autosize": _FIT, **spec}
    )
    size = re.search(r'width="([\d.]+)" height="[\d.]+" (viewBox="[^"]*")', svg)
    assert size, svg[:200]
    # Without the size, because the style sets it; without roles inside, because the picture is one thing.
    inside = re.sub(r' (?:role|aria-\w+|font-family)="[^"]*"', "", svg[svg.index(">") + 1 :])
    label = Markup.escape(summary)
    # Safe, because the library escapes texts, and a specification has no addresses.
    return Markup(
        f'<svg role="img" aria-label="{label}" {size[2]} style="max-inline-size:{size[1]}px">{inside}'
    )


def histogram(
    title: str,
    bins: Sequence[Bin],
    axis: str,
    *,
    ticks: Mapping[float, str] | None = None,
    height: int = HEIGHT,
    digits: int = 2,
) -> Chart:
    """Return a histogram of images.

    Args:
      title: Heading of the chart.
      bins: Bars, ascending.
      axis: Name and unit of the values.
      ticks: Names of the edges of bins; by default the edges are numbers.
      height: Height of the chart, px.
      digits: Digits of edges in the table of numbers.
    """
    name = (ticks or {}).get
    edges = [(name(b.low) or f"{b.low:.{digits}f}", name(b.high) or f"{b.high:.{digits}f}") for b in bins]
    total, most = sum(b.images for b in bins), max((b.images for b in bins), default=0)
    summary = f"Histogram of {total:,} images by {axis}"
    if most:
        low, high = edges[[b.images for b in bins].index(most)]
        summary += f"; most, {most:,}, are from {low} to {high}"
    # By position where edges have names, because their steps differ.
    places = {b.low: n for n, b in enumerate(bins)} if ticks else None
    x: dict[str, Any] = {"field": "low", "type": "quantitative", "title": axis, "axis": {"grid": False}}
    if places is not None and bins:
        last = len(bins)
        names = [name(b.low, "") for b in bins] + [name(bins[-1].high, "")]
        x["scale"] = {"domain": [0, last], "nice": False}
        x["axis"] = {
            **{"grid": False, "values": [n for n in range(last + 1) if names[n]]},
            **{
                "labelExpr": f"{json.dumps(names)}[datum.value]",
                "labelOverlap": "greedy",
                "labelFlush": False,
            },
        }
    elif bins:
        x["scale"] = {"domain": [bins[0].low, bins[-1].high], "nice": False}
    values = [
        {
            "low": b.low if places is None else n,
            "high": b.high if places is None else n + 1,
            "images": b.images,
        }
        for n, b in enumerate(bins)
    ]
    spec = {
        **{"width": WIDTH, "height": height, "data": {"values": values}},
        "mark": {"type": "bar", "color": "var(--bar)", "binSpacing": 1},
        "encoding": {
            "x": {**x, "bin": "binned"},
            "x2": {"field": "high"},
            "y": {"field": "images", "type": "quantitative", "title": None, **_count_axis(most)},
        },
    }
    rows = tuple((low, high, f"{b.images:,}") for (low, high), b in zip(edges, bins, strict=True))
    return Chart(title, summary, draw(spec, summary), numbers("from", "to below", "images"), rows)


def _count_axis(most: int) -> dict[str, Any]:
    """Return an axis from 0 to a number of images, with whole numbers at its ticks."""
    # Computed here, because Vega divides small numbers of images into halves.
    power = 10 ** max(0, len(str(most)) - 2)
    step = next(n * power for n in (1, 2, 5, 10, 20, 50) if 4 * n * power >= most)
    return {
        "scale": {"domain": [0, max(1, most)], "nice": False},
        "axis": {**_IMAGES, "values": list(range(0, most + 1, step))},
    }


def numbers(*headings: str) -> tuple[tuple[str, str], ...]:
    """Return headings of columns of numbers, with their class."""
    return tuple((heading, "number") for heading in headings)


def reliability(bins: Sequence[evaluation.Bin], title: str = "Reliability") -> Chart:
    """Return a reliability diagram: scores against the share of labels that are right."""
    values = [{"score": b.score, "accuracy": b.accuracy, "labels": b.labels} for b in bins]
    unit = {"domain": [0, 1], "nice": False}
    x = {"type": "quantitative", "scale": unit, "title": "mean score"}
    y = {"type": "quantitative", "scale": unit, "title": "share that is right"}
    size = {"field": "labels", "type": "quantitative", "legend": None, "scale": {"range": [20, 260]}}
    ideal = {"values": [{"score": 0, "accuracy": 0}, {"score": 1, "accuracy": 1}]}
    dots: dict[str, Any] = {"x": {"field": "score", **x}, "y": {"field": "accuracy", **y}}
    spec = {
        **{"width": WIDTH, "height": WIDTH - 20, "data": {"values": values}},
        "layer": [
            {
                "data": ideal,
                "mark": {
                    "type": "line",
                    "color": "var(--strong-line)",
                    "strokeDash": [4, 3],
                    "strokeWidth": 1,
                },
                "encoding": dots,
            },
            # The gap, because it is the error of the calibration.
            {
                "mark": {"type": "rule", "color": "var(--mark)", "strokeWidth": 1.5},
                "encoding": {**dots, "y2": {"field": "score"}},
            },
            {
                "mark": {"type": "circle", "color": "var(--bar)", "opacity": 1},
                "encoding": {**dots, "size": size},
            },
        ],
    }
    summary = f"Share of labels that are right by their score, in {len(bins)} ranges of scores"
    rows = tuple(
        (f"{b.low:.2f}", f"{b.high:.2f}", f"{b.labels:,}", f"{b.score:.3f}", f"{b.accuracy:.3f}")
        for b in bins
    )
    return Chart(
        *(title, summary, draw(spec, summary)),
        numbers("from", "to below", "labels", "mean score", "share that is right"),
        rows,
    )
