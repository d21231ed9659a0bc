from concurrent.futures import ThreadPoolExecutor

from labelbeam.transforms.process import once_per_process


def test_once_per_process__many_threads__one_call_per_argument():
    calls = []
    make = once_per_process(lambda n: calls.append(n) or object())
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(make, [1] * 50))
    assert calls == [1] and len(made) == 1
