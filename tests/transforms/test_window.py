import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from labelbeam.transforms import window as windows
from labelbeam.transforms.attempts import Timed
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.process import available_cores
from labelbeam.transforms.window import Alarm, FinishedQueue, OverlappedFn, PixelsFn, Window, images_in_flight


def done(value) -> Future:
    future: Future = Future()
    future.set_result(value)
    return future


def test_window__finished_futures__come_out_at_once():
    window = Window(max_items=10, max_bytes=100)
    assert list(window.add(done("a"))) == ["a"]
    assert list(window.drain()) == []


def test_window__over_its_count__waits_for_one():
    window = Window(max_items=2, max_bytes=100)
    futures = [Future() for _ in range(3)]
    assert list(window.add(futures[0])) == []
    assert list(window.add(futures[1])) == []
    futures[1].set_result("second")
    assert list(window.add(futures[2])) == ["second"]


def test_window__over_its_bytes__waits_until_under():
    window = Window(max_items=100, max_bytes=10)
    first, second = Future(), Future()
    assert list(window.add(first, 6)) == []
    threading.Timer(0.05, lambda: first.set_result("first")).start()
    assert list(window.add(second, 6)) == ["first"]


def test_window__one_item_larger_than_its_bytes__does_not_wait():
    assert list(Window(max_items=2, max_bytes=10).add(Future(), 1000)) == []


class _FinishedWhenWaitedFor(FinishedQueue):
    """A queue of finished futures; the oldest future finishes as soon as the window waits for one."""

    def __init__(self, futures: list[Future]):
        super().__init__()
        self._futures = futures

    def get(self, timeout_sec):
        if self.empty():
            self._futures.pop(0).set_result(None)
        return super().get(timeout_sec)


@pytest.mark.parametrize(
    ("max_items", "max_bytes", "sizes", "waits"),
    [
        (3, 99, [1, 1, 1], 0),
        (3, 99, [1, 1, 1, 1], 1),
        (99, 10, [4, 6], 0),
        (99, 10, [4, 7], 1),
        (99, 10, [0, 10, 0], 0),
        (99, 10, [1] * 10, 0),
        (99, 10, [1] * 11, 1),
        (99, 10, [5, 5, 11], 2),  # the last one is too large, and waits for both others
    ],
)
def test_window__count_and_bytes_at_their_bounds__waits_from_one_more(max_items, max_bytes, sizes, waits):
    futures: list[Future] = []
    window = Window(max_items, max_bytes, _FinishedWhenWaitedFor(futures))
    for _ in range(2):  # items and bytes of the first time must not count any more
        taken = []
        for size in sizes:
            futures.append(Future())
            taken.append(len(list(window.add(futures[-1], size))))
        assert taken == [0] * (len(sizes) - 1) + [waits]
        assert len(list(window.drain())) == len(sizes) - waits


def test_window__slow_first__does_not_hold_up_the_rest():
    window = Window(max_items=10, max_bytes=100)
    slow = Future()
    results = [*window.add(slow), *window.add(done("fast"))]
    assert results == ["fast"]
    slow.set_result("slow")
    assert list(window.drain()) == ["slow"]


def test_window__a_task_that_raises__raises_where_it_is_taken():
    future: Future = Future()
    future.set_exception(KeyError("a defect"))
    with pytest.raises(KeyError):
        list(Window(max_items=1, max_bytes=1).add(future))


def test_window__thousands_of_tasks_on_many_threads__all_come_out_once():
    window = Window(max_items=17, max_bytes=1000)
    with ThreadPoolExecutor(8) as pool:
        results = [r for n in range(5000) for r in window.add(pool.submit(int, n), n % 90)]
        results += window.drain()
    assert sorted(results) == list(range(5000))


class _WaitingFn(OverlappedFn[int, int]):
    def submit(self, element: int) -> tuple[Future[int], int]:
        return done(element), 0

    def open_window(self) -> Window[Timed[int]]:
        return Window(max_items=5, max_bytes=100)


def test_images_in_flight__windows_of_bundles__are_counted_while_they_are_open():
    before, fns = images_in_flight(), [_WaitingFn(), _WaitingFn()]
    for fn in fns:
        fn.start_bundle()
        assert images_in_flight() == before  # without elements, a bundle has no window
        assert list(fn.finish_bundle()) == []
    for fn in fns:
        fn.start_bundle()
        list(fn.process(1))
    assert images_in_flight() == before + 10
    fns[0].start_bundle()  # the one before failed
    list(fns[0].process(1))
    assert images_in_flight() == before + 10
    list(fns[0].finish_bundle())
    assert images_in_flight() == before + 5
    fns[1].teardown()
    fns[1].teardown()
    assert images_in_flight() == before


@pytest.mark.parametrize("threads", [None, 0, 1, 3])
def test_images_in_flight__pixels_fn__grow_with_its_threads(threads):
    def slots(number):
        fn, before = PixelsFn(number, 100), images_in_flight()
        fn.setup()
        fn.submit = lambda element: (done(Timed(element, 0)), 0)
        fn.start_bundle()
        list(fn.process(1))
        in_flight = images_in_flight() - before
        fn.teardown()
        return in_flight

    assert slots(threads) == (threads or available_cores()) * slots(1) > 0


def test_alarm__rung_while_a_window_waits__ends_the_wait_and_every_later_one(monkeypatch):
    alarm = Alarm()
    monkeypatch.setattr(windows, "alarm", alarm)
    monkeypatch.setattr(windows, "_ALARM_SEC", 0.01)
    window = Window(1, 100)
    assert list(window.add(Future())) == []
    ring = threading.Timer(0.05, alarm.ring, [RunError("it never returns")])
    ring.start()
    for wait in (lambda: list(window.drain()), lambda: list(Window(1, 1).add(Future()))):
        with pytest.raises(RunError, match="it never returns"):
            wait()
