"""Ranges of the names of a bucket, their pages, and places to cut them.

A bucket's names are sorted, and a listing can begin and end at any name. So ranges that follow each other
hold each object once, wherever they are cut. They are cut where names branch, because names of all alphabets
and lengths do: at folders, and in a folder of many objects behind all names that begin alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from labelbeam.transforms.inputs.patterns import ObjectGlob, name_behind
from labelbeam.transforms.sources.gcs_listing import PAGE_OBJECTS, BucketLister, ObjectPage

# Requests at once of one listing. Their pages are all that a listing keeps in memory.
THREADS: Final = 16
# Character that follows a name in the first name behind it.
_FIRST = "\0"


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


class Cuts(NamedTuple):
    """Places at which a range can be cut.

    Attributes:
      starts: First names of the ranges behind, sorted.
      depth: Number of characters that all names behind share.
    """

    starts: list[str]
    depth: int


@dataclass(eq=False)
class OpenRange:
    """A range that is being listed.

    Attributes:
      names: The range. Its end moves down when it is cut.
      depth: Number of characters that all its names share, as far as is known.
      last: Last listed name; empty before the first page.
      token: Token of the next page; empty at the beginning of the range.
      request_range: Range of the request for the first page, which requests with a token repeat.
      searched_at: Value of `last` at the last search for cuts, because another search needs new names.
      is_searched: Whether a search for cuts is under way.
      level: Number of cuts that made the range smaller than its neighbours.
    """

    names: NameRange
    depth: int
    last: str = ""
    token: str = ""
    request_range: NameRange | None = None
    searched_at: str = ""
    is_searched: bool = False
    level: int = 0

    def take(self, page: ObjectPage) -> bool:
        """Note the end of a page; return whether more pages can follow."""
        self.last, self.token = max(names_of(page), default=self.last), page.token
        return bool(page.token) and (self.names.end is None or self.last < self.names.end)

    def skip_to(self, name: str | None) -> bool:
        """Go on at a name; return whether the range has names from there on."""
        if name is None or not (self.names.end is None or name < self.names.end):
            return False
        self.names = NameRange(name, self.names.end)
        self.last, self.token, self.request_range = "", "", None
        return True

    def cut(self, cuts: Cuts) -> list[OpenRange]:
        """Cut the range, and return the ranges behind."""
        # The range may have been listed up to a cut meanwhile.
        listed = max(self.last, self.names.start)
        starts = [start for start in cuts.starts if listed < start and self.names.holds(start)]
        if not starts:
            return []
        ends = [*starts[1:], self.names.end]
        behind = [NameRange(start, end) for start, end in zip(starts, ends, strict=True)]
        self.names = NameRange(self.names.start, starts[0])
        self.depth, self.level = common_length(NameRange(listed, starts[0])), self.level + 1
        depths = (max(cuts.depth, common_length(names)) for names in behind)
        return [OpenRange(*one, level=self.level - 1) for one in zip(behind, depths, strict=True)]

    def rest(self) -> NameRange:
        """Return the range of the names that are not listed yet."""
        return (
            NameRange(max(self.last + _FIRST, self.names.start), self.names.end) if self.last else self.names
        )


class Requests:
    """Requests of one listing on threads.

    Attributes:
      glob: The pattern of the names.
    """

    def __init__(self, glob: ObjectGlob, lister: BucketLister, pool: ThreadPoolExecutor) -> None:
        self.glob = glob
        self._lister = lister
        self._pool = pool
        self._running: dict[Future[Any], Callable[[Any], Any]] = {}

    @property
    def idle(self) -> int:
        """Number of threads without a request."""
        return THREADS - len(self._running)

    def send(self, take: Callable[[Any], Any], request: Callable[..., Any], *args: Any) -> None:
        """Run a request on a thread; `wait` passes the result to `take`."""
        self._running[self._pool.submit(request, *args)] = take

    def wait(self) -> Iterator[Any]:
        """Wait for at least one request, and yield what the functions return for the results."""
        finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
        for future in finished:
            yield self._running.pop(future)(future.result())

    def page(self, names: NameRange, token: str = "") -> ObjectPage:
        """Request a page of a range."""
        return self._page(self.glob.prefix, self.glob.delimiter, names, token)

    def find_cuts(self, last: str, names: NameRange, depth: int) -> Cuts | None:
        """Find where the names of a range branch behind its last listed one, in the fewest characters.

        Args:
          last: The last listed name.
          names: The range.
          depth: Number of characters that all names of the range share.
        """
        # Folders first, because one request shows many of them.
        return self._folders(last, names, depth) or self._branch(last, names, depth)

    def _folders(self, last: str, names: NameRange, depth: int) -> Cuts | None:
        ends = [n + 1 for n, c in enumerate(last) if c == "/"]
        tops = [len(self.glob.prefix), *(end for end in ends if end > len(self.glob.prefix))]
        for top, end in itertools.pairwise(tops) if not self.glob.delimiter else ():
            start = name_behind(last[:end])
            if end <= depth or start is None or not names.holds(start):
                continue
            # Groups of folders, because each range takes a request at least, and folders may be small.
            if folders := self._page(last[:top], "/", NameRange(start, names.end)).folders:
                return Cuts(folders[:: -(-len(folders) // THREADS)], top)
        return None

    def _branch(self, last: str, names: NameRange, least: int) -> Cuts | None:
        """Find the fewest characters behind which names branch.

        By bisection, because names that branch behind some characters also branch behind more of them.
        """

        def start_of(depth: int) -> str | None:
            start = name_behind(last[: depth + 1])
            if start is None or not names.holds(start):
                return None
            rest = NameRange(start, names.end)
            page = self._page(self.glob.prefix, self.glob.delimiter, rest, most=1)
            return start if any(map(rest.holds, names_of(page))) else None

        # The least depth first, because the branch beside the last cut begins there.
        if least < len(last) and (start := start_of(least)):
            return Cuts([start], least)
        cuts = None
        least, most = least + 1, len(last)
        while least < most:
            depth = (least + most) // 2
            if start := start_of(depth):
                cuts, most = Cuts([start], depth), depth
            else:
                least = depth + 1
        return cuts

    def _page(
        self, prefix: str, delimiter: str, names: NameRange, token: str = "", most: int = PAGE_OBJECTS
    ) -> ObjectPage:
        whole = whole_range(self.glob)
        # Without the character behind a name, because servers may refuse it. The name itself is in no range.
        start = names.start.removesuffix(_FIRST) if names.start != whole.start else ""
        end = (names.end or "") if names.end != whole.end else ""
        return self._lister.page(prefix, delimiter, start, end, token, most)


@contextmanager
def open_requests(glob: ObjectGlob) -> Iterator[Requests]:
    """Open a listing of a bucket.

    Raises:
      OSError: Cloud Storage does not respond.
    """
    lister = BucketLister(glob.bucket)
    pool = ThreadPoolExecutor(THREADS, "labelbeam-list")
    try:
        yield Requests(glob, lister, pool)
    finally:
        # Without waiting for requests, because a caller that has enough objects, or an error, has no use for
        # them.
        lister.close()
        pool.shutdown(wait=False, cancel_futures=True)


def names_of(page: ObjectPage) -> Iterator[str]:
    """Return the names of a page."""
    return itertools.chain((one.name for one in page.objects), page.folders)


def common_length(names: NameRange) -> int:
    """Return the number of characters that all names of a range share."""
    pairs = zip(names.start, names.end or "", strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
