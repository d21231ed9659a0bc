"""Selection: ranks against plain Python, properties of all criteria, formats, and the command."""

import csv
import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import re
import signal
import threading
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.select import select_images
from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.pipeline.results.database import open_database
from labelbeam.pipeline.results.formats import FORMATS
from labelbeam.pipeline.results.select import CRITERIA, DISAGREEMENT, RANDOM, Selection, SelectOptions, select
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.read import list_rows
from labelbeam.transforms.table.rows import schema_of
from tests.tables import _COMMON, _IMAGE, Settings, publish_files, publish_rows

CLASSES = ("zero", "one", "two", "three")
HEADS = ("single_label", "binary", "multilabel")
THRESHOLD = 0.4


def ranked(output: Path, options: SelectOptions) -> tuple[list[tuple], Selection]:
    """Return id, class id and value of the selected images in their order, and the selection."""
    with open_database() as db:
        selection = select(db, db.attach(str(output)), options)
        rows = db.rows("SELECT * FROM ranks ORDER BY rank")
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    return [(row["id"], row["class_id"], row["value"]) for row in rows], selection


def publish_random(output: Path, head: str, seed: int, n: int = 300, outputs: str = "") -> list[dict]:
    """Publish random labels with many ties, and return the rows."""
    rng = np.random.default_rng(seed)
    # Skewed, so that some classes have few images.
    weights = np.array([5, 2, 1, 0.3]) if head != "binary" else np.array([2, 1])
    classes = CLASSES[: len(weights)]
    rows = []
    for i in range(n):
        if head == "multilabel":
            scores = np.round(rng.random(len(classes)), 1 if i % 2 else 6)
        elif head == "binary":
            p = np.float32(np.round(rng.random(), 1 if i % 2 else 6))
            scores = np.array([1 - p, p])
        else:
            scores = rng.dirichlet(weights) if i % 2 else rng.multinomial(10, weights / weights.sum()) / 10
        scores = scores.astype(np.float32)
        least = THRESHOLD if head == "multilabel" else 0
        order = [int(c) for c in np.argsort(-scores, kind="stable") if scores[c] >= least]
        row = {"id": f"i{i}", "labels": [(c, float(scores[c])) for c in order[:3]]}
        row["scores"] = [float(score) for score in scores]
        if outputs:
            row[outputs] = _logits(scores) if outputs == "logits" else row["scores"]
        rows.append(row)
    settings = Settings(
        classes, head, 3, THRESHOLD if head == "multilabel" else None, outputs={outputs: 4} if outputs else {}
    )
    publish_rows(output, settings, [{k: v for k, v in row.items() if k != "scores"} for row in rows])
    return rows


def _logits(scores):
    clipped = np.clip(scores.astype(float), 1e-6, 1 - 1e-6)
    return [float(x) for x in np.log(clipped / (1 - clipped)).astype(np.float32)]


def entropy(p):
    return -p * math.log(p) if p > 0 else 0.0


def expected_value(by: str, head: str, row: dict, all_scores: bool) -> float | None:
    """Compute a criterion by its definition."""
    scores = [score for _, score in row["labels"]]
    if by == "score":
        return scores[0] if scores else None
    if head == "multilabel":
        scores = row["scores"] if all_scores else scores
        if not scores:
            return None
        if by == "margin":
            return min(abs(s - THRESHOLD) for s in scores)
        return sum(entropy(s) + entropy(1 - s) for s in scores)
    if by == "margin":
        return scores[0] - scores[1] if head == "single_label" else 2 * scores[0] - 1
    return sum(map(entropy, [*scores, max(1 - sum(scores), 0)]))


def hash_of(image_id: str) -> int:
    return int.from_bytes(hashlib.md5(image_id.encode()).digest()[8:], "little")


@pytest.mark.parametrize(
    ("head", "outputs"),
    [*((head, "") for head in HEADS), ("multilabel", "probabilities"), ("multilabel", "logits")],
)
@pytest.mark.parametrize("by", ["margin", "entropy", "score"])
def test_select__every_criterion__is_computed_by_its_definition(tmp_path, by, head, outputs):
    rows = {row["id"]: row for row in publish_random(tmp_path, head, seed=1, outputs=outputs)}
    found, selection = ranked(tmp_path, SelectOptions(by, number=10_000))
    expected = {i: expected_value(by, head, row, bool(outputs)) for i, row in rows.items()}
    if by != "score":
        expected = {i: value for i, value in expected.items() if value is not None}
    assert {i: value for i, _, value in found} == pytest.approx(
        expected, abs=1e-4 if outputs == "logits" else 1e-9
    )
    assert selection.images == selection.selected == len(expected)
    # The least certain first, and images without any label before all others.
    values = [-1.0 if value is None else value for _, _, value in found]
    assert values == sorted(values, reverse=by == "entropy")
    left_out = head == "multilabel" and by != "score" and not outputs
    assert any("Images without a label that are left out: " in w for w in selection.warnings) == left_out
    labels = {i: row["labels"][0][0] if row["labels"] else None for i, row in rows.items()}
    assert all(class_id == labels[i] for i, class_id, _ in found)


def publish_pair(tmp_path: Path, head: str, seed: int) -> tuple[Path, str]:
    publish_random(tmp_path / "b", head, seed + 100)
    publish_random(tmp_path / "a", head, seed)
    return tmp_path / "a", str(tmp_path / "b")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("by", CRITERIA)
def test_select__any_limits__smaller_numbers_are_the_beginning_of_larger_ones(tmp_path, by, head):
    seed = HEADS.index(head)
    output, other = publish_pair(tmp_path, head, seed)
    rng = np.random.default_rng(seed)
    for per_class, balanced in ((None, False), (int(rng.integers(1, 60)), False), (None, True), (20, True)):
        options = SelectOptions(by, 1000, per_class, balanced, other if by == DISAGREEMENT else "")
        everything, _ = ranked(output, options)
        for number in rng.integers(1, 300, 2).tolist():
            found, selection = ranked(output, dataclasses.replace(options, number=number))
            assert found == everything[:number]
            assert selection.selected == len(found) == min(number, len(everything))
            check_balance(found, everything, per_class, balanced)
        check_order(everything, by, balanced)


def check_balance(found: list[tuple], everything: list[tuple], per_class: int | None, balanced: bool) -> None:
    counts, all_counts = count_classes(found), count_classes(everything)
    if per_class:
        assert max(counts.values()) <= per_class
    if balanced:  # a class has as many as any other one, or all that it has
        most = max(counts.values())
        assert all(counts.get(c, 0) >= min(most - 1, n) for c, n in all_counts.items())


def count_classes(found: list[tuple]) -> dict:
    return {c: sum(class_id == c for _, class_id, _ in found) for c in {class_id for _, class_id, _ in found}}


def check_order(found: list[tuple], by: str, balanced: bool) -> None:
    """Check the order in each class, and over all unless classes take turns, with ties by hash."""
    sign = -1 if by in ("entropy", DISAGREEMENT) else 1
    keys = [(sign * (-1 if v is None and by != RANDOM else v or 0), hash_of(i)) for i, _, v in found]
    groups = [keys]
    if balanced:
        groups = [
            [k for k, (_, c, _) in zip(keys, found, strict=True) if c == group]
            for group in count_classes(found)
        ]
    assert all(group == sorted(group) for group in groups)


@pytest.mark.parametrize("head", HEADS)
def test_disagreement__random_outputs__has_exactly_the_images_that_differ(tmp_path, head):
    rows = {row["id"]: row for row in publish_random(tmp_path / "a", head, 1)}
    others = {row["id"]: row for row in publish_random(tmp_path / "b", head, 2, n=200)}
    found, selection = ranked(tmp_path / "a", SelectOptions(DISAGREEMENT, 1000, other=str(tmp_path / "b")))
    expected = {}
    for i in rows.keys() & others.keys():
        best, other = (row[i]["labels"][:1] for row in (rows, others))
        if [c for c, _ in best] != [c for c, _ in other]:
            expected[i] = min(score for _, score in best + other)
    assert {i: value for i, _, value in found} == pytest.approx(expected)
    assert selection.images == len(expected)


def test_disagreement__models_with_other_class_ids__compares_names(tmp_path):
    rows = [{"id": f"i{n}", "labels": [(n, 0.9)]} for n in range(4)]
    publish_rows(tmp_path / "a", Settings(CLASSES), rows)
    turned = [{"id": f"i{n}", "labels": [(n + 1, 0.8)]} for n in range(3)]
    publish_rows(
        tmp_path / "b",
        Settings(("none", *CLASSES), model="other"),
        [*turned, {"id": "i3", "labels": [(1, 0.7)]}],
    )
    to = tmp_path / "s.csv"
    options = SelectOptions(DISAGREEMENT, 9, other=str(tmp_path / "b"))
    select_images(str(tmp_path / "a"), options, str(to), "csv", False)
    (row,) = csv.DictReader(to.open(newline=""))
    assert (row["id"], row["label"], row["other_label"]) == ("i3", "three", "zero")
    assert float(row["value"]) == pytest.approx(float(row["other_score"])) == pytest.approx(0.7)


# Texts that break a format which does not quote or escape them.
HOSTILE = (
    "a,b",
    'say "x"',
    "two\nlines",
    "=1+1",
    "<b>&amp;'",
    "é…\u2028",
    "{0} %s {x}",
    "tab\tend",
    "'); DROP",
    " ",
)
# The user's own columns with names that the commands use, too.
_TEXTS = ("rank", "input_rank", "key", "hash", "place", "choices", "image", "class_id", 'q"x', "ID")
OWN = dict.fromkeys(_TEXTS, "string") | dict.fromkeys(("value", "p", "one"), "double")


def publish_hostile(output: Path, uris: list[str]) -> list[dict]:
    rows = [
        {
            "id": f"{text}{n}",
            "uri": uri,
            "labels": [(n % len(HOSTILE), 0.5), ((n + 1) % len(HOSTILE), 0.125 * (n % 3))],
            **{c: (math.nan if n % 2 else math.inf) if kind == "double" else text for c, kind in OWN.items()},
        }
        for n, (text, uri) in enumerate(zip(HOSTILE, uris, strict=True))
    ]
    publish_rows(output, Settings(HOSTILE, top_k=2, columns=OWN), rows)
    return sorted(rows, key=lambda row: (0.5 - row["labels"][1][1], hash_of(row["id"])))


def run_select(output: Path, to: Path | str, form: str, **options) -> None:
    select_images(str(output), SelectOptions("margin", 1000, **options), str(to), form, False)


URIS = [f"/p/{n} é#?&+%20=…,;'\".jpg" for n in range(len(HOSTILE) - 3)]
URIS += ["file:///p/a%20%26&+b.jpg", "https://h/x.jpg?a=1&b=…", "gs://b/ü #?.jpg"]


def test_csv_and_jsonl__hostile_texts_and_columns__are_read_back(tmp_path):
    rows = publish_hostile(tmp_path / "out", URIS)
    run_select(tmp_path / "out", tmp_path / "s.csv", "csv")
    run_select(tmp_path / "out", tmp_path / "s.jsonl", "jsonl")
    from_csv = list(csv.DictReader((tmp_path / "s.csv").open(newline="", encoding="utf-8")))
    from_json = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert len(rows) == len(from_csv) == len(from_json)
    for n, (row, cells, values) in enumerate(zip(rows, from_csv, from_json, strict=True), 1):
        label = HOSTILE[row["labels"][0][0]]
        for found in (cells, values):
            assert (found["id"], found["uri"], found["label"]) == (row["id"], row["uri"], label)
            assert (int(found["rank"]), float(found["score"])) == (n, 0.5)
            assert (found["input_input_rank"], found['q"x'], found["ID_1"]) == (
                row["rank"],
                row['q"x'],
                row["ID"],
            )
            assert found["class_id"] == row["class_id"]
        assert json.loads(cells["labels"]) == values["labels"]
        assert [(one["class_id"], one["label"], one["score"]) for one in values["labels"]] == [
            (c, HOSTILE[c], score) for c, score in row["labels"]
        ]
        # JSON has no NaN and no infinity.
        assert values["input_value"] is values["p"] is None
        assert str(float(cells["input_value"])) == str(row["value"])


def test_csv__decisions_of_a_calibration__are_columns(tmp_path):
    publish_rows(tmp_path / "out", Settings(CLASSES), [{"id": "a", "labels": [(2, 0.5)]}])
    path = next((tmp_path / "out/predictions").iterdir())
    table = pq.read_table(path).append_column("decision", pa.array(["two"]))
    pq.write_table(table.append_column("calibrated_score", pa.array([0.75])), path)
    publish_files(tmp_path / "out", Settings(CLASSES))
    run_select(tmp_path / "out", tmp_path / "s.csv", "csv")
    (row,) = csv.DictReader((tmp_path / "s.csv").open(newline=""))
    assert (row["decision"], row["calibrated_score"]) == ("two", "0.75")


def test_formats__selection_of_nothing__is_whole(tmp_path):
    publish_rows(tmp_path / "out", Settings(CLASSES), [])
    for form in FORMATS:
        run_select(tmp_path / "out", tmp_path / form, form)
    assert (tmp_path / "uris").read_bytes() == (tmp_path / "jsonl").read_bytes() == b""
    assert (tmp_path / "csv").read_text() == "rank,value,id,uri,label,score,labels\n"
    assert check_tasks(tmp_path / "labelstudio") == read_fiftyone(tmp_path / "fiftyone")[1] == []


def test_uris__written_list__is_an_input_of_run(tmp_path):
    rows = publish_hostile(tmp_path / "out", URIS)
    to = tmp_path / "list.txt"
    run_select(tmp_path / "out", to, "uris")
    config = load_config(None, {"input": str(to), "output": "x", "model": "m"}, ())
    assert [ref.uri for ref in list_rows(find_corpus(config.read))] == [row["uri"] for row in rows]
    run_select(tmp_path / "out", tmp_path / "list.txt.gz", "uris")
    config = load_config(None, {"input": f"{to}.gz", "output": "x", "model": "m"}, ())
    assert [ref.uri for ref in list_rows(find_corpus(config.read))] == [row["uri"] for row in rows]


def check_tasks(folder: Path, several: bool = False) -> list[dict]:
    """Check tasks against Label Studio's documented format and the configuration beside them."""
    root = ET.parse(folder / "config.xml").getroot()
    image, choices = root.find("Image"), root.find("Choices")
    assert (root.tag, image.get("value")) == ("View", "$image")
    assert choices.get("toName") == image.get("name")
    assert choices.get("choice") == ("multiple" if several else "single")
    values = [choice.get("value") for choice in choices.findall("Choice")]
    assert len(set(values)) == len(values) and "" not in values
    tasks = json.loads((folder / "tasks.json").read_text("utf-8"))
    for task in tasks:
        assert set(task) == {"data", "predictions"} and task["data"]["image"]
        (prediction,) = task["predictions"]
        assert set(prediction) == {"model_version", "score", "result"}
        assert prediction["score"] is None or 0 <= prediction["score"] <= 1
        for result in prediction["result"]:
            assert (result["from_name"], result["to_name"]) == (choices.get("name"), image.get("name"))
            assert result["type"] == "choices" and result["id"]
            assert set(result["value"]["choices"]) <= set(values)
            assert len(result["value"]["choices"]) == 1 or several
    return tasks


def test_labelstudio__hostile_texts__fit_the_configuration(tmp_path):
    rows = publish_hostile(tmp_path / "out", URIS)
    run_select(tmp_path / "out", tmp_path / "ls", "labelstudio")
    tasks = check_tasks(tmp_path / "ls")
    for n, (row, task) in enumerate(zip(rows, tasks, strict=True), 1):
        data = task["data"]
        assert (data["rank"], data["image_id"], data["uri"]) == (n, row["id"], row["uri"])
        assert (data["input_input_rank"], data["input_image"], data["key"]) == (
            row["rank"],
            row["image"],
            row["key"],
        )
        if row["uri"].startswith(("http", "gs:")):
            assert data["image"] == row["uri"]
            continue
        address = urlsplit(data["image"])
        path = "/p/a &&+b.jpg" if row["uri"].startswith("file:") else row["uri"]
        assert address.path == "/data/local-files/"
        assert parse_qs(address.query) == {"d": [path.lstrip("/")]}


def test_labelstudio__several_labels_or_none__are_one_result_or_none(tmp_path):
    rows = publish_random(tmp_path / "out", "multilabel", seed=3)
    select_images(
        str(tmp_path / "out"), SelectOptions("score", 1000), str(tmp_path / "ls"), "labelstudio", False
    )
    tasks = {task["data"]["image_id"]: task for task in check_tasks(tmp_path / "ls", several=True)}
    for row in rows:
        results = tasks[row["id"]]["predictions"][0]["result"]
        assert [result["value"]["choices"] for result in results] == (
            [[CLASSES[c] for c, _ in row["labels"]]] if row["labels"] else []
        )


@pytest.mark.parametrize(
    "labels",
    [
        ("crane", "crane", "dog"),
        ("a", "a", "a (0)"),
        ("", "", "(0)"),
        ("x\x01", "x\ufffd", "y"),
        ("a ", " a", "b"),
    ],
)
def test_choices__labels_that_are_equal__differ(tmp_path, labels):
    rows = [{"id": f"i{n}", "labels": [(n, 0.5)]} for n in range(3)]
    publish_rows(tmp_path / "out", Settings(labels), rows)
    select_images(
        str(tmp_path / "out"), SelectOptions("score", 9), str(tmp_path / "ls"), "labelstudio", False
    )
    chosen = [
        task["predictions"][0]["result"][0]["value"]["choices"][0] for task in check_tasks(tmp_path / "ls")
    ]
    assert len(set(chosen)) == 3


def read_fiftyone(folder: Path) -> tuple[list[str], list[tuple]]:
    """Read a dataset as `FiftyOneImageClassificationDatasetImporter` does: by sorted keys."""
    document = json.loads((folder / "labels.json").read_text("utf-8"))
    paths = {Path(k).stem: v for k, v in json.loads((folder / "data.json").read_text("utf-8")).items()}
    assert set(document) == {"classes", "labels"}
    return document["classes"], [(paths[key], document["labels"][key]) for key in sorted(document["labels"])]


def test_fiftyone__local_images__are_imported_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uris = [*URIS[:-3], "file:///p/a%20%26&+b.jpg", "photos/b.jpg", "file:/p/c.jpg"]
    rows = publish_hostile(tmp_path / "out", uris)
    run_select(tmp_path / "out", tmp_path / "fo", "fiftyone")
    classes, samples = read_fiftyone(tmp_path / "fo")
    assert len(classes) == len(HOSTILE)
    places = {uris[-3]: "/p/a &&+b.jpg", uris[-2]: f"{tmp_path}/photos/b.jpg", uris[-1]: "/p/c.jpg"}
    for n, (row, (path, label)) in enumerate(zip(rows, samples, strict=True), 1):
        assert path == places.get(row["uri"], row["uri"])
        assert label["label"] == classes[row["labels"][0][0]]
        assert label["confidence"] == 0.5
        assert (label["attributes"]["rank"], label["attributes"]["image_id"]) == (n, row["id"])


def test_fiftyone__several_labels__are_a_list(tmp_path):
    rows = publish_random(tmp_path / "out", "multilabel", seed=3)
    publish_rows(
        tmp_path / "out",
        Settings(CLASSES, "multilabel", 3, THRESHOLD),
        [{"id": row["id"], "labels": row["labels"], "uri": f"/{row['id']}.jpg"} for row in rows],
    )
    select_images(
        str(tmp_path / "out"), SelectOptions("score", 1000), str(tmp_path / "fo"), "fiftyone", False
    )
    _, samples = read_fiftyone(tmp_path / "fo")
    labels = {path: [(one["label"], one["confidence"]) for one in label] for path, label in samples}
    assert labels == {
        f"/{row['id']}.jpg": [(CLASSES[c], pytest.approx(score)) for c, score in row["labels"]]
        for row in rows
    }


def test_select__embeddings__are_chosen_at_random_alone(tmp_path):
    settings = Settings((), "embedding", outputs={"embedding": 2})
    with pytest.raises(UserError, match="images can be selected at random alone"):
        publish_embeddings(tmp_path, settings)
        ranked(tmp_path, SelectOptions("score", 3))
    found, _ = ranked(tmp_path, SelectOptions(RANDOM, 3))
    assert [i for i, _, _ in found] == sorted((f"i{n}" for n in range(9)), key=hash_of)[:3]
    for form in ("uris", "csv", "jsonl"):
        select_images(str(tmp_path), SelectOptions(RANDOM, 3), str(tmp_path / f"s.{form}"), form, False)
    assert [json.loads(line)["id"] for line in (tmp_path / "s.jsonl").open()] == [i for i, _, _ in found]


def publish_embeddings(output: Path, settings: Settings) -> None:
    publish_rows(output, settings, [])
    rows = [
        {**_COMMON, **_IMAGE, "id": f"i{n}", "uri": f"/{n}.jpg", "embedding": [1.0, 2.0], "run_id": "r"}
        for n in range(9)
    ]
    schema = schema_of("predictions", settings.row_metadata)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), next((output / "predictions").iterdir()))
    publish_files(output, settings)


def test_select__uris_without_secrets__are_counted(tmp_path):
    uris = ["https://h/1.jpg?sig=…", "https://h/2.jpg?sig=…", "https://h/…/3.jpg", "gs://b/….jpg"]
    rows = [{"id": f"i{n}", "labels": [(n, 0.5)], "uri": uri} for n, uri in enumerate(uris)]
    publish_rows(tmp_path, Settings(CLASSES), rows)
    _, selection = ranked(tmp_path, SelectOptions("score", 9))
    (warning,) = selection.warnings
    assert warning.startswith("2 of the selected URIs can't be opened")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--number=3"], "No criterion is given. Give one with --by: margin, entropy, score, random"),
        (
            ["--by=margins", "--number=3"],
            "by='margins' is not allowed: margin, entropy, score, random, disagree",
        ),
        (["--by=score"], "No number of images is given. Give one with --number, or --per_class."),
        (
            ["--by=score", "--number=0"],
            "--number='0' is not allowed: it must be a whole number from 1 to",
        ),
        (
            ["--by=score", "--per_class=x"],
            "--per_class='x' is not allowed: it must be a whole number",
        ),
        (["--by=disagreement", "--number=3"], "--by disagreement and --other OUTPUT belong together."),
        (["--by=score", "--number=3", "--other=x"], "--by disagreement and --other OUTPUT belong together."),
        (["--by=disagreement", "--number=3", "--other=no"], "'no' holds no published results"),
        (["--by=disagreement", "--number=3", "--other={}/else"], "has labels for none of the images"),
        (
            ["--by=score", "--number=3", "--format=xml"],
            "format='xml' is not allowed: give --format uris, csv",
        ),
        (["--by=score", "--number=3", "--to="], "No place for the result is given. Name it with --to."),
        (["--by=score", "--number=3", "--to=/proc/x/y.csv"], "'/proc/x/y.csv' cannot be written: "),
        (["--by=score", "--number=3", "--to=s3://b/y.csv"], "'s3://b/y.csv' cannot be written: "),
        (
            ["--by=score", "--number=3", "--to={}/out/predictions/x.csv"],
            "is a place of the tables' own files.",
        ),
        (["--by=score", "--number=3", "--to={}/out/manifest.json"], "is a place of the tables' own files."),
        (
            ["--by=score", "--number=3", "--format=fiftyone"],
            "2 of the selected images are none, such as 'gs://",
        ),
        (
            ["--by=margin", "--number=3"],
            "by='margin' needs the two best labels, and rows have one (top_k=1).",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_command__mistakes_of_the_user__are_one_line(tmp_path, capsys, arguments, message):
    settings = Settings(CLASSES, top_k=1)
    publish_rows(tmp_path / "out", settings, [{"id": f"i{n}", "labels": [(2, 0.9)]} for n in range(2)])
    publish_rows(tmp_path / "else", settings, [{"id": "a", "labels": [(2, 0.9)]}])
    defaults = {"--to": f"{tmp_path}/s.csv", "--format": "csv"}
    given = [argument.format(tmp_path) for argument in arguments]
    given += [f"{k}={v}" for k, v in defaults.items() if not any(g.startswith(k) for g in given)]
    before = sorted(tmp_path.rglob("*"))
    assert main(["select", str(tmp_path / "out"), *given]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("form", ["labelstudio", "fiftyone"])
def test_command__manifest_without_classes__is_refused_where_they_are_needed(tmp_path, capsys, form):
    publish_rows(tmp_path, Settings(CLASSES), [{"id": "a", "labels": [(2, 0.9)]}])
    document = json.loads((tmp_path / "manifest.json").read_text())
    publish_files_without_classes(tmp_path, document)
    arguments = [
        "select",
        str(tmp_path),
        "--by=score",
        "--number=1",
        f"--format={form}",
        f"--to={tmp_path}/x",
    ]
    assert main(arguments) == 2
    assert "needs the model's classes, and manifest.json has none." in capsys.readouterr().err


def publish_files_without_classes(output: Path, document: dict) -> None:
    del document["model"]["classes"], document["checksum"]
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    (output / "manifest.json").write_text(json.dumps({**document, "checksum": digest}))


@pytest.mark.parametrize("form", ["uris", "csv", "jsonl", "labelstudio", "fiftyone"])
def test_command__shown_sql__writes_the_same_file_in_duckdb(tmp_path, capsys, monkeypatch, form):
    rows = [{"id": f"i{n}", "uri": f"/{n}.jpg", "labels": [(n % 4, 0.5)]} for n in range(20)]
    publish_rows(tmp_path / "out", Settings(CLASSES), rows)
    to = tmp_path / "to"
    if form in ("labelstudio", "fiftyone"):
        to.mkdir()
    arguments = [
        "select",
        str(tmp_path / "out"),
        "--by=random",
        "--number=7",
        f"--format={form}",
        f"--to={to}",
    ]
    assert main([*arguments, "--show_sql"]) == 0
    script = capsys.readouterr().out
    assert not to.exists() or not list(to.iterdir())
    with duckdb.connect() as connection:
        connection.execute(script)
    by_script = contents(to)
    for path in to.iterdir() if to.is_dir() else [to]:
        path.unlink()
    assert main(arguments) == 0
    assert "7 of 20 images by random, of " in capsys.readouterr().out
    assert by_script == {name: data for name, data in contents(to).items() if name != "config.xml"}


def contents(path: Path) -> dict[str, bytes]:
    files = path.iterdir() if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files}


def test_select__tables_and_target_in_a_bucket__are_read_and_written(tmp_path, gcs, one_client):
    publish_rows(tmp_path, Settings(CLASSES), [{"id": f"i{n}", "labels": [(n, 0.5)]} for n in range(4)])
    for path in tmp_path.rglob("*"):
        if path.is_file():
            gcs.put(f"gs://b/out/{path.relative_to(tmp_path)}", path.read_bytes())
    select_images("gs://b/out", SelectOptions("score", 3), "gs://b/s.csv", "csv", False)
    rows = list(csv.DictReader(io.StringIO(gcs.get("gs://b/s.csv").decode())))
    assert [row["id"] for row in rows] == sorted((f"i{n}" for n in range(4)), key=hash_of)[:3]
    select_images("gs://b/out", SelectOptions("score", 3), "gs://b/ls", "labelstudio", False)
    assert gcs.names("gs://b/ls") == ["ls/config.xml", "ls/tasks.json"]


def test_database__interrupt_within_a_statement__is_one(tmp_path):
    with open_database() as db:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            db.copy(
                "SELECT a.range FROM range(1_000_000) a, range(1_000_000) b", f"{tmp_path}/t", "FORMAT csv"
            )
    assert not list(tmp_path.iterdir())


def test_database__full_disk__is_no_damage_of_the_tables():
    error = duckdb.IOException(f"Could not write file: {os.strerror(errno.ENOSPC)}")
    with open_database() as db:
        assert "The disk is full: " in str(db._error_of(error))


def test_docs__criteria_and_formats__are_all_listed():
    docs = "".join(
        path.read_text("utf-8") for path in (Path(__file__).parents[2] / "docs").glob("results*.md")
    )
    for heading, words in (("| `--by` |", CRITERIA), ("| `--format` |", FORMATS)):
        table = docs.partition(heading)[2].partition("\n\n")[0]
        rows = "".join(row.split("|")[1] for row in table.splitlines()[2:])
        assert re.findall("`([a-z]+)`", rows) == list(words)
