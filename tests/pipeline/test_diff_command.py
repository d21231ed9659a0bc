"""The command `diff`: refusals, files, its page in a browser, and photos decoded in two ways."""

import dataclasses
import json
from pathlib import Path

import duckdb
import pytest
from PIL import Image, ImageOps

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.results.truth import TruthOptions
from labelbeam.pipeline.results.verdict import explain_test
from labelbeam.transforms.photos import photo_paths, right_classes
from tests.pairs import CLASSES, MULTI, SINGLE, difference_of, publish_labels, random_pair
from tests.tables import Settings, publish_rows


def test_command__nothing_in_common__is_refused(tmp_path, capsys):
    one = publish_labels(tmp_path / "one", CLASSES, {"1": 0})
    cases = {
        "no image in common, for example: 'gs://bucket/1.jpg' and 'gs://bucket/2.jpg'. Images": (
            publish_labels(tmp_path / "images", CLASSES, {"2": 0})
        ),
        "no image in common, for example: 'gs://bucket/1.jpg' and none. Images": (
            publish_labels(tmp_path / "none", CLASSES, {})
        ),
        "The models have no class of the same name, so that labels can't be compared. A has 'zero', 'one'": (
            publish_labels(tmp_path / "classes", ("ant", "bee"), {"1": 0})
        ),
        "A has 6 classes, B has 3, and one model has no names for them": (
            publish_labels(tmp_path / "unnamed", ("class 0", "class 1", "class 2"), {"1": 0})
        ),
        "A has labels and B has embeddings, so there is nothing to compare.": (
            publish_embedding(tmp_path / "embedding", 3)
        ),
        "holds no published results": tmp_path / "nowhere",
        "has no generation 7": f"{one}@7",
    }
    for message, other in cases.items():
        assert main(["diff", str(one), str(other)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    other = publish_embedding(tmp_path / "longer", 4)
    assert main(["diff", str(tmp_path / "embedding"), str(other)]) == 2
    assert "The embeddings have 3 and 4 numbers" in capsys.readouterr().err
    assert main(["diff", str(other), str(other), "--truth=folder"]) == 2
    assert "embeddings and no labels, so there is nothing to compare" in capsys.readouterr().err


def publish_embedding(output: Path, length: int) -> Path:
    settings = Settings((), "embedding", outputs={"embedding": length})
    return publish_rows(output, settings, [{"id": "1", "labels": [], "embedding": [1.0] * length}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "A is missing."),
        (["{}"], "B is missing."),
        (["{}", "{}", "--truth=class"], "truth='class' is no column of the input."),
        (["{}", "{}", "--json=/proc/no/x.json"], "'/proc/no/x.json' cannot be written: "),
        (["{}", "{}", "--page=/proc/no/x.html"], "'/proc/no/x.html' cannot be written: "),
        (["{}", "{}", "--page={}/manifest.json"], "is a place of the tables' own files."),
        (["{}", "{}", "--by=class"], "Unknown argument --by=class."),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and value else None,
)
def test_command__mistakes_of_the_user__are_one_line(tmp_path, capsys, arguments, message):
    publish_labels(tmp_path, CLASSES, {"1": 0})
    assert main(["diff", *(a.format(tmp_path) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_command__images_that_are_labelled_in_one_output_alone__leave_nothing_to_judge(tmp_path, capsys):
    columns = {"columns": {"truth": "string"}}
    a = publish_labels(tmp_path / "a", ("ant",), {"1": 0}, **columns)
    publish_rows(tmp_path / "b", Settings(("ant",), model="a", **columns), [], [{"id": "1"}])
    assert main(["diff", str(a), str(tmp_path / "b"), "--truth=truth"]) == 0
    text = capsys.readouterr().out
    assert "labelled in A, failed in B" in text and "No image with a truth is labelled in both" in text


def test_command__json_and_sql__hold_the_result(tmp_path, capsys):
    a, b = random_pair(1, (SINGLE, SINGLE))
    outputs = [str(a.publish(tmp_path / "a")), str(b.publish(tmp_path / "b"))]
    assert main(["diff", *outputs, "--truth=truth", f"--json={tmp_path}/d.json"]) == 0
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "d.json").read_text())
    assert found == json.loads(json.dumps(dataclasses.asdict(difference_of(*outputs, TruthOptions("truth")))))
    same = found["labels"]["same"]
    assert all(f"{same[name]:.3f}" in text for name in ("value", "low", "high"))
    assert found["labels"]["changed"][0]["uri"] in text

    assert main(["diff", *outputs, "--show_sql"]) == 0
    script = capsys.readouterr().out
    with duckdb.connect() as connection:
        # The whole output is a script of DuckDB.
        connection.execute(script)
        assert connection.execute("SELECT count(*) FROM labelled_twice").fetchall() == [(same["images"],)]


HOSTILE = ("<script>alert(1)</script>", "\u202e{{ 7 * 7 }}\0&amp;'", '"><img src=x>')


def publish_pair(kind: str, folder: Path) -> list[str]:
    """Publish two outputs, and return the arguments of the command."""
    outputs = folder / "a", folder / "b"
    arguments = [*map(str, outputs)]
    if kind == "embedding":
        for n, output in enumerate(outputs):
            settings = Settings((), "embedding", outputs={"embedding": 2})
            rows = [{"id": f"{i}", "labels": [], "embedding": [1.0, n * i / 9]} for i in range(9)]
            publish_rows(output, settings, rows)
    elif kind == "hostile":
        for n, output in enumerate(outputs):
            uri = "https://example.com/<b>/\u202e" + "x/" * 200
            rows = [{"id": f"{i}", "uri": f"{uri}{i}", "labels": [((i + n * i) % 3, 0.5)]} for i in range(6)]
            failures = [
                {"id": "f", "uri": uri, "reason": f"<i>{n}", "message": "</td><script>alert(2)</script>"}
            ]
            publish_rows(output, Settings(HOSTILE, model=f"<b>{n}</b>"), rows, failures)
    elif kind == "nothing in both":
        publish_labels(outputs[0], ("ant",), {"1": 0})
        publish_rows(outputs[1], Settings(("ant",), model="a"), [], [{"id": "1"}])
    elif kind == "same":
        publish_labels(outputs[0], ("ant",), {"1": 0})
        return [arguments[0], arguments[0]]
    else:
        pair = random_pair(1, (kind, kind))
        for images, output in zip(pair, outputs, strict=True):
            images.publish(output)
        arguments.append("--truth=truth")
    return arguments


@pytest.mark.parametrize("kind", [SINGLE, MULTI, "embedding", "hostile", "nothing in both", "same"])
def test_page__any_outputs__is_readable_without_a_network(tmp_path, capsys, browser, kind):
    arguments = publish_pair(kind, tmp_path)
    page = tmp_path / "page.html"
    assert main(["diff", *arguments, f"--page={page}", f"--json={tmp_path}/d.json"]) == 0
    html, found = page.read_text("utf-8"), json.loads((tmp_path / "d.json").read_text())
    assert "<script" not in html and "<img" not in html and len(html) < 1_000_000
    with browser.open(page, 380, "dark") as tab:
        assert (tab.violations(), tab.errors, tab.overflow_px(), len(tab.requests)) == ([], [], 0, 1)
        text = tab.page.inner_text("main")
    if kind in (SINGLE, MULTI):
        verdict, same = found["verdict"], found["labels"]["same"]
        numbers = [f"{verdict[side]['value']:.3f}" for side in ("a", "b")]
        numbers += [f"{same['value']:.3f}", f"{found['shifts']['mean']:+.4f}"]
        numbers += [one["uri"] for one in found["labels"]["changed"][:20]]
        numbers += [example["uri"] for fate in found["fates"] for example in fate["examples"]]
        assert all(number in text for number in numbers)
        assert explain_test(difference_of(*arguments[:2], TruthOptions("truth")).verdict) in text
    if kind == "embedding":
        assert f"{found['distant'][0]['distance']:.6f}" in text


def test_diff__photos_decoded_fast__names_the_two_that_differ(tmp_path, lite0_dir, capsys):
    """Compare both ways of decoding over the photos as large JPEGs, because only these are shrunk."""
    for path in photo_paths():
        with Image.open(path) as image:
            large = ImageOps.fit(image.convert("RGB"), (1600, 1200), Image.Resampling.LANCZOS)
        (tmp_path / "photos").mkdir(exist_ok=True)
        large.save(tmp_path / f"photos/{path.stem}.jpg", quality=85, subsampling="4:2:0")
    for decoding in ("good", "fast"):
        arguments = ["--input", f"{tmp_path}/photos", "--output", f"{tmp_path}/{decoding}"]
        assert main(["run", *arguments, "--model=efficientnet-lite0", f"--decoding={decoding}"]) == 0
    truth = "".join(f"{Path(n).stem}.jpg,{'|'.join(map(str, c))}\n" for n, c in right_classes().items())
    (tmp_path / "truth.csv").write_text(f"file,class\n{truth}")
    capsys.readouterr()
    assert main(["diff", f"{tmp_path}/good", f"{tmp_path}/fast", f"--truth_file={tmp_path}/truth.csv"]) == 0
    text = capsys.readouterr().out
    found = difference_of(tmp_path / "good", tmp_path / "fast")
    assert [one.name for one in found.settings] == ["--decoding"]
    assert sorted(Path(one.uri).stem for one in found.labels.changed) == ["moose", "windmill12"]
    assert all(one.uri in text for one in found.labels.changed)
    assert found.labels.same.value == 55 / 57
