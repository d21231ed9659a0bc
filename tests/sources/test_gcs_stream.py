"""Objects as streams: one request, and what becomes of connections that break."""

import http.server
import random
import re
import threading
from urllib.parse import parse_qs, urlsplit

import pytest
from google.api_core.exceptions import Forbidden

from labelbeam.transforms.inputs.files import match_files
from labelbeam.transforms.inputs.streams import RestError, Stream, open_stream
from labelbeam.transforms.sources import gcs_stream
from labelbeam.transforms.sources.gcs_stream import ObjectReader

SIZE = 3_000_000
DATA = random.Random(1).randbytes(SIZE)


class ObjectServer(http.server.ThreadingHTTPServer):
    """A server of one object, which breaks off responses.

    Attributes:
      breaks: Number of bytes of a response, by its number; a status if it is negative.
      requests: Range and generation of each request.
    """

    daemon_threads = True

    def __init__(self, breaks=()):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.breaks, self.requests, self.generation = list(breaks), [], "7"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        first, end = map(int, re.findall(r"\d+", self.headers["Range"]))
        wanted = parse_qs(urlsplit(self.path).query).get("generation", [None])[0]
        server.requests.append((first, end, wanted))
        number = len(server.requests) - 1
        most = server.breaks[number] if number < len(server.breaks) else SIZE
        if wanted not in (None, server.generation):
            most = -404
        if most < 0:
            self.send_response(-most)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206)
        self.send_header("Content-Length", str(end + 1 - first))
        self.send_header("Content-Range", f"bytes {first}-{end}/{SIZE}")
        self.send_header("x-goog-generation", server.generation)
        self.end_headers()
        self.wfile.write(DATA[first : end + 1][:most])
        if first + most <= end:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    servers = []

    def start(*breaks):
        servers.append(ObjectServer(breaks).__enter__())
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{servers[-1].server_port}")
        return servers[-1]

    monkeypatch.setattr(gcs_stream, "_PAUSE_SEC", 0.001)
    yield start
    for server in servers:
        server.__exit__()


def read(start=0, end=SIZE, uri="gs://bucket/a b#?.tar") -> bytes:
    with ObjectReader(uri, start, end) as reader:
        return b"".join(iter(lambda: reader.read(100_000), b""))


def test_object_reader__a_range__is_one_request(serve):
    for start, end in ((0, SIZE), (1000, 2_000_000)):
        server = serve()
        assert read(start, end) == DATA[start:end]
        assert server.requests == [(start, end - 1, None)]
    assert read(5, 5) == b""


def test_object_reader__connections_that_break__go_on_at_the_next_byte(serve):
    server = serve(1_000_000, 0, -503, -429)
    assert read() == DATA
    assert server.requests == [(0, SIZE - 1, None), *[(1_000_000, SIZE - 1, "7")] * 4]


def test_object_reader__breaks_with_progress_in_between__are_not_counted_together(serve, monkeypatch):
    monkeypatch.setattr(gcs_stream, "_PROGRESS_BYTES", 200_000)
    server = serve(*[300_000] * 9)
    assert read() == DATA
    assert len(server.requests) == 10


def test_object_reader__connections_that_always_break__end_in_an_error(serve):
    server = serve(*[10] * 100)
    with pytest.raises(ConnectionError, match="in 5 requests"):
        read()
    assert len(server.requests) == 5


@pytest.mark.parametrize(("status", "error"), [(404, FileNotFoundError), (403, Forbidden)])
def test_object_reader__refusals__are_not_repeated(serve, status, error):
    server = serve(-status)
    with pytest.raises(error):
        read()
    assert len(server.requests) == 1


def test_object_reader__object_that_was_replaced__is_not_mixed(serve):
    server = serve(1_000_000)
    with ObjectReader("gs://bucket/a", 0, SIZE) as reader:
        assert reader.read(1000)
        server.generation = "8"
        with pytest.raises(FileNotFoundError, match="has changed"):
            while reader.read(1 << 20):
                pass


def test_stream__connections_that_always_break__leave_the_rest(serve):
    serve(*[10] * 100)
    with (
        ObjectReader("gs://bucket/a", 0, SIZE) as reader,
        pytest.raises(RestError, match="requests") as e,
    ):
        Stream(reader, "gs://bucket/a").read(100)
    assert e.value.reason == "unreachable"


def test_open_stream__object_of_a_bucket__is_read_in_part_or_whole(gcs):
    gcs.put("gs://bucket/a b.bin", DATA)
    (file,) = match_files("gs://bucket/a b.bin")
    with open_stream(file) as stream:
        assert stream.read(1000) == DATA[:1000]
        stream.skip(1_500_000)
        assert stream.read(SIZE - 1_501_000) == DATA[1_501_000:]
        assert stream.read_some(10) == b""
    with open_stream(file, 10, 2000) as stream:
        assert stream.read_some(5000) == DATA[10:2000]
