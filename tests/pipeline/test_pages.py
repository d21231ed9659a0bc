"""The frame of pages: formats, texts of others, charts."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("jinja2")

from labelbeam.pipeline.pages import page
from labelbeam.pipeline.pages.charts import histogram
from labelbeam.pipeline.results.histogram import Bin


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (0, 10, "0.0%"),
        (1, 3, "33.3%"),
        (10, 10, "100.0%"),
        (1, 10_000_000, "<0.01%"),
        (1, 1000, "0.10%"),
        (9_999_999, 10_000_000, ">99.9%"),
        (0, 0, "–"),  # noqa: RUF001
    ],
)
def test_share__part_of_a_whole__is_never_rounded_to_none_or_all(part, whole, expected):
    assert page.share(part, whole) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0.000"), (1, "1.000"), (0.99996, ">0.999"), (1e-9, "<0.001"), (0.1234, "0.123"), (None, "–")],  # noqa: RUF001
)
def test_score__value__has_three_digits(value, expected):
    assert page.score(value) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [(0, "0 B"), (999, "999 B"), (1200, "1.2 kB"), (3.4e6, "3.4 MB"), (5e10, "50.0 GB")]
)
def test_file_size__bytes__have_a_unit_that_fits(size, expected):
    assert page.file_size(size) == expected


def test_text__characters_that_turn_the_direction__are_seen():
    # Texts of scripts that are written from the right stay as they are.
    assert page.text("gs://b/\u202egpj.exe \u2067\u05d7\u05ea") == "gs://b/\ufffdgpj.exe \ufffd\u05d7\u05ea"


def test_text__control_characters__are_seen():
    assert page.text("a\0b\n\x7f\x85\udc80") == "a␀b␊␡\ufffd?"


def test_text__too_long__is_cut_in_the_middle():
    cut = page.text("start" + "x" * 5000 + "end")
    assert cut.startswith("start") and cut.endswith("end") and " … " in cut and len(cut) <= 303


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://example.com/a.jpg?size=2&x=%20", "https://example.com/a.jpg?size=2&x=%20"),
        ("HTTP://example.com/ä", "HTTP://example.com/%C3%A4"),
        ('https://example.com/"\n<', "https://example.com/%22%0A%3C"),
        ("https://example.com/a.jpg?sig=…", None),
        ("gs://bucket/a b.jpg", "https://console.cloud.google.com/storage/browser/_details/bucket/a%20b.jpg"),
        ("/data/a.jpg", None),
        ("file:///data/a.jpg", None),
        ("javascript:alert(1)", None),
        ("javascript://x/%0Aalert(1)", None),
        ("data:text/html,x", None),
    ],
)
def test_address__uri__is_a_link_only_if_a_person_can_open_it(uri, expected):
    assert page.address(uri) == expected


@pytest.mark.parametrize("counts", [[], [0, 0], [1, 2, 3], [10_000_000, 0]])
@pytest.mark.parametrize("named", [True, False])
def test_histogram__any_counts__is_a_picture_and_a_table(counts, named):
    bins = [Bin(n / 4, (n + 1) / 4, images) for n, images in enumerate(counts)]
    ticks = {n / 4: f"edge {n}" for n in range(len(counts) + 1)} if named else None
    chart = histogram("Scores", bins, "score", ticks=ticks)
    assert [row[2] for row in chart.rows] == [f"{images:,}" for images in counts]
    svg = ElementTree.fromstring(chart.svg)
    assert svg.get("role") == "img" and svg.get("aria-label") == chart.summary
    # No font files, scripts, links or fixed colours.
    assert not re.search(r"href|url\(|font-family|<script|#[0-9a-f]{3}", chart.svg)


def test_histogram__summary__names_the_largest_bar():
    chart = histogram("Scores", [Bin(0, 0.5, 2), Bin(0.5, 1, 7)], "score")
    assert chart.summary == "Histogram of 9 images by score; most, 7, are from 0.50 to 1.00"
    assert math.isclose(float(re.search(r"max-inline-size:([\d.]+)px", chart.svg)[1]), 330, rel_tol=0.2)
