"""Further requests, and manners towards hosts, with servers that refuse, fail and are slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import replace

import pytest

from labelbeam.transforms.elements import DecodedImage, Failure, ImageRef, Unchanged
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.loaders import image, orders, schedule
from labelbeam.transforms.loaders.crew import Loaders
from labelbeam.transforms.loaders.image import Loaded, Loading
from labelbeam.transforms.loaders.loaders import start_loaders
from labelbeam.transforms.sources import Limits, Manners
from labelbeam.transforms.window import Window
from tests.hostile import write_hostile_site
from tests.sources.fault_server import End, FaultServer
from tests.synthetic import png_bytes

LIMITS = Limits(total_timeout_sec=30, connections=16, allow_hosts=("127.0.0.1",))


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        server.image = png_bytes()
        yield server


@pytest.fixture(params=[0, 2], ids=["threads", "processes"])
def processes(request, monkeypatch) -> int:
    monkeypatch.setattr(schedule, "_FIRST_PAUSE_SEC", 0.05)
    monkeypatch.setattr(schedule, "_SLOWEST", 10.0)
    return request.param


def start(processes: int, manners: Manners = Manners(), limits: Limits = LIMITS) -> Loaders:  # noqa: B008
    loading = Loading(replace(limits, manners=manners), ResizeRule(8), 10**6)
    return start_loaders(loading, processes, 2)


def load(loaders: Loaders, *uris: str, known_version: str | None = None) -> list[Loaded]:
    futures = [loaders.submit(ImageRef(str(n), uri, (), known_version)) for n, uri in enumerate(uris)]
    assert not wait(futures, 120).not_done
    return [future.result() for future in futures]


def test_load__failure_that_heals__is_an_image(server, processes):
    faults = ("status/429", "status/500", "status/503", "status/408", "reset", "closed/head", "truncated")
    uris = [server.uri(fault, first=2) for fault in faults]
    loaded = load(start(processes), *uris)
    assert [type(one.value) for one in loaded] == [DecodedImage] * len(faults)
    assert [server.count(uri) for uri in uris] == [3] * len(faults)


@pytest.mark.parametrize("attempts", [1, 3])
def test_load__failure_that_does_not_heal__has_its_number_of_attempts(server, processes, attempts):
    uris = [server.uri("status/503"), server.uri("status/404"), server.uri("status/403")]
    loaded = load(start(processes, Manners(attempts=attempts)), *uris)
    failures = [one.value for one in loaded if isinstance(one.value, Failure)]
    assert [failure.attempts for failure in failures] == [attempts, 1, 1]
    assert [server.count(uri) for uri in uris] == [attempts, 1, 1]


def test_load__failure_of_an_image_with_labels__keeps_them_after_all_attempts(server, processes):
    uri = server.uri("status/503")
    (loaded,) = load(start(processes, Manners(attempts=2)), uri, known_version='"v1"')
    assert isinstance(loaded.value, Unchanged) and not loaded.value.checked
    assert server.count(uri) == 2


@pytest.mark.parametrize(("first", "attempts"), [(0, 1), (2, 3)])
def test_load__image_that_cannot_be_decoded__is_not_requested_again(server, processes, first, attempts):
    server.image = b"no image"
    (loaded,) = load(start(processes), server.uri("status/500", first=first))
    assert isinstance(loaded.value, Failure)
    assert (loaded.value.stage, loaded.value.attempts) == ("decode", attempts)


def test_load__server_opts_out_of_an_image_with_labels__replaces_them(server, processes):
    for fault in ("image", "status/304"):
        uri = server.uri(fault, "X-Robots-Tag: noai")
        (loaded,) = load(start(processes), uri, known_version='"v1"')
        assert isinstance(loaded.value, Failure) and loaded.value.reason == "opted_out"


def test_load__server_is_overloaded_without_retry_after__is_slowed_down(server, processes):
    uris = [server.uri("limited/15/503", n=n) for n in range(60)]
    assert {type(one.value) for one in load(start(processes), *uris)} == {DecodedImage}
    assert sum(server.requests.values()) <= 2 * len(uris)


def test_load__image_is_decoded_for_long__next_request_of_its_host_starts(
    server, processes, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(write_hostile_site(tmp_path / "site"))
    stop, decode_image = threading.Event(), image.decode_image
    monkeypatch.setattr(
        image,
        "decode_image",
        lambda data, *rest: stop.wait() if data == b"sleep" else decode_image(data, *rest),
    )
    loaders = start(processes, Manners(host_connections=1))
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsleep"
    server.raw["sleep"] = body, End.KEEP
    slow = loaders.submit(ImageRef("", server.uri("raw/sleep", slow=0.05)))
    second = loaders.submit(ImageRef("", server.uri("image")))
    while not server.requests["/image"]:
        assert not slow.done()
        time.sleep(0.01)
    assert not second.done() or isinstance(second.result().value, DecodedImage)
    stop.set()


def test_load__bundle_fails__its_images_are_not_requested_any_more(server, processes):
    loaders = start(processes, Manners(host_connections=1))
    futures = [loaders.submit(ImageRef("", server.uri("image", slow=0.2, n=n))) for n in range(100)]
    del futures
    (loaded,) = load(loaders, server.uri("image"))
    assert isinstance(loaded.value, DecodedImage)
    assert sum(server.requests.values()) < 50


def test_load__server_that_serves_15_per_second__serves_all_by_few_requests(server, processes, monkeypatch):
    monkeypatch.setattr(schedule, "_FIRST_PAUSE_SEC", 1.0)
    uris = [server.uri("limited/15", retry_after=1, n=n) for n in range(60)]
    loaded = load(start(processes), *uris)
    assert {type(one.value) for one in loaded} == {DecodedImage}
    assert sum(server.requests.values()) <= 1.3 * len(uris)


def test_load__silent_host__holds_back_no_other_and_gets_bounded_requests(server, processes):
    with FaultServer() as silent:
        loaders = start(processes, Manners(host_connections=3))
        waiting = [loaders.submit(ImageRef("", silent.uri("silent", n=n))) for n in range(200)]
        loaded = load(loaders, *[server.uri("image", n=n) for n in range(200)])
        assert {type(one.value) for one in loaded} == {DecodedImage}
        assert not any(future.done() for future in waiting)
        assert sum(silent.requests.values()) <= 3
        assert loaders.is_hungry()


def test_load__silent_hosts_hold_all_threads_of_a_loader__others_start(server, monkeypatch):
    with FaultServer() as silent, FaultServer() as other:
        loaders = start(3, Manners(host_connections=3), replace(LIMITS, connections=12))
        refs = [ImageRef("", host.uri("silent", n=n)) for n in range(30) for host in (silent, other)]
        waiting = [loaders.submit(ref) for ref in refs]
        loaded = load(loaders, *[server.uri("image", n=n) for n in range(50)])
        assert {type(one.value) for one in loaded} == {DecodedImage}
        assert not any(future.done() for future in waiting)


def test_load__host_is_down__fails_at_once(server, processes, monkeypatch):
    monkeypatch.setattr(schedule, "DOWN_AFTER", 5)
    monkeypatch.setattr(orders, "DOWN_AFTER", 5)
    uris = [server.uri("reset", n=n) for n in range(50)]
    loaded = load(start(processes, Manners(attempts=1, host_connections=1)), *uris)
    reasons = [one.value.reason for one in loaded if isinstance(one.value, Failure)]
    assert sorted(reasons) == ["host_down"] * 45 + ["unreachable"] * 5
    down = [one.value for one in loaded if one.value.reason == "host_down"]
    assert {one.attempts for one in down} == {0}
    assert f"127.0.0.1:{server.port}" in down[0].message


def test_load__bundle_fails_with_images_under_way__the_next_one_gets_its_own(server, processes, monkeypatch):
    monkeypatch.setattr(orders, "_MAX_FINISHED_BYTES", 20 * 8 * 8 * 3)
    loaders, window = start(processes), Window[Loaded](1000, 1 << 30)
    loaders.watch(window)
    for n in range(100):
        assert not list(window.add(loaders.submit(ImageRef("", server.uri("image", slow=0.01, n=n)))))[1:]
    del window
    (loaded,) = load(loaders, server.uri("image"))
    assert isinstance(loaded.value, DecodedImage)


class Held:
    """A bundle's window whose finished images nobody takes."""

    def __init__(self) -> None:
        self.futures: list[Future[Loaded]] = []
        self.taken = 0

    @property
    def finished(self) -> int:
        return sum(future.done() for future in self.futures) - self.taken

    @property
    def finished_bytes(self) -> int:
        return self.finished * 8 * 8 * 3


def test_load__bundles_take_nothing__no_more_requests_start(server, processes, monkeypatch):
    monkeypatch.setattr(orders, "_MAX_FINISHED_BYTES", 20 * 8 * 8 * 3)
    loaders, held = start(processes), Held()
    loaders.watch(held)
    held.futures += [loaders.submit(ImageRef("", server.uri("image", n=n))) for n in range(200)]
    # Until no more come, which takes those that were under way.
    while held.finished < 20 or not wait(held.futures[held.finished :], 1).not_done:
        assert held.finished < 200
    assert not loaders.is_hungry()
    while wait(held.futures, 0).not_done:
        held.taken = held.finished + held.taken
        loaders.taken()
    assert all(future.result().size_bytes for future in held.futures)


def test_load__object_of_cloud_storage__is_requested_again(server, processes, monkeypatch):
    image = png_bytes()
    refused = b"HTTP/1.1 429 No\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    served = b"HTTP/1.1 200 OK\r\nX-Goog-Generation: 1\r\nContent-Length: %d\r\n\r\n" % len(image) + image
    responses = iter([refused, refused])

    class Raw(dict):
        def get(self, *_: object) -> tuple[bytes, End]:
            return next(responses, served), End.KEEP

    server.raw = Raw()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.uri("raw/a"))
    (loaded,) = load(start(processes), "gs://photos/a.png")
    assert isinstance(loaded.value, DecodedImage)
    assert sum(server.requests.values()) == 3
