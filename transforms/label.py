"""Labelling in one process: the functions of the steps, one after another, without a runner."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from labelbeam.transforms.elements import AnyImage, DecodedImage, Failure, Prediction
from labelbeam.transforms.loaders.crew import Loaders
from labelbeam.transforms.loaders.image import Loaded
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.heads import DEFAULT_THRESHOLD
from labelbeam.transforms.predict import predict_labels

T = TypeVar("T")


def label_images(
    rows: Iterable[AnyImage | Failure],
    classifier: Classifier,
    loaders: Loaders,
    ahead: int,
    callers: int = 1,
    keep_outputs: bool = False,
    threshold: float = DEFAULT_THRESHOLD,
) -> Iterator[Prediction | Failure]:
    """Label images, and pass failures on.

    Args:
      rows: Images, in any number; they are read as fast as they are labelled.
      classifier: The model.
      loaders: Load the images.
      ahead: Number of images that are loaded at once.
      callers: Number of batches that the model runs at once.
      keep_outputs: As in `PredictLabels`.
      threshold: As in `PredictLabels`.

    Yields:
      A result for each row, or for each of its boxes, in their order.
    """
    predict = functools.partial(
        _predict, classifier=classifier, keep_outputs=keep_outputs, threshold=threshold
    )
    size = classifier.sizes[-1]
    with ThreadPoolExecutor(callers, "predict") as predictors:
        # Ahead of the model by as many images as its callers take next, so that no caller waits.
        loaded = _in_order((_load(row, loaders) for row in rows), ahead + size * callers)
        values = itertools.chain.from_iterable(one.values for one in loaded)
        batches = iter(lambda: list(itertools.islice(values, size)), [])
        results = _in_order((predictors.submit(predict, batch) for batch in batches), callers)
        yield from itertools.chain.from_iterable(results)


def _in_order(futures: Iterable[Future[T]], ahead: int) -> Iterator[T]:
    """Yield results in the order of their futures, of which at most `ahead` are under way."""
    pending: deque[Future[T]] = deque()
    try:
        for future in futures:
            pending.append(future)
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Cancelled, because a pool would otherwise finish work whose results nobody takes, after an error
        # or when the caller stops early.
        for future in pending:
            future.cancel()


def _load(row: AnyImage | Failure, loaders: Loaders) -> Future[Any]:
    if not isinstance(row, Failure):
        return loaders.submit(row)
    passed_on: Future[Loaded] = Future()
    passed_on.set_result(Loaded(row, 0))
    return passed_on


def _predict(
    loaded: Sequence[DecodedImage | Failure], classifier: Classifier, keep_outputs: bool, threshold: float
) -> list[Prediction | Failure]:
    images = [image for image in loaded if isinstance(image, DecodedImage)]
    labelled = iter(predict_labels(images, classifier, keep_outputs, threshold) if images else ())
    return [next(labelled) if isinstance(image, DecodedImage) else image for image in loaded]
