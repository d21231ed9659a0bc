"""The command with clocks around its model, and maybe with a stand-in for an accelerator.

python -m benchmarks.accelerator RATE IMAGES FILE run --input ...

RATE is the number of images per second that the accelerator takes: calls of the model then end no sooner,
and sleep without the GIL meanwhile. The process behaves as beside a GPU: large batches, one call at a time,
the next batch ready. 0 leaves the model as it is. FILE receives the rate and the
processor time (`benchmarks.clock`) once the model has had IMAGES.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clock import Clock
from labelbeam.pipeline.cli import entry
from labelbeam.transforms import predict
from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.models import devices
from labelbeam.transforms.models.classifier import Classifier, TopK
from labelbeam.transforms.models.devices import Models


def time_calls(classifier: Classifier, rate: float, clock: Clock) -> None:
    """Put a clock around a model's calls, and make them last as long as an accelerator would take."""
    run, classify = classifier.graph.function, classifier.classify

    def timed_run(pixels: Any) -> Any:
        start = time.perf_counter()
        with clock.call():
            outputs = run(pixels)
            if rate:
                time.sleep(max(0.0, len(pixels) / rate - (time.perf_counter() - start)))
        return outputs

    def counted_classify(images: Sequence[np.ndarray]) -> list[TopK | ImageError]:
        results = classify(images)
        clock.count(len(images))
        return results

    classifier.graph = classifier.graph._replace(function=timed_run)
    classifier.classify = counted_classify  # type: ignore[method-assign]


def main() -> None:
    rate, images, file = float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    sys.argv[1:] = sys.argv[4:]
    clock, load = Clock(images, file), predict.load_models

    def load_models(*args: Any) -> Models:
        models = load(*args)
        for classifier in models.classifiers:
            time_calls(classifier, rate, clock)
        return models

    # Where the model is used, and not where it is loaded, because batches of the warm-up don't count.
    predict.load_models = load_models
    if rate:
        devices.has_gpu = lambda: True
    entry()


if __name__ == "__main__":
    main()
