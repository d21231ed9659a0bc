"""Results of an evaluation: measures, classes, confusions, and groups of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labelbeam.pipeline.results.intervals import Estimate
from labelbeam.pipeline.results.truth import Match

TOP_1, CALIBRATION_ERROR, AUC = "top-1", "calibration error", "ROC AUC"


@dataclass(frozen=True, slots=True)
class Bin:
    """Labels whose scores lie in one of the bins of equal width.

    Attributes:
      low: Lower bound of the scores.
      high: Upper bound of the scores.
      labels: Number of labels.
      score: Mean score.
      accuracy: Share of the labels that are right.
    """

    low: float
    high: float
    labels: int
    score: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class ClassResult:
    """Results of a class.

    Attributes:
      support: Images of this class by the truth.
      labelled: Images with this label.
      precision: Share of the images with this label that are of this class; None without such images.
      recall: Share of the images of this class with this label; None without such images.
      f1: Harmonic mean of precision and recall; 0 without a right label.
      average_precision: Area under the precision-recall curve, of multi-label models with support alone.
    """

    class_id: int
    label: str
    support: int
    labelled: int
    precision: Estimate | None
    recall: Estimate | None
    f1: float
    average_precision: float | None = None


@dataclass(frozen=True, slots=True)
class Confusion:
    """Images of one class that have the label of another."""

    truth: str
    label: str
    images: int


@dataclass(frozen=True, slots=True)
class Group:
    """Results of the images with one value of the column `--by`."""

    value: str | None
    measures: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Labels of an output against the truth.

    Attributes:
      match: Matching of truth and classes.
      measures: `top-1`, `top-5` and so on, by name.
      means: Means over the classes with images of their own, by name.
      classes: Results of each class that a truth or a label names, those with most support first.
      confusions: Most frequent confusions.
      bins: Calibration of the best labels' scores, or of all labels of a multi-label model.
      groups: Results by the column `--by`.
      warnings: Reservations.
    """

    match: Match
    measures: Mapping[str, Estimate]
    means: Mapping[str, float]
    classes: tuple[ClassResult, ...]
    confusions: tuple[Confusion, ...]
    bins: tuple[Bin, ...]
    groups: tuple[Group, ...]
    warnings: tuple[str, ...]
