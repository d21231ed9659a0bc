"""One process's share of loading: every image gets one outcome, whoever decodes it."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from labelbeam.transforms.elements import DecodedImage, EncodedImage, ImageMetadata, ImageRef, Unchanged
from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.loaders import image
from labelbeam.transforms.loaders.channel import CHUNK, Result
from labelbeam.transforms.loaders.child import _HOLD_BYTES, _Outbox
from labelbeam.transforms.loaders.image import Loader, Loading
from labelbeam.transforms.sources import Limits

_METADATA = ImageMetadata(8, 8, "PNG", 100, "sha", None, 1, None)
# What becomes of an image in turn: at its request, and at its decoder.
_FATES = ("ok", "ok", "unchanged", "refused", "fetch defect", "broken", "too large", "decode defect")


class Corpus:
    """Images of every fate, and the number of threads that decode."""

    def __init__(self) -> None:
        self.random = random.Random(0)
        self.decoding = self.most_decoding = 0
        self.lock = threading.Lock()

    def fate(self, ref: ImageRef) -> str:
        return _FATES[int(ref.id) % len(_FATES)]

    def fetch(self, ref: ImageRef, sources) -> EncodedImage | Unchanged:
        threading.Event().wait(self.random.choice((0, 0, 0.001, 0.01)))
        fate = self.fate(ref)
        if fate == "fetch defect":
            raise RuntimeError(ref.id)
        if fate == "refused":
            raise ImageError(Reason.FORBIDDEN, "")
        return Unchanged(ref) if fate == "unchanged" else EncodedImage(ref, b"x" * 100, "sha", None)

    def decode(self, encoded: EncodedImage, *_) -> DecodedImage:
        with self.lock:
            self.decoding += 1
            self.most_decoding = max(self.most_decoding, self.decoding)
        try:
            threading.Event().wait(self.random.choice((0, 0.001, 0.005)))
            fate = self.fate(encoded.ref)
            if fate == "decode defect":
                raise RuntimeError(encoded.ref.id)
            if fate == "too large":
                raise MemoryError
            if fate == "broken":
                raise ImageError(Reason.TRUNCATED, "")
            return DecodedImage(encoded.ref, np.zeros((2, 2, 3), np.uint8), _METADATA)
        finally:
            with self.lock:
                self.decoding -= 1


@pytest.mark.parametrize("decoders", [1, 3])
@pytest.mark.parametrize("most_encoded", [1, 10_000])
def test_load__images_of_every_fate__get_one_outcome_each(monkeypatch, decoders, most_encoded):
    corpus, outcomes = Corpus(), []
    monkeypatch.setattr(image, "_fetch_image", corpus.fetch)
    monkeypatch.setattr(image, "decode", corpus.decode)
    monkeypatch.setattr(image, "MAX_ENCODED_BYTES", most_encoded)
    loader = Loader(Loading(Limits(connections=8), ResizeRule(2), 100), decoders, threading.Lock())
    refs = [ImageRef(str(n), "") for n in range(400)]
    with ThreadPoolExecutor(8) as pool:
        for ref in refs:
            pool.submit(loader.load, ref, outcomes.append)
    assert not loader.is_behind()
    assert 1 <= corpus.most_decoding <= decoders
    defects = sorted(int(str(one)) for one in outcomes if isinstance(one, Exception))
    assert defects == [int(ref.id) for ref in refs if "defect" in corpus.fate(ref)]
    loaded = [one.value for one in outcomes if not isinstance(one, Exception)]
    seen = sorted((int(one.ref.id), getattr(one, "reason", type(one).__name__)) for one in loaded)
    names = {
        "ok": "DecodedImage",
        "unchanged": "Unchanged",
        "refused": "forbidden",
        "broken": "truncated",
        "too large": "decode_memory",
    }
    fates = [(int(ref.id), corpus.fate(ref)) for ref in refs]
    assert seen == [(n, names[fate]) for n, fate in fates if fate in names]


MORE = lambda: True  # noqa: E731


class Sent(list):
    """A channel that keeps what is sent."""

    def send(self, value: list[Result]) -> None:
        self.append([result.number for result in value])


def test_outbox__more_follow__sends_whole_messages_and_the_rest_at_the_end():
    channel = Sent()
    outbox = _Outbox(channel)
    for n in range(2 * CHUNK + 1):
        outbox.put(Result(n, None), MORE)
    assert channel == [[*range(CHUNK)], [*range(CHUNK, 2 * CHUNK)]]
    outbox.put(Result(99, None), lambda: False)
    assert channel[2:] == [[2 * CHUNK, 99]]


def test_outbox__large_pixels__do_not_wait_for_others():
    channel = Sent()
    outbox = _Outbox(channel)
    outbox.put(Result(0, None, DecodedImage, (np.zeros(_HOLD_BYTES + 1, np.uint8),)), MORE)
    assert channel == [[0]]


def test_outbox__oldest_result_has_waited_long__sends_at_the_next(monkeypatch):
    channel, now = Sent(), [0.0]
    monkeypatch.setattr("labelbeam.transforms.loaders.child.time.monotonic", lambda: now[0])
    outbox = _Outbox(channel)
    outbox.put(Result(0, None), MORE)
    now[0] = 60.0
    outbox.put(Result(1, None), MORE)
    assert channel == [[0, 1]]
    outbox.put(Result(2, None), MORE)
    outbox.flush(1.0)
    assert channel == [[0, 1]]
    outbox.flush()
    assert channel == [[0, 1], [2]]
