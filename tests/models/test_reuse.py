import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from labelbeam.transforms.elements import DecodedImage, ImageMetadata, ImageRef
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.reuse import Recent
from labelbeam.transforms.models.spec import ModelOptions
from labelbeam.transforms.predict import PredictLabels, _PredictLabelsFn
from tests.eager import RUNNERS, eagerly
from tests.specs import resolve_spec
from tests.tiny_model import save_tiny_model


class Desk:
    """A `Recent` whose work is finished by the test by hand.

    Attributes:
      keys: Submitted keys, in order.
      futures: Futures of the submitted keys, in the same order.
    """

    def __init__(self, max_items: int = 10) -> None:
        self.recent = Recent(max_items, lambda: None)
        self.keys, self.futures = [], []

    def submit(self, key: str) -> Future:
        return self.recent.submit(key, lambda: self._hand_out(key), lambda value: f"{value}, adapted")

    def _hand_out(self, key: str) -> Future:
        self.keys.append(key)
        self.futures.append(Future())
        return self.futures[-1]


def test_recent__same_key__is_submitted_once_and_adapted_for_the_others():
    desk = Desk()
    first, under_way, other = desk.submit("a"), desk.submit("a"), desk.submit("b")
    assert not under_way.done()
    desk.futures[0].set_result("A")
    assert (first.result(0), under_way.result(0), desk.submit("a").result(0)) == (
        "A",
        "A, adapted",
        "A, adapted",
    )
    assert desk.keys == ["a", "b"] and not other.done()


def test_recent__over_its_bound__forgets_the_least_recently_used():
    desk = Desk(max_items=2)
    for key in ("a", "b", "a", "c", "a", "b"):
        desk.submit(key)
    assert desk.keys == ["a", "b", "c", "b"]


def test_recent__error__is_given_to_those_who_wait_and_forgotten():
    desk = Desk()
    waiting = [desk.submit("a"), desk.submit("a")]
    desk.futures[0].set_exception(ValueError("defect"))
    assert [str(future.exception(0)) for future in waiting] == ["defect", "defect"]
    again = desk.submit("a")
    desk.futures[1].set_result("A")
    assert desk.keys == ["a", "a"] and again.result(0) == "A"


def test_recent__error_of_work_already_forgotten__leaves_its_successor():
    desk = Desk(max_items=1)
    for key in ("a", "b", "a"):
        desk.submit(key)
    desk.futures[0].set_exception(ValueError("defect"))
    desk.submit("a")
    assert desk.keys == ["a", "b", "a"]


def test_recent__many_threads__one_submission_per_key(monkeypatch):
    interval = sys.getswitchinterval()
    submitted = []
    with ThreadPoolExecutor(8) as callers, ThreadPoolExecutor(2) as workers:

        def hand_out(key: str) -> Future:
            submitted.append(key)
            return workers.submit(str.upper, key)

        recent = Recent(1000, lambda: None)
        keys = [f"k{n // 8}" for n in range(1600)]
        try:
            sys.setswitchinterval(1e-6)
            futures = list(callers.map(lambda k: recent.submit(k, lambda: hand_out(k), lambda v: v), keys))
        finally:
            sys.setswitchinterval(interval)
        assert [f.result(timeout=60) for f in futures] == [key.upper() for key in keys]
    assert sorted(submitted) == sorted(set(keys))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", size_px=16, poison=True)
    return resolve_spec(ModelOptions(str(folder)))


@pytest.fixture
def inferred(monkeypatch) -> list[int]:
    """Record the first red value of every image that reaches the model; return the list."""
    seen, classify = [], Classifier.classify

    def spy(self, images):
        seen.extend(int(image[0, 0, 0]) for image in images)
        return classify(self, images)

    monkeypatch.setattr(Classifier, "classify", spy)
    return seen


def image(n: int, colour: tuple[int, int, int]) -> DecodedImage:
    pixels = np.full((16, 16, 3), colour, np.uint8)
    ref = ImageRef(str(n), f"http://h{n}/a.jpg", (n,))
    metadata = ImageMetadata(20, 10, "JPEG", 1, 1, 99, f"digest of {colour}", f'"v{n}"')
    return DecodedImage(ref, pixels, metadata)


RED, BLUE, WHITE = (200, 0, 0), (0, 0, 200), (255, 255, 255)
IMAGES = [image(0, RED), image(1, BLUE), image(2, RED), image(3, WHITE), image(4, WHITE)]


@pytest.mark.parametrize("runner", RUNNERS)
def test_predict_labels__reuse__infers_the_same_bytes_once_and_gives_each_its_row(tiny, inferred, runner):
    ok, failures = eagerly(PredictLabels(tiny, 1, batch_size=8, threads=1, reuse=True), IMAGES, runner)
    ok.sort(key=lambda row: row.ref.id)
    expected = [(image.ref, image.metadata.version) for image in IMAGES[:3]]
    assert [(row.ref, row.metadata.version) for row in ok] == expected
    assert [row.labels[0].class_id for row in ok] == [0, 2, 0] and ok[0].labels == ok[2].labels
    assert [row.reused for row in ok] == [False, False, True]
    assert sorted((f.ref.id, f.host, f.reason) for f in failures) == [
        ("3", "h3", "model_error"),
        ("4", "h4", "model_error"),
    ]
    assert sorted(inferred) == [0, 200, 255]


def test_predict_labels__gpu_required_and_there_is_none__ends_the_run(tiny):
    fn = _PredictLabelsFn(PredictLabels(tiny, 1, require_gpu=True))
    fn.start_bundle()
    with pytest.raises(RunError, match=r"TensorFlow sees no GPU .* on the worker .*--require_accelerator"):
        list(fn.process(image(0, RED)))


def test_predict_labels__no_reuse__infers_each(tiny, inferred):
    ok, failures = eagerly(PredictLabels(tiny, 1, batch_size=8, threads=1), IMAGES)
    assert not any(row.reused for row in ok) and (len(ok), len(failures)) == (3, 2)
    assert sorted(inferred) == [0, 200, 200, 255, 255]


def test_predict_labels_fn__later_bundle__knows_the_labels_of_an_earlier_one(tiny, inferred):
    fn = _PredictLabelsFn(PredictLabels(tiny, 1, batch_size=8, threads=1, reuse=True))
    fn.setup()
    rows = []
    for one in (image(0, RED), image(1, RED)):
        fn.start_bundle()
        rows += fn.process(one)
        rows += [windowed.value for windowed in fn.finish_bundle()]
    assert [(row.ref.id, row.reused) for row in rows] == [("0", False), ("1", True)]
    assert inferred == [200]


def test_predict_labels_fn__more_of_the_same_bytes_than_its_window_holds__goes_on(tiny):
    fn = _PredictLabelsFn(PredictLabels(tiny, 1, batch_size=8, threads=1, reuse=True))
    fn.setup()
    fn.start_bundle()
    rows = list(fn.process(image(0, RED)))
    rows += [windowed.value for windowed in fn.finish_bundle()]

    def run_bundle() -> None:
        fn.start_bundle()
        for n in range(2 * fn._labeler.window_items):
            rows.extend(fn.process(image(n, RED)))
        rows.extend(windowed.value for windowed in fn.finish_bundle())

    bundle = threading.Thread(target=run_bundle, daemon=True)
    bundle.start()
    bundle.join(timeout=30)
    assert len(rows) == 1 + 2 * fn._labeler.window_items


def test_recent__adapt_raises__is_raised_where_it_is_taken():
    work: Future[str] = Future()
    recent = Recent(10, lambda: None)
    recent.submit("a", lambda: work, str)
    adapted = recent.submit("a", lambda: work, lambda _: 1 / 0)
    work.set_result("A")
    with pytest.raises(ZeroDivisionError):
        adapted.result(timeout=1)


def test_recent__asked_for_what_is_under_way__hurries_it_and_nothing_else():
    hurried, work = [], Future()
    recent = Recent(10, lambda: hurried.append(1))
    recent.submit("a", lambda: work, str)
    assert not hurried
    recent.submit("a", lambda: work, str)
    assert hurried == [1]
    work.set_result("A")
    recent.submit("a", lambda: work, str)
    assert hurried == [1]
