"""Objects of buckets, listed by ranges of names on several threads.

A bucket's names are sorted, and a listing can begin and end at any name. So ranges of names that follow each
other hold each object once, wherever they are cut. They are cut where names branch, because neither the
alphabet nor the lengths of names are known: behind all names that begin like one that was listed. Folders are
branches like any other, and a folder of millions of objects is cut within its names.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from labelbeam.transforms.inputs.patterns import ObjectGlob, name_behind
from labelbeam.transforms.sources.gcs_listing import BucketLister, BucketObject, ObjectPage

# Requests at once of one listing. Their pages are all that a listing keeps in memory.
_THREADS: Final = 16
# Ranges into which `split_names` cuts a large bucket, and ranges of one piece. A piece has one for each thread,
# because a worker must keep its threads busy however few names a range has.
_MOST_RANGES, _RANGES_OF_PIECE = 512, 16


class NameRange(NamedTuple):
    """Names from `start` up to and without `end`; None for all names behind."""

    start: str
    end: str | None

    def holds(self, name: str) -> bool:
        """Return whether a name is in the range."""
        return self.start <= name and (self.end is None or name < self.end)


def whole_range(glob: ObjectGlob) -> NameRange:
    """Return the range of all names with the literal beginning of a pattern."""
    return NameRange(glob.prefix, name_behind(glob.prefix))


def list_objects(glob: ObjectGlob, ranges: Sequence[NameRange] = ()) -> Iterator[BucketObject]:
    """List the objects that a pattern matches, in any order.

    Args:
      glob: The pattern.
      ranges: Ranges of names to list; by default all names.

    Raises:
      OSError: The bucket can't be listed. Objects up to there have been yielded.
    """
    opened = [_Open(one, _common_length(one)) for one in ranges or [whole_range(glob)]]
    with _requests(glob) as requests:
        yield from _Listing(glob, requests, opened).objects()


def split_names(glob: ObjectGlob) -> Iterator[tuple[NameRange, ...]]:
    """Split the names that a pattern can match into pieces, ranges that one worker lists at once.

    Raises:
      OSError: The bucket can't be listed.
    """
    with _requests(glob) as requests:
        ranges = [opened.range for opened in _Split(requests).ranges(whole_range(glob))]
    pieces = -(-len(ranges) // _RANGES_OF_PIECE)
    # Dealt in turn, because neighbours are alike: where one range is large, the next one often is.
    yield from (tuple(ranges[n::pieces]) for n in range(pieces))


@dataclass(eq=False)
class _Open:
    """A range that is being listed.

    Attributes:
      range: Names that are not listed yet, and perhaps some that are. Its end moves down when it is cut.
      depth: Number of characters that all its names share at least, as far as is known.
      last: Last listed name; empty before the first page.
      token: Token of the next page; empty at the beginning of the range.
      asked: Range of the request for the first page, which those with a token must repeat.
      searched_at: Value of `last` at the last search for a branch, because another search needs new names.
      is_searched: Whether a search for a branch is under way.
      level: Number of branches above the range.
    """

    range: NameRange
    depth: int
    last: str = ""
    token: str = ""
    asked: NameRange | None = None
    searched_at: str = ""
    is_searched: bool = False
    level: int = 0

    def take(self, page: ObjectPage) -> bool:
        """Note the end of a page; return whether more pages can follow."""
        last = max(_names(page), default=self.last)
        self.last, self.token = last, page.token
        return bool(page.token) and (self.range.end is None or last < self.range.end)

    def skip_to(self, name: str | None) -> bool:
        """Go on at a name; return whether the range has names from there on."""
        if name is None or not (self.range.end is None or name < self.range.end):
            return False
        self.range = NameRange(name, self.range.end)
        self.last, self.token, self.asked = "", "", None
        return True

    def cut(self, branch: _Branch) -> _Open:
        """Cut the range at a branch, and return the range behind."""
        names = NameRange(branch.start, self.range.end)
        behind = _Open(names, branch.depth, asked=names, level=self.level)
        self.range = NameRange(self.range.start, branch.start)
        self.depth, self.level = branch.depth + 1, self.level + 1
        return behind


class _Branch(NamedTuple):
    """A place at which a range can be cut.

    Attributes:
      start: First name of the range behind.
      depth: Number of characters that names before and behind share.
      page: First page of the range behind.
    """

    start: str
    depth: int
    page: ObjectPage


class _Requests:
    """Requests of one listing on threads.

    Attributes:
      glob: The pattern of the names.
    """

    def __init__(self, glob: ObjectGlob, lister: BucketLister, pool: ThreadPoolExecutor) -> None:
        self.glob = glob
        self._lister = lister
        self._pool = pool
        self._whole = whole_range(glob)
        self._running: dict[Future[Any], Callable[[Any], Any]] = {}

    @property
    def idle(self) -> int:
        """Number of threads without a request."""
        return _THREADS - len(self._running)

    def send(self, take: Callable[[Any], Any], request: Callable[..., Any], *args: Any) -> None:
        """Run a request on a thread, and have its result taken by a function on the thread that waits."""
        self._running[self._pool.submit(request, *args)] = take

    def wait(self) -> Iterator[Any]:
        """Wait for at least one request, and yield what the functions return for the results."""
        finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
        for future in finished:
            yield self._running.pop(future)(future.result())

    def page(self, names: NameRange, token: str = "") -> ObjectPage:
        """Request a page of a range."""
        glob, whole = self.glob, self._whole
        start = names.start if names.start != whole.start else ""
        end = (names.end or "") if names.end != whole.end else ""
        return self._lister.page(glob.prefix, glob.delimiter, start, end, token)

    def find_branch(self, last: str, names: NameRange, least: int) -> _Branch | None:
        """Find where the names of a range branch first behind its last listed one, in the fewest characters.

        A few requests are needed, because names that branch behind some characters of the last one also
        branch behind more characters, so that the fewest are found by bisection.

        Args:
          last: The last listed name.
          names: The range.
          least: Number of characters that all names of the range share.
        """

        def probe(depth: int) -> _Branch | None:
            start = name_behind(last[: depth + 1])
            if start is None or not names.holds(start):
                return None
            rest = NameRange(start, names.end)
            page = self.page(rest)
            return _Branch(start, depth, page) if any(map(rest.holds, _names(page))) else None

        # The least depth first, because that of a sibling of the last branch is the same.
        most = len(last)
        found = probe(least) if least < most else None
        least = most if found else least + 1
        while least < most:
            depth = (least + most) // 2
            if branch := probe(depth):
                found, most = branch, depth
            else:
                least = depth + 1
        return found


@contextmanager
def _requests(glob: ObjectGlob) -> Iterator[_Requests]:
    lister = BucketLister(glob.bucket)
    pool = ThreadPoolExecutor(_THREADS, "labelbeam-list")
    try:
        yield _Requests(glob, lister, pool)
    finally:
        # Without waiting for requests, because a caller that has enough objects, or an error, has no use for
        # them.
        lister.close()
        pool.shutdown(wait=False, cancel_futures=True)


class _Listing:
    """A listing of several ranges, which are cut further while threads are idle."""

    def __init__(self, glob: ObjectGlob, requests: _Requests, waiting: list[_Open]) -> None:
        self._glob = glob
        self._requests = requests
        self._waiting = waiting[::-1]
        # Ranges of which more pages follow.
        self._partly: set[_Open] = set()

    def objects(self) -> Iterator[BucketObject]:
        """Yield the objects that match."""
        self._send()
        while self._requests.idle < _THREADS:
            pages = list(self._requests.wait())
            # Sent before the objects are yielded, because the caller works on them meanwhile.
            self._send()
            for objects in pages:
                yield from (one for one in objects if self._glob.matches(one.name))

    def _send(self) -> None:
        while self._waiting and self._requests.idle:
            self._list(self._waiting.pop())
        # Of the ranges with the shortest common beginning first, because they are often the largest.
        unsearched = [one for one in self._partly if not one.is_searched and one.last != one.searched_at]
        for opened in heapq.nsmallest(self._requests.idle, unsearched, key=lambda one: one.depth):
            self._search(opened)

    def _search(self, opened: _Open) -> None:
        opened.is_searched, opened.searched_at = True, opened.last
        take = functools.partial(self._take_branch, opened)
        self._requests.send(take, self._requests.find_branch, opened.last, opened.range, opened.depth)

    def _list(self, opened: _Open) -> None:
        opened.asked = opened.asked or opened.range
        self._partly.add(opened)
        take = functools.partial(self._take_page, opened)
        self._requests.send(take, self._requests.page, opened.asked, opened.token)

    def _take_page(self, opened: _Open, page: ObjectPage) -> list[BucketObject]:
        # Some servers ignore the bounds, and the range may have been cut since the request.
        objects = [one for one in page.objects if opened.range.holds(one.name)]
        self._partly.discard(opened)
        if opened.take(page) and self._has_more(opened):
            self._waiting.append(opened)
            self._partly.add(opened)
        return objects

    def _has_more(self, opened: _Open) -> bool:
        # Not behind a name before the range, which a server sends that ignores the bounds: it would send the
        # same page again.
        last = opened.last
        if not opened.range.holds(last):
            return True
        following = self._glob.next_match(last)
        return following == last or opened.skip_to(following)

    def _take_branch(self, opened: _Open, branch: _Branch | None) -> list[BucketObject]:
        opened.is_searched = False
        # The range may have been listed up to the branch meanwhile.
        if not branch or opened not in self._partly or branch.start <= max(opened.last, opened.range.start):
            return []
        return self._take_page(opened.cut(branch), branch.page)


class _Split:
    """A split of a range into branches, level by level."""

    def __init__(self, requests: _Requests) -> None:
        self._requests = requests
        self._ranges: list[_Open] = []
        # Ranges of several pages, those with the fewest branches above first, because these are the largest
        # as far as is known.
        self._large: list[tuple[int, int, _Open]] = []
        self._numbers = itertools.count()

    def ranges(self, whole: NameRange) -> list[_Open]:
        """Return ranges that together hold all names, in the order of the names."""
        first = _Open(whole, _common_length(whole))
        self._requests.send(functools.partial(self._add, first), self._requests.page, whole)
        while self._requests.idle < _THREADS:
            for _ in self._requests.wait():
                pass
            while self._large and self._requests.idle and self._count() < _MOST_RANGES:
                self._cut(heapq.heappop(self._large)[-1])
        return sorted(self._ranges, key=lambda opened: opened.range.start)

    def _count(self) -> int:
        return len(self._ranges) + _THREADS - self._requests.idle

    def _add(self, opened: _Open, page: ObjectPage) -> None:
        self._ranges.append(opened)
        if not opened.take(page):
            return
        following = self._requests.glob.next_match(opened.last)
        if following and opened.range.holds(following):
            opened.last = following
            self._put(opened)

    def _put(self, opened: _Open) -> None:
        heapq.heappush(self._large, (opened.level, next(self._numbers), opened))

    def _cut(self, opened: _Open) -> None:
        take = functools.partial(self._take_branch, opened)
        self._requests.send(take, self._requests.find_branch, opened.last, opened.range, opened.depth)

    def _take_branch(self, opened: _Open, branch: _Branch | None) -> None:
        if branch:
            self._add(opened.cut(branch), branch.page)
            self._put(opened)


def _names(page: ObjectPage) -> Iterator[str]:
    return itertools.chain((one.name for one in page.objects), page.folders)


def _common_length(names: NameRange) -> int:
    """Return the number of characters that all names of a range share."""
    pairs = zip(names.start, names.end or "", strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
