import collections
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from labelbeam.transforms import budget
from labelbeam.transforms.budget import BudgetWatch, FailureBudget
from labelbeam.transforms.elements import Failure, ImageRef
from labelbeam.transforms.errors import RunError
from tests.results import prediction

BY_REASON = FailureBudget(0.5, (("timeout", 0.05), ("not_found", 0.0)))


def failure(host: str = "h", reason: str = "timeout") -> Failure:
    return Failure(ImageRef("1", f"http://{host}/a.jpg"), "fetch", reason, "m", 1, host)


@pytest.mark.parametrize(
    ("limits", "images", "reasons"),
    [
        (FailureBudget(), 3, {"timeout": 3}),
        (FailureBudget(0.0), 0, {}),
        (FailureBudget(0.0), 100, {}),
        (FailureBudget(0.1), 100, {"timeout": 6, "empty": 4}),
        (FailureBudget(0.07), 100, {"timeout": 7}),
        (BY_REASON, 100, {"timeout": 5, "empty": 45}),
    ],
)
def test_excess__up_to_the_rate__is_none(limits, images, reasons):
    assert limits.excess(images, reasons, {"h": 1}) is None


@pytest.mark.parametrize(
    ("limits", "reasons", "message"),
    [
        (
            FailureBudget(0.1),
            {"timeout": 60, "empty": 41},
            "101 of 1,000 images failed (10.1%), more than --max_failure_rate 0.1 allows. "
            "Most often: timeout (60), empty (41). --max_failure_rate 0.11 would allow this share.",
        ),
        (
            BY_REASON,
            {"timeout": 51, "empty": 60},
            "51 of 1,000 images failed with timeout (5.1%), more than --max_failure_rates "
            "timeout=0.05,not_found=0 allows. Most often: empty (60), timeout (51). --max_failure_rates "
            "timeout=0.051,not_found=0 would allow this share.",
        ),
        (BY_REASON, {"not_found": 1}, "1 of 1,000 images failed with not_found (0.1%), more than"),
        (FailureBudget(0.0), {"timeout": 1}, "1 of 1,000 images failed (0.1%)"),
    ],
)
def test_excess__over_a_rate__names_the_rate_and_the_worst_reasons(limits, reasons, message):
    assert limits.excess(1000, reasons, {}).startswith(message)


def test_excess__many_reasons_and_hosts__names_the_three_worst_of_each():
    reasons = {"a": 1, "b": 9, "c": 9, "d": 20}
    hosts = {"x": 2, "": 1000, "w": 3, "y": 2}
    message = FailureBudget(0.0).excess(1100, reasons, hosts)
    assert "Most often: d (20), b (9), c (9); at local files (1,000), w (3), x (2). --" in message


@pytest.mark.parametrize(
    ("failed", "images", "rate"),
    [
        (8, 30, 0.27),
        (7, 100, 0.07),
        (1, 1, 1),
        (996, 1000, 1),
        (1, 3000, 0.00034),
        (29, 100, 0.29),
        (1, 10**7, 1e-7),
    ],
)
def test_excess__remedy__is_a_rate_of_two_digits_that_allows_it(failed, images, rate):
    message = FailureBudget(0.0).excess(images, {"timeout": failed}, {})
    assert message.endswith(f" --max_failure_rate {rate:g} would allow this share.")
    assert FailureBudget(rate).excess(images, {"timeout": failed}, {}) is None


@pytest.mark.parametrize(
    ("rate", "tolerance", "images", "most"),
    [
        (0.5, 5.0, 100, 75),  # a standard deviation is 0.05 of 100 images
        (0.5, 0.0, 100, 50),
        (0.1, 2.0, 900, 108),  # 0.01 of 900
        (0.1, 2.0, 1, 0),  # 0.3 of 1: up to 0.7 images
        (0.0, 5.0, 100, 0),
        (1.0, 5.0, 100, 100),
    ],
)
def test_excess__tolerance__is_that_of_a_binomial_sample(rate, tolerance, images, most):
    for limits in (FailureBudget(rate), FailureBudget(1.0, (("timeout", rate),))):
        assert limits.excess(images, {"timeout": most}, {}, tolerance) is None
        if most < images:
            assert limits.excess(images, {"timeout": most + 1}, {}, tolerance)


@pytest.mark.parametrize(
    ("in_flight", "message"), [((), "4 of 5"), ((lambda: 2,), "4 of 7"), ((lambda: 3,), None)]
)
def test_watch__images_in_flight__count_as_good(monkeypatch, in_flight, message):
    monkeypatch.setattr(budget, "_TOLERANCE", 0.0)
    watch = BudgetWatch(FailureBudget(0.5, floor=5), *in_flight)
    watch.count(prediction(1))
    for _ in range(3):
        watch.count(failure())
    if message is None:  # 4 of 8
        watch.count(failure())
    else:
        with pytest.raises(RunError, match=message):
            watch.count(failure())


def test_excess__local_files_alone__names_no_host():
    message = FailureBudget(0.0).excess(9, {"empty": 9}, {"": 9})
    assert "Most often: empty (9). --" in message


def test_watch__below_its_floor__lets_all_fail_and_then_none():
    watch = BudgetWatch(FailureBudget(0.5, floor=40))
    for _ in range(39):
        watch.count(failure())
    with pytest.raises(
        RunError, match=r"^Stopped early: 40 of 40 images failed \(100.0%\).*timeout \(40\); at h"
    ):
        watch.count(failure())
    with pytest.raises(RunError, match="41 of 41"):
        watch.count(failure())


def test_watch__predictions__count_as_images_and_never_raise():
    watch = BudgetWatch(FailureBudget(0.0, floor=3))
    for n in range(4):
        watch.count(prediction(n))
    with pytest.raises(RunError, match="1 of 5"):
        watch.count(failure())


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_watch__within_budget_by_a_tenth__never_stops(rate):
    """Simulate failures that overtake images in flight, and parts of an input that differ by chance."""
    for seed in range(20):
        chance, late = random.Random(seed), collections.deque()
        watch = BudgetWatch(FailureBudget(rate, floor=100), lambda: 300)
        for n in range(3000):
            late.append(prediction(n))
            if chance.random() < 0.9 * rate:
                late.pop()
                watch.count(failure())
            if len(late) > 290:
                watch.count(late.popleft())


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_watch__twice_the_budget__stops_within_thousands(rate):
    chance = random.Random(1)
    watch = BudgetWatch(FailureBudget(rate, floor=100), lambda: 300)
    with pytest.raises(RunError, match="Stopped early"):
        for n in range(8000):
            watch.count(failure() if chance.random() < 2 * rate else prediction(n))


def test_watch__several_threads__add_up():
    watch = BudgetWatch(FailureBudget(0.0, floor=4001))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(watch.count, [failure(), prediction(1)] * 2000))
    with pytest.raises(RunError, match="2,001 of 4,001"):
        watch.count(failure())


def test_watch__more_hosts_than_it_may_remember__keeps_the_worst(monkeypatch):
    monkeypatch.setattr(budget, "_MAX_HOSTS", 10)
    watch = BudgetWatch(FailureBudget(0.0, floor=105))
    for host in [*["worst"] * 3, *map(str, range(100)), "worst"]:
        watch.count(failure(host))
    assert len(watch._hosts) <= 20
    with pytest.raises(RunError, match=r"; at worst \(5\)"):
        watch.count(failure("worst"))


@pytest.mark.parametrize(("rate", "failed"), [(0.29, 29), (0.57, 57), (0.58, 58)])
def test_excess__exactly_at_a_rate_no_float_holds__is_none(rate, failed):
    assert FailureBudget(rate).excess(100, {"timeout": failed}, {}) is None
