"""Commands that the end of a run names, from manifests made by hand."""

import dataclasses
import re
import shlex

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.cli import _parser
from labelbeam.pipeline.report.next_steps import _FOLDER, are_classes, find_truth_column, next_steps
from labelbeam.pipeline.results.truth import FOLDER
from labelbeam.transforms.models.labels import imagenet_labels
from labelbeam.transforms.table.manifest import FailureExample
from tests.results import LABELLED_WITH, manifest_of

FAILURES = {"timeout": 2, "rate_limited": 1, "not_found": 1, "tls_error": 1, "truncated": 1}


def commands_of(manifest, output="out") -> list[str]:
    """Return the commands that are named, without their purposes."""
    lines = next_steps(manifest, output).split("\n")
    return [line.split("  # ")[0].strip() for line in lines if line.startswith("  labelbeam ")]


@pytest.mark.parametrize(
    "column",
    [
        *("label", "Label", "LABELS", "class", "class_id", "className", "category", "truth", "ground_truth"),
        *("groundtruth", "groundTruth", "GT", "target", "expected", "expected_class", "y", "y_true", "Y"),
        *("true-label", "human label", "input_label", "input_labels", "image_class", "annotation"),
    ],
)
def test_find_truth_column__name_of_a_class__is_a_truth(column):
    assert find_truth_column({"camera": "string", column: "string"}) == column


@pytest.mark.parametrize(
    "column",
    [
        *(
            "camera",
            "price",
            "id",
            "name",
            "image_id",
            "label_source",
            "price_category",
            "labeller",
            "class_size",
        ),
        *("targets_hit", "days", "year", "xy", "expected_price", "input_uri", "", "…", "label_2"),
    ],
)
def test_find_truth_column__another_name__is_none(column):
    assert find_truth_column({column: "string"}) is None


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        *(("string", True), ("large_string", True), ("int8", True), ("int64", True), ("uint16", True)),
        *(("bool", True), ("double", False), ("date32[day]", False), ("timestamp[us]", False)),
        ("decimal128(9, 2)", False),
    ],
)
def test_find_truth_column__type_that_no_class_has__is_none(kind, fits):
    assert (find_truth_column({"target": kind}) == "target") == fits


def test_find_truth_column__several__is_the_first():
    assert find_truth_column({"a": "string", "target": "double", "y": "int64", "label": "string"}) == "y"


@pytest.mark.parametrize(
    ("folders", "fits"),
    [
        (["cat", "dog"], True),
        (["Cat", "sea_snake"], True),
        (["cat", "dog", "misc"], True),
        (["cat", "train", "test"], False),
        (["cat", "misc"], False),
        (["cat"], False),
        ([], False),
        (["2019", "2020"], False),
    ],
)
def test_are_classes__folders__most_have_the_names_of_classes(folders, fits):
    assert are_classes(folders, ["dog", "cat", "sea snake"]) == fits


@pytest.mark.parametrize("folders", [["n01440764", "n01443537"], ["Tinca_tinca", "goldfish"]])
@pytest.mark.parametrize("background", [(), ("background",)])
def test_are_classes__folders_of_imagenet__may_be_synsets_and_synonyms(folders, background):
    assert are_classes(folders, [*background, *imagenet_labels()])
    assert not are_classes(folders, ["a", *imagenet_labels()[1:]])


def test_next_steps__name_of_folders__is_that_of_evaluate():
    assert _FOLDER == FOLDER


@pytest.mark.parametrize("pattern", ["{}", "{}/", "{}/*/*.jpg", "{}/*", "{}/[a-z]*/1.jpg", "{}/**"])
def test_next_steps__a_folder_for_each_class__evaluates_by_folder(tmp_path, pattern):
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
    (tmp_path / "in" / "readme.txt").write_text("")
    manifest = manifest_of(listed=2, labelled=2)
    manifest = dataclasses.replace(
        manifest,
        model={"classes": ["dog", "cat"]},
        config={"input": pattern.format(tmp_path / "in")},
    )
    assert commands_of(manifest)[0] == "labelbeam evaluate out --truth folder"
    assert "evaluate" not in next_steps(dataclasses.replace(manifest, model={"classes": ["a", "b"]}), "out")


@pytest.mark.parametrize(
    "input", ["", "nowhere", "nowhere/*", __file__, "gs://b/in", "gs://b/*/1.jpg", "*.txt"]
)
def test_next_steps__input_without_local_folders__has_no_evaluation(input):
    manifest = dataclasses.replace(manifest_of(listed=1, labelled=1), config={"input": input})
    assert commands_of(manifest) == ["labelbeam report out", "labelbeam verify out"]


def test_next_steps__truth_like_column__is_evaluated_if_there_are_labels():
    settings = dataclasses.replace(LABELLED_WITH, columns={"price": "double", "true class": "string"})
    labelled = manifest_of(labelled_with=settings, listed=1, labelled=1)
    assert commands_of(labelled, "my out") == [
        "labelbeam evaluate 'my out' --truth 'true class'",
        "labelbeam report 'my out'",
        "labelbeam verify 'my out'",
    ]
    failed = manifest_of({"not_found": 1}, labelled_with=settings, listed=1, failed=1)
    assert commands_of(failed) == ["labelbeam report out", "labelbeam verify out"]
    embedded = dataclasses.replace(settings, outputs={"embedding": 2})
    assert "evaluate" not in next_steps(manifest_of(labelled_with=embedded, listed=1, labelled=1), "out")
    assert commands_of(manifest_of()) == ["labelbeam verify out"]


def test_next_steps__failures__can_be_looked_at_and_tried_again():
    steps = next_steps(manifest_of(FAILURES, listed=6, failed=6), "out")
    assert "SELECT reason, uri, message FROM 'out/failures/**/*.parquet'" in steps
    assert re.search(r"^  labelbeam rerun out --only timeout,rate_limited +# ", steps, re.M)
    steps = next_steps(manifest_of(listed=1, labelled=1), "out")
    assert "rerun" not in steps and "out/failures" not in steps


def test_next_steps__failures_whose_secrets_are_lost__need_the_input_again():
    examples = {"timeout": FailureExample("https://h/a.jpg?sig=…", "m")}
    manifest = manifest_of({"timeout": 1}, examples, listed=1, failed=1)
    manifest = dataclasses.replace(manifest, config={"input": "my list.txt"})
    assert "labelbeam rerun out --only timeout --input 'my list.txt'" in commands_of(manifest)


def test_next_steps__any_run__are_few_lines():
    settings = dataclasses.replace(LABELLED_WITH, columns={"label": "string"})
    rows = {"predictions": 4, "failures": 6}
    manifest = manifest_of(FAILURES, rows=rows, labelled_with=settings, listed=10, labelled=4, failed=6)
    assert len(next_steps(manifest, "out").strip().split("\n")) <= 10


def test_next_steps__embeddings__a_query_finds_similar_images(tmp_path):
    vectors = {"a": [1.0, 0.0], "b": [-1.0, 0.1], "c": [2.0, 0.1]}
    column = pa.array(list(vectors.values()), pa.list_(pa.float32(), 2))
    (tmp_path / "predictions").mkdir()
    pq.write_table(pa.table({"uri": list(vectors), "embedding": column}), tmp_path / "predictions/1.parquet")
    settings = dataclasses.replace(LABELLED_WITH, outputs={"embedding": 2})
    manifest = manifest_of(labelled_with=settings, listed=3, labelled=3)
    steps = next_steps(manifest, str(tmp_path)).split("\n")
    assert (
        f"  import pyarrow.dataset; pyarrow.dataset.dataset('{tmp_path}/predictions').head(5).to_pylist()"
        in steps
    )
    (query,) = [line for line in steps if line.startswith("  WITH ")]
    assert [uri for uri, _ in duckdb.sql(query).fetchall()] == ["a", "c", "b"]


def test_next_steps__any_run__name_commands_that_exist():
    settings = dataclasses.replace(LABELLED_WITH, columns={"label": "string"})
    commands = commands_of(manifest_of(FAILURES, labelled_with=settings, listed=7, labelled=1, failed=6))
    assert {command.split()[1] for command in commands} == {"evaluate", "report", "rerun", "verify"}
    for command in commands:
        _, unknown = _parser().parse_known_args(shlex.split(command)[1:])
        assert not unknown
