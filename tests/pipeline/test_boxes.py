"""Whole runs over boxes of images."""

import json
import math
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.rerun import rerun
from labelbeam.pipeline.commands.verify import verify
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.photos import PHOTOS
from tests.doctor import case_of, find
from tests.graphs import TWO_PROCESSES, assert_sound, read_tables, run_pipeline
from tests.list_files import WRITERS
from tests.pipeline.test_report import thumbnails_of
from tests.shards import example, record, tar_of
from tests.synthetic import encoded, gradient

# Boxes of the first photos as fractions: of each photo three, of which one leaves the photo.
PHOTO_PATHS = sorted(PHOTOS.iterdir())[:6]
EDGES = ("left", "top", "right", "bottom")
BOXES = [[0.1, 0.1, 0.6, 0.5], [0.25, 0.3, 0.5, 1.0], [0.9, 0.9, 0.97, 0.99]]
LIST = {"box_columns": "boxes", "box_unit": "fractions"}
FOUR = {"box_columns": ",".join(EDGES), "box_unit": "fractions"}


def rows_of_boxes() -> list[dict]:
    """Return a row for each box."""
    return [
        {"url": str(path), "photo": path.stem, **dict(zip(EDGES, box, strict=True))}
        for path in PHOTO_PATHS
        for box in reversed(BOXES)
    ]


def rows_of_images(as_text: bool = False) -> list[dict]:
    """Return a row for each photo, with a list of boxes."""
    boxes = json.dumps(BOXES) if as_text else BOXES
    return [{"url": str(path), "photo": path.stem, "boxes": boxes} for path in PHOTO_PATHS]


def facts_of(row: dict) -> tuple:
    return row["width_px"], row["height_px"], [one["label"] for one in row["labels"]]


def scores_of(row: dict) -> list[float]:
    return [one["score"] for one in row["labels"]]


@pytest.fixture(scope="module")
def crops(tmp_path_factory, tiny) -> dict[tuple[str, int], dict]:
    """Return the rows of the crops of photos, each an image of its own, by photo and number of the box."""
    folder = tmp_path_factory.mktemp("crops")
    (folder / "in").mkdir()
    for path in PHOTO_PATHS:
        photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        for n, box in enumerate(BOXES):
            edges = [math.floor(edge * size + 0.5) for edge, size in zip(box, photo.size * 2, strict=True)]
            photo.crop(edges).save(folder / "in" / f"{path.stem}-{n}.png")
    run_pipeline(input=folder / "in", output=folder / "out", model=tiny)
    rows = {Path(row["uri"]).stem: row for row in read_tables(folder / "out")[0]}
    return {(path.stem, n): rows[f"{path.stem}-{n}"] for path in PHOTO_PATHS for n in range(len(BOXES))}


def assert_rows_of_crops(output, crops, stem_of) -> None:
    predictions, failures = read_tables(output)
    assert not failures
    assert len(predictions) == len(crops)
    for row in predictions:
        number = row["id"].rpartition("#")[2]
        expected = crops[stem_of(row), int(number)]
        assert facts_of(row) == facts_of(expected)
        assert scores_of(row) == pytest.approx(scores_of(expected), abs=1e-5)
        assert "#xywh=percent:" in row["uri"]


@pytest.mark.parametrize(
    ("suffix", "options", "flags", "layout"),
    [
        ("csv", FOUR, TWO_PROCESSES, "fused"),
        ("parquet", FOUR, (), "fused"),
        ("json", FOUR, (), "fused"),
        ("tsv", LIST, (), "fused"),
        ("jsonl", LIST, (), "fused"),
        ("parquet", LIST, (), "split"),
    ],
)
def test_run__boxes_in_lists_of_any_format__have_the_labels_of_their_crops(
    tmp_path, tiny, crops, suffix, options, flags, layout
):
    is_text = suffix in ("csv", "tsv", "psv")
    rows = rows_of_boxes() if options is FOUR else rows_of_images(as_text=is_text)
    listed, output = tmp_path / f"list.{suffix}", tmp_path / "out"
    listed.write_bytes(WRITERS[suffix](rows))
    run_pipeline(*flags, input=listed, output=output, model=tiny, layout=layout, loaders=1, **options)
    assert assert_sound(output)["counts"]["listed"] == len(crops)
    assert_rows_of_crops(output, crops, lambda row: row["photo"])
    columns = read_tables(output)[0][0].keys()
    # Boxes are in the URIs, and not all boxes of an image in each of its rows.
    assert "boxes" not in columns
    assert (EDGES[0] in columns) == (options is FOUR)
    assert verify(str(output), {"input": str(listed)}) == []
    # Nothing is left to do.
    again = run_pipeline(input=listed, output=output, model=tiny, **options)["counts"]
    assert (again["kept"], again["labelled"], again["other"]) == (len(crops), 0, 0)


def test_run__boxes_of_images_inside_files__have_the_labels_of_their_crops(tmp_path, tiny, crops):
    members = {}
    for path in PHOTO_PATHS:
        members[path.name] = path.read_bytes()
        members[f"{path.stem}.json"] = json.dumps({"boxes": BOXES}).encode()
    archive, output = tmp_path / "a.tar", tmp_path / "out"
    archive.write_bytes(tar_of(members))
    options = {"input": archive, "output": output, "model": tiny}
    options |= {"box_columns": "json.boxes", "box_unit": "fractions"}
    run_pipeline(**options)
    assert assert_sound(output)["counts"]["listed"] == len(crops)
    assert_rows_of_crops(output, crops, lambda row: row["key"])
    assert verify(str(output), {"input": str(archive)}) == []
    again = run_pipeline(**options)["counts"]
    assert (again["kept"], again["labelled"], again["other"]) == (len(crops), 0, 0)
    # One box moves, and one image has a box more.
    moved = [*BOXES[:2], [0.0, 0.0, 0.5, 0.5], BOXES[2]]
    members[f"{PHOTO_PATHS[0].stem}.json"] = json.dumps({"boxes": moved}).encode()
    archive.write_bytes(tar_of(members))
    again = run_pipeline(**options)["counts"]
    assert (again["kept"], again["labelled"], again["other_uri"]) == (len(crops) - 1, 2, 1)
    assert_sound(output)


def test_run__box_of_an_image_in_a_record__is_one_row(tmp_path, tiny):
    edges = dict(zip(EDGES, (8, 4, 40, 20), strict=True))
    data = record(example(image=encoded(gradient(60, 40)), **edges))
    (tmp_path / "a.tfrecord").write_bytes(data)
    options = {"input": tmp_path / "a.tfrecord", "output": tmp_path / "out", "model": tiny}
    run_pipeline(**options, box_columns=",".join(EDGES), box_unit="pixels")
    ((row,), _) = read_tables(tmp_path / "out")
    assert (row["width_px"], row["height_px"], row["id"][-2:]) == (32, 16, "#0")
    assert row["uri"].endswith("a.tfrecord#0#xywh=pixel:8,4,32,16")


def test_run__many_boxes_of_an_image__are_one_request_and_fail_together(tmp_path, web, tiny):
    web.files["/image.png"] = encoded(gradient(600, 400))
    lines = ["url,left,top,right,bottom"]
    names = ("/image.png", "/missing.png")
    lines += [f"{web.uri(name)},{n},{n},{n + 30},{n + 20}" for n in range(40) for name in names]
    # Outside, and no box at all.
    lines += [f"{web.uri('/image.png')},900,0,950,50", f"{web.uri('/image.png')},9,9,5,5"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    options = {
        "input": tmp_path / "boxes.csv",
        "output": tmp_path / "out",
        "model": tiny,
        "max_failure_rate": 1,
    }
    boxes = {"box_columns": ",".join(EDGES), "box_unit": "pixels"}
    counts = run_pipeline(**options, **boxes, loaders=1)["counts"]
    assert (counts["listed"], counts["labelled"], counts["failed"]) == (82, 40, 42)
    assert web.requests == {"/image.png": 1, "/missing.png": 1}
    predictions, failures = read_tables(tmp_path / "out")
    assert {row["id"].rpartition("#")[0] for row in predictions} == {predictions[0]["id"].rpartition("#")[0]}
    assert sorted(int(row["id"].rpartition("#")[2]) for row in predictions) == list(range(40))
    assert len({(row["id"], row["uri"]) for row in failures}) == 42
    reasons = [row["reason"] for row in failures]
    assert {r: reasons.count(r) for r in set(reasons)} == {"not_found": 40, "outside_image": 1, "bad_row": 1}
    # The missing image appears: one request labels its boxes, and the box that is outside is tried again.
    web.files["/missing.png"] = encoded(gradient(500, 300))
    web.requests.clear()
    assert rerun(str(tmp_path / "out"), None, {}, [])
    assert web.requests == {"/image.png": 1, "/missing.png": 1}
    assert len(read_tables(tmp_path / "out")[0]) == 80
    assert_sound(tmp_path / "out")


def test_run__sample_and_limit__choose_images_with_all_their_boxes(tmp_path, tiny):
    listed = tmp_path / "list.jsonl"
    listed.write_bytes(WRITERS["jsonl"](rows_of_images()))
    four = tmp_path / "four.csv"
    four.write_bytes(WRITERS["csv"](rows_of_boxes()))
    chosen = []
    for name, source, boxes in (("a", listed, LIST), ("b", four, FOUR)):
        output = tmp_path / name
        counts = run_pipeline(input=source, output=output, model=tiny, limit=2, **boxes)["counts"]
        assert (counts["labelled"], counts["not_chosen"]) == (6, 12)
        assert verify(str(output), {"input": str(source)}) == []
        chosen.append({row["photo"] for row in read_tables(output)[0]})
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 2


def test_run__boxes_of_equal_images__share_labels_only_where_the_regions_are_equal(tmp_path, tiny):
    picture = encoded(gradient(60, 40))
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(picture)
    rows = [
        {"url": str(tmp_path / f"{name}.png"), "boxes": [[0, 0, 10, 10], [40, 20, 60, 40]]} for name in "ab"
    ]
    (tmp_path / "list.jsonl").write_bytes(WRITERS["jsonl"](rows))
    options = {"input": tmp_path / "list.jsonl", "model": tiny, "box_columns": "boxes", "box_unit": "pixels"}
    counts = run_pipeline(**options, output=tmp_path / "content", dedupe="content")["counts"]
    assert (counts["labelled"], counts["reused"]) == (4, 2)
    run_pipeline(**options, output=tmp_path / "all")
    shared, each = read_tables(tmp_path / "content")[0], read_tables(tmp_path / "all")[0]
    for one, other in zip(shared, each, strict=True):
        assert scores_of(one) == pytest.approx(scores_of(other), abs=1e-5)
    assert scores_of(each[0]) != pytest.approx(scores_of(each[1]), abs=1e-3)


def test_run__image_that_changes__all_its_boxes_are_labelled_again_by_refresh(tmp_path, tiny):
    image = tmp_path / "a.png"
    image.write_bytes(encoded(gradient(60, 40)))
    (tmp_path / "list.jsonl").write_bytes(
        WRITERS["jsonl"]([{"url": str(image), "boxes": [[0, 0, 10, 10], [40, 20, 60, 40]]}])
    )
    options = {"input": tmp_path / "list.jsonl", "output": tmp_path / "out", "model": tiny}
    options |= {"box_columns": "boxes", "box_unit": "pixels", "refresh": "changed"}
    assert run_pipeline(**options)["counts"]["labelled"] == 2
    counts = run_pipeline(**options)["counts"]
    assert (counts["kept"], counts["unchecked"], counts["labelled"]) == (2, 0, 0)
    image.write_bytes(encoded(gradient(60, 41)))
    assert run_pipeline(**options)["counts"]["labelled"] == 2
    image.unlink()
    counts = run_pipeline(**options)["counts"]
    assert (counts["kept"], counts["unchecked"], counts["failed"]) == (2, 2, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box_columns": "boxes"}, "needs a unit"),
        ({"box_unit": "pixels"}, "has no boxes. Add --box_columns"),
        ({"box_columns": "left,top", "box_unit": "pixels"}, "must be four columns"),
        ({"box_columns": "crops", "box_unit": "pixels"}, "has no column 'crops'"),
        ({"box_columns": "photo", "box_unit": "pixels"}, None),
        ({"box_columns": "url", "box_unit": "pixels"}, "has no column 'url' beside those of URI and id"),
    ],
)
def test_run__options_of_boxes_that_do_not_fit__are_one_line(tmp_path, tiny, options, message):
    listed = tmp_path / "list.jsonl"
    listed.write_bytes(WRITERS["jsonl"](rows_of_images()))
    if message is None:  # text that is no list of boxes, which only its rows show
        counts = run_pipeline(input=listed, output=tmp_path / "o", model=tiny, max_failure_rate=1, **options)[
            "counts"
        ]
        assert (counts["failed"], counts["labelled"]) == (len(PHOTO_PATHS), 0)
        return
    with pytest.raises(UserError, match=message):
        run_pipeline(input=listed, output=tmp_path / "o", model=tiny, **options)
    folder = {"input": str(PHOTOS), "output": str(tmp_path / "p"), "model": tiny}
    with pytest.raises(UserError, match="box"):
        run_pipeline(**folder, **options)


@pytest.fixture
def boxes_of_photo(tmp_path, tiny) -> dict:
    """Return the options of a run over two boxes of an image, of which the left one is red."""
    image = Image.new("RGB", (200, 100), "blue")
    image.paste("red", (0, 0, 100, 100))
    (tmp_path / "a.png").write_bytes(encoded(image))
    rows = [{"url": str(tmp_path / "a.png"), "boxes": [[0, 0, 100, 100], [150, 0, 200, 100]]}]
    (tmp_path / "list.jsonl").write_bytes(WRITERS["jsonl"](rows))
    options = {"input": tmp_path / "list.jsonl", "output": tmp_path / "out", "model": tiny}
    return options | {"box_columns": "boxes", "box_unit": "pixels"}


def test_doctor_and_inspect__boxes__are_labelled(boxes_of_photo, capsys):
    case = case_of(**boxes_of_photo, offline=True)
    for name in ("input", "model", "images"):
        findings = find(name, case)
        assert [finding.level.value for finding in findings] == ["ok"], findings
    text = "\n".join(findings[0].details)
    assert "a.png#xywh=pixel:0,0,100,100: class" in text
    flags = [f"--{name}={value}" for name, value in boxes_of_photo.items() if name not in ("output", "model")]
    assert main(["model", "inspect", str(boxes_of_photo["model"]), *flags]) == 0
    assert "a.png#xywh=pixel:0,0,100,100: class" in capsys.readouterr().out


def test_results__boxes__are_shown_as_crops_and_refused_where_images_would_be_shown(
    boxes_of_photo, tmp_path, capsys
):
    run_pipeline(**boxes_of_photo)
    output = str(tmp_path / "out")
    assert main(["report", output, f"--page={tmp_path}/report.html", "--thumbnails=5"]) == 0
    pictures = thumbnails_of((tmp_path / "report.html").read_text())
    assert {(picture.size, picture.getpixel((20, 20))[0] > 200) for picture in pictures} == {
        ((100, 100), True),
        ((50, 100), False),
    }
    for form in ("labelstudio", "fiftyone"):
        assert (
            main(
                ["select", output, "--by=score", "--number=5", "--format", form, "--to", str(tmp_path / form)]
            )
            == 2
        )
        assert "would show whole images, and 2 of the selected rows are boxes" in capsys.readouterr().err
    assert (
        main(
            [
                "select",
                output,
                "--by=score",
                "--number=5",
                "--format=csv",
                "--to",
                str(tmp_path / "selected.csv"),
            ]
        )
        == 0
    )


def test_run__boxes_of_signed_addresses__are_requested_with_their_secrets(web, tmp_path, tiny):
    web.files["/a.png"] = encoded(gradient(60, 40))
    (tmp_path / "list.jsonl").write_bytes(
        WRITERS["jsonl"](
            [{"url": web.uri("/a.png?sig=secret"), "boxes": [[0, 0, 9, 9], [9, 9, 30, 30], [1, 2]]}]
        )
    )
    options = {
        "input": tmp_path / "list.jsonl",
        "output": tmp_path / "out",
        "model": tiny,
        "max_failure_rate": 1,
    }
    run_pipeline(**options, box_columns="boxes", box_unit="pixels", loaders=1)
    predictions, failures = read_tables(tmp_path / "out")
    assert web.targets == ["/a.png?sig=secret"]
    assert (len(predictions), len(failures)) == (2, 1)
    assert "secret" not in str([predictions, failures])
    assert predictions[0]["uri"].endswith("/a.png?sig=…#xywh=pixel:0,0,9,9")
