"""A server of listings on loopback, with the pages of Cloud Storage for any sorted names.

    python -m tests.engines.listing PREFIXES OBJECTS LATENCY

The command serves PREFIXES folders of OBJECTS objects each as every bucket, from `http://127.0.0.1:PORT`, and
prints its port. Names are made when they are listed. Each page comes after LATENCY seconds.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.engines.service import Request, Service

# Behind all names with a beginning, because no name has this.
_LAST = "\U0010ffff" * 10


class NumberedNames(Sequence[str]):
    """The sorted names of numbered objects in numbered folders, which are made when they are needed."""

    def __init__(self, folders: int, objects: int) -> None:
        self._folders = folders
        self._objects = objects

    def __len__(self) -> int:
        return self._folders * self._objects

    def __getitem__(self, n: Any) -> Any:
        if isinstance(n, slice):
            return [self[i] for i in range(*n.indices(len(self)))]
        folder, number = divmod(n, self._objects)
        return f"photos/{folder:04d}/{number:09d}.jpg"


def list_page(names: Sequence[str], query: Mapping[str, str], most: int = 1000) -> dict[str, Any]:
    """Return a page of `objects.list`.

    Args:
      names: The sorted names.
      query: Parameters of the request.
      most: Largest number of names on a page, as the parameter `maxResults` gives it or smaller.
    """
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    most = min(most, int(query.get("maxResults", most)))
    end = min(prefix + _LAST, query.get("endOffset") or _LAST)
    at = bisect_left(names, max(prefix, query.get("startOffset", ""), query.get("pageToken", "")))
    items, folders = [], list[str]()
    while at < len(names) and (name := names[at]).startswith(prefix) and name < end:
        if len(items) + len(folders) == most:
            return {"items": items, "prefixes": folders, "nextPageToken": name}
        inner, found, _ = name[len(prefix) :].partition(delimiter or "\n")
        if found:
            folders.append(prefix + inner + found)
            at = bisect_left(names, folders[-1] + _LAST, at)
        else:
            items.append(_item(name))
            at += 1
    return {"items": items, "prefixes": folders}


def _item(name: str) -> dict[str, str]:
    return {
        "name": name,
        "size": "5",
        "generation": "1767225600000000",
        "updated": "2026-01-01T00:00:00.123Z",
    }


class ListingServer(Service):
    """A server of one bucket of any name.

    Attributes:
      names: The sorted names of the objects.
      latency_sec: Time before each response.
      refuse: Function from the number of a request to the status with which it is refused; 0 for a page.
      queries: Parameters of all requests for pages, in order.
      most_at_once: Largest number of requests at the same time.
    """

    def __init__(self, names: Sequence[str], latency_sec: float = 0.0) -> None:
        super().__init__()
        self.names = names
        self.latency_sec = latency_sec
        self.refuse: Callable[[int], int] = lambda _: 0
        self.queries: list[dict[str, str]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    def respond(self, request: Request) -> tuple[int, Any]:
        """Return the status and the page of a response."""
        query = {name: values[-1] for name, values in request.query.items()}
        with self._lock:
            self.queries.append(query)
            status = self.refuse(len(self.queries))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self.latency_sec)
        page = list_page(self.names, query)
        with self._lock:
            self._at_once -= 1
        return (status, {"error": {"message": "refused"}}) if status else (200, page)


@contextlib.contextmanager
def serving(folders: int, objects: int, latency_sec: float = 0.0) -> Iterator[dict[str, str]]:
    """Serve numbered names from another process, and yield the environment variables of clients."""
    command = [sys.executable, "-m", "tests.engines.listing", str(folders), str(objects), str(latency_sec)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            yield os.environ | {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{int(server.stdout.readline())}"}
        finally:
            server.kill()


def main() -> None:
    """Serve until the process is killed."""
    folders, objects = map(int, sys.argv[1:3])
    with ListingServer(NumberedNames(folders, objects), float(sys.argv[3])) as server:
        print(server.port, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
