"""Properties that all commands over results have in common."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.results.settings import find_differences
from labelbeam.pipeline.results.truth import TruthOptions
from labelbeam.transforms.models.labels import imagenet_labels
from labelbeam.transforms.table.folder import read_manifest
from tests.pairs import difference_of
from tests.tables import Settings, publish_rows

CLASSES = ("zero", "one", "two", "three", "four", "five")
# Commands with each option that names a file to write; {} is the table folder.
WRITTEN = [
    ["evaluate", "{}", "--truth=truth", "--json"],
    ["evaluate", "{}", "--truth=truth", "--parquet"],
    ["report", "{}", "--page"],
    ["diff", "{}", "{}", "--json"],
    ["diff", "{}", "{}", "--page"],
    ["select", "{}", "--by=random", "--number=1", "--format=csv", "--to"],
    ["export", "{}", "--format=csv", "--to"],
    ["calibrate", "{}", "--truth=truth", "--calibration"],
]
# Names that statements use for columns, views and parameters of lambdas.
NAMES = (
    "one",
    "l",
    "p",
    "number",
    "element",
    "value",
    "key",
    "hash",
    "rank",
    "place",
    "choice",
    "ids",
)
NAMES += ("a_ids", "values", "image", "next", "bin", "images", "class_id", "positive", "predictions", "ranks")


@pytest.fixture
def output(tmp_path):
    rng = np.random.default_rng(1)
    rows = []
    for n in range(40):
        scores = sorted(rng.dirichlet(np.ones(6)).astype(np.float32).tolist(), reverse=True)
        labels = list(zip(map(int, rng.permutation(6)), scores, strict=True))[:3]
        rows.append({"id": f"i{n}", "labels": labels, "truth": CLASSES[n % 6]})
    return publish_rows(tmp_path / "out", Settings(CLASSES, top_k=3, columns={"truth": "string"}), rows)


@pytest.mark.parametrize("command", WRITTEN, ids=lambda command: f"{command[0]} {command[-1]}")
@pytest.mark.parametrize("place", ["manifest.json", "predictions/x", "LINK/failures/x", "_staging/x"])
def test_written_file__among_those_of_the_tables__is_refused_before_the_work(
    output, tmp_path, capsys, command, place
):
    (tmp_path / "link").symlink_to(output)
    path = f"{tmp_path}/link/{place[5:]}" if place.startswith("LINK") else f"{output}/{place}"
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    *given, option = (word.format(output) for word in command)
    assert main([*given, f"{option}={path}"]) == 2
    error = capsys.readouterr().err
    assert f"{option}={path!r} is a place of the tables' own files." in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_report__working_folder_of_the_tables__is_refused(output, capsys, monkeypatch):
    monkeypatch.chdir(output / "predictions")
    assert main(["report", str(output)]) == 2
    assert "--page='out-report.html' is a place of the tables' own files." in capsys.readouterr().err
    assert not list(output.rglob("*.html"))


@pytest.mark.parametrize("command", WRITTEN, ids=lambda command: f"{command[0]} {command[-1]}")
def test_show_sql__any_command__writes_no_file(output, tmp_path, capsys, command):
    before = sorted(tmp_path.rglob("*"))
    *given, option = (word.format(output) for word in command)
    assert main([*given, f"{option}={tmp_path}/written", "--show_sql"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "CREATE VIEW" in capsys.readouterr().out


@pytest.mark.parametrize("head", ["single_label", "multilabel"])
@pytest.mark.parametrize("kind", ["string", "int64"])
def test_own_columns__of_names_that_statements_use__change_no_result(output, tmp_path, head, kind):
    rows = pq.read_table(output / "predictions").to_pylist()
    rows = [
        {
            "id": row["id"],
            "truth": row["truth"],
            "labels": [(x["class_id"], x["score"]) for x in row["labels"]],
        }
        for row in rows
    ]
    settings = Settings(CLASSES, head, 3, 0.0 if head == "multilabel" else None, {"truth": "string"})
    hostile = dataclasses.replace(settings, columns={"truth": "string"} | dict.fromkeys(NAMES, kind))
    more = [row | dict.fromkeys(NAMES, "fox" if kind == "string" else 1) for row in rows]
    plain = publish_rows(tmp_path / "plain", settings, rows)
    other = publish_rows(tmp_path / "hostile", hostile, more)
    for by in ("margin", "entropy", "score"):
        ids = []
        for folder in (plain, other):
            to = tmp_path / f"{folder.name}-{by}.jsonl"
            assert (
                main(["select", str(folder), f"--by={by}", "--number=9", "--format=jsonl", f"--to={to}"]) == 0
            )
            ids.append([json.loads(line)["id"] for line in to.read_text().splitlines()])
        assert ids[0] == ids[1]
    for form in ("labelstudio", "fiftyone", "uris"):
        uris = [row | {"uri": f"/photos/{row['id']}.jpg"} for row in more]
        folder = publish_rows(tmp_path / f"local-{form}", hostile, uris)
        to = f"--to={tmp_path}/{form}"
        assert main(["select", str(folder), "--by=score", "--number=9", f"--format={form}", to]) == 0
    assert main(["report", str(other), "--truth=truth", f"--page={tmp_path}/r.html"]) == 0
    assert main(["export", str(other), "--format=jsonl", f"--to={tmp_path}/e.jsonl"]) == 0
    found = difference_of(plain, other)
    assert found.labels.same.value == 1 and not found.labels.changed


def test_diff__models_of_other_class_lists__judge_classes_of_equal_names_right(tmp_path):
    labels = imagenet_labels()
    cranes, synset = [n for n, label in enumerate(labels) if label == "crane"], "n03126707"
    settings = Settings(labels, columns={"truth": "string"})
    background = Settings(("background", *labels), columns={"truth": "string"}, model="model-2")
    for truth in (synset, str(cranes[1]), "crane"):
        rows = [{"id": "a", "labels": [(cranes[1], 0.9)], "truth": truth}]
        a = publish_rows(tmp_path / truth / "a", settings, rows)
        b = publish_rows(tmp_path / truth / "b", background, [rows[0] | {"labels": [(cranes[1] + 1, 0.9)]}])
        verdict = difference_of(a, b, TruthOptions("truth")).verdict
        assert (verdict.both, verdict.only_a, verdict.only_b, verdict.neither) == (1, 0, 0, 0), truth


def test_disagreement__names_that_differ_in_writing__are_the_same(tmp_path):
    rows = [{"id": "a", "labels": [(0, 0.9)]}, {"id": "b", "labels": [(1, 0.9)]}]
    a = publish_rows(tmp_path / "a", Settings(("tabby cat", "dog")), rows)
    b = publish_rows(tmp_path / "b", Settings(("Tabby_Cat", "fox", "dog"), model="model-2"), rows)
    to = tmp_path / "s.csv"
    given = ["--by=disagreement", f"--other={b}", "--number=9", "--format=csv", f"--to={to}"]
    assert main(["select", str(a), *given]) == 0
    assert len(to.read_text().splitlines()) == 2


def test_uris__name_with_a_line_break__is_refused(tmp_path, capsys):
    rows = [{"id": "a", "uri": "/a\nb.jpg", "labels": [(0, 0.9)]}]
    a = publish_rows(tmp_path / "a", Settings(CLASSES), rows)
    given = ["--by=random", "--number=9", "--format=uris", f"--to={tmp_path}/s.txt"]
    assert main(["select", str(a), *given]) == 2
    assert r"'/a\nb.jpg' has a line break. Give --format csv or jsonl." in capsys.readouterr().err


def test_settings__options_of_the_command_alone__make_no_difference(output):
    manifest = read_manifest(str(output))
    other = dataclasses.replace(
        manifest, config={**manifest.config, "metrics_file": "m.prom", "no_wait": True}
    )
    assert find_differences(manifest, other) == ()


def test_parquet__classes_without_some_values__have_all_types(output, tmp_path):
    assert main(["evaluate", str(output), "--truth=truth", f"--parquet={tmp_path}/e.parquet"]) == 0
    schema = pq.read_schema(tmp_path / "e.parquet")
    assert schema.field("average_precision").type == pa.float64()
    assert schema.field("precision").type.field("low").type == pa.float64()
