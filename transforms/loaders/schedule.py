"""The schedule: which image may be requested now, so that no host is overrun and none holds back others.

A wait costs no thread and no loader: images wait here, each behind the images of its own host alone.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.loaders.image import Loaded
from labelbeam.transforms.sources import Manners

# Pause before the second request of an image; doubled for each further one.
_FIRST_PAUSE_SEC, _LONGEST_PAUSE_SEC = 1.0, 60.0
# Longest time between an image's first request and the start of its last.
_PATIENCE_SEC = 600.0
# A host that refuses is slowed to that share of the rate that it has served, and gains a fiftieth of its rate
# with each success, but a request in five seconds at least. It is never slower than one per second.
_SLOWER, _FASTER, _LEAST_GAIN = 0.8, 0.02, 0.2
_SLOWEST = 1.0
# Requests at once, and per second, where there is no bound.
_NO_BOUND = 1_000_000
# Failures in a row after which a host is down, and the time for which it is.
DOWN_AFTER, DOWN_SEC = 100, 60.0


class Verdict(NamedTuple):
    """What a request means for its host, and for the image.

    Attributes:
      heals: Whether another request may succeed.
      is_refused: Whether the host asked for fewer requests.
      is_broken: Whether the host did not respond as a host that works.
      pause_sec: Pause that the host asked for.
    """

    heals: bool = False
    is_refused: bool = False
    is_broken: bool = False
    pause_sec: float | None = None


@dataclass(eq=False, slots=True)
class Order:
    """An image that a bundle waits for.

    Attributes:
      ref: The image.
      host: Its host or bucket; "" for an image on no host.
      is_bounded: Whether `Manners` bound requests to the host.
      future: Receives the outcome.
      crashes: Number of loaders that died of it.
      attempts: Number of requests that were started.
      first: Time of the first one.
      started: Time of the latest one.
    """

    ref: ImageRef
    host: str
    is_bounded: bool
    future: Future[Loaded] = field(default_factory=Future)
    crashes: int = 0
    attempts: int = 0
    first: float = 0.0
    started: float = 0.0


@dataclass(eq=False, slots=True)
class _Host:
    """A host, and its images.

    Attributes:
      most: Most requests at once.
      fastest: Most requests per second.
      rate: Requests per second now.
      gain: What the rate gains by a success.
      waiting: Images without a request so far.
      later: Images that wait for another request: time, number, image.
      active: Requests under way.
      next_start: Time before which no request starts.
      slowed: Time at which it was last slowed down, at first the time of its first request.
      served: Successes since then.
      failures: Requests in a row without a success.
      down_until: Time until which its images are not requested.
      is_ready: Whether it is among the hosts of which an image may start.
    """

    most: int
    fastest: float
    rate: float
    gain: float = 0.0
    waiting: deque[Order] = field(default_factory=deque)
    later: list[tuple[float, int, Order]] = field(default_factory=list)
    active: int = 0
    next_start: float = 0.0
    slowed: float = 0.0
    served: int = 0
    failures: int = 0
    down_until: float = 0.0
    is_ready: bool = False


class Schedule:
    """Images that wait for a request. Not safe to call from several threads at once."""

    def __init__(self, manners: Manners, clock: Callable[[], float] = time.monotonic) -> None:
        self._manners = manners
        self._clock = clock
        self._random = random.Random()
        self._hosts: dict[str, _Host] = {}
        # Hosts of which an image may start now, in turn, because a host of many images would else come first:
        # those without a bound, and those with one.
        self._ready: tuple[deque[_Host], deque[_Host]] = (deque(), deque())
        # Hosts of which an image may start later: time, number, host. A host may be here more than once.
        self._sleeping: list[tuple[float, int, _Host]] = []
        self._hopeless: deque[Order] = deque()
        self._numbers = itertools.count()
        self._waiting = 0

    def __len__(self) -> int:
        """Return the number of images that wait."""
        return self._waiting

    def add(self, order: Order) -> None:
        """Add an image."""
        host = self._hosts.get(order.host)
        if host is None:
            most, rate = self._manners.host_connections, self._manners.host_rate or _NO_BOUND
            host = _Host(most, rate, rate) if order.is_bounded else _Host(_NO_BOUND, _NO_BOUND, _NO_BOUND)
            self._hosts[order.host] = host
        host.waiting.append(order)
        self._waiting += 1
        self._place(host, self._clock())

    def take(self, most: int, in_reserve: bool = False) -> list[Order]:
        """Return the images whose requests start now.

        Args:
          most: Largest number of images.
          in_reserve: Whether they wait for a thread first. Only images of hosts without a bound may, because
            one that waits behind those of other hosts would hold a place at its own.
        """
        now = self._clock()
        self._wake(now)
        taken: list[Order] = []
        unbounded, bounded = self._ready
        while len(taken) < most and (unbounded or (bounded and not in_reserve)):
            host = (unbounded or bounded).popleft()
            host.is_ready = False
            # Asked again, because the host may have refused a request meanwhile, or be down.
            if self._start_of(host, now) > now:
                # By the same reading, because by a later one the host may be ready, and this loop endless.
                self._place(host, now)
                continue
            # Another request before a first one, because a bundle has waited for it longer.
            order = heapq.heappop(host.later)[2] if _is_due(host, now) else host.waiting.popleft()
            self._waiting -= 1
            host.active += 1
            if host.rate < _NO_BOUND:
                host.next_start = now + 1 / host.rate
            host.slowed = host.slowed or now
            order.attempts += 1
            order.started = now
            order.first = order.first or now
            taken.append(order)
            self._place(host, now)
        return taken

    def take_hopeless(self) -> list[Order]:
        """Return the images of hosts that are down."""
        self._wake(self._clock())
        hopeless = list(self._hopeless)
        self._waiting -= len(hopeless)
        self._hopeless.clear()
        return hopeless

    def give_back(self, order: Order) -> None:
        """Take an image back whose request broke off for a reason that is not its host's."""
        host = self._hosts[order.host]
        host.active -= 1
        order.attempts -= 1
        host.waiting.appendleft(order)
        self._waiting += 1
        self._place(host, self._clock())

    def settle(self, order: Order, verdict: Verdict) -> bool:
        """Take note of how a request ended.

        Returns:
          Whether this was the image's last request; otherwise the image waits for another one.
        """
        host, now = self._hosts[order.host], self._clock()
        host.active -= 1
        pause_sec = self._pause_of(order, verdict)
        self._judge(host, order, verdict, now, pause_sec)
        is_last = (
            not verdict.heals
            or order.attempts >= self._manners.attempts
            or now + pause_sec > order.first + _PATIENCE_SEC
        )
        if not is_last:
            heapq.heappush(host.later, (now + pause_sec, next(self._numbers), order))
            self._waiting += 1
        self._place(host, now)
        return is_last

    def take_all(self) -> list[Order]:
        """Return all images that wait; nothing is requested any more."""
        orders = self.take_hopeless()
        for host in self._hosts.values():
            orders += [*host.waiting, *(order for _, _, order in host.later)]
        return orders

    def wait_sec(self) -> float | None:
        """Return the time until an image may start; None if that depends on requests under way."""
        if any(self._ready) or self._hopeless:
            return 0.0
        return max(0.0, self._sleeping[0][0] - self._clock()) if self._sleeping else None

    def _pause_of(self, order: Order, verdict: Verdict) -> float:
        pause_sec = min(_LONGEST_PAUSE_SEC, _FIRST_PAUSE_SEC * 2 ** (order.attempts - 1))
        # Jittered, because images that failed together would otherwise come together again.
        pause_sec *= self._random.uniform(0.5, 1.0)
        return max(pause_sec, min(_LONGEST_PAUSE_SEC, verdict.pause_sec or 0.0))

    def _judge(self, host: _Host, order: Order, verdict: Verdict, now: float, pause_sec: float) -> None:
        is_success = not (verdict.is_broken or verdict.is_refused)
        host.failures = 0 if is_success else host.failures + 1
        if host.failures >= DOWN_AFTER:
            host.down_until = now + DOWN_SEC
        if is_success:
            host.served += 1
            host.rate = min(host.fastest, host.rate + host.gain)
        if not verdict.is_refused:
            return
        host.next_start = max(host.next_start, now + pause_sec)
        # Once for all requests that were under way, because all met the same bound.
        if order.started >= host.slowed:
            # The pause counts, because what the host has served is its ration for that time, too.
            served_rate = host.served / (now + pause_sec - host.slowed)
            host.rate = min(host.fastest, max(_SLOWEST, _SLOWER * min(host.rate, served_rate)))
            host.gain = max(_LEAST_GAIN, _FASTER * host.rate)
            host.slowed, host.served = now, 0

    def _wake(self, now: float) -> None:
        while self._sleeping and self._sleeping[0][0] <= now:
            self._place(heapq.heappop(self._sleeping)[2], now)

    def _place(self, host: _Host, now: float) -> None:
        """Put a host where its next image may start: now, at a time, or when a request ends."""
        if host.down_until > now:
            self._hopeless.extend(host.waiting)
            self._hopeless.extend(order for _, _, order in host.later)
            host.waiting.clear()
            host.later.clear()
            return
        start = self._start_of(host, now)
        if start <= now and not host.is_ready:
            host.is_ready = True
            self._ready[host.most < _NO_BOUND].append(host)
        elif now < start < math.inf:
            heapq.heappush(self._sleeping, (start, next(self._numbers), host))

    def _start_of(self, host: _Host, now: float) -> float:
        """Return the time at which a host's next image may start; infinity if a request has to end first."""
        if host.active >= host.most or not (host.waiting or host.later):
            return math.inf
        return max(host.next_start, now if host.waiting else host.later[0][0])


def _is_due(host: _Host, now: float) -> bool:
    return bool(host.later) and (host.later[0][0] <= now or not host.waiting)
