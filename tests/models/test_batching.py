import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from labelbeam.transforms.models import batching
from labelbeam.transforms.models.batching import Batcher, batch_sizes


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (6, (1, 2, 4, 6))],
)
def test_batch_sizes__any__are_powers_of_two_and_the_largest(largest, sizes):
    assert batch_sizes(largest) == sizes


def test_batcher__full_batch__runs_without_a_flush():
    batcher = Batcher([lambda items: [n * 10 for n in items]], batch_size=3)
    futures = [batcher.submit(n) for n in range(3)]
    assert [f.result(timeout=60) for f in futures] == [0, 10, 20]


def test_batcher__flush__runs_what_waits():
    seen = []
    batcher = Batcher([lambda items: seen.append(len(items)) or items], batch_size=8)
    futures = [batcher.submit(n) for n in range(11)]
    assert not futures[-1].done()
    batcher.flush()
    assert [f.result(timeout=60) for f in futures] == list(range(11))
    assert seen == [8, 3]


@pytest.mark.parametrize(("submitted", "sizes"), [(0, []), (2, [2]), (3, [3]), (4, [3, 1])])
def test_batcher__flush_when_nothing_waits__starts_nothing(submitted, sizes):
    seen = []
    batcher = Batcher([lambda items: seen.append(len(items)) or items], batch_size=3)
    batcher.flush()
    futures = [batcher.submit(n) for n in range(submitted)]
    for _ in range(3):
        batcher.flush()
    batcher._executor.shutdown()  # waits for all batches
    assert [f.result() for f in futures] == list(range(submitted)) and seen == sizes


class Later:
    """An executor whose work runs when `run` is called."""

    def __init__(self):
        self.calls = []

    def submit(self, *call):
        self.calls.append(call)

    def run(self):
        for function, *args in self.calls:
            function(*args)
        self.calls.clear()


def test_open_sec__items_come_and_go__is_the_time_with_work(monkeypatch):
    clock, executor = [100.0], Later()
    monkeypatch.setattr(batching.time, "perf_counter", lambda: clock[0])
    batcher = Batcher([list], 2, executor)

    def after(sec):
        clock[0] += sec
        return batcher.open_sec()

    assert (batcher.open_sec(), after(5)) == (0, 0)  # no item yet
    batcher.submit(1)
    assert (after(3), after(2)) == (3, 2)  # under way, though it waits for a second one
    batcher.submit(2)
    assert after(4) == 4
    executor.run()
    assert (after(7), after(1)) == (7, 0)  # ended at some time in between, then nothing
    batcher.submit(3)
    batcher.submit(4)
    clock[0] += 6
    executor.run()
    assert (batcher.open_sec(), after(1)) == (6, 0)


def test_batcher__many_threads__merges_them_and_mixes_nothing_up():
    sizes = []
    batcher = Batcher([lambda items: sizes.append(len(items)) or [-n for n in items]] * 2, 4)
    with ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(batcher.submit, range(402)))
    batcher.flush()
    assert [f.result(timeout=60) for f in futures] == [-n for n in range(402)]
    assert sizes.count(4) == 100 and sum(sizes) == 402


def test_batcher__a_run_that_raises__raises_for_each_of_its_items():
    def fail(items):
        raise ValueError("defect")

    batcher = Batcher([fail], batch_size=2)
    for future in [batcher.submit(1), batcher.submit(2)]:
        with pytest.raises(ValueError, match="defect"):
            future.result(timeout=60)


def test_batcher__two_callers__run_at_once():
    both = threading.Barrier(2, timeout=60)

    def run(items):
        both.wait()
        return items

    batcher = Batcher([run, run], batch_size=1)
    assert [f.result(timeout=60) for f in [batcher.submit(1), batcher.submit(2)]] == [1, 2]
