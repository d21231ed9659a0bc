import gzip
import io
import os
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from labelbeam.pipeline import copies
from labelbeam.pipeline.cli import main
from labelbeam.pipeline.config import ReadConfig, load_config
from labelbeam.pipeline.copies import delete_copies, is_copy
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.pipeline.manifest import published_manifest
from labelbeam.pipeline.prepare import prepared
from labelbeam.pipeline.runners.options import pipeline_options
from labelbeam.transforms import photos
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.read import list_rows
from labelbeam.transforms.sources import HttpSettings, Limits, Manners
from labelbeam.transforms.table.folder import TableFolder

LINES = b"/photos/a.jpg\n/photos/b.jpg\n"
# Lists by name, with their formats.
LISTS = {
    "list.txt": (LINES, "lines"),
    "list": (LINES, "lines"),
    "list.csv": (b"uri,n\n/photos/a.jpg,1\n/photos/b.jpg,2\n", "csv"),
    "rows": (b"n\turl\n1\t/photos/a.jpg\n2\t/photos/b.jpg\n", "csv"),
    "rows.jsonl": (b'{"uri": "/photos/a.jpg"}\n{"uri": "/photos/b.jpg"}\n', "jsonl"),
    "list.txt.gz": (gzip.compress(LINES), "lines"),
}
LIMITS = Limits(allow_hosts=("127.0.0.1",), manners=Manners(attempts=2))


@pytest.fixture(autouse=True)
def no_copies():
    delete_copies()
    yield
    delete_copies()


def pipe(data, monkeypatch, is_terminal=False):
    stream = io.BytesIO(data)
    stream.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))


def zip_of(name):
    with zipfile.ZipFile(data := io.BytesIO(), "w") as archive:
        archive.writestr(name, b"image")
    return data.getvalue()


def tar_of(name):
    with tarfile.open(fileobj=(data := io.BytesIO()), mode="w") as archive:
        archive.addfile(member := tarfile.TarInfo(name), io.BytesIO(b"image"))
        assert member.name == name
    return data.getvalue()


def uris_of(name, limits=LIMITS):
    corpus = find_corpus(ReadConfig(input=name), limits=lambda: limits)
    return corpus, [row.uri for row in list_rows(corpus)]


@pytest.mark.parametrize("name", LISTS)
def test_find_corpus__piped_or_on_the_web__is_read_as_the_file_would_be(name, faults, monkeypatch):
    data, form = LISTS[name]
    pipe(data, monkeypatch)
    faults.image = data
    for source in ("-", "-", faults.uri(f"image/{name}"), faults.uri(f"image/{name}", sig="5ec")):
        corpus, uris = uris_of(source)
        assert (corpus.format, uris) == (form, ["/photos/a.jpg", "/photos/b.jpg"])
        (file,) = corpus.files
        assert is_copy(file.path) and os.stat(file.path).st_size == len(data)
    delete_copies()
    assert not os.path.exists(file.path) and not os.path.exists(os.path.dirname(file.path))


@pytest.mark.parametrize(
    ("data", "is_terminal", "message"),
    [
        (b"", False, "standard input is empty. Pipe"),
        (
            LINES,
            True,
            "nothing is piped into it. Pipe a list, such as: cat list.txt | labelbeam run --input -",
        ),
        (b"\x00\x01" * 100, False, "standard input has NUL bytes"),
    ],
)
def test_find_corpus__unfit_standard_input__is_one_line(data, is_terminal, message, monkeypatch):
    pipe(data, monkeypatch, is_terminal)
    with pytest.raises(UserError, match=message):
        uris_of("-")


IMAGES = {
    "a.zip": zip_of("a.jpg"),
    "a.tar": tar_of("a.jpg"),
    "china.jpg": Path(photos.__file__).parent.joinpath("images", "china.jpg").read_bytes(),
    "coffee": Path(photos.__file__).parent.joinpath("images", "coffee.png").read_bytes(),
    "fish.webp": Path(photos.__file__).parent.joinpath("images", "fish5.webp").read_bytes(),
}


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "auto") for name in IMAGES), ("china.jpg", "images"), ("coffee", "lines")],
)
def test_find_corpus__images_from_standard_input_or_the_web__are_refused(name, form, faults, monkeypatch):
    """Their URIs and ids would be made from the path of the copy, which is another one in each run."""
    pipe(IMAGES[name], monkeypatch)
    faults.image = IMAGES[name]
    for source in ("-", faults.uri(f"image/{name}")):
        with pytest.raises(UserError, match="holds images, which are not read from a copy. Download it"):
            find_corpus(ReadConfig(input=source, input_format=form), limits=lambda: LIMITS)


# Inputs that are refused, with the options that they are read with, and a part of the message.
REFUSED = {
    "column": (b"uri,n\n/a.jpg,1\n", {"uri_column": "nope"}, "is no column of {}"),
    "no column": (b"id,n\n1,2\n", {"input_format": "csv"}, "{} has no column of text with a usual name"),
    "page": (b"<html></html>", {}, "{} is a web page"),
    "Latin-1": ("/München.jpg\n".encode("latin-1") * 3, {}, "{} is not UTF-8 text"),
    "no Parquet": (LINES, {"input_format": "parquet"}, "{} begins with b'/photos/a.', so it is no Parquet"),
    "cut": (b"PAR1\0\0\1" * 3, {}, "{}"),
    "no JSON": (b'{"a": 1', {}, "{} begins with"),
    "two equal": (b"uri,uri\n/a.jpg,/b.jpg\n", {}, "{} begins with"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_find_corpus__copy_that_is_refused__is_named_as_the_user_wrote_it(
    case, faults, monkeypatch, capsys, tiny, tmp_path
):
    data, options, message = REFUSED[case]
    faults.image = data
    address = faults.uri("image/list", sig="5ecret")
    for source, public in (("-", "standard input"), (address, address.replace("5ecret", "…"))):
        flags = [f"--{name}={value}" for name, value in options.items()]
        common = ["--allow_hosts=127.0.0.1", f"--output={tmp_path}/out", f"--model={tiny}", *flags]
        for command in ("run", "doctor"):
            pipe(data, monkeypatch)
            assert main([command, "--input", source, *common]) in (1, 2)
            shown = "".join(capsys.readouterr())
            assert message.format(public) in shown and "labelbeam-input-" not in shown


def test_run__copy_that_is_damaged_behind_its_start__is_named_as_the_user_wrote_it(
    tmp_path, tiny, monkeypatch, own_signal_handlers, capsys
):
    names = (f"/photos/{n}-{os.urandom(9).hex()}.jpg\n" for n in range(9000))
    whole = gzip.compress("".join(names).encode())
    pipe(whole[:-9], monkeypatch)
    flags = [f"--model={tiny}", f"--output={tmp_path / 'out'}", "--loaders=0", "--max_failure_rate=1"]
    assert main(["run", "--input", "-", *flags]) == 1
    shown = "".join(capsys.readouterr())
    assert "standard input is cut: its gzip data" in shown and "labelbeam-input-" not in shown


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("status/404", r"\(not_found\): the server returned status 404: refused. Check the address"),
        ("status/403", r"\(forbidden\): .* status 403: refused. Give a login .* --http_header"),
        ("status/503", r"\(http_5xx\): the server returned status 503"),
        ("partial/0-4/5", r"\(bad_response\): the server returned status 206"),
        ("reset/body", r"\(truncated\)"),
        ("loop", r"\(bad_response\): more than 5 redirects"),
    ],
)
def test_find_corpus__list_that_cannot_be_fetched__is_one_line_without_secrets(fault, message, faults):
    address = faults.uri(fault, sig="5ecret").replace("://", "://me:pa55@")
    with pytest.raises(UserError, match=message) as raised:
        uris_of(address)
    assert "\n" not in str(raised.value)
    assert "5ecret" not in str(raised.value) and "pa55" not in str(raised.value)


def test_find_corpus__list_on_a_private_address__is_refused(faults):
    with pytest.raises(UserError, match=r"forbidden_address.* rerun with --allow_hosts=127.0.0.1\.$"):
        uris_of(faults.uri("image/list.txt"), Limits())


def test_find_corpus__server_that_recovers__is_asked_again_and_the_copy_is_whole(faults):
    faults.image = LINES
    _, uris = uris_of(faults.uri("reset/body", first=1))
    assert uris == ["/photos/a.jpg", "/photos/b.jpg"]


def test_find_corpus__list_on_the_web__gets_headers_and_login(faults):
    faults.image = LINES
    http = HttpSettings("me/1", (("X-Key", "a key"),))
    address = faults.uri("image/list.txt")
    uris_of(address.replace("://", "://me:pass@"), Limits(allow_hosts=("127.0.0.1",), http=http))
    sent = faults.headers["/image/list.txt"]
    assert (sent["user-agent"], sent["x-key"], sent["authorization"]) == (
        "me/1",
        "a key",
        "Basic bWU6cGFzcw==",
    )


def test_copy__many_times_larger_than_memory__is_never_held(faults, monkeypatch):
    read, write = os.pipe()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=os.fdopen(read, "rb")))
    faults.image = piece = b"/photos/a.jpg\n" * (1 << 20)

    def fill():
        with os.fdopen(write, "wb") as stream:
            for _ in range(4):
                stream.write(piece)

    threading.Thread(target=fill).start()
    tracemalloc.start()
    try:
        sizes = [os.path.getsize(copies.copy_input("-", Limits))]
        standing, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        sizes.append(os.path.getsize(copies.copy_input(faults.uri("image/list.txt"), lambda: LIMITS)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [4 * len(piece), len(piece)]
    # The server holds the list once.
    assert peak - standing < 1.25 * len(piece)


def test_run__piped_list__leaves_no_copy_and_the_manifest_has_the_dash(
    tmp_path, tiny, monkeypatch, own_signal_handlers
):
    images = sorted((Path(photos.__file__).parent / "images").iterdir())[:3]
    pipe("".join(f"{path}\n" for path in images).encode(), monkeypatch)
    flags = [f"--model={tiny}", f"--output={tmp_path / 'out'}", "--loaders=0"]
    assert main(["run", "--input", "-", *flags]) == 0
    assert published_manifest(str(tmp_path / "out")).config["input"] == "-"
    assert not copies._FOLDER.path
    pipe(b"", monkeypatch)
    assert main(["verify", str(tmp_path / "out"), "--input", "-"]) == 2


def test_prepared__workers_elsewhere__copies_lie_in_the_runs_staging_folder(tmp_path, tiny, monkeypatch):
    pipe(LINES, monkeypatch)
    (tmp_path / "list.txt").write_text("/photos/c.jpg\n")
    inputs = ["-", str(tmp_path / "list.txt")]
    config = load_config(None, {"input": inputs, "model": str(tiny), "output": str(tmp_path / "out")}, ())
    options = pipeline_options(["--runner=PrismRunner"])
    with prepared(config, options) as plan:
        uris = [row.uri for row in list_rows(plan.corpus)]
        copy, other = (part.files[0].path for part in plan.corpus.parts)
        staging = TableFolder(str(tmp_path / "out")).run(plan.run_id)
        assert copy.startswith(f"{staging}/input/") and other == inputs[1]
        delete_copies()
        assert (
            [row.uri for row in list_rows(plan.corpus)]
            == uris
            == [
                "/photos/a.jpg",
                "/photos/b.jpg",
                "/photos/c.jpg",
            ]
        )
