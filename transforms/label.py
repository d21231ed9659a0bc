"""Labelling in one process: the functions of the steps, one after another, without a runner."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

from labelbeam.transforms.decode import decode
from labelbeam.transforms.elements import DecodedImage, EncodedImage, Failure, ImageRef, Prediction
from labelbeam.transforms.fetch import fetch_image
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.heads import DEFAULT_THRESHOLD
from labelbeam.transforms.outcomes import attempt
from labelbeam.transforms.predict import predict_labels
from labelbeam.transforms.sources import Sources

T = TypeVar("T")
U = TypeVar("U")


def label_images(
    rows: Iterable[ImageRef | Failure],
    classifier: Classifier,
    sources: Sources,
    max_pixels: int,
    threads: int,
    callers: int = 1,
    keep_outputs: bool = False,
    threshold: float = DEFAULT_THRESHOLD,
) -> Iterator[Prediction | Failure]:
    """Label images, and pass failures on.

    Args:
      rows: Images, in any number; they are read as fast as they are labelled.
      classifier: The model.
      sources: Sources from which images are fetched.
      max_pixels: Largest number of pixels of an image.
      threads: Number of images that are fetched and decoded at once.
      callers: Number of batches that the model runs at once.
      keep_outputs: As in `PredictLabels`.
      threshold: As in `PredictLabels`.

    Yields:
      A result for each row, in their order.
    """
    load = functools.partial(_load, sources=sources, rule=classifier.spec.resize, max_pixels=max_pixels)
    predict = functools.partial(
        _predict, classifier=classifier, keep_outputs=keep_outputs, threshold=threshold
    )
    size = classifier.sizes[-1]
    with ThreadPoolExecutor(threads, "load") as loaders, ThreadPoolExecutor(callers, "predict") as predictors:
        # Ahead of the model by as many images as its callers take next, so that no caller waits.
        loaded = _map_ahead(loaders, load, rows, threads + size * callers)
        batches = iter(lambda: list(itertools.islice(loaded, size)), [])
        yield from itertools.chain.from_iterable(_map_ahead(predictors, predict, batches, callers))


def _map_ahead(pool: Executor, task: Callable[[T], U], items: Iterable[T], ahead: int) -> Iterator[U]:
    """Map items in a pool, in their order; at most `ahead` of them are under way."""
    pending: deque[Future[U]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(task, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Cancelled, because the pool would otherwise finish work whose results nobody takes, after an error
        # or when the caller stops early.
        for future in pending:
            future.cancel()


def _load(
    row: ImageRef | Failure, sources: Sources, rule: ResizeRule, max_pixels: int
) -> DecodedImage | Failure:
    if isinstance(row, Failure):
        return row
    fetched = attempt("fetch", row, functools.partial(fetch_image, row, sources)).value
    if not isinstance(fetched, EncodedImage):
        assert isinstance(fetched, Failure)  # rows without a known version are never unchanged
        return fetched
    return attempt("decode", row, functools.partial(decode, fetched, rule, max_pixels)).value


def _predict(
    loaded: Sequence[DecodedImage | Failure], classifier: Classifier, keep_outputs: bool, threshold: float
) -> list[Prediction | Failure]:
    images = [image for image in loaded if isinstance(image, DecodedImage)]
    labelled = iter(predict_labels(images, classifier, keep_outputs, threshold) if images else ())
    return [next(labelled) if isinstance(image, DecodedImage) else image for image in loaded]
