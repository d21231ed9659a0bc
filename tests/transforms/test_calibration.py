"""Calibrated scores and decisions, on tables of random scores."""

import dataclasses
import itertools
import pickle

import numpy as np
import pyarrow as pa
import pytest

from labelbeam.transforms.calibration import (
    Basis,
    Calibration,
    ClassThreshold,
    decide,
    scores_of,
    temper,
)
from labelbeam.transforms.table.documents import parse_document, read_document, write_document
from tests.calibrations import SINGLE_LABEL, batch_of, calibration, random_rows, softmax

BASES = {
    "single_label": Basis("m", "p", "single_label", classes=50, top_k=5),
    "all classes": Basis("m", "p", "single_label", classes=7, top_k=7),
    "best class": Basis("m", "p", "single_label", classes=1000, top_k=1),
    "binary": Basis("m", "p", "binary", classes=2, top_k=2),
    "best of two": Basis("m", "p", "binary", classes=2, top_k=1),
    "multilabel": Basis("m", "p", "multilabel", classes=30, top_k=10, threshold=0.5),
    "low threshold": Basis("m", "p", "multilabel", classes=30, top_k=30, threshold=0.0),
}
TEMPERATURES = (0.25, 0.5, 0.9, 1.0, 1.5, 3.0, 10.0)
of_every_kind = pytest.mark.parametrize("basis", BASES.values(), ids=BASES)


def tempered(rows: list, basis: Basis, temperature: float) -> list[list[float]]:
    """Return the calibrated scores of the listed labels."""
    scores = scores_of(batch_of(rows)["labels"], basis)
    return [
        values[:n].tolist()
        for values, n in zip(temper(scores, basis, temperature), scores.counts, strict=True)
    ]


@of_every_kind
@pytest.mark.parametrize("gain", [0.1, 4, 60])
def test_temper__temperature_1__changes_nothing(basis, gain):
    rows, _ = random_rows(basis, 200, seed=1, gain=gain)
    for labels, scores in zip(rows, tempered(rows, basis, 1.0), strict=True):
        np.testing.assert_allclose(scores, [score for _, score in labels], rtol=1e-6, atol=1e-6)


@of_every_kind
@pytest.mark.parametrize("gain", [0.1, 4, 60])
def test_temper__any_temperature__keeps_the_order_within_0_and_1(basis, gain):
    rows, _ = random_rows(basis, 200, seed=2, gain=gain)
    for temperature in TEMPERATURES:
        for scores in tempered(rows, basis, temperature):
            assert all(0 <= score <= 1 for score in scores)
            assert scores == sorted(scores, reverse=True)
            assert basis.is_multilabel or sum(scores) <= 1 + 1e-9


@of_every_kind
def test_temper__rising_temperature__lowers_the_best_score(basis):
    rows, _ = random_rows(basis, 200, seed=3)
    by_temperature = [tempered(rows, basis, temperature) for temperature in TEMPERATURES]
    for cooler, hotter in itertools.pairwise(by_temperature):
        for one, other in zip(cooler, hotter, strict=True):
            # A multi-label score below a half rises, because both ends move towards a half.
            assert not one or other[0] <= one[0] + 1e-9 or one[0] < 0.5


@pytest.mark.parametrize("name", ["all classes", "binary", "best of two", "multilabel", "low threshold"])
def test_temper__no_class_is_left_out__equals_the_model_with_divided_logits(name):
    basis = BASES[name]
    # A small gain, because float32 scores near 1 hold few digits of their logits.
    rows, logits = random_rows(basis, 200, seed=4, gain=1.5)
    for temperature in TEMPERATURES:
        exact = (
            1 / (1 + np.exp(-logits / temperature)) if basis.is_multilabel else softmax(logits / temperature)
        )
        for labels, scores, expected in zip(rows, tempered(rows, basis, temperature), exact, strict=True):
            np.testing.assert_allclose(scores, [expected[i] for i, _ in labels], rtol=1e-4, atol=1e-4)


def test_temper__classes_beyond_top_k__share_what_is_left_evenly():
    basis = Basis("m", "p", "single_label", classes=12, top_k=2)
    scores = scores_of(batch_of([[(3, 0.6), (1, 0.2)]])["labels"], basis)
    powers = np.sqrt([0.6, 0.2, *[0.02] * 10])
    np.testing.assert_allclose(temper(scores, basis, 2.0)[0], (powers / powers.sum())[:2], rtol=1e-6)


@of_every_kind
def test_decide__rows_in_any_batch__have_the_same_columns(basis):
    rows, _ = random_rows(basis, 300, seed=5)
    one = dataclasses.replace(
        SINGLE_LABEL, basis=basis, temperature=1.7, thresholds=(ClassThreshold(1, "b", None, 1),)
    )
    whole = batch_of(rows)
    expected = decide(whole, one)
    for size in (1, 7, 299):
        parts = [decide(whole.slice(start, size), one) for start in range(0, 300, size)]
        for n, column in enumerate(expected):
            assert pa.concat_arrays([part[n] for part in parts]).equals(column)


def test_decide__one_class_per_image__is_the_label_or_null():
    rows = [[(0, 0.6), (1, 0.2)], [(0, 0.4), (1, 0.2)], [(1, 0.3), (0, 0.2)], [(2, 0.99), (0, 0.01)], []]
    decision, score = decide(batch_of(rows), calibration(temperature=1.0))
    assert decision.to_pylist() == ["class 0", None, "class 1", None, None]
    assert score.to_pylist() == pytest.approx([0.6, 0.4, 0.3, 0.99, None], abs=1e-6)
    assert (decision.type, score.type) == (pa.string(), pa.float32())


def test_decide__multilabel__is_the_list_of_labels_that_reach_their_thresholds():
    one = calibration(head="multilabel", top_k=3, threshold=0.1, temperature=1.0)
    rows = [[(2, 0.9), (0, 0.6), (1, 0.3)], [], [(0, 0.4)], [(3, 0.5)]]
    decision, score = decide(batch_of(rows), one)
    decided = [
        [(label["class_id"], round(label["score"], 3)) for label in row] for row in decision.to_pylist()
    ]
    assert decided == [[(0, 0.6), (1, 0.3)], [], [], [(3, 0.5)]]
    assert score.to_pylist() == pytest.approx([0.9, None, 0.4, 0.5], abs=1e-6)
    assert decision.type == batch_of(rows)["labels"].type


def test_decide__score_equal_to_its_threshold__reaches_it():
    batch = batch_of([[(5, 0.7), (1, 0.1)]])
    score = decide(batch, calibration())[1][0].as_py()
    for threshold, decided in [(score, "class 5"), (np.nextafter(np.float32(score), np.float32(1)), None)]:
        one = calibration(default_threshold=float(threshold))
        assert decide(batch, one)[0].to_pylist() == [decided]


def test_decide__no_rows__has_typed_columns():
    for head in ("single_label", "multilabel"):
        columns = decide(batch_of([[(1, 0.5)]]).slice(1), calibration(head=head))
        assert [len(column) for column in columns] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"temperature": 2.5}, True),
        ({"default_threshold": None}, True),
        ({"thresholds": ()}, True),
        ({"thresholds": (ClassThreshold(1, "b", 0.26, 100), SINGLE_LABEL.thresholds[1])}, True),
        ({"top_k": 3}, True),
        ({"model": "model-2"}, True),
        ({"thresholds": SINGLE_LABEL.thresholds[::-1]}, False),
        ({"labelbeam": "9"}, False),
        ({"images": 1}, False),
    ],
)
def test_fingerprint__changes_of_the_effect_alone__change_it(changes, changed):
    assert (calibration(**changes).fingerprint != SINGLE_LABEL.fingerprint) is changed


def test_calibration__document__is_read_as_written():
    assert parse_document(Calibration, read_document(write_document(SINGLE_LABEL))) == SINGLE_LABEL


def test_calibration__copy_of_a_worker__is_the_same_key():
    assert {SINGLE_LABEL: 1}[pickle.loads(pickle.dumps(SINGLE_LABEL))] == 1


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"temperature": 0.0}, "temperature=0.0 is not above zero"),
        ({"temperature": float("nan")}, "temperature=nan is not above zero"),
        ({"default_threshold": 1.5}, "the threshold 1.5 is not from 0 to 1"),
        ({"default_threshold": float("nan")}, "the threshold nan is not from 0 to 1"),
        ({"thresholds": (ClassThreshold(10, "k", 0.1, 1),)}, "class_id=10 is no class of 10"),
        ({"thresholds": (ClassThreshold(-1, "k", 0.1, 1),)}, "class_id=-1 is no class of 10"),
    ],
)
def test_fault__value_out_of_range__is_named(changes, fault):
    assert calibration(**changes).fault() == fault
