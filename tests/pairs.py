"""Pairs of outputs with imaginary images, and their differences."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from labelbeam.pipeline.results.database import open_database
from labelbeam.pipeline.results.diff import Difference, compare
from labelbeam.pipeline.results.fates import LABELLED
from labelbeam.pipeline.results.truth import TruthOptions
from tests.tables import Settings, publish_rows

CLASSES = ("zero", "one", "two", "three", "four", "five")
SINGLE, MULTI = "single_label", "multilabel"


def difference_of(a: object, b: object, truth: TruthOptions | None = None) -> Difference:
    with open_database() as db:
        return compare(db, str(a), str(b), truth)


@dataclasses.dataclass
class Images:
    """Images of one output, by id: labels, or the reason of a failure."""

    head: str
    labels: dict[str, list[tuple[int, float]]]
    reasons: dict[str, str]
    truths: dict[str, list[int]]

    def publish(self, output: Path) -> Path:
        settings = Settings(CLASSES, self.head, top_k=3, columns={"truth": "string"})
        rows = [
            {"id": i, "labels": labels, "truth": "|".join(CLASSES[c] for c in self.truths[i]) or "|"}
            for i, labels in self.labels.items()
        ]
        failures = [
            {"id": i, "reason": reason, "message": f"{output.name}: {reason}"}
            for i, reason in self.reasons.items()
        ]
        return publish_rows(output, settings, rows, failures)

    def outcome(self, image: str) -> str | None:
        return LABELLED if image in self.labels else self.reasons.get(image)

    def classes(self, image: str) -> list[int]:
        """Return the classes that count: all of a multi-label model, else the best."""
        labels = [c for c, _ in self.labels[image]]
        return sorted(labels) if self.head == MULTI else labels[:1]

    def score(self, image: str) -> float | None:
        scores = [s for _, s in self.labels[image]]
        if self.head != MULTI:
            return scores[0]
        return sum(scores) / len(scores) if scores else None

    def is_right(self, image: str) -> bool:
        classes, truth = self.classes(image), self.truths[image]
        return classes == truth if self.head == MULTI else classes[0] in truth


def random_images(seed: int, head: str, truths: dict[str, list[int]], other: Images | None = None) -> Images:
    """Return labels of most images and failures of some; two of three images have the labels of `other`."""
    rng = np.random.default_rng(seed)
    labels, reasons = {}, {}
    for image in truths:
        dice = rng.random()
        if dice < 0.05:
            continue
        if dice < 0.15:
            reasons[image] = str(rng.choice(["timeout", "not_found", "empty"]))
            continue
        n = rng.integers(0, 4) if head == MULTI else 3
        chosen = rng.choice(len(CLASSES), n, replace=False)
        if other and image in other.labels and rng.random() < 0.7:
            chosen = [c for c, _ in other.labels[image]] or chosen
            chosen = chosen[:1] if head != MULTI else chosen
        scores = np.sort(rng.random(len(chosen)).astype(np.float32))[::-1]
        labels[image] = [(int(c), float(s)) for c, s in zip(chosen, scores, strict=True)]
    return Images(head, labels, reasons, truths)


def random_pair(seed: int, heads: tuple[str, str], n: int = 400) -> tuple[Images, Images]:
    rng = np.random.default_rng(seed)
    truths = {
        f"i{i}": sorted(map(int, rng.choice(6, rng.integers(0 if MULTI in heads else 1, 3), replace=False)))
        for i in range(n)
    }
    a = random_images(seed + 100, heads[0], truths)
    return a, random_images(seed + 200, heads[1], truths, a)


def publish_labels(
    output: Path, classes: tuple[str, ...], labels: Mapping[str, int], **settings: object
) -> Path:
    """Publish images with one label each, of a model of its own."""
    rows = [{"id": i, "labels": [(c, 0.5)]} for i, c in labels.items()]
    if columns := settings.get("columns"):
        rows = [{**row, **dict.fromkeys(columns, "ant")} for row in rows]
    return publish_rows(output, Settings(classes, **{"model": output.name, **settings}), rows)
