"""The summary at the end of a run, from manifests made by hand."""

import dataclasses

import pytest

from labelbeam.pipeline.report.summary import summarise, verdict
from labelbeam.transforms.budget import FailureBudget
from labelbeam.transforms.count import COUNTERS
from labelbeam.transforms.table.manifest import FailureExample, TopLabel
from tests.results import manifest_of


@pytest.mark.parametrize(
    ("counts", "first_line"),
    [
        ({"listed": 1, "labelled": 1}, "Labelled 1 of 1 image in 2.0 s (0.5 images/s, start-up included)"),
        (
            {"listed": 10, "labelled": 7, "failed": 3},
            "Labelled 7 of 10 images in 2.0 s (5.0 images/s, start-up included); 3 failed",
        ),
        ({"listed": 10, "failed": 10}, "Labelled 0 of 10 images in 2.0 s; 10 failed, 0 listed twice."),
        (
            {"listed": 5, "kept": 5},
            "Labelled 0 of 5 images in 2.0 s; 0 failed, 0 listed twice; 5 were done before.",
        ),
        ({"listed": 0}, "Labelled 0 of 0 images in 2.0 s; 0 failed"),
    ],
)
def test_summarise__counts__are_in_plain_words(counts, first_line):
    assert summarise(manifest_of(**counts), "out", 2.0).split("\n")[0].startswith(first_line)


CLAUSES = {
    "kept": "1,234 were done before",
    "other": "1,234 more are in the tables",
    "other_uri": "1,234 were done under another URI and labelled again",
    "unchecked": "1,234 could not be checked for changes",
    "reused": "1,234 took the labels of another image of the same bytes",
}


@pytest.mark.parametrize("kind", COUNTERS)
def test_summarise__each_count__is_named_only_if_there_is_something_to_count(kind):
    for count in (0, 1234):
        first = summarise(manifest_of(**{kind: count}), "out", 1.0).split("\n")[0]
        assert [name for name, clause in CLAUSES.items() if clause in first] == [kind] * (
            count > 0 and kind in CLAUSES
        )


@pytest.mark.parametrize(("rows", "named"), [(7, False), (8, True)])
def test_summarise__rows_of_other_runs__are_named_in_the_headings(rows, named):
    tables = {"predictions": rows - 2, "failures": 2}
    text = summarise(manifest_of({"timeout": 2}, rows=tables, labelled=5, failed=2), "out", 1.0)
    assert ("Top labels in the tables\n" in text) == ("Failures by reason in the tables\n" in text) == named


@pytest.mark.parametrize("entries", [0, 1, 5, 6])
def test_summarise__long_lists__are_cut_after_five(entries):
    names = [f"name {n}" for n in range(entries)]
    manifest = dataclasses.replace(
        manifest_of(listed=9, labelled=9),
        top_labels=tuple(TopLabel(n, name, 9) for n, name in enumerate(names)),
        left_out=dict.fromkeys(names, 1000),
    )
    lines = summarise(manifest, "out", 1.0).split("\n")
    assert [line for line in lines if line.startswith("          9  name")] == [
        f"          9  {name}" for name in names[:5]
    ]
    left_out = ", ".join(f"1,000 {name}" for name in names[:5]) + ", ..." * (entries > 5)
    assert (f"Left out of the input: {left_out}." in lines) == (entries > 0)


@pytest.mark.parametrize(("count", "verb"), [(1, "1 value is"), (2, "2 values are"), (1000, "1,000 values")])
def test_summarise__values_of_another_type__are_counted_with_an_example(count, verb):
    unparsed = {"price": {"count": count, "examples": ["cheap", "dear"]}}
    text = summarise(dataclasses.replace(manifest_of(listed=1), unparsed=unparsed), "out", 1.0)
    assert f"\nprice: {verb} " in text and "such as 'cheap'." in text


@pytest.mark.parametrize(("extra", "cut"), [(0, ""), (1, "...")])
def test_summarise__example_at_the_longest_line__is_cut_beyond_it(extra, cut):
    example = FailureExample("u" * (185 + extra), "m")
    lines = summarise(manifest_of({"empty_file": 1}, {"empty_file": example}, failed=1), "out", 1.0).split(
        "\n"
    )
    (line,) = [line for line in lines if "uuu" in line]
    assert len(line) == len("          1  ") + 200 + len(cut) and line.endswith(cut or ": m")


@pytest.mark.parametrize("listed", [0, 1])
def test_summarise__input_without_rows__is_a_warning(listed):
    text = summarise(manifest_of(listed=listed, kept=listed), "out", 1.0)
    assert ("\nWarning: the input has no rows." in text) == (listed == 0)


def test_summarise__doubts_about_the_model__are_warnings():
    manifest = manifest_of(listed=1, labelled=1)
    text = summarise(dataclasses.replace(manifest, model={"doubts": ["one", "two"]}), "out", 1.0)
    assert "\n\nWarning: one\nWarning: two\n" in text and "Warning" not in summarise(manifest, "out", 1.0)


@pytest.mark.parametrize(
    ("uris", "text"),
    [
        (["a.tar"], "\nWarning: 1 file could not be read to the end, a.tar, so"),
        (["a.tar", "b.tar"], "\nWarning: 2 files could not be read to the end, such as a.tar, so"),
    ],
)
def test_summarise__files_whose_rest_is_not_read__are_a_warning(uris, text):
    manifest = dataclasses.replace(manifest_of(listed=1, labelled=1), unread=dict.fromkeys(uris, 1))
    assert text in summarise(manifest, "out", 1.0)


def test_verdict__counts_that_do_not_balance__are_reported_before_failures():
    manifest = manifest_of({"timeout": 3}, listed=3, failed=3)
    unbalanced = verdict(dataclasses.replace(manifest, balanced=False), FailureBudget(0.0))
    assert unbalanced.startswith("The run does not balance: {") and "'failures': 3" in unbalanced
    assert verdict(manifest, FailureBudget(0.0)).startswith("3 of 3 images failed")


def test_summarise__files__are_counted_correctly():
    text = summarise(manifest_of(listed=3, labelled=1, failed=2), "out", 1.0)
    assert "out/predictions  1 row in 1 Parquet file, 0.01 MB" in text
    assert "out/failures  2 rows in 1 Parquet file, 0.01 MB" in text
    assert "\n\nResults (generation 1)\n  out/predictions" in text and text.endswith("\n  out/manifest.json")


def test_summarise__failures__have_an_example_for_each_reason():
    examples = {
        "timeout": FailureExample("http://h/a.jpg", "took longer than 60 s"),
        "not_found": FailureExample("gs://b/0.jpg", "gs://b/0.jpg: no such object"),
        "bad_row": FailureExample("x" * 250, "has no uri"),
        "bad_uri": FailureExample("a.jpg", "/in/a.jpg is no ordinary file"),
    }
    reasons = {"timeout": 2, "not_found": 1, "bad_row": 1, "bad_uri": 1, "unsupported": 1}
    lines = summarise(manifest_of(reasons, examples, listed=5, failed=5), "out", 1.0).split("\n")
    start = lines.index("Failures by reason") + 1
    assert lines[start : start + 5] == [
        "          2  timeout      http://h/a.jpg: took longer than 60 s",
        "          1  not_found    gs://b/0.jpg: no such object",
        f"          1  bad_row      {'x' * 187}...",
        "          1  bad_uri      /in/a.jpg is no ordinary file",
        "          1  unsupported",
    ]


def test_summarise__labels_that_are_numbers__gives_the_remedies():
    manifest = manifest_of(label="class 1", listed=2, labelled=2)
    names, features = "no label map. Run again with --replace and --labels FILE.", "--outputs embedding."
    text = summarise(dataclasses.replace(manifest, model={"outputs": "logits"}), "out", 1.0)
    assert names in text and features in text
    text = summarise(dataclasses.replace(manifest, model={"outputs": "probabilities"}), "out", 1.0)
    assert names in text and features not in text
    assert "label map" not in summarise(manifest_of(listed=2, labelled=2), "out", 1.0)


@pytest.mark.parametrize(("other", "expected"), [(0, None), (1, "1 row of the tables is"), (2, "2 rows of")])
def test_verdict__failures_over_budget__name_rows_of_other_inputs_and_the_remedy(other, expected):
    rows = {"predictions": 6, "failures": 3}
    manifest = manifest_of({"not_found": 3}, rows=rows, listed=6, labelled=3, other=other)
    text = verdict(manifest, FailureBudget(max_rate=0.1))
    assert "3 of 9 images failed" in text
    assert ("--replace" in text) == bool(expected) and (expected or "") in text
    assert "--replace" not in verdict(manifest, FailureBudget(max_rate=0.1), is_rerun=True)
    assert verdict(manifest, FailureBudget(max_rate=0.5)) is None
