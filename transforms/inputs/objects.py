"""Objects of buckets, listed by ranges of names on several threads."""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Iterator, Sequence

from labelbeam.transforms.inputs.patterns import ObjectGlob
from labelbeam.transforms.inputs.ranges import (
    THREADS,
    Cuts,
    NameRange,
    OpenRange,
    Requests,
    common_length,
    open_requests,
    whole_range,
)
from labelbeam.transforms.sources.gcs_listing import BucketObject, ObjectPage

# Pages that `split_objects` lists itself, because sharing a smaller bucket costs more than it saves.
_FIRST_PAGES = 256
# Ranges into which `split_objects` cuts the rest of a bucket, and ranges of one piece.
_MOST_RANGES, _RANGES_OF_PIECE = 128, 16


def list_objects(glob: ObjectGlob, ranges: Sequence[NameRange] = ()) -> Iterator[BucketObject]:
    """List the objects that a pattern matches, in any order.

    Args:
      glob: The pattern.
      ranges: Ranges of names to list; by default all names.

    Raises:
      OSError: The bucket can't be listed. Objects up to there have been yielded.
    """
    with open_requests(glob) as requests:
        for objects in _Listing(requests, ranges or [whole_range(glob)]).pages():
            yield from objects


def split_objects(glob: ObjectGlob) -> Iterator[list[BucketObject] | tuple[NameRange, ...]]:
    """List the first objects that a pattern matches, and split the names of all others.

    Yields:
      Lists of objects, and ranges of names that one worker lists at once.

    Raises:
      OSError: The bucket can't be listed.
    """
    with open_requests(glob) as requests:
        listing = _Listing(requests, [whole_range(glob)], _FIRST_PAGES)
        yield from listing.pages()
        rest = listing.rest()
        ranges = _Split(requests, rest).ranges() if rest else []
    pieces = -(-len(ranges) // _RANGES_OF_PIECE)
    # Dealt in turn, because neighbours are alike: where one range is large, the next one often is.
    yield from (tuple(ranges[n::pieces]) for n in range(pieces))


class _Listing:
    """A listing of several ranges, which are cut further while threads are idle."""

    def __init__(
        self, requests: Requests, ranges: Sequence[NameRange], most_pages: int | None = None
    ) -> None:
        self._requests = requests
        self._glob = requests.glob
        self._waiting = [OpenRange(names, common_length(names)) for names in reversed(ranges)]
        # Ranges of which a page was listed and more follow.
        self._partly: set[OpenRange] = set()
        self._pages_left = most_pages
        self._requested = 0

    def pages(self) -> Iterator[list[BucketObject]]:
        """Yield the objects that match, page by page."""
        self._send()
        # Not until searches have ended, because those of ranges without further pages are of no use.
        while self._requested:
            pages = [page for page in self._requests.wait() if page]
            # Sent before the pages are yielded, because the caller works on them meanwhile.
            self._send()
            yield from pages

    def rest(self) -> list[NameRange]:
        """Return the ranges that are left behind the last page."""
        return [opened.rest() for opened in self._waiting]

    def _send(self) -> None:
        while self._waiting and self._requests.idle and self._pages_left != 0:
            self._request(self._waiting.pop())
        if self._pages_left == 0:
            return
        unsearched = [one for one in self._partly if not one.is_searched and one.last != one.searched_at]
        # Ranges with the shortest common beginning first, because they are often the largest.
        for opened in heapq.nsmallest(self._requests.idle, unsearched, key=lambda one: one.depth):
            opened.is_searched, opened.searched_at = True, opened.last
            take = functools.partial(self._take_cuts, opened)
            self._requests.send(take, self._requests.find_cuts, opened.last, opened.names, opened.depth)

    def _request(self, opened: OpenRange) -> None:
        opened.request_range = opened.request_range or opened.names
        self._requested += 1
        if self._pages_left is not None:
            self._pages_left -= 1
        take = functools.partial(self._take_page, opened)
        self._requests.send(take, self._requests.page, opened.request_range, opened.token)

    def _take_page(self, opened: OpenRange, page: ObjectPage) -> list[BucketObject]:
        self._requested -= 1
        # Some servers ignore the bounds, and the range may have been cut since the request.
        objects = [
            one for one in page.objects if opened.names.holds(one.name) and self._glob.matches(one.name)
        ]
        self._partly.discard(opened)
        if opened.take(page) and self._has_more(opened):
            self._waiting.append(opened)
            self._partly.add(opened)
        return objects

    def _has_more(self, opened: OpenRange) -> bool:
        last = opened.last
        # Not behind a name before the range, which a server sends that ignores the bounds: it would send the
        # same page again.
        if not opened.names.holds(last):
            return True
        following = self._glob.next_match(last)
        return following == last or opened.skip_to(following)

    def _take_cuts(self, opened: OpenRange, cuts: Cuts | None) -> None:
        opened.is_searched = False
        if cuts:
            self._waiting += reversed(opened.cut(cuts))


class _Split:
    """A split of ranges into more ranges, level by level."""

    def __init__(self, requests: Requests, ranges: Sequence[NameRange]) -> None:
        self._requests = requests
        self._ranges: list[OpenRange] = []
        # Ranges of several pages, those with the fewest cuts first, because these are the largest as far as
        # is known.
        self._large: list[tuple[int, int, OpenRange]] = []
        self._numbers = itertools.count()
        self._unseen = [OpenRange(names, common_length(names)) for names in ranges]

    def ranges(self) -> list[NameRange]:
        """Return ranges that together hold the names, in the order of the names."""
        self._send()
        while self._requests.idle < THREADS:
            for _ in self._requests.wait():
                pass
            self._send()
        names = (opened.names for opened in [*self._ranges, *self._unseen])
        return sorted(names, key=lambda one: one.start)

    def _send(self) -> None:
        while self._requests.idle and len(self._ranges) + len(self._unseen) < _MOST_RANGES:
            if self._unseen:
                opened = self._unseen.pop()
                self._ranges.append(opened)
                take = functools.partial(self._take_page, opened)
                self._requests.send(take, self._requests.page, opened.names)
            elif self._large:
                opened = heapq.heappop(self._large)[-1]
                take = functools.partial(self._take_cuts, opened)
                self._requests.send(take, self._requests.find_cuts, opened.last, opened.names, opened.depth)
            else:
                return

    def _take_page(self, opened: OpenRange, page: ObjectPage) -> None:
        if not opened.take(page):
            return
        following = self._requests.glob.next_match(opened.last)
        if following and opened.names.holds(following):
            opened.last = following
            self._put(opened)

    def _take_cuts(self, opened: OpenRange, cuts: Cuts | None) -> None:
        # Not if nothing was cut, because the next search would find the same: servers that ignore the bounds
        # show folders outside the range.
        if cuts and (behind := opened.cut(cuts)):
            self._unseen += behind
            self._put(opened)

    def _put(self, opened: OpenRange) -> None:
        heapq.heappush(self._large, (opened.level, next(self._numbers), opened))
