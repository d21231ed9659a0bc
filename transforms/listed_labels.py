"""Labels of images whose list shows that their bytes are those of an earlier image, without a request."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.utils.shared import Shared

from labelbeam.transforms.elements import ImageRef, Prediction
from labelbeam.transforms.images.formats import RAW_SUFFIXES

_REUSED = "reused"


class ListedLabels:
    """Labels of a process's latest images by their listed digest; safe to call from several threads."""

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._lock = threading.Lock()
        self._predictions: OrderedDict[str, Prediction] = OrderedDict()

    def remember(self, prediction: Prediction) -> None:
        """Keep the labels of an image whose bytes are those that its list describes."""
        digest = prediction.ref.listed_digest
        if digest is None or not _is_as_listed(prediction):
            return
        with self._lock:
            self._predictions[digest] = prediction
            if len(self._predictions) > self._max_items:
                self._predictions.popitem(last=False)

    def find(self, ref: ImageRef) -> Prediction | None:
        """Return the labels of an image of the same listed digest, as labels of this image."""
        # An image that has labels is always requested, because its list may be older than these labels. A raw
        # photo is, because the same bytes under another name may be an image that is read.
        if not ref.listed_digest or ref.known_version is not None or ref.uri.lower().endswith(RAW_SUFFIXES):
            return None
        with self._lock:
            twin = self._predictions.get(ref.listed_digest)
            if twin is None:
                return None
            self._predictions.move_to_end(ref.listed_digest)
        metadata = replace(twin.metadata, version=ref.listed_version)
        return replace(twin, ref=ref, metadata=metadata, reused=True)


def _is_as_listed(prediction: Prediction) -> bool:
    """Return whether the bytes of an image are those of its listed digest."""
    # By the generation, because the list has the digest of this generation. And by the length, because an
    # object that is stored compressed is sent without its compression, and the digest is of its stored form.
    ref, metadata = prediction.ref, prediction.metadata
    length = (ref.listed_digest or "").rpartition("/")[2]
    return ref.listed_version is not None and (
        (metadata.version, str(metadata.size_bytes)) == (ref.listed_version, length)
    )


class ReuseOutcomes(NamedTuple):
    """The outputs of `ReuseLabels`.

    Attributes:
      ok: `ImageRef`, to be loaded.
      reused: `Prediction` of images that need no request.
    """

    ok: beam.PCollection
    reused: beam.PCollection


@dataclass(frozen=True)
class LabelsInCommon:
    """The labels that `ReuseLabels` and `RememberLabels` share in each worker process.

    Attributes:
      max_items: Largest number of images whose labels a process keeps.
    """

    max_items: int
    # `Shared`, because the process then drops the labels with the last DoFn.
    _shared: Shared = field(default_factory=Shared)

    def acquire(self) -> ListedLabels:
        """Return the labels of this process."""
        return self._shared.acquire(functools.partial(ListedLabels, self.max_items))


@dataclass
class ReuseLabels(beam.PTransform):
    """The step that labels images by their listed digest, if the process has labelled the same bytes.

    Input: `ImageRef`. Output: `ReuseOutcomes`.
    """

    labels: LabelsInCommon

    def expand(self, refs: beam.PCollection[ImageRef]) -> ReuseOutcomes:
        outputs = refs | "Find" >> beam.ParDo(_FindFn(self.labels)).with_outputs(_REUSED, main="ok")
        outputs["ok"].element_type, outputs[_REUSED].element_type = ImageRef, Prediction
        return ReuseOutcomes(outputs["ok"], outputs[_REUSED])


@dataclass
class RememberLabels(beam.PTransform):
    """The step that keeps labels for `ReuseLabels`. Input: `Prediction`. Output: nothing."""

    labels: LabelsInCommon

    def expand(self, predictions: beam.PCollection[Prediction]) -> beam.PCollection:
        return predictions | "Keep" >> beam.ParDo(_KeepFn(self.labels))


class _FindFn(beam.DoFn):
    def __init__(self, labels: LabelsInCommon) -> None:
        self._labels = labels

    def setup(self) -> None:
        self._listed = self._labels.acquire()

    def process(self, ref: ImageRef) -> Iterator[Any]:
        prediction = self._listed.find(ref)
        yield beam.pvalue.TaggedOutput(_REUSED, prediction) if prediction else ref


class _KeepFn(beam.DoFn):
    def __init__(self, labels: LabelsInCommon) -> None:
        self._labels = labels

    def setup(self) -> None:
        self._listed = self._labels.acquire()

    def process(self, prediction: Prediction) -> None:
        self._listed.remember(prediction)
