"""The command `report`: its page, what the page shows, and how a browser shows it."""

import base64
import dataclasses
import hashlib
import io
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pytest
from PIL import Image, ImageOps

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.pages import page as pages
from labelbeam.pipeline.pages import report as report_page
from labelbeam.pipeline.pages.report import common_folder
from labelbeam.pipeline.report.bottleneck import Performance
from labelbeam.pipeline.report.record import RunRecord, write_run_record
from labelbeam.pipeline.results.database import open_database
from labelbeam.pipeline.results.failures import read_failures
from labelbeam.pipeline.results.image_files import read_image_files
from labelbeam.pipeline.results.overview import read_labels, read_norms
from labelbeam.transforms.table.documents import write_document
from labelbeam.transforms.table.folder import read_manifest
from tests.tables import RUN_ID, Settings, publish_rows

CLASSES = ("cat", "dog", "cow", "ant")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src="http://attacker.example/x.png" onerror="alert(2)">',
    "\u202eright to left \u05d7\u05ea\u05d5\u05dc",
    "{{ 7 * 7 }}{% raw %}\0\n&amp;'",
)


def random_rows(seed: int, rows: int, classes: int = 4, most: int = 3) -> list[dict]:
    """Return rows with up to `most` labels, best first, at random."""
    rng = random.Random(seed)
    made = []
    for n in range(rows):
        ids = rng.sample(range(classes), rng.randint(1, most))
        # In eighths, because sums of these are exact and many scores are equal.
        scores = sorted((rng.randint(0, 8) / 8 for _ in ids), reverse=True)
        made.append(
            {
                **{"id": f"{n:04d}", "labels": list(zip(ids, scores, strict=True))},
                **{"width_px": rng.choice((64, 640, 4000)), "height_px": rng.choice((64, 480, 3000))},
                **{"size_bytes": rng.randint(1, 10**7), "format": rng.choice(("JPEG", "PNG", "WEBP"))},
                **{"orientation": rng.randint(1, 8), "frames": rng.choice((1, 1, 5, None))},
            }
        )
    return made


def failures_of(rows: int) -> list[dict]:
    reasons = ("not_found", "timeout", "not_found")
    return [
        {
            **{"id": f"f{n:04d}", "uri": f"https://h{n % 4}.example/{n}.jpg", "host": f"h{n % 4}.example"},
            **{"reason": reasons[n % 3], "message": f"message {n}"},
        }
        for n in range(rows)
    ]


def hostile_rows() -> tuple[list[dict], list[dict]]:
    long = "https://example.com/" + "a/" * 140 + "x.jpg?q=<b>&r=\"'"
    rows = [
        {"id": f"{n}", "labels": [(n % 4, 0.9 - n / 100), ((n + 1) % 4, 0.1)], "uri": uri}
        for n, uri in enumerate(
            (long, "gs://bucket/\u202e<i>.jpg", "/tmp/a b.jpg", "javascript:alert(3)", long + "2")
        )
    ]
    failures = [
        {
            "id": "f",
            "uri": long,
            "host": "<b>host</b>",
            "message": "</li><script>alert(4)</script>" + "x" * 900,
        }
    ]
    return rows, failures


def make_output(kind: str, folder: Path) -> Path:
    single = Settings(CLASSES)
    if kind == "empty":
        return publish_rows(folder, single, [])
    if kind == "failures only":
        return publish_rows(folder, single, [], failures_of(50))
    if kind == "hostile":
        return publish_rows(folder, Settings(HOSTILE, model="<b>model</b>"), *hostile_rows())
    if kind == "multilabel":
        rows = [
            {**row, "labels": [one for one in row["labels"] if one[1] >= 0.5]} for row in random_rows(2, 300)
        ]
        return publish_rows(folder, dataclasses.replace(single, head="multilabel", threshold=0.5), rows)
    if kind == "binary":
        rows = [
            {"id": f"{n}", "labels": [(n % 2, 0.5 + n / 80), (1 - n % 2, 0.5 - n / 80)]} for n in range(40)
        ]
        return publish_rows(folder, Settings(CLASSES[:2], head="binary"), rows)
    if kind == "embedding":
        rows = [{"id": f"{n}", "labels": [], "embedding": [n / 10, 0.0, 1.0]} for n in range(40)]
        settings = Settings((), head="embedding", outputs={"embedding": 3})
        return publish_rows(folder, settings, rows, failures_of(3))
    assert kind == "single_label"
    return publish_rows(
        folder, dataclasses.replace(single, columns={"truth": "string"}), with_truth(1), failures_of(30)
    )


def with_truth(seed: int) -> list[dict]:
    rows = random_rows(seed, 300)
    return [{**row, "truth": CLASSES[(row["labels"][0][0] + (n % 5 == 0)) % 4]} for n, row in enumerate(rows)]


KINDS = ("single_label", "multilabel", "binary", "embedding", "empty", "failures only", "hostile")


def write_page(kind: str, folder: Path, *options: str) -> Path:
    path = folder / "page.html"
    assert main(["report", str(make_output(kind, folder / "out")), f"--page={path}", *options]) == 0
    return path


class Outline(HTMLParser):
    """Headings, elements and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self._in_heading = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [
            value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")
        ]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append("")
            self._in_heading = True

    def handle_endtag(self, tag):
        self._in_heading &= not re.fullmatch("h[1-6]", tag)

    def handle_data(self, data):
        if self.tags[-1:] == ["style"] and "{" in data:
            return
        self.text += data
        if self._in_heading:
            self.headings[-1] += data


@pytest.mark.parametrize("kind", KINDS)
def test_report__every_kind_of_output__is_one_file_without_scripts_and_addresses(kind, tmp_path, capsys):
    html = write_page(kind, tmp_path).read_text("utf-8")
    outline = Outline(html)
    assert not {"script", "iframe", "object", "embed", "base", "form", "video"} & set(outline.tags)
    assert outline.tags.count("link") == 1 and "data:," in outline.addresses
    assert all(re.match(r"#|data:,|https?://|$", one) for one in outline.addresses)
    assert "url(" not in html and "@import" not in html
    assert "default-src 'none'" in html
    assert "page.html: a report on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "expected", "unexpected"),
    [
        ("single_label", ("Labels", "Scores", "Least and most certain images", "Failures"), ("Evaluation",)),
        ("multilabel", ("Labels", "Scores", "Least and most certain images"), ("Evaluation",)),
        ("binary", ("Labels", "Scores", "Least and most certain images"), ()),
        ("embedding", ("Lengths of embeddings", "Image files", "Failures"), ("Labels", "Scores")),
        ("empty", ("Labels", "Failures"), ("Scores", "Image files")),
        ("failures only", ("Labels", "Failures", "Examples"), ("Scores", "Image files")),
    ],
)
def test_report__every_kind_of_output__has_its_parts(kind, expected, unexpected, tmp_path):
    outline = Outline(write_page(kind, tmp_path).read_text("utf-8"))
    assert set(expected) <= set(outline.headings)
    assert not set(unexpected) & set(outline.headings)


def test_report__hostile_texts__are_shown_as_they_are(tmp_path):
    outline = Outline(write_page("hostile", tmp_path).read_text("utf-8"))
    for text in HOSTILE:
        assert pages.text(text) in outline.text
    assert "javascript:alert(3)" in outline.text
    assert not any("javascript" in one for one in outline.addresses)


def test_report__truth__is_evaluated(tmp_path):
    path = write_page("single_label", tmp_path, "--truth=truth")
    outline = Outline(path.read_text("utf-8"))
    assert (
        "Evaluation" in outline.headings
        and "top-1" in outline.text
        and "Most frequent confusions" in outline.text
    )


def test_report__record_of_the_run__shows_time_and_bottleneck(tmp_path):
    output = make_output("single_label", tmp_path / "out")
    performance = Performance(
        **{
            "bottleneck": "decoding",
            "remedies": ("more cores",),
            "image_ms": {"fetch": 12.3, "decode": 45.6},
        },
        **{"model_waited": 0.25, "batch_fill": 0.9, "padding": None, "batch_size": 32.0, "agreement": None},
        **{
            "models": 2,
            "models_on_gpu": 2,
            "models_not_frozen": 0,
            "models_not_optimised": 0,
            "oom_splits": 0,
        },
        warnings=("1 batch was split",),
    )
    record = RunRecord(
        **{"labelbeam": "0.1.0", "model": "m", "runner": "PrismRunner", "started": "s", "seconds": 3725.0},
        **{"run_id": RUN_ID, "generation": 1, "counts": {}, "rows": {}, "failures_by_reason": {}},
        **{"images_per_sec": 17.5, "performance": performance, "verdict": None},
    )
    write_run_record(str(output), record)
    assert main(["report", str(output), f"--page={tmp_path}/page.html"]) == 0
    text = Outline((tmp_path / "page.html").read_text("utf-8")).text
    for fact in ("1 h 2 min", "17.5 images/s", "PrismRunner", "decoding", "more cores", "45.6 ms", "25.0%"):
        assert fact in text
    for fact in ("2 on GPUs", "1 batch was split"):
        assert fact in text
    assert "padding" not in text and "agreement" not in text


def test_report__doubts_and_origins__are_shown(tmp_path):
    output = make_output("single_label", tmp_path / "out")
    manifest = read_manifest(str(output))
    doubtful = dataclasses.replace(
        manifest,
        model={**manifest.model, "head_from": "probed", "doubts": ["Scores may be features."]},
        preprocessing={
            **{**manifest.preprocessing, "scaling_from": "assumed"},
            **{"input_range": [0, 255], "channel_mean": [123.68, 116.779, 103.939], "channel_order": "bgr"},
        },
        config={**manifest.config, "top_k": 7, "loaders": 0, "secret_params": []},
        balanced=False,
    )
    (output / "manifest.json").write_bytes(write_document(doubtful))
    assert main(["report", str(output), f"--page={tmp_path}/page.html"]) == 0
    text = " ".join(Outline((tmp_path / "page.html").read_text("utf-8")).text.split())
    for fact in (
        "Scores may be features.",
        "The input range is assumed",
        "probed: the sample photos show it",
        "input rangecaffe assumed",
        "does not balance",
        "top_k7 set",
        "loaders0 set",
    ):
        assert fact in text
    assert "secret_params" in text and not re.search(r"secret_params\S set", text)


def test_report__output_and_page_in_a_bucket__are_read_and_written(tmp_path, gcs, one_client):
    output = make_output("multilabel", tmp_path / "out")
    for path in filter(Path.is_file, output.rglob("*")):
        gcs.put(f"gs://b/out/{path.relative_to(output)}", path.read_bytes())
    for _ in range(2):  # the second one over the first one
        assert main(["report", "gs://b/out", "--page=gs://b/pages/report.html"]) == 0
    assert b"gs://b/out" in gcs.get("gs://b/pages/report.html")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("head", ["single_label", "multilabel"])
def test_read_labels__random_tables__equal_a_computation_by_hand(head, seed, tmp_path):
    rows = random_rows(seed, 200)
    output = publish_rows(
        tmp_path, Settings(CLASSES, head=head, threshold=0.0 if head == "multilabel" else None), rows
    )
    labels = {n: [] for n in range(4)}
    for row in rows:
        for class_id, score in row["labels"][: 1 if head == "single_label" else None]:
            labels[class_id].append((score, row["id"]))
    with open_database() as db:
        found = read_labels(db, db.attach(str(output)), 0)
    expected = sorted(((len(of), -n) for n, of in labels.items() if of), reverse=True)
    assert [(one.images, -one.class_id) for one in found.classes] == expected
    assert found.total == sum(map(len, labels.values())) and found.seen == len(expected)
    for one in found.classes:
        scores = [score for score, _ in labels[one.class_id]]
        assert one.score == pytest.approx(sum(scores) / len(scores))
        bins = [sum(min(int(s * 20), 19) == n for s in scores) for n in range(20)]
        assert [b.images for b in one.bins] == bins
    assert [b.images for b in found.bins] == [sum(o.bins[n].images for o in found.classes) for n in range(20)]
    for extremes in found.extremes:
        ordered = sorted(labels[extremes.of.class_id])
        assert [(i.score, i.id) for i in extremes.least] == ordered[:6]
        assert [(i.score, i.id) for i in extremes.most] == [
            o for o in ordered[::-1][:6] if o not in ordered[:6]
        ]
    if head == "multilabel":
        assert dict(found.per_image) == {
            n: c for n in range(4) if (c := sum(len(r["labels"]) == n for r in rows))
        }


@pytest.mark.parametrize("seed", range(3))
def test_read_image_files__random_tables__equal_a_computation_by_hand(seed, tmp_path):
    rows = random_rows(seed, 200)
    with open_database() as db:
        db.attach(str(publish_rows(tmp_path, Settings(CLASSES), rows)))
        files = read_image_files(db, 224)
    assert files.facts == {
        "images": 200,
        "bytes": sum(row["size_bytes"] for row in rows),
        "small": sum(min(row["width_px"], row["height_px"]) < 224 for row in rows),
        "turned": sum(row["orientation"] > 1 for row in rows),
        "animated": sum(row["frames"] != 1 for row in rows),
    }
    assert {one["format"]: one["images"] for one in files.formats} == {
        name: sum(row["format"] == name for row in rows) for name in {row["format"] for row in rows}
    }
    for b in files.megapixels:
        assert b.images == sum(b.low <= row["width_px"] * row["height_px"] / 1e6 < b.high for row in rows)
    assert sum(b.images for b in files.kilobytes) == sum(b.images for b in files.megapixels) == 200


def test_read_failures__table__has_reasons_with_examples_and_hosts(tmp_path):
    with open_database() as db:
        db.attach(str(publish_rows(tmp_path, Settings(CLASSES), [], failures_of(30))))
        failures = read_failures(db)
    assert [(row["reason"], row["images"]) for row in failures.reasons] == [
        ("not_found", 20),
        ("timeout", 10),
    ]
    assert [one["message"] for one in failures.reasons[0]["examples"]] == [
        "message 0",
        "message 2",
        "message 3",
    ]
    assert [(row["host"], row["images"]) for row in failures.hosts] == [
        *[("h0.example", 8), ("h1.example", 8)],
        *[("h2.example", 7), ("h3.example", 7)],
    ]
    assert failures.hosts_seen == 4


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ([], []),
        ([[3.0, 4.0]] * 7, [7]),
        ([[0.0, 1.0], [0.0, 3.0]], [1, 1]),
        ([[3e38, 3e38], [0.0, 0.0]], [1, 1]),
        ([[0.6, 0.8], [0.8, 0.6], [0.600000001, 0.8]], [3]),
    ],
)
def test_read_norms__embeddings__are_counted_by_their_length(vectors, expected, tmp_path):
    settings = Settings((), head="embedding", outputs={"embedding": 2})
    rows = [{"id": f"{n}", "labels": [], "embedding": vector} for n, vector in enumerate(vectors)]
    with open_database() as db:
        db.attach(str(publish_rows(tmp_path, settings, rows)))
        bins = read_norms(db)
    assert [b.images for b in bins if b.images] == expected
    assert all(b.low < b.high for b in bins)


def test_report__show_sql__prints_statements_that_run_and_writes_no_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(make_output("single_label", tmp_path / "out")), "--show_sql"]) == 0
    duckdb.connect().execute(capsys.readouterr().out)
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("labels", "labels-report.html"),
        ("a/labels/", "labels-report.html"),
        ("labels@3", "labels@3-report.html"),
        ("gs://bucket/pets 2", "pets-2-report.html"),
        ("gs://bucket", "bucket-report.html"),
        ("/", "report.html"),
    ],
)
def test_default_page__output__names_the_page(output, expected):
    from labelbeam.pipeline.commands.report import default_page

    assert default_page(output) == expected


def test_report__default_page__is_written_and_written_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_output("empty", tmp_path / "out")
    for _ in range(2):
        assert main(["report", "out"]) == 0
    assert (tmp_path / "out-report.html").exists()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_report__foreign_file_in_the_pages_place__is_refused_and_stays(what, tmp_path, capsys):
    path = tmp_path / "mine.html"
    if what == "file":
        path.write_text("<p>mine")
    else:
        path.mkdir()
    assert main(["report", str(make_output("empty", tmp_path / "out")), f"--page={path}"]) == 2
    assert f"page={str(path)!r} is" in capsys.readouterr().err
    assert path.is_dir() or path.read_text() == "<p>mine"


@pytest.mark.parametrize("value", ["-1", "1001", "many", "1.5"])
def test_report__impossible_number_of_thumbnails__is_refused(value, tmp_path, capsys):
    assert main(["report", str(tmp_path), f"--thumbnails={value}"]) == 2
    assert "a whole number from 0 to 1,000" in capsys.readouterr().err


def test_report__thumbnails_of_embeddings__are_refused(tmp_path, capsys):
    assert (
        main(
            [
                "report",
                str(make_output("embedding", tmp_path / "o")),
                "--thumbnails=3",
                f"--page={tmp_path}/p",
            ]
        )
        == 2
    )
    assert "embeddings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("uris", "expected"),
    [
        (["/data/a/1.jpg", "/data/a/2.jpg"], "/data/a/"),
        (["/data/a/1.jpg"], "/data/a/"),
        (["/data/ab/1.jpg", "/data/ac/2.jpg"], ""),
        (["gs://b/x/1.jpg", "gs://b/x/2.jpg"], "gs://b/x/"),
        (["gs://b/1.jpg", "gs://b/2.jpg"], ""),
        (["https://h.example/1.jpg", "https://i.example/2.jpg"], ""),
        ([], ""),
    ],
)
def test_common_folder__addresses__share_one_below_their_host(uris, expected):
    assert common_folder(uris) == expected


# Size


@pytest.mark.parametrize(("classes", "length"), [(1_000, 20), (21_000, 20), (21_000, 300)])
def test_report__many_classes__fit_into_five_megabytes(classes, length, tmp_path):
    names = [f"{n}-".ljust(length, "é") for n in range(classes)]
    rows = [{"id": f"{n}", "labels": [(n, 0.5)]} for n in range(classes)]
    output = publish_rows(tmp_path / "out", Settings(names), rows)
    assert main(["report", str(output), f"--page={tmp_path}/page.html"]) == 0
    html = (tmp_path / "page.html").read_text("utf-8")
    assert len(html.encode()) <= 5_000_000
    shown = html.count('class="number quiet">') - 15
    assert shown == classes or "rarer labels are left out" in html


# Thumbnails


def picture(color: str, size: tuple[int, int] = (400, 200), orientation: int = 1) -> bytes:
    """Return a JPEG whose left half has a colour, and whose right half is white."""
    image = Image.new("RGB", size, "white")
    image.paste(color, (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    image.save(data, "JPEG", quality=95, exif=exif)
    return data.getvalue()


def labelled(path_or_uri: str, data: bytes, n: int = 0) -> dict:
    sha256 = hashlib.sha256(data).hexdigest()
    return {"id": f"{n}", "uri": path_or_uri, "sha256": sha256, "labels": [(0, 0.5 + n / 100)]}


def thumbnails_of(html: str) -> list[Image.Image]:
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" width="(\d+)" height="(\d+)"', html)
    pictures = [(Image.open(io.BytesIO(base64.b64decode(data))), int(w), int(h)) for data, w, h in found]
    assert all(picture.size == (width, height) for picture, width, height in pictures)
    return [picture for picture, _, _ in pictures]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_thumbnails__any_orientation__are_small_and_upright(orientation, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(picture("red", orientation=orientation))
    output = publish_rows(tmp_path / "out", Settings(CLASSES), [labelled(str(path), path.read_bytes())])
    page = tmp_path / "page.html"
    assert main(["report", str(output), f"--page={page}", "--thumbnails=5"]) == 0
    (small,) = thumbnails_of(page.read_text("utf-8"))
    upright = ImageOps.exif_transpose(Image.open(path))
    assert small.size == ((160, 80) if orientation <= 4 else (80, 160))
    for x, y in ((0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9)):
        expected = upright.getpixel((int(x * upright.width), int(y * upright.height)))
        found = small.getpixel((int(x * small.width), int(y * small.height)))
        assert all(abs(a - b) < 30 for a, b in zip(expected, found, strict=True))


def test_thumbnails__images_that_are_gone_or_changed__have_a_text(tmp_path, capsys):
    rows = []
    for n, color in enumerate(("red", "blue", "green")):
        path = tmp_path / f"{color}.jpg"
        path.write_bytes(picture(color, size=(100, 40)))
        rows.append(labelled(str(path), path.read_bytes(), n))
    rows.append(labelled("https://example.com/a.jpg?sig=\u2026", b"", 3))
    output = publish_rows(tmp_path / "out", Settings(CLASSES), rows)
    (tmp_path / "red.jpg").unlink()
    (tmp_path / "blue.jpg").write_bytes(picture("black"))
    page = tmp_path / "page.html"
    assert main(["report", str(output), f"--page={page}", "--thumbnails=9"]) == 0
    html, printed = page.read_text("utf-8"), capsys.readouterr().out
    # Smaller images keep their size.
    assert [small.size for small in thumbnails_of(html)] == [(100, 40)]
    assert "Thumbnails: 1 of 9" in printed and "lists no more than 4 images" in printed
    for text in ("not_found", "changed since it was labelled", "has a secret"):
        assert text in html and text in printed


def test_thumbnails__web_server__gets_the_runs_own_requests(web, tmp_path, capsys):
    data = picture("red")
    web.files = {"/a.jpg": data, "/b.jpg": data}
    rows = [labelled(f"{web.uri('')}/{name}.jpg", data, n) for n, name in enumerate("ab")]
    output = publish_rows(tmp_path / "out", Settings(CLASSES), rows)
    page = tmp_path / "page.html"
    command = ["report", str(output), f"--page={page}"]
    assert main(command) == 0 and not web.requests
    # A server of tests has no public address, so it must be allowed as in a run.
    assert main([*command, "--thumbnails=1"]) == 0
    assert "forbidden_address" in page.read_text("utf-8") and not web.requests
    assert main([*command, "--thumbnails=1", "--allow_hosts=127.0.0.0/8", "--user_agent=me"]) == 0
    assert len(thumbnails_of(page.read_text("utf-8"))) == 1
    assert web.requests.total() == 1 and web.last_headers["User-Agent"] == "me"


def test_thumbnails__too_many_for_a_page__are_left_out_in_words(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report_page, "MAX_BYTES", 150_000)
    rows = []
    for n in range(60):
        path = tmp_path / f"{n}.png"
        Image.effect_noise((160, 160), 90).convert("RGB").save(path)
        rows.append(labelled(str(path), path.read_bytes(), n))
    output = publish_rows(tmp_path / "out", Settings(CLASSES), rows)
    page = tmp_path / "page.html"
    assert main(["report", str(output), f"--page={page}", "--thumbnails=60"]) == 0
    html, printed = page.read_text("utf-8"), capsys.readouterr().out
    assert 100_000 < len(html) <= 150_000
    shown = len(thumbnails_of(html))
    assert 0 < shown < 60 and html.count("left out, because") == 60 - shown
    assert f"Thumbnails: {shown} of 60." in printed
    assert f"{60 - shown} are left out of the page" in printed


# Browser


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    """Return a page of each kind of output; the first one with a truth and thumbnails."""
    paths = {kind: write_page(kind, tmp_path_factory.mktemp("page")) for kind in KINDS}
    folder = tmp_path_factory.mktemp("thumbnails")
    rows = []
    for n, row in enumerate(with_truth(3)[:40]):
        path = folder / f"{n}.jpg"
        path.write_bytes(picture("teal", size=(200 + n, 150)))
        rows.append(
            {**row, **labelled(str(path), path.read_bytes()), "id": row["id"], "labels": row["labels"]}
        )
    output = publish_rows(
        folder / "out", Settings(CLASSES, columns={"truth": "string"}), rows, failures_of(9)
    )
    path = folder / "page.html"
    assert main(["report", str(output), f"--page={path}", "--truth=truth", "--thumbnails=20"]) == 0
    return {"thumbnails": path, **paths}


@pytest.mark.parametrize(
    ("scheme", "width_px"), [("light", 1280), ("dark", 1280), ("light", 380), ("dark", 380)]
)
@pytest.mark.parametrize("kind", ["thumbnails", *KINDS])
def test_page__browser_without_network__is_accessible_and_sends_no_request(
    kind, scheme, width_px, written, browser
):
    with browser.open(written[kind], width_px, scheme) as tab:
        # Open, because axe leaves out what cannot be seen.
        tab.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert tab.violations() == []
        assert tab.overflow_px() <= 0
        assert tab.requests == [tab.page.url] and tab.errors == []


def test_page__colour_schemes__differ(written, browser):
    colours = set()
    for scheme in ("light", "dark"):
        with browser.open(written["single_label"], scheme=scheme) as tab:
            colours.add(tab.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            # Of a bar in a chart, too, because charts have the colours of the page.
            bar = "getComputedStyle(document.querySelector('figure.chart svg [fill=\"var(--bar)\"]')).fill"
            colours.add(tab.page.evaluate(bar))
    assert len(colours) == 4


def test_page__keyboard__reaches_skip_link_parts_tables_and_folded_numbers(written, browser):
    with browser.open(written["single_label"]) as tab:
        page = tab.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        reached = set()
        for _ in range(150):
            page.keyboard.press("Tab")
            tag, kind = page.evaluate("[document.activeElement.tagName, document.activeElement.className]")
            if tag == "SUMMARY" and "SUMMARY" not in reached:
                page.keyboard.press("Enter")
                assert page.evaluate("document.activeElement.parentElement.open")
            reached |= {tag, kind}
        assert {"SUMMARY", "scroll", "A"} <= reached


def test_browser__page_with_faults__finds_them(tmp_path, browser):
    path = tmp_path / "bad.html"
    path.write_text(
        '<html><body><img src="https://attacker.example/x.png"><p style="width:2000px;color:#eee">pale text'
    )
    with browser.open(path, 380) as tab:
        rules = {one.partition(":")[0] for one in tab.violations()}
        assert {"image-alt", "color-contrast", "document-title"} <= rules
        assert tab.overflow_px() > 1000
        assert tab.requests == [path.as_uri(), "https://attacker.example/x.png"]
