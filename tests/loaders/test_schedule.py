"""The schedule, by a clock of its own: servers of any temper, simulated."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import weakref
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.loaders import schedule
from labelbeam.transforms.loaders.schedule import DOWN_AFTER, DOWN_SEC, Order, Schedule, Verdict
from labelbeam.transforms.sources import Manners

OK = Verdict()
BROKEN = Verdict(heals=True, is_broken=True)
# From the time of a request to the seconds until its end, and the end.
Server = Callable[[float], tuple[float, Verdict]]


class Orders(list[Order]):
    """New orders of a schedule, and the futures that keep them wanted."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.futures: list[Future] = []

    def add(self, host: str, is_bounded: bool = True) -> Order:
        self.futures.append(Future())
        order = Order(ImageRef(str(len(self)), ""), host, is_bounded, weakref.ref(self.futures[-1]))
        self.append(order)
        self.schedule.add(order)
        return order


class World:
    """Servers, a clock, and what became of every image."""

    def __init__(self, servers: dict[str, Server], manners: Manners = Manners(), threads: int = 64) -> None:  # noqa: B008
        self.now = 1.0
        self.servers = servers
        self.threads = threads
        self.dice = random.Random(1)
        self.schedule = Schedule(manners, threads, lambda: self.now)
        self.orders = Orders(self.schedule)
        self.requests: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()
        self.ends: dict[str, list[float]] = {host: [] for host in servers}
        self.attempts: Counter[int] = Counter()
        self.hopeless: Counter[str] = Counter()

    def run(self, images: int, until: float = math.inf) -> World:
        """Request so many images of each host, in turn, until all have ended, or until a time."""
        for _, host in itertools.product(range(images), self.servers):
            self.orders.add(host)
        under_way: list = []
        numbers = itertools.count()
        while self.now < until and (len(self.schedule) or under_way):
            self.hopeless.update(order.host for order in self.schedule.take_hopeless())
            for order in self.schedule.take(self.threads - len(under_way)):
                sec, verdict = self.servers[order.host](self.now)
                self.requests[order.host] += 1
                self.at_once[order.host] += 1
                self.most_at_once[order.host] = max(self.most_at_once[order.host], self.at_once[order.host])
                heapq.heappush(under_way, (self.now + sec, next(numbers), order, verdict))
            wait_sec = self.schedule.wait_sec() if len(under_way) < self.threads else None
            times = [under_way[0][0]] if under_way else []
            times += [] if wait_sec is None else [self.now + wait_sec]
            self.now = max(self.now, min(times, default=self.now))
            while under_way and under_way[0][0] <= self.now:
                _, _, order, verdict = heapq.heappop(under_way)
                if self.dice.random() < 0.5:  # it is fetched, and decoded now
                    self.schedule.release(order)
                self.at_once[order.host] -= 1
                is_slow = self.now - order.started > 2
                if self.schedule.settle(order, verdict._replace(is_slow=is_slow)):
                    self.attempts[order.attempts] += 1
                    if verdict == OK:
                        self.ends[order.host].append(self.now)
        return self


def steady(sec: float, verdict: Verdict = OK) -> Server:
    return lambda now: (sec, verdict)


def rationed(per_sec: float, burst: float, retry_after_sec: float | None) -> Server:
    """Return a server that refuses what exceeds a rate, with or without a burst."""
    tokens, last = [burst], [1.0]

    def respond(now: float) -> tuple[float, Verdict]:
        tokens[0] = min(burst, tokens[0] + (now - last[0]) * per_sec)
        last[0] = now
        if tokens[0] < 1:
            return 0.001, Verdict(heals=True, is_refused=True, pause_sec=retry_after_sec or 0.0)
        tokens[0] -= 1
        return 0.003, OK

    return respond


def windowed(per_sec: int, retry_after_sec: float | None) -> Server:
    """Return a server that serves so many requests in each second of its clock."""
    served: Counter[int] = Counter()

    def respond(now: float) -> tuple[float, Verdict]:
        served[int(now)] += 1
        if served[int(now)] > per_sec:
            return 0.001, Verdict(heals=True, is_refused=True, pause_sec=retry_after_sec or 0.0)
        return 0.003, OK

    return respond


@pytest.mark.parametrize("images", [120, 400])
@pytest.mark.parametrize("retry_after_sec", [1.0, None])
@pytest.mark.parametrize("kind", ["burst", "no burst", "window"])
def test_schedule__server_refuses_what_exceeds_its_rate__gets_few_requests_and_serves_all(
    images, retry_after_sec, kind
):
    kinds = {
        "burst": rationed(15, 15, retry_after_sec),
        "no burst": rationed(15, 1, retry_after_sec),
        "window": windowed(15, retry_after_sec),
    }
    world = World({"a": kinds[kind]}).run(images)
    assert len(world.ends["a"]) == images
    assert world.requests["a"] <= 1.3 * images
    # No slower than a fifth of what the server would serve.
    assert world.now < 5 * images / 15


@pytest.mark.parametrize("healthy", [1, 4])
@pytest.mark.parametrize(
    ("slow", "dead", "silent"), [(1, 1, 0), (4, 0, 0), (0, 4, 0), (0, 0, 4), (10, 10, 10)]
)
def test_schedule__slow_and_dead_hosts__hold_back_no_other(healthy, slow, dead, silent):
    servers = {f"healthy{n}": steady(0.4) for n in range(healthy)}
    others = (
        {f"slow{n}": steady(10.0) for n in range(slow)}
        | {f"dead{n}": steady(10.0, BROKEN) for n in range(dead)}
        | {f"silent{n}": steady(60.0, BROKEN) for n in range(silent)}
    )

    def ended(servers: dict[str, Server]) -> int:
        world = World(servers, threads=32).run(2500, until=130)
        # Behind the time that a silent host may hold a place that was free.
        return sum(end > 70 for name, ends in world.ends.items() if name in healthy_names for end in ends)

    healthy_names = frozenset(servers)
    assert ended(servers | others) >= 0.9 * ended(servers)


def test_schedule__hosts_of_all_tempers__every_image_ends_and_no_quick_host_starves():
    dice = random.Random(1)
    for _ in range(30):
        servers: dict[str, Server] = {}
        for n in range(dice.randint(1, 60)):
            verdict = dice.choice([OK, OK, BROKEN, Verdict(heals=True, is_refused=True)])
            servers[str(n)] = steady(10 ** dice.uniform(-2, 1.5), verdict)
        manners = Manners(dice.randint(1, 5), dice.randint(1, 9), dice.choice([None, None, 5.0]))
        images = dice.randint(1, 40)
        world = World(servers, manners, threads=dice.randint(1, 40)).run(images)
        assert sum(world.attempts.values()) + sum(world.hopeless.values()) == images * len(servers)
        assert max(world.most_at_once.values()) <= manners.host_connections
        assert not any(group.active for group in world.schedule._turns)


def test_take__files_and_a_host_are_ready__go_in_turn_and_leave_no_reserve():
    schedule = Schedule(Manners(), 8, lambda: 1.0)
    orders = Orders(schedule)
    for _ in range(50):
        orders.add("", is_bounded=False)
    assert len(schedule.take(5, in_reserve=True)) == 5
    for _ in range(50):
        orders.add("a")
    assert schedule.take(8, in_reserve=True) == []
    new, *files = schedule.take(4)
    assert [new.host, *(order.host for order in files)] == ["a", "", "", ""]
    # A new host may hold few threads while files are ready.
    assert [order.host for order in schedule.take(2, in_reserve=True)] == ["", ""]
    schedule.settle(new, OK)
    assert Counter(order.host for order in schedule.take(8)) == {"a": 4, "": 4}
    assert schedule.take(2, in_reserve=True) == []
    schedule.take(8)
    # The host has as many requests as it may have.
    assert [order.host for order in schedule.take(2, in_reserve=True)] == ["", ""]


def test_release__image_is_fetched__the_next_one_starts_while_it_is_decoded():
    schedule = Schedule(Manners(host_connections=1), 8, lambda: 1.0)
    orders = Orders(schedule)
    for _ in range(3):
        orders.add("a")
    (first,) = schedule.take(8)
    assert schedule.take(8) == []
    schedule.release(first)
    (second,) = schedule.take(8)
    assert schedule.settle(first, OK)
    assert schedule.take(8) == []
    schedule.release(second)
    schedule.give_back(second, was_sent=True)
    assert schedule.take(8) == [second]


def test_take__nobody_waits_for_an_image_any_more__it_is_not_requested():
    schedule = Schedule(Manners(), 8, lambda: 1.0)
    orders = Orders(schedule)
    for n in range(6):
        orders.add("a", is_bounded=False)
        orders.add("b")
        if n < 3:
            orders.futures.clear()
    assert sorted(order.ref.id for order in schedule.take(100)) == ["10", "6", "7", "8", "9"]
    assert len(schedule) == 1


def test_add__hosts_without_images__are_forgotten(monkeypatch):
    monkeypatch.setattr(schedule, "_MOST_HOSTS", 20)
    now = [1.0]
    images = Schedule(Manners(host_rate=1), 100, lambda: now[0])
    orders = Orders(images)
    decoding = deque()
    for n in range(1000):
        orders.add(f"{n}")
        if n >= 50:  # of fifty hosts the image waits
            (order,) = [one for one in images.take(99) if one.host == f"{n}"]
            images.release(order)
            decoding.append(order)
            now[0] += 1
        if len(decoding) > 30:
            assert images.settle(decoding.popleft(), OK)
    assert len(images._hosts) <= 2 * (50 + 30) + 20


def test_take__hosts_of_an_image_each__get_all_threads():
    schedule = Schedule(Manners(), 32, lambda: 1.0)
    orders = Orders(schedule)
    for n in range(100):
        orders.add(f"{n}")
    assert len(schedule.take(32)) == 32


def test_settle__host_that_is_down_responds__is_requested_at_once():
    schedule = Schedule(Manners(attempts=1), 32, lambda: 1.0)
    orders = Orders(schedule)
    for _ in range(2 * DOWN_AFTER):
        orders.add("a")
    last, *_ = schedule.take(1)
    for _ in range(DOWN_AFTER):
        (order,) = schedule.take(1)
        schedule.settle(order, BROKEN)
    assert len(schedule.take_hopeless()) == DOWN_AFTER - 1
    schedule.settle(last, OK)
    orders.add("a")
    assert schedule.take_hopeless() == [] and len(schedule.take(1)) == 1


def test_give_back__after_a_long_time__image_is_requested_again():
    now = [1.0]
    schedule = Schedule(Manners(), 8, lambda: now[0])
    orders = Orders(schedule)
    order = orders.add("", is_bounded=False)
    schedule.take(1)
    now[0] += 1000
    schedule.give_back(order, was_sent=True)
    assert schedule.take(1) == [order] and schedule.take_hopeless() == []


def test_take__turn_comes_too_late__image_is_not_requested_again():
    now = [1.0]
    schedule = Schedule(Manners(), 8, lambda: now[0])
    orders = Orders(schedule)
    order = orders.add("a")
    schedule.take(1)
    assert not schedule.settle(order, BROKEN)
    now[0] += 1000
    assert schedule.take(1) == []
    assert schedule.take_hopeless() == [order] and len(schedule) == 0


def test_schedule__host_is_dead__costs_minutes_and_is_tried_again():
    world = World({"dead": steady(10.0, BROKEN)}).run(100_000)
    assert world.requests["dead"] <= DOWN_AFTER + 8
    assert world.now < 300
    assert sum(world.hopeless.values()) + sum(world.attempts.values()) == 100_000
    world.now += DOWN_SEC
    requests = world.requests["dead"]
    world.run(50)
    # One request a minute, as long as it stays down.
    assert world.requests["dead"] == requests + 1
    world.now += DOWN_SEC
    world.servers["dead"] = steady(0.1)
    assert len(world.run(50).ends["dead"]) == 50


@pytest.mark.parametrize("server", [rationed(0, 0, None), rationed(0, 0, 1.0)])
def test_schedule__host_refuses_everything__is_down_as_if_it_were_dead(server):
    world = World({"a": server}).run(10_000)
    assert world.requests["a"] <= DOWN_AFTER + 8
    assert world.now < 600


def test_schedule__host_works_now_and_then__is_never_down():
    turns = itertools.cycle([BROKEN] * (DOWN_AFTER - 10) + [OK])
    world = World({"a": lambda now: (0.01, next(turns))}, Manners(attempts=100)).run(20)
    assert not world.hopeless


@pytest.mark.parametrize(("attempts", "failures"), [(1, 0), (5, 4), (5, 9), (3, 1)])
def test_schedule__failures_that_may_heal__are_tried_again_up_to_the_number_of_attempts(attempts, failures):
    ends = iter([BROKEN] * failures + [OK])
    world = World({"a": lambda now: (0.01, next(ends))}, Manners(attempts=attempts)).run(1)
    assert world.attempts == {min(attempts, failures + 1): 1}
    assert len(world.ends["a"]) == (failures < attempts)


def test_schedule__server_refuses_now_and_then__is_not_slowed_down():
    dice = random.Random(1)
    refusal = Verdict(heals=True, is_refused=True)
    world = World({"a": lambda now: (0.05, refusal if dice.random() < 0.05 else OK)}).run(400)
    assert len(world.ends["a"]) == 400
    # Twice the least time, and the pauses of the last images.
    assert world.now - 1 < 2 * 400 * 0.05 / 8 + 3


def test_schedule__failure_that_stays__is_not_tried_again():
    world = World({"a": steady(0.01, Verdict(heals=False))}).run(10)
    assert world.requests["a"] == 10


def test_schedule__long_pause_is_asked_for__is_bounded():
    ends = iter([Verdict(heals=True, is_refused=True, pause_sec=86_400.0), OK])
    world = World({"a": lambda now: (0.01, next(ends))}).run(1)
    assert len(world.ends["a"]) == 1 and world.now < 100


@pytest.mark.parametrize("connections", [1, 8])
def test_schedule__one_host__gets_as_many_requests_at_once_as_allowed(connections):
    world = World({"a": steady(0.05)}, Manners(host_connections=connections)).run(200)
    assert world.most_at_once["a"] == connections
    # Behind the first requests, of which there are fewer.
    assert 0 <= world.now - 1 - 200 / connections * 0.05 < 0.06


def test_schedule__host_rate__bounds_requests_per_second():
    world = World({"a": steady(0.01), "b": steady(0.01)}, Manners(host_rate=20)).run(100)
    for host in "ab":
        assert world.ends[host][-1] - 1 == pytest.approx(99 / 20 + 0.01)


def test_schedule__image_is_given_back__counts_no_attempt_and_comes_first():
    schedule = Schedule(Manners(), 8, lambda: 1.0)
    orders = Orders(schedule)
    for _ in range(3):
        orders.add("", is_bounded=False)
    first, second = schedule.take(2)
    schedule.give_back(first, was_sent=False)
    assert (first.attempts, len(schedule)) == (0, 2)
    assert schedule.take(1) == [first] and first.attempts == 1
    schedule.give_back(first, was_sent=True)
    assert schedule.take(1) == [first] and first.attempts == 2
    assert schedule.settle(second, OK)


def test_take__clock_advances_at_each_reading__ends():
    readings = itertools.count()
    schedule = Schedule(Manners(host_rate=200), 8, lambda: 1 + 0.006 * min(next(readings), 10_000))
    orders = Orders(schedule)
    for _ in range(5):
        orders.add("a")
    assert schedule.take(5)
    assert next(readings) < 100


def test_schedule__host_with_a_low_rate_refuses__gets_no_more_than_that_rate():
    world = World({"a": rationed(0.1, 1, None)}, Manners(host_rate=0.2)).run(3)
    assert world.now - 1 >= (world.requests["a"] - 1) / 0.2
