"""Input formats: each row of the table has a file and is read end to end by one test."""

import contextlib
import gzip
import importlib
import pkgutil
import random
import sys
import types
import zlib

import pytest

from labelbeam.pipeline.config import ReadConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.transforms import inputs
from labelbeam.transforms.elements import ImageRef, id_of_uri
from labelbeam.transforms.errors import ImageError, UserError
from labelbeam.transforms.inputs.first_bytes import START_BYTES, explain_binary
from labelbeam.transforms.inputs.formats import INPUT_FORMATS, Location, input_format
from labelbeam.transforms.inputs.lists import ListFormat, bad_row, list_suffixes
from labelbeam.transforms.read import ReadImageRefs, list_rows
from labelbeam.transforms.sources.gcs_stream import ObjectReader
from tests.eager import eagerly
from tests.list_files import WRITERS
from tests.shards import images_of, parquet_of, read_all, tar_of, tfrecord_of, zip_of

NAMES = ["a.jpg", "b ä.png", "deep/c.webp"]
BAD = b"\xff.jpg"
# Name and content of an input for each format, with the images of NAMES; lists also have one bad line.
EXAMPLES = {
    "lines": ("list.txt", lambda uris: "\n".join(uris).encode() + b"\n" + BAD),
    "csv": ("list.csv", lambda uris: "\n".join(["uri", *uris]).encode() + b"\n" + BAD),
    "parquet": ("list.parquet", lambda uris: WRITERS["parquet"]([{"uri": uri} for uri in [*uris, None]])),
    "jsonl": ("list.jsonl", lambda uris: WRITERS["jsonl"]([{"uri": uri} for uri in uris]) + BAD),
    "json": ("list.json", lambda uris: WRITERS["json"]([*({"uri": uri} for uri in uris), {}])),
    "images": ("", None),
}
# Name and content of a file with images inside for each format.
SHARDS = {
    "tar": ("a.tar", tar_of),
    "zip": ("a.zip", zip_of),
    "tfrecord": ("a.tfrecord", tfrecord_of),
    "parquet_images": ("a.parquet", parquet_of),
}
# Formats of SHARDS whose files may be compressed, and those that are recognised by the name.
PACKABLE = {"tar", "tfrecord"}
NAMED = SHARDS.keys() - {"parquet_images"}


def test_input_formats__each_row__has_a_file_and_an_example():
    modules = [f"{inputs.__name__}.{module.name}" for module in pkgutil.iter_modules(inputs.__path__)]
    with_format = {name for name in modules if hasattr(importlib.import_module(name), "FORMAT")}
    unnamed = {f"{inputs.__name__}.{name}" for name in ("failures", "several", "bigquery")}
    assert with_format - unnamed == set(INPUT_FORMATS.values())
    assert INPUT_FORMATS.keys() == EXAMPLES.keys() | SHARDS.keys()


def test_input_formats__endings_of_names__are_of_one_format_each():
    suffixes = [suffix for name in INPUT_FORMATS for suffix in input_format(name).suffixes]
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("form", EXAMPLES)
def test_input_formats__each_row__is_found_and_read_end_to_end(tmp_path, form, declared, is_packed):
    if is_packed and form == "parquet":  # compressed inside
        with pytest.raises(UserError, match=r"list.parquet.gz is compressed with gzip.* Decompress it"):
            check_format(tmp_path, form, *EXAMPLES[form], declared, is_packed)
        return
    check_format(tmp_path, form, *EXAMPLES[form], declared, is_packed)


@pytest.mark.parametrize(
    ("form", "is_packed", "declared"),
    [
        *((form, False, True) for form in SHARDS),
        *((form, False, False) for form in sorted(NAMED)),
        *((form, True, declared) for form in sorted(PACKABLE) for declared in (False, True)),
    ],
)
def test_input_formats__files_with_images_inside__are_found_and_read(tmp_path, form, is_packed, declared):
    name, write = SHARDS[form]
    data = write({name: name.encode() for name in NAMES})
    source = tmp_path / (f"{name}.gz" if is_packed else name)
    source.write_bytes(gzip.compress(data) if is_packed else data)
    corpus = find_corpus(ReadConfig(input=str(source), input_format=form if declared else "auto"))
    assert (corpus.format, corpus.holds_images) == (form, True)
    rows, _ = read_all(input_format(form), corpus)
    assert [data.decode() for _, data in images_of(rows)] == NAMES


@pytest.mark.parametrize("form", SHARDS)
def test_input_formats__files_with_images_inside__are_read_from_buckets_by_few_requests(
    gcs, form, monkeypatch
):
    requests = []
    send = ObjectReader._request
    monkeypatch.setattr(ObjectReader, "_request", lambda self: (requests.append(self), send(self))[1])
    name, write = SHARDS[form]
    members = {f"{n}.jpg": random.Random(n).randbytes(20_000) for n in range(100)}
    gcs.put(f"gs://bucket/{name}", write(members))
    corpus = find_corpus(ReadConfig(input=f"gs://bucket/{name}", input_format=form))
    requests.clear()
    rows, _ = read_all(input_format(form), corpus)
    assert [data for _, data in images_of(rows)] == list(members.values())
    # The directory and the footer take requests of their own.
    assert len(requests) <= {"tar": 1, "tfrecord": 1, "zip": 4, "parquet_images": 4}[form]


@pytest.mark.parametrize("form", SHARDS)
def test_input_formats__files_with_images_inside__refuse_addresses_and_other_options(tmp_path, form):
    name = "https://example.org/a"
    with pytest.raises(UserError, match=r"from local disks and gs://\. Copy it"):
        input_format(form).find(Location(name, name, name, False), ReadConfig(), {})
    name, write = SHARDS[form]
    source = tmp_path / name
    source.write_bytes(write({"a.jpg": b"a"}))
    options = ["id_column", *(["image_feature"] if form in ("tar", "zip") else [])]
    for option in options:
        config = ReadConfig(input=str(source), input_format=form, **{option: "x"})
        with pytest.raises(UserError, match=f"{option}.* Leave it out"):
            find_corpus(config)


def test_recognises__first_bytes__are_of_one_format():
    members = {"a.jpg": b"a"}
    starts = {"tar": tar_of(members), "zip": zip_of(members), "tfrecord": tfrecord_of(members)}
    starts_of_no = [
        *(b"", b"uri\n/a.jpg\n", b"{}", bytes(100), bytes(START_BYTES), parquet_of(members)),
        b"\xff\xd8\xff\xe0" * 200,
    ]
    forms = {name: input_format(name) for name in SHARDS}
    for name, start in starts.items():
        assert [other for other, form in forms.items() if form.recognises(start)] == [name]
    assert forms["tfrecord"].recognises(zlib.compress(starts["tfrecord"]))
    for start in [*starts_of_no, zlib.compress(b"text"), b"x\x9c" + bytes(50)]:
        assert not any(form.recognises(start) for form in forms.values())


def check_format(folder, form, name, write, declared=False, is_packed=False):
    paths = [folder / "images" / name for name in NAMES]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")
    source = folder / "images"
    if write:
        source = folder / (f"{name}.gz" if is_packed else name)
        data = write([str(path) for path in paths])
        source.write_bytes(gzip.compress(data) if is_packed else data)
    corpus = find_corpus(ReadConfig(input=str(source), input_format=form if declared else "auto"))
    assert corpus.format == form
    read = eagerly(ReadImageRefs(corpus))
    assert sorted(row.uri for row in read.ok) == sorted(map(str, paths))
    assert [failure.reason for failure in read.failures] == (["bad_row"] if write else [])
    assert sorted(list_rows(corpus), key=repr) == sorted([*read.ok, *read.failures], key=repr)


class Pairs(ListFormat):
    """A format as somebody may add it: this class in a new file, and a row in the table."""

    name = "pairs"
    suffixes = list_suffixes(".pairs")

    def explain(self, start):
        return explain_binary(start)

    def parse(self, line, corpus, notes):
        name, _, uri = line.partition("=")
        if name != "uri":
            raise bad_row(line, "has no uri")
        return ImageRef(id_of_uri(uri), uri)


@pytest.mark.parametrize("is_packed", [False, True])
def test_input_formats__new_module_and_row__are_all_that_a_format_needs(tmp_path, monkeypatch, is_packed):
    module = types.ModuleType("pairs_format")
    module.FORMAT = Pairs()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(INPUT_FORMATS, Pairs.name, module.__name__)

    def write(uris):
        return "\n".join([*(f"uri={uri}" for uri in uris), "link=1"]).encode()

    check_format(tmp_path, "pairs", "list.pairs", write, is_packed=is_packed)
    with pytest.raises(ImageError, match="has no uri"):
        Pairs().parse("{}", None, None)


# Files that programs leave beside lists. The names sort in front of those of the lists.
MARKS = {
    "_SUCCESS": b"",
    "_committed_1": b'{"added": []}\n',
    ".part-0.crc": b"crc\0",
    "._SUCCESS.crc": b"crc\0",
}


@pytest.fixture(params=["disk", "bucket"])
def put(request, tmp_path):
    """Return a function that writes a file into a folder, and the folder."""
    if request.param == "disk":
        return lambda name, data: (tmp_path / name).write_bytes(data), str(tmp_path)
    gcs = request.getfixturevalue("gcs")
    return lambda name, data: gcs.put(f"gs://bucket/out/{name}", data), "gs://bucket/out"


@pytest.mark.parametrize("form", [form for form in [*EXAMPLES, *SHARDS] if form != "images"])
def test_find_corpus__glob_over_a_folder_of_spark__takes_the_lists_alone(put, form):
    write, folder = put
    parts = {"part-1": SHARDS[form][1]({"a.jpg": b"a"})} if form in SHARDS else {}
    parts = parts or {f"part-{n}": EXAMPLES[form][1]([f"{n}.jpg"]) for n in (1, 2)}
    empty = {} if form in SHARDS else {"part-0": b"", "part-3": b""}
    for name, data in {**MARKS, **empty, **parts}.items():
        write(name, data)
    # Because lines and CSV are told apart by their names alone.
    declared = form if form in ("lines", "csv") else "auto"
    corpus = find_corpus(ReadConfig(input=f"{folder}/*", input_format=declared))
    assert corpus.format == form
    assert [file.path for file in corpus.files] == [f"{folder}/{name}" for name in parts]
    number, kinds = (len(MARKS), "hidden") if form in SHARDS else (len(MARKS) + 2, "empty or hidden")
    assert any(f"are {kinds} files, {number} in all" in remark for remark in corpus.remarks)


@pytest.mark.parametrize("names", [[".a.jsonl", ".b.jsonl"], ["_new.jsonl", "a.jsonl"], ["_a"]])
def test_find_corpus__lists_with_odd_names__are_taken(put, names):
    write, folder = put
    for name in names:
        write(name, EXAMPLES["jsonl"][1]([f"{name}.jpg"]))
    pattern = names[0] if len(names) == 1 else "*.jsonl"
    corpus = find_corpus(ReadConfig(input=f"{folder}/{pattern}"))
    assert [file.path for file in corpus.files] == [f"{folder}/{name}" for name in names]
    assert corpus.format == "jsonl" and not any("Left out" in remark for remark in corpus.remarks)


@pytest.mark.parametrize(
    ("form", "refused"), {"jsonl": False, "csv": True, "json": True, "parquet": True}.items()
)
def test_find_corpus__glob_of_empty_files_alone__is_as_one_empty_file(put, form, refused):
    write, folder = put
    for n in range(2):
        write(f"{n}.{form}", b"")
    with pytest.raises(UserError, match="is empty. Put") if refused else contextlib.nullcontext():
        assert len(find_corpus(ReadConfig(input=f"{folder}/*.{form}")).files) == 2
