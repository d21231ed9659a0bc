"""The model cache: fetched, kept, damaged and refused models."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models import cache as model_cache
from labelbeam.transforms.models.cache import resolve_model
from labelbeam.transforms.models.kinds import digest_model
from labelbeam.transforms.models.presets import PRESETS
from tests.tiny_model import save_tiny_model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELBEAM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", size_px=16)


@pytest.fixture
def archive(tiny, tmp_path):
    path = tmp_path / "m.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tiny, "some/where/tiny")
    return path


def upload(gcs, folder, uri) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            gcs.put(f"{uri}/{path.relative_to(folder)}", path.read_bytes())


def test_local__folder_and_uri__are_used_where_they_are(cache, tiny):
    assert resolve_model(str(tiny)) == resolve_model(tiny.as_uri()) == tiny
    assert not cache.exists()


def test_archive__local_and_on_the_web__is_unpacked_once_by_its_content(cache, tiny, archive, web):
    web.files["/m.tar.gz"] = archive.read_bytes()
    path = resolve_model(str(archive))
    assert path.parent == cache / "models" and digest_model(path) == digest_model(tiny)
    assert resolve_model(web.uri("/m.tar.gz")) == path == resolve_model(web.uri("/m.tar.gz"))
    assert web.requests["/m.tar.gz"] == 1
    assert [p.name for p in (cache / "models").iterdir()] == [path.name]


def test_archive__another_content_under_the_same_name__is_taken(cache, archive, tmp_path):
    first = resolve_model(str(archive))
    other = save_tiny_model(tmp_path / "other", size_px=16, gain=7.0)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(other, "m")
    assert resolve_model(str(archive)) != first


def test_archive__it_leaves_its_folder__is_refused(cache, tmp_path):
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("../../outside")
        tar.addfile(entry)
    with pytest.raises(UserError, match="evil"):
        resolve_model(str(tmp_path / "evil.tar.gz"))
    assert not list(tmp_path.rglob("outside"))


FILES = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")


def damaged(path, how) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if how != "remove":
        path.write_bytes(data if how == "flip" else data[:-1])


@pytest.mark.parametrize("how", ["remove", "flip", "cut"])
@pytest.mark.parametrize("file", FILES)
def test_kept__damaged__is_fetched_again(cache, archive, tiny, file, how):
    path = resolve_model(str(archive))
    damaged(path / file, how)
    assert resolve_model(str(archive)) == path and digest_model(path) == digest_model(tiny)


def test_kept__emptied__is_fetched_again(cache, archive, tiny):
    path = resolve_model(str(archive))
    shutil.rmtree(path)
    assert resolve_model(str(archive)) == path and digest_model(path) == digest_model(tiny)


def test_kept__damaged_and_its_source_is_gone__names_the_copy(cache, archive, web, caplog):
    web.files["/m.tgz"] = archive.read_bytes()
    path = resolve_model(web.uri("/m.tgz"))
    damaged(path / FILES[0], "flip")
    del web.files["/m.tgz"]
    with pytest.raises(UserError, match="m.tgz' cannot be downloaded: .*404"):
        resolve_model(web.uri("/m.tgz"))
    assert re.search(f"copy of model .*m.tgz' in {path} is damaged", caplog.text)


@pytest.mark.parametrize("file", FILES)
def test_archive__damaged_model_in_it__is_refused_and_not_kept(cache, tiny, tmp_path, file):
    folder = shutil.copytree(tiny, tmp_path / "m")
    damaged(folder / file, "flip")
    with tarfile.open(tmp_path / "m.tar", "w") as tar:
        tar.add(folder, "m")
    with pytest.raises(UserError, match="m.tar' is damaged: .*Give a whole copy of the model"):
        resolve_model(str(tmp_path / "m.tar"))
    assert not list((cache / "models").iterdir())


def keras_model(gain: float = 1.0):
    inputs = tf.keras.Input((16, 16, 3), name="pixels")
    pooled = tf.keras.layers.GlobalAveragePooling2D(name="pool")(inputs)
    dense = tf.keras.layers.Dense(3, name="top")
    model = tf.keras.Model(inputs, dense(pooled), name="tiny")
    dense.set_weights([np.full((3, 3), gain, np.float32), np.zeros(3, np.float32)])
    return model


def saved_later(path, target):
    """Rewrite a `.keras` file as Keras would on another day, in a process with other addresses in memory."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in reversed(old.namelist()):
            data = old.read(name)
            if name == "metadata.json":
                data = json.dumps(json.loads(data) | {"date_saved": "1999-01-01@00:00:00"}).encode()
            elif name == "config.json":
                data = re.sub(rb'"shared_object_id": \d+', b'"shared_object_id": 7', data)
                data = json.dumps(json.loads(data), indent=1).encode()
            new.writestr(zipfile.ZipInfo(name, (1999, 1, 1, 0, 0, 0)), data)
    return target


def test_digest__keras_model_saved_again__is_the_same(tmp_path):
    model, first = keras_model(), tmp_path / "first.keras"
    model.save(first)
    digest = digest_model(first)
    assert digest_model(saved_later(first, tmp_path / "later.keras")) == digest
    tf.keras.models.load_model(first).save(tmp_path / "again.keras")
    model.compile("adam", "mse")
    model.save(tmp_path / "compiled.keras")
    shutil.copy(first, tmp_path / "renamed.keras")
    for name in ("again", "compiled", "renamed"):
        assert digest_model(tmp_path / f"{name}.keras") == digest, name


def test_digest__keras_model_with_another_weight_or_layer__is_another(tmp_path):
    models = {"a": keras_model(), "b": keras_model(1.0001), "c": keras_model()}
    inputs = models["c"].inputs[0]
    models["c"] = tf.keras.Model(inputs, tf.keras.layers.ReLU(name="r")(models["c"].outputs[0]), name="tiny")
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")
    assert len({digest_model(tmp_path / f"{name}.keras") for name in models}) == 3


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + bytes(18)])
def test_local__keras_file_is_no_archive__is_refused(tmp_path, content):
    (tmp_path / "m.keras").write_bytes(content)
    with pytest.raises(UserError, match="m.keras' is damaged: m.keras .*Give a whole copy of the model"):
        resolve_model(str(tmp_path / "m.keras"))


def test_kept__index_damaged__is_fetched_again(cache, archive):
    path = resolve_model(str(archive))
    (index,) = (cache / "handles").glob("*.json")
    index.write_text("{")
    assert resolve_model(str(archive)) == path


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("variables/variables.index", "the files in .*variables are not what was saved"),
        ("variables/variables.data-00000-of-00001", "variables.data-00000-of-00001; No such file"),
        ("saved_model.pb", "is no SavedModel"),
    ],
)
def test_local__not_whole__names_the_missing_file(tiny, tmp_path, missing, words):
    folder = shutil.copytree(tiny, tmp_path / "m")
    (folder / missing).unlink()
    with pytest.raises(UserError, match=words):
        resolve_model(str(folder))


def test_gcs__folder_archive_and_keras_file__are_fetched(cache, tiny, archive, gcs, tmp_path):
    upload(gcs, tiny, "gs://models/tiny")
    gcs.put("gs://models/m.tar.gz", archive.read_bytes())
    inputs = tf.keras.Input((16, 16, 3))
    tf.keras.Model(inputs, tf.keras.layers.GlobalAveragePooling2D()(inputs)).save(tmp_path / "k.keras")
    gcs.put("gs://models/k.keras", (tmp_path / "k.keras").read_bytes())
    path = resolve_model("gs://models/tiny/")
    assert path == resolve_model("gs://models/m.tar.gz") and digest_model(path) == digest_model(tiny)
    kept = resolve_model("gs://models/k.keras")
    assert kept.suffix == ".keras" and kept.read_bytes() == (tmp_path / "k.keras").read_bytes()
    assert resolve_model("gs://models/k.keras") == kept
    with pytest.raises(UserError, match="holds no objects"):
        resolve_model("gs://models/none")


def test_gcs__bucket_cannot_be_asked__takes_the_copy_that_is_here(cache, tiny, gcs, monkeypatch):
    upload(gcs, tiny, "gs://offline/tiny")
    path = resolve_model("gs://offline/tiny")

    def refuse(prefix):
        raise UserError(f"{prefix!r} cannot be listed")

    monkeypatch.setattr("labelbeam.transforms.sources.gcs.list_objects", refuse)
    assert resolve_model("gs://offline/tiny") == path
    with pytest.raises(UserError, match="cannot be listed"):
        resolve_model("gs://offline/other")


def test_hub__users_own_cache__is_looked_into_and_mended(cache, tiny, tmp_path, monkeypatch):
    import hashlib

    handle = PRESETS["efficientnet-b0"].handle
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    folder = shutil.copytree(tiny, tmp_path / "hub" / hashlib.sha1(handle.encode()).hexdigest())
    path = resolve_model(handle)
    assert digest_model(path) == digest_model(tiny) and os.environ["TFHUB_CACHE_DIR"] == str(tmp_path / "hub")
    shutil.rmtree(folder)
    assert resolve_model(handle) == path  # without a network


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        ("/status/403/m.tar.gz", r"The server refuses \(403\).*Kaggle address"),
        ("/status/404/m.tar.gz", r"no such model \(404\)"),
        ("/status/500/m.tar.gz", "Check the address and the network"),
        ("/page.tar.gz", "cannot be downloaded"),
    ],
)
def test_web__cannot_be_fetched__names_the_reason_and_the_remedy(cache, web, handle, words):
    web.files["/page.tar.gz"] = b"<html>"
    with pytest.raises(UserError, match=words):
        resolve_model(web.uri(handle))
    assert not list((cache / "models").iterdir())


@pytest.mark.parametrize("handle", ["http://127.0.0.1:9/model/1", "http://127.0.0.1:9/m.tgz"])
def test_web__no_network__is_reported(cache, handle):
    with pytest.raises(UserError, match="The server can't be reached.*SavedModel folder"):
        resolve_model(handle)


def test_kept__disk_full__is_reported(cache, archive, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model_cache, "_unpack", full)
    with pytest.raises(UserError, match="No space left on device. Free space there, .*LABELBEAM_CACHE_DIR"):
        resolve_model(str(archive))


def test_embedded__disk_full_in_tensorflow__is_reported(cache, monkeypatch):
    import tensorflow as tf

    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "weights; No space left on device [Op:SaveV2]")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(UserError) as e:
        resolve_model("embedded:efficientnet-lite0")
    assert str(e.value) == (
        f"model='embedded:efficientnet-lite0' cannot be cached in {cache}: No space left on device. "
        "Free space there, or set LABELBEAM_CACHE_DIR to another folder."
    )


def test_kept__many_processes_at_once__it_is_fetched_once(cache, archive, web):
    web.files["/m.tgz"] = archive.read_bytes()
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: resolve_model(web.uri("/m.tgz")), range(8)))
    assert len(paths) == 1 and web.requests["/m.tgz"] == 1


def test_kept__fetching_process_was_killed__the_next_one_fetches(cache, archive):
    """Kill the process while it holds the lock and half a model lies under a temporary name."""
    script = (
        "import os, sys, time; from labelbeam.transforms.models import cache;"
        "hold = lambda *_: (print('holds', flush=True), time.sleep(600));"
        "cache._unpack = hold; cache.resolve_model(sys.argv[1])"
    )
    command = [sys.executable, "-c", script, str(archive)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holds\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert resolve_model(str(archive)).is_dir()


def test_resolve__cache_cannot_be_written__is_reported(archive, monkeypatch):
    monkeypatch.setenv("LABELBEAM_CACHE_DIR", "/proc/none")
    for handle in (str(archive), "embedded:efficientnet-lite0"):
        with pytest.raises(UserError, match="cannot be cached in /proc/none.*LABELBEAM_CACHE_DIR"):
            resolve_model(handle)


def test_resolve__almost_a_preset__is_asked_for():
    with pytest.raises(UserError, match=r"preset's name\. Did you mean 'efficientnet-lite0'\?$"):
        resolve_model("efficientnet-lit0")
