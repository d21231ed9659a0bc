"""Making of calibrations: a temperature and thresholds from one half of the images, judged on the other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.optimize import minimize_scalar

from labelbeam import __version__
from labelbeam.pipeline.calibration import basis_of_table
from labelbeam.pipeline.results.database import Database, sample_of
from labelbeam.pipeline.results.evaluate import BINS
from labelbeam.pipeline.results.intervals import error_of_bins, proportion, wilson_bounds
from labelbeam.pipeline.results.truth import Match, TruthOptions, match_truth
from labelbeam.transforms.calibration import (
    RESOLUTION,
    Basis,
    Calibration,
    ClassThreshold,
    Estimate,
    Judgement,
    Scores,
    limits_of,
    scores_of,
    temper,
)
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.table.manifest import Manifest

# Most images, and most scores of them all, because both are held in memory.
MOST_IMAGES, _MOST_SCORES = 1_000_000, 10_000_000
# A two-sided interval of 90 % has bounds of 95 % confidence each.
_TWO_SIDED = 0.9
# Range of the temperature's logarithm: 0.05 to 20.
_LOG_RANGE = (-3.0, 3.0)

_SAMPLE = """
SELECT md5_number_lower(id) AS hash,
  list_transform(labels, lambda l: {{'class_id': l.class_id, 'score': l.score}}) AS labels,
  list_transform(labels, lambda l: list_contains(right_ids, l.class_id)) AS is_right
FROM judged {where}
ORDER BY hash
"""


class Sample(NamedTuple):
    """Scores of images of known classes.

    Attributes:
      scores: Scores of the listed labels.
      class_ids: Classes of the listed labels, `[images, top_k] int32`.
      is_right: Whether the listed labels are right, `[images, top_k] bool`.
    """

    scores: Scores
    class_ids: np.ndarray
    is_right: np.ndarray

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.scores.counts)


class Labels(NamedTuple):
    """Labels that can be decided, in columns of equal length.

    The best label of each image; of multi-label models all listed labels.

    Attributes:
      scores: `[labels]`, float64 or float32.
      class_ids: `[labels] int32`.
      is_right: `[labels] bool`.
    """

    scores: np.ndarray
    class_ids: np.ndarray
    is_right: np.ndarray


class CalibrationResult(NamedTuple):
    """A calibration, and the images that it was made from.

    Attributes:
      match: Matching of truth and classes.
      left_out: Images of known classes that are left out, because memory is bounded.
    """

    calibration: Calibration
    match: Match
    left_out: int


def calibrate(
    db: Database, manifest: Manifest, output: str, truth: TruthOptions, wanted_risk: float | None
) -> CalibrationResult:
    """Make a calibration from attached tables.

    Args:
      db: Database with the tables.
      manifest: Manifest of the tables.
      output: The table folder, as messages name it.
      truth: Origin of the truth.
      wanted_risk: Largest wanted share of wrong decisions; None to decide all labels.

    Raises:
      UserError: There is no truth, or there are too few images.
    """
    basis = basis_of_table(manifest, output)
    match = match_truth(db, manifest, truth)
    fitting, judging = _read_halves(db, basis, match.judged)
    temperature = fit_temperature(fitting, basis)
    labels = _as_decided(labels_of(fitting, basis, temperature))
    default, thresholds = (
        (0.0, ()) if wanted_risk is None else find_thresholds(labels, wanted_risk, manifest.model["classes"])
    )
    calibration = Calibration(
        labelbeam=__version__,
        basis=basis,
        temperature=temperature,
        default_threshold=default,
        default_labels=len(labels.scores) - sum(one.images for one in thresholds),
        thresholds=thresholds,
        wanted_risk=wanted_risk,
        images=fitting.images,
        judgement=_NOT_JUDGED,
    )
    calibration = dataclasses.replace(calibration, judgement=judge(judging, calibration))
    return CalibrationResult(calibration, match, match.judged - fitting.images - judging.images)


_UNKNOWN = Estimate(0.0, 0.0, 1.0, 0)
_NOT_JUDGED = Judgement(0, _UNKNOWN, _UNKNOWN, _UNKNOWN, None)


def _read_halves(db: Database, basis: Basis, judged: int) -> tuple[Sample, Sample]:
    most = min(MOST_IMAGES, _MOST_SCORES // min(basis.top_k, basis.classes))
    table = db.arrow(_SAMPLE.format(where=sample_of(judged, most)))
    # By the lowest bit, because the sample has chosen images by the highest bits of the hash.
    half = table["hash"].to_numpy() % 2
    fitting, judging = (_sample_of(table.filter(pa.array(half == n)), basis) for n in (0, 1))
    if not fitting.images or not judging.images:
        raise UserError(
            f"Images with a truth: {judged:,}, which is too few for two halves. Some hundreds are needed for "
            "scores, and some hundreds of each label for thresholds."
        )
    return fitting, judging


def _sample_of(table: pa.Table, basis: Basis) -> Sample:
    labels, is_right = (table[name].combine_chunks() for name in ("labels", "is_right"))
    scores = scores_of(labels, basis)
    class_ids = np.zeros(scores.listed.shape, np.int32)
    class_ids[scores.are_listed] = labels.flatten().field("class_id").to_numpy()
    right = np.zeros(scores.listed.shape, bool)
    right[scores.are_listed] = is_right.flatten().to_numpy(zero_copy_only=False)
    return Sample(scores, class_ids, right)


def fit_temperature(sample: Sample, basis: Basis) -> float:
    """Return the temperature with which it is most likely that the labels are right and wrong as they are."""
    # The likelihood of the best label alone, not of the right class, because the table lacks the scores of
    # most classes, and the calibrated score is that of the best label.

    def loss(log_temperature: float) -> float:
        labels = labels_of(sample, basis, math.exp(log_temperature))
        likelihood = np.where(labels.is_right, labels.scores, 1 - labels.scores)
        # Bounded, because a float32 score of 1 is rounded.
        surprise = -np.log(np.maximum(likelihood, RESOLUTION)).sum()
        # With a small penalty, because without wrong labels the best temperature would be 0. It has the
        # weight of about one label.
        return float(surprise) + log_temperature**2 / 2

    minimum = minimize_scalar(loss, bounds=_LOG_RANGE, method="bounded", options={"xatol": 1e-5})
    # Rounded, because the last digits differ between processors, and the fingerprint with them.
    return float(f"{math.exp(minimum.x):.5g}")


def labels_of(sample: Sample, basis: Basis, temperature: float | None = None) -> Labels:
    """Return the labels that can be decided, with calibrated or, without a temperature, raw scores."""
    listed = sample.scores.listed if temperature is None else temper(sample.scores, basis, temperature)
    are_judged = sample.scores.are_listed.copy()
    if not basis.is_multilabel:
        are_judged[:, 1:] = False
    return Labels(listed[are_judged], sample.class_ids[are_judged], sample.is_right[are_judged])


def _as_decided(labels: Labels) -> Labels:
    """Return labels with the scores of the table, which are float32."""
    return labels._replace(scores=labels.scores.astype(np.float32))


def find_thresholds(
    labels: Labels, risk: float, names: Sequence[str]
) -> tuple[float | None, tuple[ClassThreshold, ...]]:
    """Find the least scores with which the share of wrong labels is at most `risk`.

    A class has a threshold of its own where its labels prove one, or prove that even the most certain of them
    are wrong too often. All other classes share one, found on their labels together.

    Args:
      labels: Labels of images of known classes.
      risk: Largest wanted share.
      names: Label of each class.

    Returns:
      The shared threshold, and the classes with one of their own. A threshold is None if no score suffices.
    """
    counts = np.bincount(labels.class_ids, minlength=len(names))
    rows = np.split(np.argsort(labels.class_ids, kind="stable"), np.cumsum(counts)[:-1])
    thresholds, shares = [], np.ones(len(names), bool)
    # Only classes with twice the labels that a proof needs, because fewer differ mostly by chance.
    for class_id in np.flatnonzero(counts >= 2 * labels_needed(risk)).tolist():
        own = _take(labels, rows[class_id])
        threshold = find_threshold(own, risk)
        if threshold is not None or _is_hopeless(own, risk):
            shares[class_id] = False
            thresholds.append(ClassThreshold(class_id, names[class_id], threshold, int(counts[class_id])))
    return find_threshold(_take(labels, shares[labels.class_ids]), risk), tuple(thresholds)


def _take(labels: Labels, rows: np.ndarray) -> Labels:
    return Labels(*(column[rows] for column in labels))


def _is_hopeless(labels: Labels, risk: float) -> bool:
    """Return whether, with 95 % confidence, more than `risk` of the most certain labels are wrong."""
    needed = labels_needed(risk)
    best = np.argsort(-labels.scores, kind="stable")[:needed]
    return bool(wilson_bounds((~labels.is_right[best]).sum(), needed, _TWO_SIDED)[0] > risk)


def labels_needed(risk: float) -> int:
    """Return the least number of labels that prove a risk, if none of them is wrong."""
    # From Wilson's upper bound of no wrong label: z² / (labels + z²) <= risk.
    return math.ceil(NormalDist().inv_cdf((1 + _TWO_SIDED) / 2) ** 2 * (1 - risk) / risk)


def find_threshold(labels: Labels, risk: float) -> float | None:
    """Return the least score from which on the share of wrong labels is most likely at most `risk`.

    The largest set of most certain labels is taken whose upper bound, of 95 % confidence, is at most `risk`.
    """
    # The bound holds for one set, and the best of many is taken. In simulations of 200 to 5,000 labels, the
    # risk on new images was above the wanted one in up to 6 % of cases, and in up to 9 % where scores do not
    # order the labels. Tests of sets in sequence, up to the first failure, would keep to 5 %, but would find
    # no threshold in 45 % of cases of 1,000 labels instead of 14 %.
    order = np.argsort(-labels.scores, kind="stable")
    scores, wrong = labels.scores[order], np.cumsum(~labels.is_right[order])
    # Only where the score changes, because a threshold can't part labels of equal scores.
    is_end = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    bounds = wilson_bounds(wrong, np.arange(1, len(scores) + 1), _TWO_SIDED)[1]
    fits = np.flatnonzero(is_end & (bounds <= risk))
    return float(scores[fits[-1]]) if len(fits) else None


def judge(sample: Sample, calibration: Calibration) -> Judgement:
    """Judge a calibration on images that it was not made from."""
    basis = calibration.basis
    raw = labels_of(sample, basis)
    calibrated = _as_decided(labels_of(sample, basis, calibration.temperature))
    is_decided = calibrated.scores >= limits_of(calibration)[calibrated.class_ids]
    decided, wrong = int(is_decided.sum()), int((is_decided & ~calibrated.is_right).sum())
    return Judgement(
        images=sample.images,
        error_before=calibration_error(raw),
        error_after=calibration_error(calibrated),
        coverage=proportion(decided, len(is_decided)) or _UNKNOWN,
        risk=proportion(wrong, decided),
    )


def calibration_error(labels: Labels) -> Estimate:
    """Return the expected calibration error of labels."""
    number = len(labels.scores)
    if not number:
        return _UNKNOWN
    scores = labels.scores.astype(np.float64)
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    gaps = labels.is_right - scores
    return error_of_bins(np.bincount(bins, gaps), float(np.square(gaps).sum()), number)
