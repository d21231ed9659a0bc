"""Loader processes that load, crash, hang and end."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from labelbeam.transforms.elements import (
    DIGEST,
    DecodedImage,
    Failure,
    ImageRef,
    InlineImage,
    PackedImage,
    Unchanged,
)
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.images.packing import unpack_pixels
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.loaders.image import Loaded, Loader, Loading
from labelbeam.transforms.loaders.pool import LoaderPool
from labelbeam.transforms.loaders.threads import LoaderThreads
from labelbeam.transforms.sources import Limits
from tests.hostile import write_hostile_site

LOADING = Loading(Limits(connections=8, total_timeout_sec=30), ResizeRule(32), max_pixels=4_000_000)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let loader processes obey hostile images."""
    monkeypatch.syspath_prepend(write_hostile_site(tmp_path / "site"))


@pytest.fixture
def start() -> Callable[..., LoaderPool]:
    def start(processes: int = 2, timeout_sec: float = 30.0, loading: Loading = LOADING) -> LoaderPool:
        limits = replace(loading.limits, total_timeout_sec=timeout_sec)
        return LoaderPool(replace(loading, limits=limits), processes)

    return start


def write_images(folder: Path, number: int) -> list[ImageRef]:
    refs = []
    for n in range(number):
        path = folder / f"{n}.png"
        Image.new("RGB", (40, 32), (n % 256, 0, 0)).save(path)
        refs.append(ImageRef(f"id{n}", str(path), (n,)))
    return refs


def write_bytes(folder: Path, name: str, data: bytes) -> ImageRef:
    (folder / name).write_bytes(data)
    return ImageRef(name, str(folder / name))


def load(loaders, refs: list[ImageRef]) -> list[Loaded]:
    futures = [loaders.submit(ref) for ref in refs]
    assert not wait(futures, 60).not_done
    return [future.result() for future in futures]


def reasons(outcomes: list[Loaded]) -> Counter:
    return Counter(one.value.reason if isinstance(one.value, Failure) else "ok" for one in outcomes)


def test_load__in_processes__gives_what_threads_give(tmp_path, start):
    refs = [
        *write_images(tmp_path, 40),
        write_bytes(tmp_path, "text", b"no image"),
        ImageRef("gone", str(tmp_path / "gone.png")),
        ImageRef("known", str(tmp_path / "0.png"), (), "1-1"),
    ]
    in_processes, in_threads = load(start(), refs), load(LoaderThreads(LOADING, 2), refs)
    for one, other, ref in zip(in_processes, in_threads, refs, strict=True):
        assert (one.value.ref, one.size_bytes) == (ref, other.size_bytes)
        if isinstance(one.value, DecodedImage):
            assert (one.value.pixels == other.value.pixels).all()
            assert one.value.metadata == other.value.metadata
        else:
            assert one.value == other.value
    assert reasons(in_processes) == {"ok": 41, "not_an_image": 1, "not_found": 1}


def test_load__version_is_known__is_unchanged(tmp_path, start):
    (ref,) = write_images(tmp_path, 1)
    status = os.stat(ref.uri)
    known = ImageRef(ref.id, ref.uri, (), f"{status.st_mtime_ns}-{status.st_size}")
    assert [one.value for one in load(start(), [known])] == [Unchanged(known)]


def test_load__image_with_its_bytes__gives_what_its_file_gives(tmp_path, start):
    refs = write_images(tmp_path, 20)
    inline = [
        InlineImage(replace(ref, uri=f"a.tar#{ref.id}"), Path(ref.uri).read_bytes(), "v") for ref in refs
    ]
    known = replace(inline[0].ref, known_version=DIGEST + hashlib.sha256(inline[0].data).hexdigest())
    images = [*inline, replace(inline[0], ref=known), replace(inline[0], data=b"no image")]
    of_files = load(LoaderThreads(LOADING, 2), refs)
    for outcomes in (load(start(), images), load(LoaderThreads(LOADING, 2), images)):
        *labelled, unchanged, failure = outcomes
        for one, other, image in zip(labelled, of_files, inline, strict=True):
            assert (one.value.ref, one.size_bytes) == (image.ref, other.size_bytes)
            assert (one.value.pixels == other.value.pixels).all()
            assert one.value.metadata == replace(other.value.metadata, version="v")
        assert unchanged.value == Unchanged(known)
        assert (failure.value.ref, failure.value.reason) == (inline[0].ref, "not_an_image")


def test_load__packed__restores_every_pixel(tmp_path, start):
    (ref,) = write_images(tmp_path, 1)
    (packed,) = load(start(loading=replace(LOADING, packed=True)), [ref])
    (plain,) = load(LoaderThreads(LOADING, 1), [ref])
    assert isinstance(packed.value, PackedImage)
    assert (unpack_pixels(packed.value.data) == plain.value.pixels).all()


# Apart, because an image that fills its memory may take seconds for it on a busy machine.
@pytest.mark.parametrize(
    ("timeout_sec", "reason_of"),
    [
        (60.0, {"crash": "decoder_crashed", "eat": "decode_memory", "nibble": "decode_memory"}),
        (3.0, {"sleep": "decode_timeout", "crash": "decoder_crashed", "spin": "decode_timeout"}),
    ],
)
def test_load__images_that_crash_hang_and_eat__cost_themselves_only(
    tmp_path, start, hostile, timeout_sec, reason_of
):
    refs = write_images(tmp_path, 60)
    for place, kind in zip((5, 6, 20), reason_of, strict=True):
        refs.insert(place, write_bytes(tmp_path, kind, kind.encode()))
    outcomes = load(start(timeout_sec=timeout_sec), refs)
    assert [one.value.ref for one in outcomes] == refs
    failures = {one.value.ref.id: one.value for one in outcomes if isinstance(one.value, Failure)}
    assert {kind: failure.reason for kind, failure in failures.items()} == reason_of
    assert (failures["crash"].attempts, failures["crash"].stage) == (2, "decode")
    assert "SIGSEGV" in failures["crash"].message
    if "sleep" in failures:
        assert "image_timeout_sec=3 " in failures["sleep"].message


def test_load__loader_crashes_once__image_is_loaded(tmp_path, start, hostile):
    Image.new("RGB", (40, 32)).save(tmp_path / "once.png")
    ref = write_bytes(tmp_path, "twice", f"once {tmp_path / 'once'}".encode())
    assert reasons(load(start(), [ref, *write_images(tmp_path, 9)])) == {"ok": 10}


def test_load__outcome_cannot_be_sent__costs_the_image_itself_only(tmp_path, start, hostile):
    bad = write_bytes(tmp_path, "unsendable", b"unsendable")
    assert reasons(load(start(), [*write_images(tmp_path, 20), bad])) == {"ok": 20, "decoder_crashed": 1}


def test_load__late_image_has_labels__keeps_them(tmp_path, start, monkeypatch):
    # A pipe that nobody writes to would hang a client without O_NONBLOCK; a slow file system is simulated.
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SLOW_DISK, "utf-8")
    monkeypatch.syspath_prepend(site)
    known = ImageRef("a", str(tmp_path / "a.png"), (), "1-1")
    (loaded,) = load(start(timeout_sec=1.0), [known])
    assert loaded.value == Unchanged(known, checked=False)


SLOW_DISK = """
import sys, time
import labelbeam.transforms.sources.local as local

if sys.argv[:1] == ["-m"]:
    local.LocalSource.fetch = lambda *_: time.sleep(3600)
"""


def test_load__every_image_crashes__each_becomes_a_failure(tmp_path, start, hostile):
    refs = [write_bytes(tmp_path, f"{n}", b"crash") for n in range(6)]
    assert reasons(load(start(), refs)) == {"decoder_crashed": 6}


def test_load__processes_are_killed__nothing_is_lost(tmp_path, start):
    pool, refs = start(), write_images(tmp_path, 400)
    futures = [pool.submit(ref) for ref in refs[:200]]
    futures[0].result(30)
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)
    futures += [pool.submit(ref) for ref in refs[200:]]
    assert not wait(futures, 60).not_done
    assert [future.result().value.ref for future in futures] == refs
    assert reasons([future.result() for future in futures]) == {"ok": 400}


def test_load__processes_cannot_start__is_an_error_with_their_words(tmp_path, start, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os, sys; print('no such library'); os._exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    pool = start()
    future = pool.submit(ImageRef("a", "a"))
    with pytest.raises(
        RunError,
        match="A loader process ended with status 3 before it was ready.*--loaders 0.*no such library",
    ):
        future.result(60)


def test_load__large_images__are_decoded_one_at_a_time(tmp_path, monkeypatch):
    from labelbeam.transforms.loaders import image

    monkeypatch.setattr(image, "LARGE_PIXELS", 1000)
    held, most = [0], [0]

    class Lock:
        def __enter__(self):
            held[0] += 1
            most[0] = max(most[0], held[0])

        def __exit__(self, *_):
            held[0] -= 1

    (ref,) = write_images(tmp_path, 1)
    stages: list = []
    loaded: list = []
    Loader(LOADING, 1, Lock()).load(ref, loaded.append, lambda stage, spent: stages.append(stage))
    assert isinstance(loaded[0].value, DecodedImage)
    assert (most, held) == ([1], [0])
    # The image's clock stands still while it waits.
    assert stages == ["fetch", None, "decode", None, "decode", None]


def test_pool__ends__with_its_processes(tmp_path, start):
    pool = start()
    load(pool, write_images(tmp_path, 4))
    processes = [psutil.Process(pid) for pid in pool.pids()]
    del pool
    gc.collect()
    assert not psutil.wait_procs(processes, 30)[1]


PARENT = """
import sys, time
from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.loaders.image import Loading
from labelbeam.transforms.loaders.pool import LoaderPool
from labelbeam.transforms.sources import Limits

pool = LoaderPool(Loading(Limits(connections=4), ResizeRule(32), 10**6), 2)
futures = [pool.submit(ImageRef(str(n), sys.argv[1])) for n in range(100)]
while len(pool.pids()) < 2:
    time.sleep(0.05)
print(*pool.pids(), flush=True)
assert not {"apache_beam", "tensorflow"} & set(sys.modules)
time.sleep(3600)
"""


@pytest.mark.parametrize("kind", ["png", "spin"])
def test_pool__parent_is_killed__loaders_end(tmp_path, hostile, kind):
    (ref,) = write_images(tmp_path, 1)
    bad = write_bytes(tmp_path, "bad", b"spin")
    path = os.pathsep.join(filter(None, sys.path))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, ref.uri if kind == "png" else bad.uri],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert parent.stdout
    loaders = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(loaders) == 2
    parent.kill()
    parent.wait()
    assert not psutil.wait_procs(loaders, 30)[1]


def test_pool__default_time_limit_of_sockets__does_not_reach_the_loaders(tmp_path, start):
    socket.setdefaulttimeout(60.0)
    try:
        assert reasons(load(start(), write_images(tmp_path, 20))) == {"ok": 20}
    finally:
        socket.setdefaulttimeout(None)


def test_child__with_the_clients_of_all_sources__imports_neither_beam_nor_tensorflow():
    code = """if True:
        import importlib, sys
        import labelbeam.transforms.loaders.child
        from labelbeam.transforms.sources.sources import SCHEMES
        for source in SCHEMES.values():
            importlib.import_module(f"labelbeam.transforms.sources.{source.split('.')[0]}")
        print(*{"apache_beam", "tensorflow", "google.cloud.storage", "pyarrow"} & set(sys.modules))
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(("images", "processes"), [(4, 1), (300, 3)])
def test_pool__number_of_images__decides_on_the_number_of_processes(tmp_path, start, images, processes):
    pool, refs = start(processes=3), write_images(tmp_path, 10)
    outcomes = load(pool, [refs[n % 10] for n in range(images)])
    assert reasons(outcomes) == {"ok": images}
    if processes > 1:
        for _ in range(100):
            if len(pool.pids()) < processes:
                load(pool, refs * 30)
    assert len(pool.pids()) == processes
