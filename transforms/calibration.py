"""Calibration: scores that are as large as the share of right labels, and decisions for a wanted risk.

The tables have the scores of the best `top_k` classes alone, so temperature scaling works on these. With one
class per image, each score p becomes p^(1/T); the mass that the listed scores leave to the other classes is
spread evenly over them and treated in the same way; and then all are divided by their sum. With two classes
this equals sigmoid(logit(p) / T), the rule for classes that are judged by themselves.

A run and `labelbeam apply` use the same function, `decide`, so that their columns are equal.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labelbeam.transforms.models.heads import MULTILABEL

FORMAT = 1

# Half the distance between 1 and the next smaller float32: scores closer to 1 are rounded to 1.
RESOLUTION = 2.0**-25
_TINY = float(np.finfo(np.float32).tiny)
# Largest mass of the other classes that may be rounding errors of the listed scores alone.
_NOISE = 1e-6
# Threshold that no score reaches.
_NEVER = np.float32(np.inf)


@dataclass(frozen=True, slots=True)
class Basis:
    """Properties of a table that decide whether a calibration fits it.

    Attributes:
      model: Fingerprint of the model.
      preprocessing: Fingerprint of the preprocessing.
      head: Kind of the model's head: `single_label`, `binary` or `multilabel`.
      classes: Number of the model's classes.
      top_k: Labels per row.
      threshold: Least score of a label; None for models that are not multi-label.
    """

    model: str
    preprocessing: str
    head: str
    classes: int
    top_k: int
    threshold: float | None = None

    @property
    def is_multilabel(self) -> bool:
        """Whether each class is judged by itself."""
        return self.head == MULTILABEL

    def differences(self, other: Basis) -> Iterator[tuple[str, object, object]]:
        """Yield the name and both values of each property in which another basis differs."""
        for field in dataclasses.fields(self):
            mine, others = getattr(self, field.name), getattr(other, field.name)
            if mine != others:
                yield field.name, mine, others


@dataclass(frozen=True, slots=True)
class ClassThreshold:
    """Least calibrated score with which a class is decided.

    Attributes:
      class_id: The model's index of the class.
      label: Its label.
      threshold: Least score; None if the class is never decided.
      images: Images of the first half with this label.
    """

    class_id: int
    label: str
    threshold: float | None
    images: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % confidence interval.

    Attributes:
      low: Lower bound.
      high: Upper bound.
      images: Number of images, or of labels of multi-label models, that the value is about.
    """

    value: float
    low: float
    high: float
    images: int

    def __str__(self) -> str:
        """Describe the estimate, such as `0.963 (0.817 to 0.993)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Quality of a calibration on images that it was not made from.

    Attributes:
      images: Number of these images.
      error_before: Expected calibration error of the raw scores.
      error_after: Expected calibration error of the calibrated scores.
      coverage: Share of labels that are decided.
      risk: Share of wrong ones among the decided labels; None if there are none.
    """

    images: int
    error_before: Estimate
    error_after: Estimate
    coverage: Estimate
    risk: Estimate | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibration, as its file holds it.

    Attributes:
      labelbeam: Version of the program that made it.
      basis: Properties of the table that it was made from.
      temperature: Temperature T.
      default_threshold: Least score of classes that `thresholds` does not list; None if they are never
        decided.
      default_labels: Number of labels that decided the default threshold.
      thresholds: Classes with a threshold of their own.
      wanted_risk: Largest wanted share of wrong decisions; None if all labels are decided.
      images: Images that it was made from.
      judgement: Quality on other images.
      format: Format of the file.
    """

    labelbeam: str
    basis: Basis
    temperature: float
    default_threshold: float | None
    default_labels: int
    thresholds: tuple[ClassThreshold, ...]
    wanted_risk: float | None
    images: int
    judgement: Judgement
    format: int = FORMAT

    @property
    def fingerprint(self) -> str:
        """A value that changes with anything that changes decisions or scores; 16 hex digits."""
        thresholds = sorted((one.class_id, one.threshold) for one in self.thresholds)
        content = [dataclasses.astuple(self.basis), self.temperature, self.default_threshold, thresholds]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def fault(self) -> str:
        """Return the first value that can't be used, in words; empty if all can."""
        limits = [self.default_threshold, *(one.threshold for one in self.thresholds)]
        if not 0 < self.temperature < math.inf:
            return f"temperature={self.temperature} is not above zero"
        for limit in limits:
            if limit is not None and not 0 <= limit <= 1:
                return f"the threshold {limit} is not from 0 to 1"
        for one in self.thresholds:
            if not 0 <= one.class_id < self.basis.classes:
                return f"class_id={one.class_id} is no class of {self.basis.classes:,}"
        return ""


class Scores(NamedTuple):
    """Scores of images, in columns of equal length.

    Attributes:
      listed: Scores of the listed labels, best first, `[images, top_k] float64`; 0 beyond a row's labels.
      counts: Number of labels of each image, `[images] int64`.
    """

    listed: np.ndarray
    counts: np.ndarray

    @property
    def are_listed(self) -> np.ndarray:
        """Whether a place of `listed` holds a label, `[images, top_k] bool`."""
        return np.arange(self.listed.shape[1]) < self.counts[:, None]


def scores_of(labels: pa.ListArray, basis: Basis) -> Scores:
    """Return the scores of the column `labels`."""
    counts = labels.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    # As wide as the longest possible row, not as the longest one of the batch, because sums of floats depend
    # on their number: the scores of a row must not depend on the rows around it.
    scores = Scores(np.zeros((len(counts), min(basis.top_k, basis.classes))), counts)
    scores.listed[scores.are_listed] = labels.flatten().field("score").to_numpy()
    return scores


def temper(scores: Scores, basis: Basis, temperature: float) -> np.ndarray:
    """Return the calibrated scores of the listed labels, `[images, top_k] float64`; 0 beyond them."""
    if basis.is_multilabel:
        return np.where(scores.are_listed, _temper_each(scores.listed, temperature), 0.0)
    others = basis.classes - scores.counts
    each = _mass_of_others(scores, others) / np.maximum(others, 1)
    # Divided by the best score first, because powers of small numbers would otherwise become 0.
    best = np.maximum(scores.listed[:, :1], _TINY)
    powers = np.power(scores.listed / best, 1 / temperature)
    total = powers.sum(axis=1) + others * np.power(each / best[:, 0], 1 / temperature)
    return powers / np.where(total > 0, total, 1.0)[:, None]


def _temper_each(scores: np.ndarray, temperature: float) -> np.ndarray:
    # Clipped, because float32 rounds scores near 1 to 1, whose logit is infinite at every temperature.
    scores = np.clip(scores, _TINY, 1 - RESOLUTION)
    return 1 / (1 + np.power((1 - scores) / scores, 1 / temperature))


def _mass_of_others(scores: Scores, others: np.ndarray) -> np.ndarray:
    """Return the mass that the listed scores leave to the other classes."""
    mass = 1 - scores.listed.sum(axis=1)
    # Within the noise, between one and all of the other classes as likely as the least listed one, because a
    # high temperature would magnify rounding errors.
    places = np.maximum(scores.counts - 1, 0)
    least = np.take_along_axis(scores.listed, places[:, None], axis=1)[:, 0]
    mass = np.where(mass > _NOISE, mass, np.clip(mass, np.minimum(least, RESOLUTION), others * least))
    return np.where(others > 0, mass, 0.0)


def decide(predictions: pa.RecordBatch, calibration: Calibration) -> list[pa.Array]:
    """Return the columns `decision` and `calibrated_score` of rows of the predictions table.

    With one class per image, `decision` is the label, or null if its calibrated score is below the threshold
    of its class. Of multi-label models it is the list of all labels that reach their thresholds, with their
    calibrated scores. `calibrated_score` is that of `label`, the best of the labels.
    """
    labels = predictions["labels"]
    scores = scores_of(labels, calibration.basis)
    tempered = temper(scores, calibration.basis, calibration.temperature).astype(np.float32)
    best = pa.array(tempered[:, 0], mask=scores.counts == 0)
    flat, flat_scores = labels.flatten(), tempered[scores.are_listed]
    is_decided = flat_scores >= limits_of(calibration)[flat.field("class_id").to_numpy()]
    if not calibration.basis.is_multilabel:
        # The best label of a row is the first one of its list.
        rows = np.flatnonzero(scores.counts)
        firsts = np.cumsum(scores.counts)[rows] - scores.counts[rows]
        abstains = np.ones(len(scores.counts), bool)
        abstains[rows] = ~is_decided[firsts]
        label = predictions["label"]
        return [pc.if_else(pa.array(abstains), pa.scalar(None, label.type), label), best]
    is_kept = np.zeros(scores.listed.shape, bool)
    is_kept[scores.are_listed] = is_decided
    ends = np.cumsum(np.concatenate([[0], is_kept.sum(axis=1)]), dtype=np.int32)
    chosen = flat.filter(pa.array(is_decided))
    children = [chosen.field("class_id"), chosen.field("label"), pa.array(flat_scores[is_decided])]
    values = pa.StructArray.from_arrays(children, fields=list(labels.type.value_type))
    return [pa.ListArray.from_arrays(pa.array(ends), values, type=labels.type), best]


def limits_of(calibration: Calibration) -> np.ndarray:
    """Return the least score of each class, `[classes] float32`; infinite for classes never decided."""
    # As float32, because calibrated scores are: a score equal to its threshold reaches it.
    thresholds = np.full(calibration.basis.classes, _float32(calibration.default_threshold), np.float32)
    for one in calibration.thresholds:
        thresholds[one.class_id] = _float32(one.threshold)
    return thresholds


def _float32(threshold: float | None) -> np.float32:
    return _NEVER if threshold is None else np.float32(threshold)
