"""Label maps: each format that tools write is read, and every doubtful file is refused in one line."""

import csv
import gzip
import io
import json
import random
import re

import pytest

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.label_formats import parse_labels
from labelbeam.transforms.models.labels import first_class, fit_labels, imagenet_labels, read_labels

NO_CLASS_IDS = ("01", "1.0", " 1", "+1", "-1", "1_0", "\u0661", "\xb2", "")
RGB = ("r", "g", "b")


def parse(name: str, content: str | bytes) -> tuple[str, ...]:
    data = content if isinstance(content, bytes) else content.encode()
    return parse_labels(f".{name.rpartition('.')[2]}", data)


def test_imagenet_labels__index__is_the_models():
    labels = imagenet_labels()
    assert (len(labels), labels[0], labels[281], labels[999]) == (1000, "tench", "tabby", "toilet tissue")


@pytest.mark.parametrize(
    ("labels", "classes", "fitted"),
    [
        (("a", "b"), 2, ("a", "b")),
        (("background", "a", "b"), 2, ("a", "b")),
        (("background", "a", "b"), 3, ("background", "a", "b")),
        (("BackGround", "a", "b"), 2, ("a", "b")),
        (("background",), 1, ("background",)),
        (imagenet_labels(), 1000, imagenet_labels()),
        (imagenet_labels(), 1001, ("background", *imagenet_labels())),
        (("background", *imagenet_labels()), 1000, imagenet_labels()),
        (("background", *imagenet_labels()), 1001, ("background", *imagenet_labels())),
    ],
)
def test_fit_labels__fitting_map__is_taken(labels, classes, fitted):
    assert fit_labels(labels, classes, "m") == fitted


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("a",), 2),
        (("background",), 2),
        (("a", "b", "c"), 2),
        (("a", "b", "background"), 2),
        (("background", "a", "b", "c"), 2),
        (imagenet_labels(), 999),
        (imagenet_labels(), 1002),
        (imagenet_labels()[1:], 1001),
        (("x", *imagenet_labels()), 1000),
    ],
)
def test_fit_labels__another_length__is_refused(labels, classes):
    with pytest.raises(UserError, match=f"has {classes} classes, and its label map has {len(labels)}"):
        fit_labels(labels, classes, "m")


@pytest.mark.parametrize(
    ("labels", "first"),
    [
        (("background", *imagenet_labels()), 1),
        (("Background", *imagenet_labels()), 1),
        ((*imagenet_labels(), "background"), 0),
        (("background", *imagenet_labels()[1:]), 0),
        (("background", "x", *imagenet_labels()), 0),
        (("background", "a"), 0),
    ],
)
def test_first_class__background__is_left_out_only_in_the_1001_classes_of_imagenet(labels, first):
    assert first_class(labels) == first


def as_csv(header: str, rows: list, delimiter: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([header.split(), *rows])
    return out.getvalue()


def written(labels: tuple[str, ...], order: list[int]) -> dict[str, str]:
    """Return a map in every format, by file name; `order` is that of the entries which carry a class id."""
    shuffled = [(n, labels[n]) for n in order]
    synset = "n{:08d}".format
    objects = [{"supercategory": "any", "id": n, "name": label} for n, label in shuffled]
    id2label = {str(n): label for n, label in shuffled}
    documents = {
        "list": list(labels),
        "by id": id2label,
        "by label": {label: n for n, label in shuffled},
        "keras": {str(n): [synset(n), label] for n, label in shuffled},
        "objects": objects,
        "objects in order": [{"class_name": label, "color": [0, 0, 0]} for label in labels],
        "objects with ids as strings": [{"class_id": str(n), "label": label} for n, label in shuffled],
        "coco": {"info": {}, "images": [], "categories": objects},
        "hugging face": {"architectures": ["X"], "id2label": id2label, "label2id": {}},
    }
    return {
        "plain.txt": "\n".join(labels),
        "crlf.txt": "\r\n".join(labels) + "\r\n\r\n",
        "cr.txt": "\r".join(labels),
        "bom.names": "\ufeff" + "\n".join(labels),
        "indexed.txt": "\n".join(f"{n} {label}" for n, label in enumerate(labels)),
        "synsets.txt": "\n".join(f"{synset(n)} {label}" for n, label in enumerate(labels)),
        "both.txt": "\n".join(f"{n}: {synset(n)} {label}" for n, label in enumerate(labels)),
        **{f"{name}.json": json.dumps(document) for name, document in documents.items()},
        "comma.csv": as_csv("class_id label", shuffled, ","),
        "semicolon.csv": as_csv("Name ID", [(label, n) for n, label in shuffled], ";"),
        "tabs.tsv": as_csv("index mid display_name", [(n, "/m/0", label) for n, label in shuffled], "\t"),
        "in order.csv": as_csv("class_name", [(label,) for label in labels], ","),
    }


@pytest.mark.parametrize("seed", range(20))
def test_read_labels__any_map_in_every_format__reads_back_the_same(seed):
    rng = random.Random(seed)
    pieces = [
        "tench",
        " ",
        "a",
        "é",
        "日本",
        '"',
        "'",
        ",",
        ";",
        "0",
        "7 up",
        "[",
        "}",
        "#",
        ":",
        "-",
        ".",
        "n01440764",
    ]
    texts = {"".join(rng.choices(pieces, k=rng.randint(1, 6))).strip() for _ in range(rng.randint(2, 40))}
    labels = (*(t for t in sorted(texts) if t[:1].isalpha()), "last")
    order = rng.sample(range(len(labels)), len(labels))
    for name, text in written(labels, order).items():
        assert parse(name, text) == labels, name


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("0 tench\n1 goldfish", ("tench", "goldfish")),
        ("0:tench\n1:goldfish", ("tench", "goldfish")),
        ("0,tench\n1,gold, fish", ("tench", "gold, fish")),
        ("0) tench\n1 - goldfish\n2\t3d printer", ("tench", "goldfish", "3d printer")),
        ("n01440764 tench, Tinca tinca\nn01443537 goldfish", ("tench, Tinca tinca", "goldfish")),
        ("n01440764\nn01443537", ("n01440764", "n01443537")),
        ("zero\n1 one", ("zero", "1 one")),
        ("0\n1\n2", ("0", "1", "2")),
        ("3d printer\n4x4", ("3d printer", "4x4")),
        ("class 0\nclass 1", ("class 0", "class 1")),
        ("label\nid", ("label", "id")),
        ('"a"\n[b]\n{c', ('"a"', "[b]", "{c")),
    ],
)
def test_read_labels__text_that_looks_like_more__only_prefixes_of_all_lines_are_removed(text, labels):
    assert parse("l.txt", text) == labels


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # Damaged files and other encodings.
        ("l.txt", b"", "holds no labels"),
        ("l.json", b" \n", "holds no labels"),
        ("l.csv", b"label\n", "holds no labels"),
        ("l.json", "{}", "holds no labels"),
        ("l.json", '{"categories": []}', "holds no labels"),
        ("l.txt", "é\nb".encode("utf-16"), "line 1 is no UTF-8: it has the byte 0xff. Save it as UTF-8"),
        ("l.txt", "é\nb".encode("utf-32"), "line 1 is no UTF-8: it has the byte 0xff"),
        ("l.txt", "a\nb".encode("utf-16-le"), "line 1 has a null byte.*UTF-8"),
        ("l.csv", b"label\na\nb\0", "line 3 has a null byte"),
        ("l.txt", "a\ncafé\n".encode("latin-1"), "line 2 is no UTF-8: it has the byte 0xe9. Save"),
        ("l.txt", bytes(range(128, 256)), "line 1 is no UTF-8"),
        ("l.txt", gzip.compress(b"a\nb", mtime=0), "line 1 is no UTF-8: it has the byte 0x8b"),
        ("l.txt", b"PK\x03\x04", "line 1 has the label .*control character"),
        ("l.json", '{"0": "a", "1": "b', "no whole JSON.*line 1 column"),
        ("l.json", "[" * 100_000, "nested too deeply"),
        # JSON of another kind.
        ("l.json", "3", "holds 3, no label map"),
        ("l.json", '"a"', "holds 'a', no label map"),
        ("l.json", '["a", null]', "entry 1 has the label None. A label is a string"),
        ("l.json", '["a", 1]', "entry 1 has the label 1"),
        ("l.json", f'["a", {10**59}]', r"entry 1 has the label 10{59}\. A"),
        ("l.json", f'["a", {10**60}]', r"entry 1 has the label 10{56}\.\.\.\. A"),
        ("l.json", '["a", {"id": 1}]', "entry 1 has the label {'id': 1}"),
        ("l.json", '["a", " "]', "entry 1 has an empty label"),
        ("l.json", r'["a", "b\nc"]', "entry 1 has the label 'b.nc', with a control character"),
        ("l.json", r'["a", "\ud800"]', "entry 1 has the label .*control"),
        ("l.json", '{"0": "a", "1": null}', "entry '1' has the label None"),
        ("l.json", '{"0": "a", "1": 5}', "entry '1' has the label 5"),
        ("l.json", '{"0": "a", "1": true}', "entry '1' has the label True"),
        ("l.json", '{"0": "a", "1": {"name": "b"}}', "entry '1' has the label {"),
        ("l.json", '{"0": ["n01440764"]}', "entry '0' has the label .'n01440764'."),
        ("l.json", '{"0": ["n01440764", "tench", "x"]}', "entry '0' has the label"),
        ("l.json", '{"0": ["n01440764", null]}', "entry '0' has the label None"),
        ("l.json", '{"0": ["tench", "Tinca tinca"]}', "entry '0' has the label"),
        ("l.json", '{"a": true}', "entry 'a' has the class id True"),
        ("l.json", '{"a": 0, "b": 1.0}', "entry 'b' has the class id 1.0"),
        ("l.json", '{"a": 0, "": 1}', "entry '' has an empty label"),
        ("l.json", '{"a": -1}', "class id -1"),
        ("l.json", '{"a": "0"}', "entry 'a' has the class id 'a'"),
        *[("l.json", json.dumps({"0": "a", key: "b"}), "has the class id") for key in NO_CLASS_IDS],
        ("l.json", '{"0": "a", "0": "b"}', "the key '0' occurs 2 times in one object"),
        ("l.json", '{"a": 0, "b": 1, "a": 2}', "the key 'a' occurs 2 times"),
        ("l.json", '{"a": 0, "b": 0}', "class id 0 occurs twice: 'a' .entry 'a'. and 'b' .entry 'b'."),
        ("l.json", '[{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]', "0 occurs twice: 'a' .entry 0."),
        ("l.json", '[{"id": 0, "name": "a"}, "b"]', "entry 1 is 'b', where entry 0 is an object"),
        ("l.json", '[{"id": 0, "name": "a"}, {"name": "b"}]', "entry 1 has no 'id'"),
        ("l.json", '[{"id": 0, "name": "a"}, {"id": 1}]', "entry 1 has no 'name'"),
        ("l.json", '[{"id": 0, "name": 7}]', "entry 0 has the label 7"),
        ("l.json", '[{"id": true, "name": "a"}]', "entry 0 has the class id True"),
        ("l.json", '[{"label": 0, "name": "a"}]', "both 'label' and 'name'"),
        ("l.json", '[{"x": 0}, {"y": 0}]', "no label among its columns, 'x, y'.*class_id"),
        # Class ids that are no output indices.
        ("l.json", '{"1": "a", "2": "b"}', "no label for class 0: the 2 class ids go from 1 to 2. .*at 0"),
        ("l.json", '{"0": "a", "2": "b"}', "no label for class 1: .*for each, such as 'unused'"),
        ("l.csv", f"id,name\n0,a\n{10**30},b", "no label for class 1"),
        # CSV.
        ("l.csv", "a,b\n1,2\n", "no label among its columns, 'a, b'. Begin the file with"),
        ("l.csv", "0,a\n1,b\n", "no label among its columns"),
        ("l.csv", "label,name\n0,a\n", "both 'label' and 'name'"),
        ("l.csv", "id,index,name\n0,0,a\n", "both 'id' and 'index'"),
        ("l.csv", "id,name\n0,a\n1\n", "line 3 has another number of values .1. than of columns .2.: '1'"),
        ("l.csv", "id,name\n0,a\n\n1,b\n", "line 3 has another number of values .0."),
        ("l.csv", "name\ntench, Tinca tinca\n", "line 2 has another number of values .2.*in quotes"),
        ("l.csv", "id,name\n0,a\n1,\n", "line 3 has an empty label"),
        ("l.csv", 'id,name\n0,a\n1,"b\nc"\n', "line 4 has the label 'b.nc', with"),
        ("l.csv", 'id,name\n0,a\n1,"b"c\n', "line 3 is no CSV"),
        ("l.csv", 'id,name\n0,a\n1,"b\n', "line 3 is no CSV"),
        ("l.csv", "id,name\n0,a\n1.0,b\n", "line 3 has the class id '1.0'"),
        ("l.csv", "id,name\n0,a\n0,b\n", "class id 0 occurs twice: 'a' .line 2. and 'b' .line 3."),
        ("l.csv", "name\n" + "a" * 2_000_000, "line 2 is no CSV: field larger"),
        # Text.
        ("l.txt", "a\n\nb\n", "line 2 is blank"),
        ("l.txt", "\na\nb\n", "line 1 is blank"),
        ("l.txt", "a\tx\nb\ty\n", "line 1 has the label 'a.tx', with a control.*suffix .csv"),
        ("l.txt", "a\nb\u2028c", "line 2 has the label .*line end"),
        ("l.txt", "1 a\n2 b\n", "line 1, '1 a', not with 0. .*class_id and label.*JSON list"),
        ("l.txt", "0 a\n2 b\n", "line 2, '2 b', not with 1"),
        ("l.txt", "0,5 mm\n1,5 mm\n", "line 1, '0,5 mm', not with 0"),
        ("l.txt", "0-5 years\n1-2 years\n", "JSON list"),
        ("l.txt", "class_id,label\n0,a\n", "it is CSV. Give the file the suffix .csv"),
        ("l.txt", "id\tname\n0\ta\n", "it is CSV"),
        ("l.txt", '{\n"0": "a"\n}\n', "looks like JSON.*suffix .json"),
        ("l.txt", '["a", "b"]', "looks like JSON"),
        ("l.txt", "item {\n  id: 1\n  name: 'a'\n}\n", "protocol buffer.*Save it as CSV"),
        ("l.pbtxt", "item {\n  id: 1\n}\n", ".pbtxt files are not read. Save it as CSV"),
        ("l.yaml", "names:\n- a\n", ".yaml files are not read"),
    ],
)  # fmt: skip
def test_read_labels__doubtful_file__is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_labels(str(tmp_path / name))
    text = str(caught.value)
    assert text.startswith(f"labels='{tmp_path / name}' cannot be used: ") and text.endswith(".")
    assert re.search(message, text) and "\n" not in text and len(text) < 700


@pytest.mark.parametrize("seed", range(50))
def test_read_labels__damaged_bytes__give_labels_or_a_user_error(tmp_path, seed):
    rng = random.Random(seed)
    name, text = rng.choice(list(written(RGB, [2, 0, 1]).items()))
    data = bytearray(text.encode())
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path = tmp_path / name
    path.write_bytes(data[: rng.randint(1, len(data))])
    try:
        assert all(isinstance(label, str) and label for label in read_labels(str(path)))
    except UserError as e:
        assert "\n" not in str(e)


@pytest.mark.parametrize(
    ("name", "message"), [("none.txt", "No such file"), ("", "Is a directory"), ("\0", "null")]
)
def test_read_labels__no_file__is_refused_in_one_line(tmp_path, name, message):
    with pytest.raises(UserError, match=f"^labels=.* cannot be read: .*{message}.*Give 'imagenet' or a file"):
        read_labels(f"{tmp_path}/{name}")


def test_read_labels__in_a_bucket__is_read(gcs):
    gcs.put("gs://bucket/maps/l.json", b'{"g": 1, "r": 0, "b": 2}')
    gcs.put("gs://bucket/maps/l.txt", "\ufeffr\ng\nb\n".encode())
    assert read_labels("gs://bucket/maps/l.json") == read_labels("gs://bucket/maps/l.txt") == RGB
    with pytest.raises(UserError, match="^labels='gs://bucket/maps/none.txt' cannot be read: .* or gs://"):
        read_labels("gs://bucket/maps/none.txt")


@pytest.mark.parametrize("text", ["0 years old\n1 years old\n2 years old\n", "0 people\n1 people\n"])
def test_parse__numbers_that_are_part_of_the_labels__are_not_removed_silently(text):
    with pytest.raises(ValueError, match="without it most labels are equal, .* JSON list"):
        parse("labels.txt", text)
