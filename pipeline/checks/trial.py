"""Trials: the labels of a few images, for people who wait for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.plan import limits_of
from labelbeam.transforms.elements import AnyImage, Failure, Prediction
from labelbeam.transforms.label import label_images
from labelbeam.transforms.loaders.image import Loading
from labelbeam.transforms.loaders.loaders import start_loaders
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.heads import MULTILABEL
from labelbeam.transforms.sources import Manners

# Images that are fetched ahead of the model.
_AHEAD = 10


def label_rows(
    rows: Iterable[AnyImage | Failure],
    classifier: Classifier,
    config: RunConfig,
    most_sec: float,
) -> list[Prediction | Failure]:
    """Label images with one attempt each, which takes at most some seconds."""
    limits = limits_of(config)
    limits = dataclasses.replace(
        limits,
        total_timeout_sec=min(limits.total_timeout_sec, most_sec),
        manners=Manners(attempts=1),
    )
    loading = Loading(limits, classifier.spec.resize, round(config.load.max_megapixels * 1e6))
    loaders = start_loaders(loading, config.load.loaders)
    threshold = config.predict.least_score
    return list(label_images(rows, classifier, loaders, _AHEAD, threshold=threshold))


def describe_result(result: Prediction | Failure, classifier: Classifier) -> str:
    """Describe an image's label or failure in one line."""
    if isinstance(result, Failure):
        return f"{result.ref.uri}: {result.stage}, {result.reason}: {result.message:.200}"
    return f"{result.ref.uri}: {_best_label(result, classifier)}"


def _best_label(prediction: Prediction, classifier: Classifier) -> str:
    if not classifier.spec.labels:
        return "an embedding"
    if classifier.spec.head.kind == MULTILABEL:
        return ", ".join(f"{one.label} {one.score:.2f}" for one in prediction.labels) or "no class"
    return f"{prediction.labels[0].label}, {prediction.labels[0].score:.2f}"
