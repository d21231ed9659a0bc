import dataclasses
import time
import zlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labelbeam.pipeline.config import ReadConfig
from labelbeam.transforms.elements import DoneIds, ImageRef, id_of_uri
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.files import escape_glob, is_folder
from labelbeam.transforms.inputs import objects, ranges
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import match_files
from labelbeam.transforms.inputs.formats import Location, format_of, input_format
from labelbeam.transforms.inputs.objects import list_objects, split_objects
from labelbeam.transforms.inputs.patterns import ObjectGlob, compile_glob, name_behind
from labelbeam.transforms.read import list_rows
from labelbeam.transforms.select import select_unlabelled
from labelbeam.transforms.sources import gcs_listing
from labelbeam.transforms.sources.gcs_listing import BucketObject, ObjectPage
from tests.engines.listing import ListingServer, NumberedNames, list_page

# Few characters, so that random names share beginnings; with neighbours of the slash, wildcards, and the ends
# of the characters that names may have.
CHARS = "ab/.0*[?\\ é\ud7ff\ue000\U0010ffff\t"
NAMES = st.sets(st.text(CHARS, min_size=1, max_size=8), max_size=60)
PARTS = st.sampled_from(["*", "**", "/**/", "?", "[ab]", "[!a]", "[[]", "a", "b", "/", ".", "é", "a/", "*/"])
GLOBS = st.one_of(
    st.lists(PARTS, min_size=1, max_size=5).map("".join),
    st.text(CHARS, max_size=4).map(lambda beginning: f"{escape_glob(beginning)}**"),
    st.text(CHARS, min_size=1, max_size=4).map(escape_glob),
)


class FakeLister:
    """A lister of `names`, in pages of `page_size` names at most.

    Attributes:
      ignores_bounds: Whether the first and the last name of a request are ignored, as by some emulators.
    """

    names: list[str] = []
    page_size = 1000
    ignores_bounds = False
    requests = 0

    def __init__(self, bucket: str) -> None:
        pass

    def page(self, prefix, delimiter="", start="", end="", token="", most=1000):
        type(self).requests += 1
        assert self.requests < 5000, "the listing does not end"
        query = {"prefix": prefix, "delimiter": delimiter, "pageToken": token, "maxResults": str(most)}
        query |= {} if self.ignores_bounds else {"startOffset": start, "endOffset": end}
        assert not (start and end) or start < end
        f"{prefix}{start}{end}".encode()  # a request cannot have surrogates
        # In different times, so that pages and searches end in any order.
        time.sleep(zlib.crc32(f"{prefix}{start}{end}{token}".encode()) % 4 * 2e-4)
        page = list_page(self.names, query, self.page_size)
        listed = [BucketObject(one["name"], 5, "1", one["updated"]) for one in page["items"]]
        return ObjectPage(listed, page["prefixes"], page.get("nextPageToken", ""))

    def close(self) -> None:
        pass


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=NAMES,
    glob=GLOBS,
    page_size=st.integers(1, 5),
    first_pages=st.integers(1, 8),
    most_ranges=st.integers(1, 12),
    ignores_bounds=st.booleans(),
)
@example(  # folders outside a range, which the server shows where it ignores the bounds
    names={"..ba/a", "./a/", ".a/b./", ".aa", "bbb//."},
    glob="[ab]/**",
    page_size=4,
    first_pages=2,
    most_ranges=4,
    ignores_bounds=True,
)
def test_list_and_split__any_names_and_glob__give_each_match_once(
    monkeypatch, names, glob, page_size, first_pages, most_ranges, ignores_bounds
):
    """Compare with a plain filter over all names."""
    lister = {"names": sorted(names), "page_size": page_size, "ignores_bounds": ignores_bounds}
    monkeypatch.setattr(ranges, "BucketLister", type("Lister", (FakeLister,), lister))
    monkeypatch.setattr(ranges, "THREADS", 3)
    monkeypatch.setattr(objects, "THREADS", 3)
    monkeypatch.setattr(objects, "_FIRST_PAGES", first_pages)
    monkeypatch.setattr(objects, "_MOST_RANGES", most_ranges)
    monkeypatch.setattr(objects, "_RANGES_OF_PIECE", 2)
    pattern = ObjectGlob(f"gs://b/{glob}")
    expected = [name for name in sorted(names) if is_match(name, glob)]
    assert sorted(one.name for one in list_objects(pattern)) == expected
    listed = []
    for part in split_objects(pattern):
        assert part
        listed += list_objects(pattern, part) if isinstance(part, tuple) else part
    assert sorted(one.name for one in listed) == expected


@settings(max_examples=500)
@given(beginning=st.text(CHARS, max_size=3), name=st.text(CHARS, max_size=5))
def test_name_behind__any_beginning__is_the_first_name_that_does_not_begin_so(beginning, name):
    behind = name_behind(beginning)
    if beginning <= name:
        assert name.startswith(beginning) == (behind is None or name < behind)


@settings(max_examples=1000)
@given(glob=GLOBS, name=st.text("ab/é", max_size=4), other=st.text("ab/é", min_size=1, max_size=5))
def test_next_match__any_name__passes_over_no_match(glob, name, other):
    following = ObjectGlob(f"gs://b/{glob}").next_match(name)
    if name <= other and (following is None or other < following):
        assert not is_match(other, glob)


def is_match(name: str, glob: str) -> bool:
    return not name.endswith("/") and compile_glob(f"gs://b/{glob}").match(f"gs://b/{name}") is not None


@pytest.fixture
def bucket(monkeypatch):
    """Yield a server of ten folders of 5,000 objects, and point this process to it."""
    with ListingServer(NumberedNames(10, 5000)) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.port}")
        monkeypatch.setattr(gcs_listing, "_FIRST_PAUSE_SEC", 0.01)
        gcs_listing.check_network()
        yield server


FOLDER = Corpus("gs://b/photos/**", "images", suffixes=(".jpg",))


def test_list_rows__large_bucket__gives_each_object_once_with_its_generation(bucket, monkeypatch):
    monkeypatch.setattr(objects, "_FIRST_PAGES", 5)
    pieces = list(format_of(FOLDER).split(FOLDER))
    assert len([piece for piece in pieces if piece.ranges]) > 1
    rows = list(list_rows(FOLDER))
    assert len(rows) == len({row.id for row in rows}) == 50_000
    done = DoneIds(tuple(row.id for row in rows), ("1767225600000000",) * 50_000, True)
    assert select_unlabelled([*rows, done]) == ([], {"kept": 50_000, "other": 0})
    uri = "gs://b/photos/0000/000000000.jpg"
    assert min(rows, key=lambda row: row.uri) == ImageRef(
        id_of_uri(uri), uri, listed_version="1767225600000000"
    )


@pytest.mark.parametrize(
    "names", [NumberedNames(10, 5000), NumberedNames(1, 50_000)], ids=["folders", "flat"]
)
def test_list_objects__slow_pages__are_requested_at_once(bucket, names):
    bucket.names, bucket.latency_sec = names, 0.02
    assert sum(1 for _ in list_objects(ObjectGlob("gs://b/photos/**"))) == 50_000
    assert bucket.most_at_once >= 8


@pytest.mark.parametrize(
    ("pattern", "files", "requests"),
    [
        ("gs://b/photos/0003/00000000?.jpg", 10, 1),
        ("gs://b/photos/0003/000000007.jpg", 1, 1),
        ("gs://b/photos/*.jpg", 0, 1),
    ],
)
def test_match_files__glob__requests_only_pages_that_can_match(bucket, pattern, files, requests):
    found = match_files(pattern)
    assert len(found) == files and len(bucket.queries) <= requests
    if files:
        assert found[0].size_bytes == 5 and found[0].updated_sec == 1767225600.123


def test_list_objects__folders_that_cannot_match__are_passed_over(bucket):
    bucket.names = NumberedNames(10, 1_000_000)
    assert sum(1 for _ in list_objects(ObjectGlob("gs://b/photos/*/00000??5?.jpg"))) == 10_000
    assert sum(1 for _ in list_objects(ObjectGlob("gs://b/photos/*4/0000*"))) == 100_000
    # Of ten million names, which have 10,000 pages.
    assert len(bucket.queries) < 1000


def test_match_files__too_many__stops_early(bucket):
    bucket.names = NumberedNames(10, 10_000_000)
    assert len(match_files("gs://b/**", 2001)) == 2001
    assert len(bucket.queries) < 100
    location = Location("gs://b/**", "gs://b/**", "gs://b/**", is_folder=False)
    with pytest.raises(UserError, match="matches more than 50,000 files"):
        input_format("lines").find(location, ReadConfig(input="gs://b/**"), {})


@pytest.mark.parametrize(("is_folder", "requests"), [(True, 100), (False, 20)])
def test_find__bucket_of_images__is_looked_at_but_not_listed(bucket, is_folder, requests):
    bucket.names = NumberedNames(10, 10_000_000)
    location = Location("gs://b/photos", "gs://b/photos", "gs://b/photos/**", is_folder)
    corpus = input_format("images").find(location, ReadConfig(input="gs://b/photos"), {})
    few = dataclasses.replace(corpus, most_files=1500)
    assert sum(1 for _ in list_rows(few)) == 1500 and len(bucket.queries) < requests + 30


@pytest.mark.parametrize("status", [429, 500, 503])
def test_list_rows__server_that_refuses_some_requests__gives_all(bucket, status):
    bucket.refuse = lambda n: status if n % 3 == 0 else 0
    assert sum(1 for _ in list_rows(FOLDER)) == 50_000


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            403,
            r"the server returned status 403: refused. The account needs storage.objects.list. ",
        ),
        (
            404,
            r"there is no bucket 'b': the server returned status 404: refused. ",
        ),
        (503, r"the server returned status 503: refused. "),
    ],
)
def test_list_rows__server_that_refuses_in_the_middle__ends_with_one_line(
    bucket, monkeypatch, status, message
):
    monkeypatch.setattr(gcs_listing, "_RETRY_SEC", 0.1)
    bucket.refuse = lambda n: status if n > 20 else 0
    with pytest.raises(
        RunError, match=rf"^'gs://b/photos/\*\*' cannot be listed: {message}Check its name and rights.$"
    ):
        list(list_rows(FOLDER))


def test_list_rows__objects_gone_since_the_start__end_the_run(bucket):
    bucket.names = []
    with pytest.raises(RunError, match="'gs://b/photos/.*' matches no file any more"):
        list(list_rows(FOLDER))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("gs://b", True),
        ("gs://b/", True),
        ("gs://b/photos/", True),
        ("gs://b/photos/0003/", True),
        ("gs://b/phot/", False),
        ("gs://b/**/", False),
    ],
)
def test_is_folder__name_in_a_huge_bucket__is_one_request(bucket, path, expected):
    bucket.names = NumberedNames(10, 10_000_000)
    assert is_folder(path) == expected and len(bucket.queries) == 1
