import json

import pytest

from labelbeam.transforms.models import tuning
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.spec import ModelOptions
from labelbeam.transforms.models.tuning import best_batch_size, tuned_batch_size
from tests.specs import resolve_spec
from tests.tiny_model import save_tiny_model


@pytest.mark.parametrize(
    ("rates", "best", "tried"),
    [
        ([10, 20, 40, 41, 41, 41], 8, 6),  # 41 is a fortieth more than 40, the next ones are not
        ([10, 20, 19, 18, 90], 2, 4),  # two worse ones end it
        ([10, 20, 19, 30, None, 90], 8, 5),  # one worse one does not; short memory does
        ([None, 90], 1, 1),
        ([10, 10.1, 10.1], 1, 3),  # not worth its latency
    ],
)
def test_best_batch_size__rates__the_best_one_that_fits(rates, best, tried):
    tried_sizes = []

    def rate_of(size):
        tried_sizes.append(size)
        return rates[len(tried_sizes) - 1]

    assert best_batch_size([1, 2, 4, 8, 16, 32][: len(rates)], rate_of) == (best, None not in rates[:tried])
    assert tried_sizes == [1, 2, 4, 8, 16, 32][:tried]


@pytest.fixture
def classifier(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELBEAM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "_TRIAL_SEC", 0.0)
    return Classifier(resolve_spec(ModelOptions(str(save_tiny_model(tmp_path / "tiny", 16)))), 1, 1)


def test_tuned_batch_size__called_again__is_cached(classifier, tmp_path, monkeypatch):
    size = tuned_batch_size(classifier, 2, 8, {"device": "this one"})
    assert size in (1, 2, 4, 8)
    (file,) = (tmp_path / "cache" / "batch-sizes").iterdir()
    assert json.loads(file.read_text())["result"] == {"batch_size": size}
    monkeypatch.setattr(tuning, "best_batch_size", lambda *_: (99, True))
    assert tuned_batch_size(classifier, 2, 8, {"device": "this one"}) == size
    assert tuned_batch_size(classifier, 2, 8, {"device": "another"}) == 99


def test_tuned_batch_size__half_a_file__is_tried_again(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "best_batch_size", lambda *_: (4, True))
    tuned_batch_size(classifier, 1, 8, {})
    (file,) = (tmp_path / "cache" / "batch-sizes").iterdir()
    file.write_text('{"batch')
    monkeypatch.setattr(tuning, "best_batch_size", lambda *_: (2, True))
    assert tuned_batch_size(classifier, 1, 8, {}) == 2
    assert json.loads(file.read_text())["result"] == {"batch_size": 2}


def test_tuned_batch_size__cache_that_cannot_be_written__costs_only_the_memory(classifier, tmp_path):
    (tmp_path / "cache" / "batch-sizes").parent.mkdir(exist_ok=True)
    (tmp_path / "cache" / "batch-sizes").write_text("no folder")
    assert tuned_batch_size(classifier, 1, 2, {}) in (1, 2)


def test_tuned_batch_size__memory_ends__keeps_below_and_forgets(classifier, tmp_path):
    import tensorflow as tf

    function = classifier.graph.function

    def scarce(pixels):
        if len(pixels) > 2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return function(pixels)

    classifier.graph = classifier.graph._replace(function=scarce)
    assert tuned_batch_size(classifier, 1, 64, {}) in (1, 2)
    assert not list((tmp_path / "cache").glob("batch-sizes/*"))
