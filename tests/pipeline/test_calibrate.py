"""Calibrations made from tables whose truth is drawn from known probabilities."""

import dataclasses
import json
import re
from pathlib import Path

import duckdb
import numpy as np
import pytest
from scipy.stats import binomtest

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.apply import apply_calibration
from labelbeam.pipeline.commands.calibrate import describe_calibration
from labelbeam.pipeline.results import calibrate as module
from labelbeam.pipeline.results.calibrate import (
    CalibrationResult,
    Labels,
    calibrate,
    calibration_error,
    find_threshold,
    find_thresholds,
    labels_needed,
)
from labelbeam.pipeline.results.database import open_database
from labelbeam.pipeline.results.evaluate import evaluate
from labelbeam.pipeline.results.evaluation import CALIBRATION_ERROR
from labelbeam.pipeline.results.intervals import wilson_bounds
from labelbeam.pipeline.results.truth import TruthOptions
from labelbeam.transforms.calibration import Basis, Calibration
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.table.documents import parse_document, read_document, write_document
from tests.calibrations import SINGLE_LABEL, publish_rows, random_rows, softmax

# The synthetic models return logits that are 3 times too large.
OVERCONFIDENT = 3.0
BASES = {
    "single_label": Basis("m", "p", "single_label", classes=20, top_k=5),
    "best class": Basis("m", "p", "single_label", classes=5, top_k=1),
    "binary": Basis("m", "p", "binary", classes=2, top_k=2),
    "multilabel": Basis("m", "p", "multilabel", classes=8, top_k=8, threshold=0.0),
}
of_every_kind = pytest.mark.parametrize("basis", BASES.values(), ids=BASES)
TRUTH = TruthOptions("truth")


def draw_truths(logits: np.ndarray, basis: Basis, seed: int) -> list[str]:
    """Draw right classes from the probabilities of logits."""
    random = np.random.default_rng(seed)
    if basis.is_multilabel:
        right = random.random(logits.shape) < 1 / (1 + np.exp(-logits))
        return ["|".join(f"class {n}" for n in np.flatnonzero(row)) or "|" for row in right]
    ends = softmax(logits).cumsum(axis=1)
    classes = (random.random((len(logits), 1)) > ends).sum(axis=1)
    return [f"class {n}" for n in np.minimum(classes, basis.classes - 1)]


def make_table(
    output: Path | str, basis: Basis, images: int = 8000, gain: float = OVERCONFIDENT, seed: int = 1
):
    """Publish a table of a model whose logits are `gain` times those that the truth is drawn from."""
    rows, logits = random_rows(basis, images, seed, gain=9.0)
    return publish_rows(output, rows, basis, draw_truths(logits / gain, basis, seed))


def make(output: Path | str, risk: float | None = None) -> CalibrationResult:
    with open_database() as db:
        return calibrate(db, db.attach(str(output)), str(output), TRUTH, risk)


@of_every_kind
def test_calibrate__overconfident_model__error_on_the_other_half_is_less_than_half(tmp_path, basis):
    make_table(tmp_path, basis)
    made = make(tmp_path).calibration
    assert made.judgement.error_after.value < made.judgement.error_before.value / 2
    assert made.judgement.error_before.low > made.judgement.error_after.high
    # Not for one label of many classes, whose other scores are unknown.
    assert basis.top_k < basis.classes or made.temperature == pytest.approx(OVERCONFIDENT, rel=0.1)
    assert made.images + made.judgement.images == 8000
    assert abs(made.images - 4000) < 300
    assert made.judgement.coverage.value == 1


@of_every_kind
def test_calibrate__model_that_is_calibrated__stays_as_it_is(tmp_path, basis):
    make_table(tmp_path, basis, gain=1.0)
    made = make(tmp_path).calibration
    assert made.temperature == pytest.approx(1, abs=0.1)
    assert made.judgement.error_after.value < 0.03


@of_every_kind
@pytest.mark.parametrize("risk", [0.05, 0.2])
def test_calibrate__wanted_risk__is_met_on_the_other_half(tmp_path, basis, risk):
    make_table(tmp_path, basis)
    made = make(tmp_path, risk).calibration
    judged = made.judgement
    assert judged.risk.low <= risk and judged.risk.value < 1.2 * risk
    assert 0.01 < judged.coverage.value < 1
    # All labels decided would be wrong more often.
    assert make(tmp_path).calibration.judgement.risk.value > 2 * risk or risk > 0.1
    file = tmp_path / "cal.json"
    file.write_bytes(write_document(made))
    applied = apply_calibration(str(tmp_path), str(file))
    files = f"'{tmp_path}/predictions/*.parquet'"
    decisions = "unnest(decision).label" if basis.is_multilabel else "decision"
    query = f"""
      SELECT avg(CAST(list_contains(string_split(truth, '|'), d) AS INTEGER)) FROM (
        SELECT truth, {decisions} AS d FROM {files}
      ) WHERE d IS NOT NULL
    """
    ((right,),) = duckdb.sql(query).fetchall()
    assert 1 - right < 1.2 * risk and applied.decided > 0


def test_calibrate__same_rows_in_other_files__makes_the_same_file(tmp_path):
    basis = BASES["single_label"]
    rows, logits = random_rows(basis, 2000, seed=7)
    truths = draw_truths(logits / 2, basis, seed=7)
    made = []
    for name, target in (("one", 1 << 28), ("many", 1)):
        publish_rows(tmp_path / name, rows, basis, truths, target_bytes=target)
        made.append(make(tmp_path / name, 0.1).calibration)
    assert write_document(made[0]) == write_document(made[1])


def test_calibrate__labels_by_chance__decides_none_and_describes_it(tmp_path):
    basis = BASES["single_label"]
    rows, logits = random_rows(basis, 4000, seed=3)
    publish_rows(tmp_path, rows, basis, draw_truths(np.zeros_like(logits), basis, seed=3))
    made = make(tmp_path, 0.05)
    assert made.calibration.default_threshold is None
    assert made.calibration.thresholds and not any(one.threshold for one in made.calibration.thresholds)
    assert made.calibration.judgement.risk is None and made.calibration.judgement.coverage.value == 0
    text = "\n".join(describe_calibration(made))
    assert "so that they are never decided: 'class " in text
    assert "labels) has at most 0.05 wrong labels, so that these classes are never decided" in text
    file = tmp_path / "cal.json"
    file.write_bytes(write_document(made.calibration))
    assert apply_calibration(str(tmp_path), str(file)).decided == 0


@pytest.mark.parametrize("most", [1000, 2700])
def test_calibrate__more_images_than_memory_allows__takes_a_fixed_sample(tmp_path, monkeypatch, most):
    make_table(tmp_path, BASES["binary"], images=3000)
    monkeypatch.setattr(module, "MOST_IMAGES", most)
    first, again = make(tmp_path), make(tmp_path)
    used = first.calibration.images + first.calibration.judgement.images
    assert abs(used - most) < 150 and first.left_out == 3000 - used
    assert abs(first.calibration.images - used / 2) < 100
    assert first == again
    assert "Left out, because memory is bounded: " in "\n".join(describe_calibration(first))


def test_describe_calibration__every_class_has_a_threshold__does_not_warn_of_others(tmp_path):
    make_table(tmp_path, BASES["binary"])
    text = "\n".join(describe_calibration(make(tmp_path, 0.2)))
    assert (
        "Classes with a threshold of their own (of 22 labels or more): 2; threshold of all others: none"
        in text
    )
    assert "never decided" not in text
    publish_rows(tmp_path / "one", [[(1, 0.9)]] * 2000, BASES["binary"], ["class 1"] * 2000)
    text = "\n".join(describe_calibration(make(tmp_path / "one", 0.2)))
    assert "never decided, because no label of these images is one of them: 1." in text


def test_calibrate__few_images__has_warnings(tmp_path):
    make_table(tmp_path / "few", BASES["binary"], images=20)
    text = "\n".join(describe_calibration(make(tmp_path / "few", 0.05)))
    assert "this calibration is judged on " in text and "never decided" in text
    publish_rows(tmp_path / "one", [[(1, 0.9)]], BASES["binary"], ["class 1"])
    with pytest.raises(UserError, match="Images with a truth: 1, which is too few for two halves"):
        make(tmp_path / "one")


def test_calibrate__no_wrong_image__has_a_temperature_within_its_range(tmp_path):
    basis = BASES["single_label"]
    rows, _ = random_rows(basis, 400, seed=5)
    publish_rows(tmp_path, rows, basis, [f"class {labels[0][0]}" for labels in rows])
    made = make(tmp_path).calibration
    assert 0.04 < made.temperature < 0.5 and made.judgement.error_after.value < 0.05


def labels_at_random(images: int, seed: int, distinct: int) -> Labels:
    random = np.random.default_rng(seed)
    scores = (random.integers(1, distinct + 1, images) / distinct).astype(np.float32)
    return Labels(scores, random.integers(0, 3, images), random.random(images) < scores)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("distinct", [3, 50, 1_000_000])
def test_find_threshold__random_labels__is_the_least_score_whose_bound_fits(seed, distinct):
    labels, risk = labels_at_random(60, seed, distinct), 0.3

    def bound(score: float) -> float:
        chosen = labels.is_right[labels.scores >= score]
        # The upper end of a two-sided interval of 90 % has 95 % confidence.
        return binomtest(int((~chosen).sum()), len(chosen)).proportion_ci(0.9, "wilson").high

    fitting = [score for score in labels.scores.tolist() if bound(score) <= risk]
    assert find_threshold(labels, risk) == (min(fitting) if fitting else None)


def equal_labels(number: int) -> Labels:
    """Return labels of score 1 that are all right."""
    return Labels(np.ones(number, np.float32), np.zeros(number, np.int32), np.ones(number, bool))


@pytest.mark.parametrize(("slope", "most"), [(0.0, 0.14), (1.0, 0.08)])
def test_find_threshold__random_labels__misses_the_risk_of_new_images_as_rarely_as_described(slope, most):
    # With a slope of 0 scores do not order the labels, and each threshold is a wrong one.
    risk, number, draws, random = 0.05, 1000, 400, np.random.default_rng(4)
    misses = 0
    for _ in range(draws):
        scores = random.random(number)
        wrong = random.random(number) < (1 - scores if slope else 0.06)
        threshold = find_threshold(Labels(scores, np.zeros(number, np.int32), ~wrong), risk)
        misses += threshold is not None and (slope == 0 or (1 - threshold) / 2 > risk)
    assert misses / draws < most


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("images", [1, 7, 1000, 10**7])
def test_wilson_bounds__numbers_and_arrays__are_those_of_scipy(images, confidence):
    hits = np.unique([0, images // 3, images // 2, images - 1, images])
    lows, highs = wilson_bounds(hits, np.full(len(hits), images), confidence)
    for n, low, high in zip(hits.tolist(), lows, highs, strict=True):
        expected = binomtest(n, images).proportion_ci(confidence, "wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert wilson_bounds(n, images, confidence) == (low, high)
    assert lows[0] == 0 and highs[-1] == 1


@pytest.mark.parametrize(
    ("temperature", "text"),
    [
        (1.0, "Temperature 1: raw scores hardly change."),
        (1.005, "raw scores hardly change."),
        (0.995, "raw scores hardly change."),
        (1.02, "raw scores are mostly above the share"),
        (0.5, "raw scores are mostly below the share"),
    ],
)
def test_describe_calibration__any_temperature__names_its_effect(tmp_path, temperature, text):
    make_table(tmp_path, BASES["binary"], images=50)
    made = make(tmp_path)
    changed = dataclasses.replace(made.calibration, temperature=temperature)
    assert text in "\n".join(describe_calibration(made._replace(calibration=changed)))


def test_describe_calibration__one_of_everything__has_no_plural(tmp_path):
    make_table(tmp_path, BASES["binary"], images=50)
    made = make(tmp_path, 0.2)
    judgement = dataclasses.replace(made.calibration.judgement, images=1)
    changes = {"images": 1, "default_labels": 1, "default_threshold": None, "judgement": judgement}
    made = made._replace(calibration=dataclasses.replace(made.calibration, **changes), left_out=1)
    text = "\n".join(describe_calibration(made))
    assert not re.findall(r"\b1 (?:further )?(?:images|others|labels|classes|rows)", text)
    assert "Made from 1 image, and judged on 1 other." in text and "together (1 label)" in text


def test_find_threshold__no_labels__is_none():
    assert find_threshold(equal_labels(0), 0.5) is None


@pytest.mark.parametrize("risk", [0.001, 0.05, 0.5, 0.999])
def test_labels_needed__all_right__prove_the_risk_and_fewer_do_not(risk):
    needed = labels_needed(risk)
    assert find_threshold(equal_labels(needed), risk) == 1
    assert find_threshold(equal_labels(needed - 1), risk) is None


def labels_of_classes(numbers: list[int], gains: list[float], seed: int) -> Labels:
    """Return labels of random scores; in each class, the share of right ones is the score to its gain."""
    random = np.random.default_rng(seed)
    class_ids = np.repeat(np.arange(len(numbers)), numbers)
    scores = random.random(len(class_ids)).astype(np.float32)
    return Labels(scores, class_ids, random.random(len(class_ids)) < scores ** np.take(gains, class_ids))


def test_find_thresholds__good_bad_and_rare_classes__have_what_their_labels_prove():
    # Two that are alike, one always right, one always wrong, and one that is rare.
    labels = labels_of_classes([1000, 1000, 1000, 1000, 40], [1.0, 1.0, 0.0, 1e9, 0.5], seed=2)
    shared, thresholds = find_thresholds(labels, 0.1, "abcde")
    assert [(one.class_id, one.label, one.images) for one in thresholds] == [
        (n, "abcd"[n], 1000) for n in range(4)
    ]
    like, alike, good, bad = (one.threshold for one in thresholds)
    assert good < 0.01 and bad is None and 0.75 < like < 0.97 and 0.75 < alike < 0.97
    for n, threshold in ((0, like), (1, alike), (2, good), (4, shared)):
        assert threshold == find_threshold(Labels(*(c[labels.class_ids == n] for c in labels)), 0.1)


def test_find_thresholds__no_class_can_prove_one__share_one_found_on_all_together():
    labels = labels_of_classes([100] * 10, [1.0] * 10, seed=1)
    shared, thresholds = find_thresholds(labels, 0.1, "abcdefghij")
    alone = {one.class_id for one in thresholds}
    assert len(alone) <= 2 and 0.75 < shared < 0.9
    together = ~np.isin(labels.class_ids, list(alone))
    assert shared == find_threshold(Labels(*(column[together] for column in labels)), 0.1)


@pytest.mark.parametrize(("number", "gain"), [(300, 0.3), (2000, 0.3), (30, 0.3), (300, 1.0)])
def test_find_thresholds__other_labels_of_the_same_classes__meet_the_risk(number, gain):
    random = np.random.default_rng(number)
    gains = list(gain * random.lognormal(0, 1, 50))
    shared, thresholds = find_thresholds(labels_of_classes([number] * 50, gains, seed=1), 0.05, "a" * 50)
    others = labels_of_classes([number] * 50, gains, seed=2)
    limits = np.full(50, np.inf if shared is None else shared)
    for one in thresholds:
        limits[one.class_id] = np.inf if one.threshold is None else one.threshold
    decided = others.is_right[others.scores >= limits[others.class_ids]]
    assert len(decided) > 0.01 * len(others.scores)
    assert binomtest(int((~decided).sum()), len(decided)).proportion_ci(0.95, "wilson").low <= 0.05


@of_every_kind
def test_calibration_error__raw_scores__is_that_of_evaluate(tmp_path, basis):
    rows, logits = random_rows(basis, 1000, seed=11)
    truths = draw_truths(logits / 2, basis, seed=11)
    publish_rows(tmp_path, rows, basis, truths)
    with open_database() as db:
        expected = evaluate(db, db.attach(str(tmp_path)), TRUTH).measures[CALIBRATION_ERROR]
    judged = [
        (score, class_id, f"class {class_id}" in truth.split("|"))
        for labels, truth in zip(rows, truths, strict=True)
        for class_id, score in labels[: None if basis.is_multilabel else 1]
    ]
    scores, class_ids, is_right = map(np.array, zip(*judged, strict=True))
    error = calibration_error(Labels(scores.astype(np.float32), class_ids, is_right))
    for name in ("value", "low", "high"):
        assert getattr(error, name) == pytest.approx(getattr(expected, name), abs=1e-9)


def read(path: Path) -> Calibration:
    return parse_document(Calibration, read_document(path.read_bytes()))


def test_command__calibrate_and_apply__write_the_file_and_the_columns(tmp_path, capsys, own_signal_handlers):
    make_table(tmp_path / "out", BASES["binary"], images=2000)
    output, file = str(tmp_path / "out"), str(tmp_path / "cal.json")
    command = ["calibrate", output, "--truth", "truth", "--calibration", file]
    assert main([*command, "--precision", "0.95"]) == 0
    printed = capsys.readouterr().out
    assert "Made from 1,0" in printed and f"labelbeam apply {output} --calibration {file}" in printed
    first = read(tmp_path / "cal.json")
    assert first.wanted_risk == 0.05 and f"fingerprint {first.fingerprint}" in printed
    # A calibration file is written again; that of --risk is the same.
    assert main([*command, "--risk=0.05"]) == 0
    assert read(tmp_path / "cal.json") == first
    assert main(["apply", output, "--calibration", file]) == 0
    assert main(["apply", output, "--calibration", file]) == 0
    printed = capsys.readouterr().out
    assert f"{output}: generation 2 has the columns decision and calibrated_score; " in printed
    assert "the rows have this calibration already" in printed
    assert main(["verify", output]) == 0
    # The raw scores stay, so that a table with decisions can be calibrated again, as can an older generation.
    assert main([*command[:1], f"{output}@1", *command[2:]]) == 0
    assert f"labelbeam apply {output} --calibration" in capsys.readouterr().out
    assert main([*command, "--risk=0.05"]) == 0
    assert read(tmp_path / "cal.json") == first


def test_command__show_sql__prints_statements_that_run_and_writes_nothing(
    tmp_path, capsys, own_signal_handlers
):
    make_table(tmp_path / "out", BASES["binary"], images=50)
    file = tmp_path / "cal.json"
    command = ["calibrate", str(tmp_path / "out"), "--truth=truth", "--calibration", str(file), "--show_sql"]
    assert main(command) == 0
    statements = capsys.readouterr().out
    with duckdb.connect() as connection:
        assert len(connection.execute(statements).fetchall()) == 50
    assert not file.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--risk=0.1", "--precision=0.9"], "--risk and --precision mean the same. Give one of them."),
        (["--risk=0"], "--risk='0' is not allowed: it must be a number above 0 and below 1."),
        (["--precision=1"], "--precision='1' is not allowed"),
        (["--precision=float32"], "--precision='float32' is not allowed"),
        (["--risk=nan"], "--risk='nan' is not allowed"),
        (["--calibration="], "--calibration is missing"),
        (["--calibration={notes}"], "exists and is no calibration file. Give another name, or delete it."),
        (["--calibration={out}/no/such/cal.json"], ""),
        (["--truth="], "No truth is given"),
        (["--truth=colour"], "is no column of the input"),
        (["--top_k=3"], "labelbeam calibrate has no option --top_k"),
    ],
)
def test_command__bad_option__is_refused_in_one_line(tmp_path, capsys, own_signal_handlers, flags, message):
    make_table(tmp_path / "out", BASES["binary"], images=50)
    (tmp_path / "notes").write_text("mine")
    flags = [flag.format(notes=tmp_path / "notes", out=tmp_path) for flag in flags]
    given = {flag.partition("=")[0] for flag in flags}
    defaults = {"--truth": "truth", "--calibration": str(tmp_path / "cal.json")}
    others = [f"{name}={value}" for name, value in defaults.items() if name not in given]
    status = main(["calibrate", str(tmp_path / "out"), *flags, *others])
    error = capsys.readouterr().err
    assert status == (2 if message else 0) and message in error and error.count("\n") == bool(message)
    assert (tmp_path / "notes").read_text() == "mine"


def test_command__embeddings_or_no_folder__is_refused(tmp_path, capsys, own_signal_handlers):
    manifest = make_table(tmp_path / "out", BASES["binary"], images=50)
    changed = dataclasses.replace(manifest, model={"head": "embedding", "length": 3})
    (tmp_path / "out" / "manifest.json").write_bytes(write_document(changed))
    for name, message in (("out", "holds embeddings"), ("nowhere", "holds no published results")):
        for command in (["calibrate", "--truth=truth"], ["apply"]):
            file = str(tmp_path / "cal.json")
            Path(file).write_bytes(write_document(SINGLE_LABEL))
            assert main([*command, str(tmp_path / name), f"--calibration={file}"]) == 2
            assert message in capsys.readouterr().err


def test_command__bucket__calibrates_and_applies(gcs, one_client, capsys, own_signal_handlers):
    gcs.put("gs://labels/x", b"")
    make_table("gs://labels/out", BASES["binary"], images=300)
    command = ["gs://labels/out", "--calibration", "gs://labels/cal.json"]
    assert main(["calibrate", *command, "--truth=truth"]) == 0
    assert json.loads(gcs.get("gs://labels/cal.json"))["format"] == 1
    assert main(["apply", *command]) == 0
    assert "300 of 300 rows are decided" in capsys.readouterr().out


def test_describe_calibration__risk_above_the_wanted_one__is_a_warning(tmp_path):
    make_table(tmp_path, BASES["binary"], images=1500)
    made = make(tmp_path, 0.2)
    risk = dataclasses.replace(made.calibration.judgement.risk, value=0.5, low=0.3)
    judgement = dataclasses.replace(made.calibration.judgement, risk=risk)
    changed = made._replace(calibration=dataclasses.replace(made.calibration, judgement=judgement))
    text = "\n".join(describe_calibration(changed))
    assert "the risk is above the wanted 0.2, and not by chance" in text
    assert "not by chance" not in "\n".join(describe_calibration(made))
