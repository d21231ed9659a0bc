import codecs
import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelbeam.pipeline.config import ReadConfig
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.first_bytes import (
    DELIMITERS,
    START_BYTES,
    URI_NAMES,
    find_uri_columns,
    has_uri_column,
)
from labelbeam.transforms.inputs.formats import format_of
from tests.synthetic import jpeg_bytes


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"uri": ["a.jpg"]}), buffer)
    return buffer.getvalue()


TABLE = "uri,ort\r\na.jpg,München\r\nb.jpg,Berlin\r\n"


def explain(start, form):
    return format_of(Corpus("list", form)).explain(start) or format_of(Corpus("list", form)).doubt(start)


@pytest.mark.parametrize("form", ["lines", "csv"])
@pytest.mark.parametrize(
    ("start", "explained"),
    [
        (parquet(), "is Parquet. Add --input_format=parquet"),
        (tarfile.TarInfo("a.jpg").tobuf(), "is a tar archive. Add --input_format=tar to label"),
        (b"PK\3\4\x14\0", "is a ZIP archive or an Excel workbook. Add --input_format=zip to label"),
        (b"SQLite format 3\0", "is an SQLite database"),
        (b"ORC\x1a", "is ORC"),
        (b"Obj\x01\x04", "is Avro"),
        (b"ARROW1\0\0", "is Arrow"),
        (b"PARE\x02", "is an encrypted Parquet file"),
        (b"\x89HDF\r\n\x1a\n", "is HDF5"),
        (jpeg_bytes(), "is an image. Add --input_format=images"),
        (TABLE.encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        (TABLE.encode("utf-32"), "iconv -f UTF-32 -t UTF-8"),
        (TABLE.encode("utf-16-le"), "NUL bytes, the first in line 1"),
        (b"a.jpg\nb.jpg\nc\0.jpg\nd.jpg\n", "NUL bytes, the first in line 3"),
        (TABLE.replace("Berlin", "").encode("cp1252"), "line 2"),
        (TABLE.encode("cp1252"), "line 2 is b'a.jpg,M\\xfcnchen\\r'. Convert it, such as with iconv"),
        (b'{"uri": "a.jpg"}\n{"uri": "b.jpg"}\n', "is JSON"),
        (b'\xef\xbb\xbf[\n {"data": {"image": "a.jpg"}}\n]', "is JSON"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"uri\n" + b"a.jpg\n" * 50 + b"caf\xe9.jpg\n", "line 52 is b'caf\\xe9.jpg'"),
        (b"\xff.jpg\n" * 9 + b"a.jpg\n" * 8, "line 1"),
        (b"uri\ra.jpg\rb.jpg\r", "ends its lines with CR alone"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_explain_unreadable__no_list__is_named_with_a_remedy(form, start, explained):
    assert explained in explain(start[:START_BYTES], form)


@pytest.mark.parametrize(
    ("start", "form"),
    [
        (b"", "lines"),
        (b"\n\n", "lines"),
        (b"a.jpg", "lines"),
        (b"[1].jpg\n{a}.jpg\n", "lines"),
        (b"https://h/a,b;c|d.jpg?uri=1\n", "lines"),
        *((uri + b"\n", "lines") for uri in (b"./file", b"../image", b"https://h/v1.image", b"/a,b.link/c")),
        (TABLE.encode("utf-8-sig"), "csv"),
        (b"uri,a;b\n", "csv"),
        (b"ORCID,uri\n0000-0002,a.jpg\n", "csv"),
        *((magic + b"/a.jpg\n", "lines") for magic in (b"PAR1", b"ORC", b"ARROW1", b"GIF8", b"RIFF0000WEBP")),
        ("ö.jpg\nü.jpg\n".encode() + b"\xff.jpg\n", "lines"),
        (b"a.jpg\n" * 50 + b"many/\xff.jpg\n", "lines"),
        (b"a.jpg\n\xff.jpg\n\n", "lines"),
        ("ö.jpg\na.jpg\n".encode() + b"caf\xe9.jpg\n", "lines"),
        (("x" * (START_BYTES - 1) + "ö").encode()[:START_BYTES], "lines"),
    ],
)
def test_explain_unreadable__list__is_taken(start, form):
    assert explain(start, form) is None


@pytest.mark.parametrize(
    ("line", "explained"),
    [
        (b"uri,n\na.jpg,1\n", "--input_format=csv"),
        (b"id,Image_URL\n", "--input_format=csv"),
        (b"\xef\xbb\xbfImage URL,name\n", "--input_format=csv"),
        (b"ImageURL|name\r\n", "has columns separated by bars. Add --input_format=csv"),
        (b"data.image;n\n", "--input_format=csv"),
        (b"File Name\n", "begins with the header 'File Name'"),
        (b"uri\tnote\na.jpg\tb\n", "has columns separated by tabs. Add --input_format=csv"),
        (b"uri;note\na.jpg;b\n", "has columns separated by semicolons. Add --input_format=csv"),
        (b"uri\na.jpg\n", "begins with the header 'uri'"),
    ],
)
def test_explain_unreadable__header_in_lines__is_refused_unless_lines_are_declared(line, explained):
    assert explained in explain(line, "lines")
    assert format_of(Corpus("list", "lines")).explain(line) is None


@pytest.mark.parametrize(
    ("names", "usual"),
    [
        (("n", "URL"), ["URL"]),
        (("file", "Image URI"), ["file", "Image URI"]),
        (("a", "b"), []),
        ((" uri",), [" uri"]),
        (("id", "data.image", "meta.author"), ["data.image"]),
    ],
)
def test_find_uri_columns__names__takes_the_usual_ones(names, usual):
    assert find_uri_columns(names) == usual


@given(
    name=st.sampled_from(URI_NAMES),
    separator=st.sampled_from(["", " ", "-", "_", ".", " - "]),
    change=st.sampled_from([str, str.upper, str.title]),
    delimiter=st.sampled_from([*DELIMITERS, ""]),
    mark=st.sampled_from([b"", codecs.BOM_UTF8]),
)
def test_first_line__usual_name_in_any_spelling__is_a_header(name, separator, change, delimiter, mark):
    spelled = change(name).replace("_", separator)
    line = mark + f'{spelled}{delimiter}"n"\r\n'.encode() if delimiter else mark + spelled.encode()
    assert find_uri_columns([spelled]) == [spelled]
    assert explain(line, "lines") and has_uri_column(line)


@pytest.mark.parametrize("name", ["list.jpg", "IMAGE 2", "uris", "https://h/uri", "-", ""])
def test_has_uri_column__other_words__are_no_header(name):
    assert not has_uri_column(name.encode())


@pytest.mark.parametrize(
    ("size", "ending", "refused"),
    [(-1, b"", False), (0, b"", True), (0, b"\n", False), (1, b"", True)],
)
def test_describe__header_as_long_as_the_start__is_refused_unless_its_end_is_there(size, ending, refused):
    header = b"uri," + b"x" * (START_BYTES + size - 4 - len(ending)) + ending
    form, corpus = format_of(Corpus("l.csv", "csv")), Corpus("l.csv", "csv")
    if refused:
        with pytest.raises(UserError, match=f"l.csv has a header of more than {START_BYTES:,} bytes"):
            form.describe(corpus, {"l.csv": header}, ReadConfig(), {})
    else:
        assert form.describe(corpus, {"l.csv": header}, ReadConfig(), {}).header[0] == "uri"
