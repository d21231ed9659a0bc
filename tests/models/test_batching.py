import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

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
