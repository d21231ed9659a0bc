"""Evidence: outputs of a model for the sample photos, and conclusions from these outputs.

Nothing here runs a model. `labelbeam.transforms.models.probe` collects the evidence and caches it as JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labelbeam.transforms.models.heads import Head
from labelbeam.transforms.models.labels import IMAGENET_WITH_BACKGROUND
from labelbeam.transforms.models.presets import Outputs
from labelbeam.transforms.models.scaling import NAMED_SCALINGS, Scaling

IMAGENET_LENGTHS = (IMAGENET_WITH_BACKGROUND - 1, IMAGENET_WITH_BACKGROUND)
# Tolerance for a sum of probabilities, and for values in [0, 1]: float16 and quantised models are less exact.
_SUM_TOLERANCE, _VALUE_TOLERANCE = 0.02, 1e-3
# Outputs of different photos are equal if they differ by less than this share of their size.
_EQUAL = 1e-6
# Share of the photos in one class from which a model seems not to see them, and the fewest photos for that.
_MOST_IN_ONE_CLASS, _FEWEST_PHOTOS = 0.9, 5
# A scaling is better than another if more photos are right, and if the right class gets a higher probability
# for this share of them. Measured with EfficientNet-Lite0: 0.70 (-1,1 against 0,1) to 1.0.
_WINS = 2 / 3
# A scaling is confirmed if this share of the photos is right, and this many at least: of 1000 classes, chance
# finds none.
_CONFIRMED, _FEWEST_RIGHT = 0.2, 2
# Logarithm of the probability of a right class that a model without finite outputs never finds.
_NEVER = -100.0


@dataclass(frozen=True, slots=True)
class Run:
    """Outputs for the sample photos with one scaling.

    Attributes:
      best: Index of the largest output, by photo.
      least: Smallest output of all.
      most: Largest output of all.
      sums_to_one: Whether the outputs of each photo are not negative and sum to 1.
      equal: Whether different photos have equal outputs.
      likelihoods: Natural logarithm of the probability of the right class, for each photo of known class.
      right: Number of these photos whose best class is right.
    """

    best: tuple[int, ...]
    least: float
    most: float
    sums_to_one: bool
    equal: bool
    likelihoods: tuple[float, ...]
    right: int

    @property
    def in_unit_range(self) -> bool:
        """Whether all outputs are in [0, 1]."""
        # Relative to the largest output, because logits of a model with small weights are all near 0.
        return self.least >= -_VALUE_TOLERANCE * self.most and self.most <= 1 + _VALUE_TOLERANCE

    @property
    def commonest(self) -> tuple[int, int]:
        """The most frequent best class and its number of photos."""
        return Counter(self.best).most_common(1)[0]

    def beats(self, other: Run) -> bool:
        """Return whether this run is clearly better than another on photos of known class."""
        pairs = list(zip(self.likelihoods, other.likelihoods, strict=False))
        wins = sum(mine > theirs for mine, theirs in pairs)
        return self.right > other.right and wins >= _WINS * len(pairs)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Runs of a model over the sample photos, by the name of their scaling.

    Attributes:
      length: Numbers that the model returns for an image.
      photos: Number of photos of known class in every run; 0 if the model has other classes than ImageNet's.
      runs: The runs; the first is of the configured scaling.
      untried: Whether the model was too slow for the other scalings, although these could show something.
    """

    length: int
    photos: int
    runs: Mapping[str, Run]
    untried: bool = False

    @property
    def configured(self) -> Run:
        """The run of the configured scaling."""
        return next(iter(self.runs.values()))

    def is_blind(self, run: Run) -> bool:
        """Return whether the model seems not to see the photos: equal outputs, or nearly all in one class."""
        _, photos = run.commonest
        # Of two classes, one may be right for all photos.
        may_be_blind = self.length > 2 and len(run.best) >= _FEWEST_PHOTOS
        return run.equal or (may_be_blind and photos >= _MOST_IN_ONE_CLASS * len(run.best))

    @property
    def has_imagenet_classes(self) -> bool:
        """Whether the photos of known class confirm the best scaling, named or not."""
        return self._best_name() is not None

    def best_scaling(self) -> Scaling | None:
        """Return the named scaling that the photos of known class confirm; None if there is none."""
        best = self._best_name()
        return NAMED_SCALINGS.get(best) if best else None

    def _best_name(self) -> str | None:
        confirmed = [
            n for n, run in self.runs.items() if run.right >= max(_FEWEST_RIGHT, _CONFIRMED * self.photos)
        ]
        better = [n for n in confirmed if self.runs[n].beats(self.configured)]
        # The first run is the configured one: it stays unless another is clearly better.
        candidates = better or [n for n in confirmed if self.runs[n] is self.configured]
        return max(candidates, key=self._quality, default=None)

    def rival(self) -> str | None:
        """Return the scaling that is nearly as good as the best one and better than the configured one."""
        best = self._best_name()
        if best is None or self.runs[best] is self.configured:
            return None
        rivals = [n for n, run in self.runs.items() if n != best and run.beats(self.configured)]
        close = [n for n in rivals if not self.runs[best].beats(self.runs[n])]
        return max(close, key=self._quality, default=None)

    def _quality(self, name: str) -> tuple[int, float]:
        return self.runs[name].right, sum(self.runs[name].likelihoods)

    def head(self, run: Run) -> Head:
        """Return the head that a run's outputs look like."""
        values: Outputs = "probabilities" if run.in_unit_range else "logits"
        if self.length == 1:
            return Head("binary", values)
        return Head("multilabel" if run.in_unit_range and not run.sums_to_one else "single_label", values)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Evidence:
        """Return evidence from the plain data of `dataclasses.asdict`."""
        runs = {
            name: Run(**{**run, "best": tuple(run["best"]), "likelihoods": tuple(run["likelihoods"])})
            for name, run in document["runs"].items()
        }
        return cls(document["length"], document["photos"], runs, document["untried"])


def make_run(outputs: np.ndarray, right_classes: Sequence[frozenset[int]]) -> Run:
    """Summarise outputs.

    Args:
      outputs: `[N, length] float32`. Rows that are not finite count as wrong and are ignored otherwise.
      right_classes: Class ids that are right for the first photos; empty if the model has other classes
        than ImageNet's.

    Raises:
      ValueError: No row is finite.
    """
    finite = np.isfinite(outputs).all(axis=1)
    rows, best = outputs[finite], outputs.argmax(axis=1)
    sums_to_one = bool(rows.min() >= 0 and np.abs(rows.sum(axis=1) - 1).max() <= _SUM_TOLERANCE)
    size = max(float(np.abs(rows).max()), 1e-12)
    first = outputs[: len(right_classes)]
    logs = np.full(first.shape, _NEVER)
    # Of finite rows alone, because NumPy prints a warning about infinity less infinity.
    logs[finite[: len(first)]] = _log_probabilities(first[finite[: len(first)]], sums_to_one)
    return Run(
        best=tuple(best[finite].tolist()),
        least=float(rows.min()),
        most=float(rows.max()),
        sums_to_one=sums_to_one,
        equal=len(rows) > 1 and float(np.ptp(rows, axis=0).max()) <= _EQUAL * size,
        likelihoods=tuple(
            round(max(float(row[n]) for n in classes), 4)
            for row, classes in zip(logs, right_classes, strict=True)
        ),
        right=sum(
            bool(ok) and int(n) in classes
            for ok, n, classes in zip(finite, best, right_classes, strict=False)
        ),
    )


def _log_probabilities(outputs: np.ndarray, are_probabilities: bool) -> np.ndarray:
    if are_probabilities:
        return np.log(np.maximum(outputs, 1e-12))
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
