"""Frozen graphs on disk: the same outputs, and no trust in a damaged file."""

import random

import numpy as np
import pytest
import tensorflow as tf

from labelbeam.transforms.models import frozen, optimise
from labelbeam.transforms.models.frozen import read_frozen
from labelbeam.transforms.models.optimise import Optimisation, optimise_model
from labelbeam.transforms.models.spec import ModelOptions
from tests.specs import resolve_spec
from tests.tiny_model import save_tiny_model

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELBEAM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path):
    return resolve_spec(ModelOptions(str(save_tiny_model(tmp_path / "tiny", 16))))


def outputs_of(graph) -> list[np.ndarray]:
    return [output.numpy() for output in graph.function(tf.constant(PIXELS))]


def test_optimise_model__second_process__reads_the_graph_and_not_the_model(tiny, monkeypatch):
    first = optimise_model(tiny, 3, Optimisation(), 8)
    monkeypatch.setattr(optimise, "load_model", None)
    second = optimise_model(tiny, 3, Optimisation(), 8)
    assert second.frozen and second.optimised
    for one, other in zip(outputs_of(first), outputs_of(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_optimise_model__other_conditions__load_the_model_again(tiny, tmp_path, monkeypatch):
    optimise_model(tiny, 3, Optimisation(), 8)
    loaded = []
    load = optimise.load_model
    monkeypatch.setattr(optimise, "load_model", lambda spec: loaded.append(spec) or load(spec))
    other_range = resolve_spec(ModelOptions(tiny.handle, input_range=(-1, 1)))
    for spec, top_k in ((tiny, 2), (other_range, 3)):
        optimise_model(spec, top_k, Optimisation(), 8)
    assert loaded == [tiny, other_range]


def test_read_frozen__any_damage__is_as_if_there_were_no_file(tiny, cache, monkeypatch):
    chance = random.Random(0)
    optimise_model(tiny, 3, Optimisation(), 8)
    (file,) = (cache / "frozen").iterdir()
    whole = file.read_bytes()
    damaged = [whole[: chance.randrange(len(whole))] for _ in range(20)]
    for _ in range(50):
        changed = bytearray(whole)
        changed[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(changed))
    monkeypatch.setattr(frozen, "_file_of", lambda conditions: file)
    assert read_frozen({})
    for data in damaged:
        file.write_bytes(data)
        assert read_frozen({}) is None


def test_keep_frozen__cache_is_no_folder__goes_without(tiny, cache):
    cache.write_text("a file")
    assert optimise_model(tiny, 3, Optimisation(), 8).frozen


def test_keep_frozen__graph_is_too_large__is_not_kept(tiny, cache, monkeypatch):
    monkeypatch.setattr(frozen, "_MAX_BYTES", 100)
    optimise_model(tiny, 3, Optimisation(), 8)
    assert not (cache / "frozen").exists()
