"""Evidence: what outputs for the sample photos show, without a model."""

import dataclasses
import json

import numpy as np
import pytest

from labelbeam.transforms.models.evidence import Evidence, Run, make_run
from labelbeam.transforms.models.heads import Head

RNG = np.random.default_rng(7)
LOGITS = RNG.normal(0, 3, (20, 1000)).astype(np.float32)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def evidence_of(outputs, **others) -> Evidence:
    return Evidence(outputs.shape[1], 0, {"0,1": make_run(outputs, ()), **others})


@pytest.mark.parametrize(
    ("outputs", "head"),
    [
        (LOGITS, Head("single_label", "logits")),
        (softmax(LOGITS), Head("single_label", "probabilities")),
        (softmax(LOGITS) * 1.01, Head("single_label", "probabilities")),  # float16
        (softmax(LOGITS) * 1.05, Head("multilabel", "probabilities")),
        (1 / (1 + np.exp(-LOGITS)), Head("multilabel", "probabilities")),
        (1e-5 * LOGITS, Head("single_label", "logits")),  # small weights
        (np.maximum(LOGITS, 0), Head("single_label", "logits")),  # beyond 1
        (LOGITS[:, :1], Head("binary", "logits")),
        (1 / (1 + np.exp(-LOGITS[:, :1])), Head("binary", "probabilities")),
        (softmax(LOGITS[:, :2]), Head("single_label", "probabilities")),
    ],
)
def test_head__outputs__show_what_they_are(outputs, head):
    evidence = evidence_of(outputs.astype(np.float32))
    assert evidence.head(evidence.configured) == head


@pytest.mark.parametrize(
    ("outputs", "blind"),
    [
        (LOGITS, False),
        (np.repeat(LOGITS[:1], 20, axis=0), True),  # equal
        (LOGITS + 100 * np.eye(1000, dtype=np.float32)[3], True),  # all in one class
        (LOGITS + 100 * np.eye(1000, dtype=np.float32)[[3] * 18 + [4] * 2], True),  # 18 of 20
        (LOGITS + 100 * np.eye(1000, dtype=np.float32)[[3] * 17 + [4] * 3], False),
        (LOGITS[:4] + 100 * np.eye(1000, dtype=np.float32)[3], False),  # too few photos
        (LOGITS[:, :2] + [100, 0], False),  # one of two classes may be right for all
        (np.repeat(LOGITS[:1, :2], 20, axis=0), True),
        (LOGITS[:, :1], False),
        (np.ones((20, 1), np.float32), True),
    ],
)
def test_is_blind__outputs__show_whether_photos_matter(outputs, blind):
    evidence = evidence_of(outputs.astype(np.float32))
    assert evidence.is_blind(evidence.configured) is blind


def run_of(right: int, likelihood: float, photos: int = 27, wins: int = 27) -> Run:
    likelihoods = [likelihood] * wins + [-50.0] * (photos - wins)
    return Run((1,) * photos, -1.0, 5.0, False, False, tuple(likelihoods), right)


@pytest.mark.parametrize(
    ("configured", "others", "best"),
    [
        (run_of(26, -0.6), {"torch": run_of(20, -1.0)}, "0,1"),
        (run_of(3, -5.0), {"0,255": run_of(25, -0.6), "caffe": run_of(22, -1.0)}, "0,255"),
        (run_of(23, -0.9), {"-1,1": run_of(25, -0.64), "torch": run_of(26, -0.63)}, "torch"),
        (run_of(24, -0.9), {"-1,1": run_of(25, -0.6, wins=18)}, "-1,1"),
        (run_of(24, -0.9), {"-1,1": run_of(25, -0.6, wins=17)}, "0,1"),  # below two thirds
        (run_of(24, -0.9), {"-1,1": run_of(24, -0.6)}, "0,1"),  # no more are right
        (run_of(0, -9.0), {"0,255": run_of(1, -3.0)}, None),  # chance
        (run_of(5, -5.0), {"0,255": run_of(5, -3.0)}, None),  # 5 of 27 is less than a fifth
        (run_of(6, -5.0), {"0,255": run_of(5, -3.0)}, "0,1"),
    ],
)
def test_best_scaling__photos_of_known_class__decide_where_it_is_clear(configured, others, best):
    scaling = Evidence(1000, 27, {"0,1": configured, **others}).best_scaling()
    assert (scaling.name if scaling else None) == best


def test_has_imagenet_classes__scaling_without_a_name__is_confirmed():
    for right, is_confirmed in ((25, True), (1, False)):
        evidence = Evidence(1000, 27, {"0,2": run_of(right, -0.6), "0,1": run_of(0, -9.0)})
        assert (evidence.has_imagenet_classes, evidence.best_scaling()) == (is_confirmed, None)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("not_finite", [np.nan, np.inf, -np.inf])
def test_make_run__known_classes__are_counted_and_weighed(not_finite):
    outputs = np.array([[5, 1, 1], [1, 5, 1], [not_finite, 1, 1], [1, 1, 5]], np.float32)
    run = make_run(outputs, [frozenset({0, 1}), frozenset({2}), frozenset({0})])
    probability = np.exp(outputs[1, 2]) / np.exp(outputs[1]).sum()
    assert (run.right, run.best) == (1, (0, 1, 2))
    assert run.likelihoods[1] == pytest.approx(np.log(probability), abs=1e-3)
    assert run.likelihoods[2] < -50  # outputs that are not finite find no class
    assert (run.least, run.most) == (1, 5)


def test_make_run__probabilities__are_weighed_as_they_are():
    run = make_run(np.array([[0.25, 0.75], [1.0, 0.0]], np.float32), [frozenset({0}), frozenset({1})])
    assert run.likelihoods[0] == pytest.approx(np.log(0.25), abs=1e-3) and run.likelihoods[1] < -20


def test_json__evidence__comes_back_the_same():
    evidence = Evidence(1000, 3, {"0,1": make_run(LOGITS, [frozenset({n}) for n in range(3)])})
    assert Evidence.from_json(json.loads(json.dumps(dataclasses.asdict(evidence)))) == evidence


def test_rival__two_scalings_that_are_near__are_told_apart_or_not():
    near = {"-1,1": run_of(25, -0.64), "torch": run_of(26, -0.63, wins=14)}
    evidence = Evidence(1000, 27, {"0,1": run_of(5, -60.0), **near})
    assert (evidence.best_scaling().name, evidence.rival()) == ("torch", "-1,1")
    far = {"-1,1": run_of(15, -0.9), "torch": run_of(26, -0.6)}
    assert Evidence(1000, 27, {"0,1": run_of(5, -60.0), **far}).rival() is None
    assert Evidence(1000, 27, {"0,1": run_of(26, -0.6), **far}).rival() is None
