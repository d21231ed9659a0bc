"""Evaluation: measures against scikit-learn and by hand, truth in all its forms, and the command."""

import dataclasses
import json
import math
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from sklearn import metrics

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.evaluate import describe_evaluation
from labelbeam.pipeline.results.database import open_database
from labelbeam.pipeline.results.evaluate import BINS, evaluate
from labelbeam.pipeline.results.evaluation import Evaluation
from labelbeam.pipeline.results.truth import TruthOptions
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.labels import imagenet_labels
from labelbeam.transforms.photos import PHOTOS, right_classes
from tests.tables import RUN_ID, Settings, publish_files, publish_rows

CLASSES = ("zero", "one", "two", "three", "four", "five")


def evaluation_of(output: Path | str, column: str = "truth", by: str = "", file: str = "") -> Evaluation:
    with open_database() as db:
        return evaluate(db, db.attach(str(output)), TruthOptions(column, file), by)


def random_labels(
    rng: np.random.Generator, n: int, classes: int, top_k: int
) -> tuple[np.ndarray, list[list]]:
    """Return scores, `[n, classes]` float32, and the best labels of each row."""
    scores = rng.dirichlet(np.full(classes, 0.6), n).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return scores, [[(int(c), float(row[c])) for c in best] for row, best in zip(scores, order, strict=True)]


@pytest.mark.parametrize("seed", range(3))
def test_evaluate__one_class_per_image__equals_scikit_learn(tmp_path, seed):
    rng = np.random.default_rng(seed)
    n, k = 700, 3
    scores, labels = random_labels(rng, n, len(CLASSES), k)
    # "five" is never the truth, and "zero" seldom a label.
    truth = np.where(rng.random(n) < 0.5, scores.argmax(1), rng.integers(0, 5, n))
    camera = rng.choice(["left", "right"], n)
    rows = [
        {"id": f"i{i}", "labels": labels[i], "truth": CLASSES[truth[i]], "camera": camera[i]}
        for i in range(n)
    ]
    settings = Settings(CLASSES, top_k=k, columns={"truth": "string", "camera": "string"})
    found = evaluation_of(publish_rows(tmp_path, settings, rows), by="camera")

    best = np.array([row[0][0] for row in labels])
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, best, labels=range(6), zero_division=0
    )
    assert found.measures["top-1"].value == pytest.approx(metrics.accuracy_score(truth, best), abs=1e-9)
    top = metrics.top_k_accuracy_score(truth, scores, k=k, labels=range(6))
    assert found.measures["top-3"].value == pytest.approx(top, abs=1e-9)
    for one in found.classes:
        c = one.class_id
        assert (one.support, one.labelled) == (support[c], (best == c).sum())
        assert one.f1 == pytest.approx(f1[c], abs=1e-9)
        assert (one.precision.value if one.precision else 0) == pytest.approx(precision[c], abs=1e-9)
        assert (one.recall.value if one.recall else 0) == pytest.approx(recall[c], abs=1e-9)
    known = support > 0
    assert found.means["macro F1"] == pytest.approx(f1[known].mean(), abs=1e-9)
    assert found.means["macro precision"] == pytest.approx(precision[known].mean(), abs=1e-9)
    matrix = metrics.confusion_matrix(truth, best, labels=range(6))
    assert {(p.truth, p.label): p.images for p in found.confusions} == {
        (CLASSES[a], CLASSES[b]): matrix[a, b] for a in range(6) for b in range(6) if a != b and matrix[a, b]
    }
    confidence = np.array([row[0][1] for row in labels])
    assert found.measures["calibration error"].value == pytest.approx(
        calibration_error(confidence, best == truth), abs=1e-9
    )
    for group in found.groups:
        mine = camera == group.value
        accuracy = metrics.accuracy_score(truth[mine], best[mine])
        assert group.measures["top-1"].value == pytest.approx(accuracy, abs=1e-9)
        error = calibration_error(confidence[mine], (best == truth)[mine])
        assert group.measures["calibration error"].value == pytest.approx(error, abs=1e-9)


def calibration_error(scores: np.ndarray, right: np.ndarray) -> float:
    bins = np.minimum(np.floor(scores.astype(float) * BINS).astype(int), BINS - 1)
    gaps = [abs((right[bins == b] - scores[bins == b].astype(float)).sum()) for b in range(BINS)]
    return sum(gaps) / len(scores)


@pytest.mark.parametrize("top_k", [1, 2])
def test_evaluate__binary__equals_scikit_learn_and_covers_the_true_area(tmp_path, top_k):
    rng = np.random.default_rng(5)
    n, covered = 300, 0
    # The area of two normal distributions that are one deviation apart.
    true_area = 0.5 * (1 + math.erf(1 / math.sqrt(2) / math.sqrt(2)))
    for trial in range(20):
        truth = rng.random(n) < 0.3
        # Rounded, so that there are ties.
        score = np.round(1 / (1 + np.exp(-(rng.normal(size=n) + truth - 0.5))), 2).astype(np.float32)
        rows = [
            {"id": f"i{i}", "labels": _best_of_two(float(s))[:top_k], "truth": str(int(t))}
            for i, (s, t) in enumerate(zip(score, truth, strict=True))
        ]
        settings = Settings(("no", "yes"), "binary", top_k, columns={"truth": "string"})
        area = evaluation_of(publish_rows(tmp_path / str(trial), settings, rows)).measures["ROC AUC"]
        assert area.value == pytest.approx(metrics.roc_auc_score(truth, np.round(score, 2)), abs=1e-9)
        covered += area.low <= true_area <= area.high
    assert covered >= 16  # 19 on average; the seed is fixed


def _best_of_two(score: float) -> list[tuple[int, float]]:
    return sorted([(1, score), (0, float(np.float32(1) - np.float32(score)))], key=lambda one: -one[1])


@pytest.mark.parametrize("kept", [False, True])
def test_evaluate__multilabel__equals_scikit_learn(tmp_path, kept):
    rng = np.random.default_rng(7)
    n, classes, k, threshold = 400, len(CLASSES), 3, 0.5
    truth = rng.random((n, classes)) < 0.3
    truth[:, 5] = False
    scores = np.clip(np.round(0.4 * truth + 0.6 * rng.random((n, classes)), 2), 0, 1).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    listed = np.zeros_like(truth)
    rows = []
    for i in range(n):
        labels = [(int(c), float(scores[i, c])) for c in order[i] if scores[i, c] >= threshold]
        listed[i, [c for c, _ in labels]] = True
        text = "|".join(CLASSES[c] for c in np.flatnonzero(truth[i])) or "|"
        rows.append({"id": f"i{i}", "labels": labels, "truth": text, "probabilities": scores[i].tolist()})
        if not kept:
            del rows[-1]["probabilities"]
    settings = Settings(
        CLASSES,
        "multilabel",
        k,
        threshold,
        columns={"truth": "string"},
        outputs={"probabilities": classes} if kept else {},
    )
    found = evaluation_of(publish_rows(tmp_path, settings, rows))

    precision, recall, f1, support = metrics.precision_recall_fscore_support(truth, listed, zero_division=0)
    # Scores of labels that are not in the table count as lowest.
    ranked = scores if kept else np.where(listed, scores, -1)
    for one in found.classes:
        c = one.class_id
        assert (one.support, one.labelled) == (support[c], listed[:, c].sum())
        assert (one.precision.value if one.precision else 0) == pytest.approx(precision[c], abs=1e-9)
        assert (one.recall.value if one.recall else 0) == pytest.approx(recall[c], abs=1e-9)
        assert one.f1 == pytest.approx(f1[c], abs=1e-9)
        if support[c]:
            area = metrics.average_precision_score(truth[:, c], ranked[:, c])
            assert one.average_precision == pytest.approx(area, abs=1e-9)
    areas = [metrics.average_precision_score(truth[:, c], ranked[:, c]) for c in range(5)]
    assert found.means["mean average precision"] == pytest.approx(np.mean(areas), abs=1e-9)
    micro = metrics.precision_recall_fscore_support(truth, listed, average="micro")
    assert found.measures["precision"].value == pytest.approx(micro[0], abs=1e-9)
    assert found.measures["recall"].value == pytest.approx(micro[1], abs=1e-9)
    assert found.match.judged == n
    assert any("lower bound" in warning for warning in found.warnings) != kept
    assert any("--top_k" in warning for warning in found.warnings)


def test_evaluate__multilabel_without_any_label__has_no_measures(tmp_path):
    rows = [{"id": "a", "labels": [], "truth": "|"}]
    settings = Settings(CLASSES, "multilabel", threshold=0.5, columns={"truth": "string"})
    found = evaluation_of(publish_rows(tmp_path, settings, rows))
    assert (found.match.judged, dict(found.measures), found.classes, found.bins) == (1, {}, (), ())
    assert list(describe_evaluation(found))


def test_evaluate__column_of_many_values__forms_no_groups(tmp_path):
    rows = [{"id": f"i{n}", "labels": [(2, 0.9)], "truth": "two", "key": n} for n in range(1001)]
    output = publish_rows(tmp_path, Settings(CLASSES, columns={"truth": "string", "key": "int64"}), rows)
    with pytest.raises(UserError, match="by='key' has over 1,000 values"):
        evaluation_of(output, by="key")


def test_evaluate__own_columns_of_any_name__change_nothing(tmp_path):
    """Use every name of the statements as an own column, with values that would change the result."""
    names = {
        "group_value",
        "truth_text",
        "right_ids",
        "part",
        "parts",
        "place",
        "class_id",
        "truth_id",
        "key",
    }
    names |= {"l", "label_", "bin", "scores", "squares", "labels_", "hits", "images", "name", "ids", "value"}
    rng = np.random.default_rng(3)
    for head, settings in (("single_label", {}), ("binary", {}), ("multilabel", {"threshold": 0.0})):
        classes = CLASSES[:2] if head == "binary" else CLASSES
        _, labels = random_labels(rng, 60, len(classes), 3)
        rows = [{"id": f"i{n}", "labels": row, "truth": classes[n % 2]} for n, row in enumerate(labels)]
        plain = Settings(classes, head, columns={"truth": "string"}, **settings)
        expected = evaluation_of(publish_rows(tmp_path / head, plain, rows), by="truth")
        for kind, value in (("string", "fox"), ("int64", 1)):
            hostile = Settings(
                classes, head, columns={"truth": "string"} | dict.fromkeys(names, kind), **settings
            )
            more = [row | dict.fromkeys(names, value) for row in rows]
            output = publish_rows(tmp_path / f"{head}-{kind}", hostile, more)
            assert evaluation_of(output, by="truth") == expected


# Forms of a truth whose class is 2, "two".
@pytest.mark.parametrize(
    "truth", ["two", "Two", " two ", "2", "2.0", "TWO|five", "five|2", "two|unicorn"], ids=lambda t: t.strip()
)
def test_truth__every_form__matches_its_class(tmp_path, truth):
    rows = [
        {"id": "a", "labels": [(2, 0.9)], "truth": truth},
        {"id": "b", "labels": [(1, 0.9)], "truth": None},
    ]
    found = evaluation_of(publish_rows(tmp_path, Settings(CLASSES, columns={"truth": "string"}), rows))
    assert found.measures["top-1"].value == 1
    assert (found.match.images, found.match.judged, found.match.without) == (2, 1, 1)
    assert [one.truth for one in found.match.unmatched] == (["unicorn"] if "unicorn" in truth else [])


def test_truth__names_of_imagenet__match_synonyms_synsets_and_both_cranes(tmp_path):
    labels = imagenet_labels()
    truths = {0: "Tinca_tinca", 1: "n01443537", 134: "crane", 517: "crane", 281: "tabby cat"}
    rows = [{"id": f"{c}", "labels": [(c, 0.9)], "truth": text} for c, text in truths.items()]
    found = evaluation_of(publish_rows(tmp_path, Settings(labels, columns={"truth": "string"}), rows))
    assert (found.measures["top-1"].value, found.match.judged, found.match.by_name) == (1, 5, 4)


def test_truth__numbers_that_are_names__match_by_name(tmp_path):
    rows = [{"id": "a", "labels": [(0, 0.9)], "truth": 7}, {"id": "b", "labels": [(1, 0.9)], "truth": 1}]
    settings = Settings(("7", "8"), columns={"truth": "int64"})
    found = evaluation_of(publish_rows(tmp_path, settings, rows))
    assert (found.measures["top-1"].value, found.match.by_name, found.match.by_id) == (1, 1, 1)


def test_truth__folders__are_the_last_of_the_path(tmp_path):
    uris = [
        "gs://b/x/two/1.jpg",
        "http://h/two/2.jpg?q=a/b",
        "/data/one/3.jpg",
        "http://h/tw%6f/4.jpg",
        "5.jpg",
    ]
    rows = [{"id": uri, "uri": uri, "labels": [(2, 0.9)]} for uri in uris]
    found = evaluation_of(publish_rows(tmp_path, Settings(CLASSES), rows), "folder")
    assert {(one.label, one.support) for one in found.classes} == {("two", 3), ("one", 1)}
    assert found.match.without == 1


def test_truth__column_that_was_renamed__is_found_by_its_name(tmp_path):
    rows = [{"id": "a", "labels": [(2, 0.9)], "input_label": "two"}]
    settings = Settings(CLASSES, columns={"input_label": "string"})
    assert evaluation_of(publish_rows(tmp_path, settings, rows), "label").match.judged == 1


def _write_csv(path: Path, rows: list[dict]) -> None:
    pa_csv.write_csv(pa.Table.from_pylist(rows), path)


def _write_json(path: Path, rows: list[dict]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv", _write_csv),
        ("t[1].csv", _write_csv),
        ("t.txt", _write_csv),
        ("t.jsonl", _write_json),
        ("t.parquet", lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("key", ["id", "uri", "file", "file_name"])
def test_truth_file__every_format_and_key__joins_its_images(tmp_path, name, write, key):
    rows = [{"id": f"i{n}", "uri": f"http://h/d/{n}%20.jpg?x=1", "labels": [(n, 0.9)]} for n in range(6)]
    output = publish_rows(tmp_path / "out", Settings(CLASSES), rows, [{"id": "f", "uri": "http://h/f.jpg"}])
    keys = [(f"i{n}", f"http://h/d/{n}%20.jpg?x=1", f"{n} .jpg") for n in range(3)]
    keys += [("f", "http://h/f.jpg", "f.jpg")]
    column = {"id": 0, "uri": 1}.get(key, 2)
    write(tmp_path / name, [{key: k[column], "class": "two"} for k in keys])
    found = evaluation_of(output, "", file=str(tmp_path / name))
    assert (found.match.judged, found.match.failed, found.match.without) == (3, 1, 3)
    assert found.measures["top-1"].value == pytest.approx(1 / 3)


def test_truth__without_a_separator__may_have_bars(tmp_path):
    settings = Settings(("a|b", "c"), columns={"truth": "string"})
    output = publish_rows(tmp_path, settings, [{"id": "a", "labels": [(0, 0.9)], "truth": "a|b"}])
    with open_database() as db:
        found = evaluate(db, db.attach(str(output)), TruthOptions("truth", separator=""))
    assert found.measures["top-1"].value == 1


def test_truth_file__rows_without_a_key__are_left_out(tmp_path):
    output = publish_rows(tmp_path / "out", Settings(CLASSES), [{"id": "a", "labels": [(2, 0.9)]}])
    (tmp_path / "t.csv").write_text("id,class\n,two\n,one\na,two\n")
    assert evaluation_of(output, file=str(tmp_path / "t.csv"), column="").measures["top-1"].value == 1


def test_truth_file__lists_of_classes__accept_each(tmp_path):
    output = publish_rows(tmp_path / "out", Settings(CLASSES), [{"id": "a", "labels": [(2, 0.9)]}])
    pq.write_table(pa.table({"id": ["a"], "class": [["five", "two"]]}), tmp_path / "t.parquet")
    assert evaluation_of(output, file=str(tmp_path / "t.parquet"), column="").measures["top-1"].value == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No truth is given. Name its column with --truth"),
        (["--truth=class"], "truth='class' is no column of the input. Its columns: 'truth'. Give one of"),
        (
            ["--truth=folder"],
            "No truth in the names of folders matches a class of the model, such as 'bucket'",
        ),
        (["--truth_file=none.csv"], "truth_file='none.csv' does not exist. Check its name."),
        (
            ["--truth_file={}/keys.csv"],
            "It needs one of 'id', 'uri', 'file', 'file_name', which names the image.",
        ),
        (
            ["--truth_file={}/twice.csv", "--truth=klass"],
            "and no column 'klass'. Name the one with the right class",
        ),
        (
            ["--truth_file={}/absent.csv"],
            "has the truth of no image: no id of it is one of the tables, such as 'z'.",
        ),
        (["--truth_file={}/twice.csv"], "has 2 rows for id 'a'. Join its classes in one row, with '|'"),
        (
            ["--truth_file={}/namesakes.csv"],
            "the tables have 2 images for file 'x.jpg'. Name images by id or uri.",
        ),
        (["--truth_file=s3://b/t.csv"], "truth_file='s3://b/t.csv' is not allowed: a local file or gs://"),
        (["--truth=truth", "--by=nothing"], "by='nothing' is no column of the tables that groups images."),
        (["--truth=truth", "--by=id"], "by='id' is no column of the tables that groups images."),
        (["--truth=truth", "--json=/proc/no/x.json"], "'/proc/no/x.json' cannot be written: "),
        (["--truth=truth", "--batch_size=3"], "labelbeam evaluate has no option --batch_size"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and value else None,
)
def test_command__mistakes_of_the_user__are_one_line(tmp_path, capsys, arguments, message):
    rows = [{"id": "a", "labels": [(2, 0.9)], "truth": "two"}]
    rows += [{"id": uri, "uri": uri, "labels": [(2, 0.9)]} for uri in ("gs://b/u/x.jpg", "gs://b/v/x.jpg")]
    publish_rows(tmp_path, Settings(CLASSES, columns={"truth": "string"}), rows)
    (tmp_path / "namesakes.csv").write_text("file,class\nx.jpg,two\n")
    (tmp_path / "absent.csv").write_text("id,class\nz,two\n")
    (tmp_path / "keys.csv").write_text("name,class\na,two\n")
    (tmp_path / "twice.csv").write_text("id,class\na,two\na,one\n")
    assert main(["evaluate", str(tmp_path), *(a.format(tmp_path) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings((), "embedding", columns={"truth": "string"}), "embeddings and no labels"),
        (Settings((), columns={"truth": "string"}), "manifest.json has no list of the model's classes"),
    ],
    ids=["embeddings", "older manifest"],
)
def test_command__tables_without_classes__are_refused(tmp_path, capsys, settings, message):
    assert main(["evaluate", str(publish_rows(tmp_path, settings, [])), "--truth=truth"]) == 2
    assert message in capsys.readouterr().err


def test_command__table_without_rows__is_no_success(tmp_path, capsys):
    settings = Settings(CLASSES, columns={"truth": "string"})
    assert main(["evaluate", str(publish_rows(tmp_path, settings, [])), "--truth=truth"]) == 2
    assert "The tables have no labelled image" in capsys.readouterr().err


def test_command__files_and_sql__hold_the_result(tmp_path, capsys):
    rng = np.random.default_rng(1)
    _, labels = random_labels(rng, 50, len(CLASSES), 5)
    rows = [{"id": f"i{n}", "labels": row, "truth": CLASSES[n % 6]} for n, row in enumerate(labels)]
    publish_rows(tmp_path, Settings(CLASSES, columns={"truth": "string"}), rows)
    arguments = ["evaluate", str(tmp_path), "--truth=truth", f"--json={tmp_path}/e.json"]
    assert main([*arguments, f"--parquet={tmp_path}/e.parquet"]) == 0
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "e.json").read_text())
    assert f"{found['measures']['top-1']['value']:.3f}" in text
    assert pq.read_table(tmp_path / "e.parquet").to_pylist() == found["classes"]
    assert len(found["classes"]) == 6

    assert main([*arguments[:3], "--show_sql"]) == 0
    script = capsys.readouterr().out
    with duckdb.connect() as connection:
        # The whole output is a script of DuckDB.
        connection.execute(script)
        hits = connection.execute("SELECT sum(labels) FILTER (place = 1) FROM cells").fetchall()
    assert hits == [(round(50 * found["measures"]["top-1"]["value"]),)]


def test_evaluate__several_files_partitions_and_older_generations__are_read(tmp_path):
    settings = Settings(CLASSES, columns={"truth": "string"})
    rows = [{"id": f"i{n}", "labels": [(n % 2, 0.9)], "truth": "zero"} for n in range(4)]
    output = publish_rows(tmp_path / "out[1]", settings, rows)
    old = (output / "manifest.json").read_bytes()
    (output / "_generations").mkdir()
    (output / "_generations/000001.json").write_bytes(old)
    (output / "predictions").rename(output / "_generations/predictions")
    publish_rows(output, dataclasses.replace(settings, generation=2, run_id=f"{RUN_ID[:-1]}2"), rows[:1])
    partition = output / "predictions/by_truth=zero"
    partition.mkdir()
    for n, path in enumerate(sorted((output / "predictions").glob("*.parquet"))):
        path.rename(partition / f"{n}.parquet")
    publish_files(output, dataclasses.replace(settings, generation=2))
    assert evaluation_of(output).match.judged == 1
    assert evaluation_of(f"{output}@2").match.judged == 1
    assert evaluation_of(f"{output}@1").match.judged == 4
    with pytest.raises(UserError, match="has no generation 7; the current one is 2"):
        evaluation_of(f"{output}@7")


def test_evaluate__sample_photos__equals_a_hand_computation(tmp_path, lite0_dir):
    """Compare with plain Python over the rows that pyarrow reads."""
    assert main(["sample", "--output", str(tmp_path / "out")]) == 0
    rows = pq.read_table(tmp_path / "out/predictions").to_pylist()
    right = right_classes()
    judged = [(row, right[Path(row["uri"]).name]) for row in rows if Path(row["uri"]).name in right]
    hits = [row["labels"][0]["class_id"] in classes for row, classes in judged]
    found = evaluation_of(tmp_path / "out", "label_ids", file=str(PHOTOS.parent / "labels.csv"))
    assert found.measures["top-1"].value == pytest.approx(sum(hits) / len(judged), abs=1e-9)
    top_5 = sum(bool({one["class_id"] for one in row["labels"]} & classes) for row, classes in judged)
    assert found.measures["top-5"].value == pytest.approx(top_5 / len(judged), abs=1e-9)
    scores = np.array([row["score"] for row, _ in judged])
    assert found.measures["calibration error"].value == pytest.approx(
        calibration_error(scores, np.array(hits)), abs=1e-9
    )
    # Wilson's interval, by its formula.
    p, n, z = sum(hits) / len(hits), len(hits), 1.959963984540054
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    assert found.measures["top-1"].low == pytest.approx(centre - half, abs=1e-9)
    assert found.measures["top-1"].high == pytest.approx(centre + half, abs=1e-9)


def test_evaluate__tables_and_truth_in_a_bucket__are_read(tmp_path, gcs, one_client):
    rows = [{"id": "a", "labels": [(2, 0.9)]}]
    publish_rows(tmp_path, Settings(CLASSES), rows)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            gcs.put(f"gs://b/out/{path.relative_to(tmp_path)}", path.read_bytes())
    gcs.put("gs://b/truth.csv", b"id,class\na,two\n")
    found = evaluation_of("gs://b/out", "", file="gs://b/truth.csv")
    assert found.measures["top-1"].value == 1
