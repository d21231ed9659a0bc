"""The schedule: which image may be requested now, so that no host is overrun and none holds back others.

A wait costs no thread and no loader: images wait here, each behind the images of its own host alone.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from labelbeam.transforms.elements import AnyImage, ImageRef, parts_of, ref_of
from labelbeam.transforms.loaders.image import Loaded
from labelbeam.transforms.sources import Manners

# Pause before the second request of an image; doubled for each further one.
_FIRST_PAUSE_SEC, _LONGEST_PAUSE_SEC = 1.0, 60.0
# Longest time between an image's first request and the start of its last one.
_PATIENCE_SEC = 600.0
# A host that refuses is slowed to that share of the rate that it has served, and gains a hundredth of its
# rate with each success, but a request in ten seconds at least: each refusal costs a pause, so that faster
# gains served less in simulations. It is never slower than one per second.
_SLOWER, _FASTER, _LEAST_GAIN = 0.9, 0.01, 0.1
_SLOWEST = 1.0
# Share of the refusals among the last requests from which a host is slowed, because a server may also refuse
# now and then, and the weight of the latest request.
_TOO_MANY, _WEIGHT = 0.4, 0.125
# Requests at once, and per second, where there is no bound.
_NO_BOUND = 1_000_000
# Requests at once to a host of which no request has ended yet.
_FIRST_REQUESTS = 2
# Failures in a row after which a host is down, and the time for which it is.
DOWN_AFTER, DOWN_SEC = 100, 60.0
# Hosts that are remembered though nothing of theirs waits: 10 MB.
_MOST_HOSTS = 10_000


class Verdict(NamedTuple):
    """Consequences of a request for its host, and for the image.

    Attributes:
      heals: Whether another request may succeed.
      is_refused: Whether the host asked for fewer requests.
      is_broken: Whether the host did not respond as a host that works.
      is_slow: Whether the request took long.
      pause_sec: Pause that the host asked for.
    """

    heals: bool = False
    is_refused: bool = False
    is_broken: bool = False
    is_slow: bool = False
    pause_sec: float = 0.0


@dataclass(eq=False, slots=True)
class _Group:
    """Hosts that responded alike last. Each group has its share of the threads.

    Attributes:
      active: Requests under way.
      ready: Hosts of which an image may start now, in turn, because a host of many images would else come
        first.
    """

    active: int = 0
    ready: OrderedDict[_Host, None] = field(default_factory=OrderedDict)


@dataclass(eq=False, slots=True)
class Order:
    """An image that a bundle waits for.

    Attributes:
      image: The image.
      host: Its host or bucket; "" for an image on no host.
      is_bounded: Whether `Manners` bound requests to the host.
      future: Weak reference to the future that receives the outcome. It is dead if the bundle has failed.
      crashes: Number of loaders that died of it.
      is_request: Whether it counts among its host's requests.
      attempts: Number of requests that were started.
      first: Time of the first one.
      started: Time of the latest one.
      last: Outcome of the latest one; None before the first outcome.
    """

    image: AnyImage
    host: str
    is_bounded: bool
    future: weakref.ref[Future[Loaded]]
    crashes: int = 0
    is_request: bool = False
    attempts: int = 0
    first: float = 0.0
    started: float = 0.0
    last: Loaded | None = None

    @property
    def ref(self) -> ImageRef:
        """Reference of the image."""
        return ref_of(parts_of(self.image)[0])

    def finish(self, outcome: Loaded | Exception) -> None:
        """Give the outcome to the bundle, unless that has failed."""
        future = self.future()
        if future is None:
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


@dataclass(eq=False, slots=True)
class _Host:
    """A host, and its images.

    Attributes:
      group: Hosts that responded as it did last.
      most: Most requests at once.
      fastest: Most requests per second.
      rate: Requests per second now.
      gain: Gain of the rate by a success.
      waiting: Images without a request so far.
      later: Images that wait for another request: time, number, image.
      active: Requests under way.
      unsettled: Images whose requests started and were not judged: those under way, and those being decoded.
      next_start: Time before which no request starts.
      slowed: Time at which it was last slowed down, at first the time of its first request.
      served: Successes since then.
      refused: Share of the refusals among its last requests.
      failures: Requests in a row without a success.
      down_until: Time until which its images are not requested.
      is_new: Whether its requests are bounded, and none has ended.
    """

    group: _Group
    most: int
    fastest: float
    rate: float
    gain: float = 0.0
    waiting: deque[Order] = field(default_factory=deque)
    later: list[tuple[float, int, Order]] = field(default_factory=list)
    active: int = 0
    unsettled: int = 0
    next_start: float = 0.0
    slowed: float = 0.0
    served: int = 0
    refused: float = 0.0
    failures: int = 0
    down_until: float = 0.0
    is_new: bool = False


class Schedule:
    """Images that wait for a request. Not safe to call from several threads at once."""

    def __init__(self, manners: Manners, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Make an empty schedule.

        Args:
          manners: How hosts are treated.
          threads: Number of threads that wait for requests.
          clock: Function that returns the time in seconds.
        """
        self._manners = manners
        self._clock = clock
        self._random = random.Random()
        self._hosts: dict[str, _Host] = {}
        self._most_hosts = _MOST_HOSTS
        self._threads = threads
        # Files and buckets, which no manners bound; hosts that responded within the time for quick ones; slow
        # and new hosts; hosts whose last request failed.
        self._unbounded, self._quick, self._slow, self._broken = (_Group() for _ in range(4))
        # The group whose turn it is comes first.
        self._turns = [self._unbounded, self._quick, self._slow, self._broken]
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
        now = self._clock()
        host = self._hosts.get(order.host) or self._make_host(order, now)
        host.waiting.append(order)
        self._waiting += 1
        self._place(host, now)

    def take(self, most: int, in_reserve: bool = False) -> list[Order]:
        """Return the images whose requests start now.

        Args:
          most: Largest number of images.
          in_reserve: Whether they wait for a thread first. Only images of hosts without a bound may, because
            one that waits behind those of other hosts would hold a place at its own, and only while no other
            image may start, because it would come behind them for ever.
        """
        now = self._clock()
        self._wake(now)
        taken: list[Order] = []
        while len(taken) < most and (host := self._next_host(in_reserve)):
            # Compared again, because the host may have refused a request meanwhile, or be down.
            if self._start_of(host, now) <= now:
                # Another request before a first one, because a bundle has waited for it longer.
                is_due = _is_due(host, now)
                order = heapq.heappop(host.later)[2] if is_due else host.waiting.popleft()
                if is_due and now > order.first + _PATIENCE_SEC:
                    self._hopeless.append(order)
                else:
                    self._waiting -= 1
                    if order.future() is not None:
                        self._start(host, order, now)
                        taken.append(order)
            # By the same reading of the clock, because by a later one the host may be ready, and this loop
            # endless.
            self._place(host, now)
        return taken

    def take_hopeless(self) -> list[Order]:
        """Return images that are not requested any more: of hosts that are down, or after too long a time."""
        self._wake(self._clock())
        hopeless = list(self._hopeless)
        self._waiting -= len(hopeless)
        self._hopeless.clear()
        return hopeless

    def release(self, order: Order) -> None:
        """Take note that an image is fetched, before it is decoded and its request judged."""
        host = self._hosts[order.host]
        self._end(host, order)
        self._place(host, self._clock())

    def give_back(self, order: Order, was_sent: bool) -> None:
        """Take an image back whose request broke off for a reason that is not its host's.

        Args:
          order: The image.
          was_sent: Whether the request had been sent.
        """
        host = self._hosts[order.host]
        self._end(host, order)
        host.unsettled -= 1
        order.attempts -= not was_sent
        host.waiting.appendleft(order)
        self._waiting += 1
        self._place(host, self._clock())

    def settle(self, order: Order, verdict: Verdict) -> bool:
        """Take note of how a request ended.

        Returns:
          Whether this was the image's last request; otherwise the image waits for another one.
        """
        host, now = self._hosts[order.host], self._clock()
        self._end(host, order)
        host.unsettled -= 1
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

    def has_ready(self) -> bool:
        """Return whether an image may start now."""
        return bool(self._startable())

    def wait_sec(self) -> float | None:
        """Return the time until an image may start; None if that depends on requests under way."""
        if self._startable() or self._hopeless:
            return 0.0
        return max(0.0, self._sleeping[0][0] - self._clock()) if self._sleeping else None

    def _make_host(self, order: Order, now: float) -> _Host:
        if len(self._hosts) >= self._most_hosts:
            self._hosts = {name: host for name, host in self._hosts.items() if not _is_idle(host, now)}
            # More if most are busy, because each new host would look at all of them.
            self._most_hosts = max(_MOST_HOSTS, 2 * len(self._hosts))
        if order.is_bounded:
            rate = self._manners.host_rate or _NO_BOUND
            host = _Host(self._slow, self._manners.host_connections, rate, rate, is_new=True)
        else:
            host = _Host(self._unbounded, _NO_BOUND, _NO_BOUND, _NO_BOUND)
        self._hosts[order.host] = host
        return host

    def _startable(self) -> list[_Group]:
        """Return the groups of which an image may start now."""
        startable = [group for group in (self._unbounded, self._quick) if group.ready]
        # Threads that may wait for hosts that are not known to be quick: few while others have images that
        # could start, because they would slow these down. Else some stay free, because an image of the quick
        # hosts at work may come at any time.
        if startable:
            most = max(1, self._threads // 10)
        else:
            at_work = self._unbounded.active + self._quick.active
            most = self._threads - min(self._manners.host_connections, self._threads // 4, 2 * at_work)
        if self._slow.active + self._broken.active < most:
            if self._slow.ready:
                startable.append(self._slow)
            # Half of the places, because a dead host holds one for longer than any other.
            if self._broken.ready and self._broken.active < max(1, most // 2):
                startable.append(self._broken)
        return startable

    def _next_host(self, in_reserve: bool) -> _Host | None:
        startable = self._startable()
        if not startable or (in_reserve and startable != [self._unbounded]):
            return None
        group = min(startable, key=self._turns.index)
        self._turns.remove(group)
        self._turns.append(group)
        return group.ready.popitem(last=False)[0]

    def _start(self, host: _Host, order: Order, now: float) -> None:
        order.is_request = True
        host.unsettled += 1
        host.active += 1
        host.group.active += 1
        if host.rate < _NO_BOUND:
            host.next_start = now + 1 / host.rate
        host.slowed = host.slowed or now
        order.attempts += 1
        order.started = now
        order.first = order.first or now

    def _end(self, host: _Host, order: Order) -> None:
        if order.is_request:
            order.is_request = False
            host.active -= 1
            host.group.active -= 1

    def _regroup(self, host: _Host, verdict: Verdict) -> None:
        group = self._broken if verdict.is_broken else self._slow if verdict.is_slow else self._quick
        if host.group in (self._unbounded, group):
            return
        host.group.active -= host.active
        # Removed, because `_place` then puts the host into its new group.
        host.group.ready.pop(host, None)
        host.group = group
        group.active += host.active

    def _pause_of(self, order: Order, verdict: Verdict) -> float:
        pause_sec = min(_LONGEST_PAUSE_SEC, _FIRST_PAUSE_SEC * 2 ** (order.attempts - 1))
        # Jittered, because images that failed together would otherwise come together again.
        pause_sec *= self._random.uniform(0.5, 1.0)
        return max(pause_sec, min(_LONGEST_PAUSE_SEC, verdict.pause_sec))

    def _judge(self, host: _Host, order: Order, verdict: Verdict, now: float, pause_sec: float) -> None:
        self._regroup(host, verdict)
        host.is_new = False
        is_success = not (verdict.is_broken or verdict.is_refused)
        host.failures = 0 if is_success else host.failures + 1
        if host.failures >= DOWN_AFTER:
            host.down_until = now + DOWN_SEC
        host.refused += _WEIGHT * (verdict.is_refused - host.refused)
        if is_success:
            host.down_until = 0.0
            host.served += 1
            host.rate = min(host.fastest, host.rate + host.gain)
        if not verdict.is_refused:
            return
        if host.refused < _TOO_MANY:
            host.next_start = max(host.next_start, now + min(_LONGEST_PAUSE_SEC, verdict.pause_sec))
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
        if start <= now:
            # At its old place, if it has one.
            host.group.ready[host] = None
        elif start < math.inf:
            heapq.heappush(self._sleeping, (start, next(self._numbers), host))

    def _start_of(self, host: _Host, now: float) -> float:
        """Return the time at which a host's next image may start; infinity if a request has to end first."""
        if host.active >= _most_at_once(host) or not (host.waiting or host.later):
            return math.inf
        return max(host.next_start, now if host.waiting else host.later[0][0])


def _most_at_once(host: _Host) -> int:
    if host.failures >= DOWN_AFTER:
        return 1
    return min(host.most, _FIRST_REQUESTS) if host.is_new else host.most


def _is_idle(host: _Host, now: float) -> bool:
    has_images = host.unsettled or host.waiting or host.later
    return not has_images and max(host.next_start, host.down_until) <= now


def _is_due(host: _Host, now: float) -> bool:
    return bool(host.later) and (host.later[0][0] <= now or not host.waiting)
