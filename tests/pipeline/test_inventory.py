"""Refreshes from inventories: versions in the list in place of requests."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.inventory import generation_of, publish_inventory, serving, write_inventory
from labelbeam.transforms import predict
from tests.graphs import assert_sound, read_tables, run_pipeline
from tests.synthetic import jpeg_bytes


@pytest.fixture
def no_model(monkeypatch):
    """Return a function that forbids the load of a model, or permits it again."""
    load = predict.load_models

    def refuse(*_):
        raise AssertionError("A model was loaded")

    return lambda forbid: monkeypatch.setattr(predict, "load_models", refuse if forbid else load)


KINDS = {
    "google": ("/download/storage/v1/b/photos/o/", "bucket,name,generation", "X-Goog-Generation", "{}"),
    "s3": ("/", "bucket,key,e_tag", "ETag", '"{}"'),
}


@pytest.mark.parametrize("kind", KINDS)
def test_refresh__inventory__requests_only_images_whose_version_is_another(
    tmp_path, tiny, web, monkeypatch, no_model, kind, capsys
):
    path, names, header, form = KINDS[kind]
    options = {"input": tmp_path / "list.csv", "output": tmp_path / "out", "model": tiny}
    if kind == "s3":
        options["uri_template"] = web.uri("/{key}?sig=SECRET")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.uri(""))

    def refresh(a, b):
        """Refresh from a list with these versions, and return names of requested images and the counts."""
        (tmp_path / "list.csv").write_text(f"{names}\nphotos,a.jpg,{a}\nphotos,b.jpg,{b}\n", "utf-8")
        web.requests.clear()
        counts = run_pipeline(**options, refresh="changed")["counts"]
        assert_sound(tmp_path / "out")
        requested = sorted(Path(urlsplit(target).path).name for target in web.requests.elements())
        return requested, counts["kept"], counts["labelled"], counts["unchecked"]

    for name in ("a.jpg", "b.jpg"):
        web.files[path + name], web.versions[path + name] = jpeg_bytes(), {header: form.format(7)}
    assert refresh(7, 7) == (["a.jpg", "b.jpg"], 0, 2, 0)
    no_model(True)
    assert refresh(7, 7) == ([], 2, 0, 0)
    # A list that is older than the labels, or has no version, is no reason to fetch or to keep an image.
    assert refresh(6, "") == (["a.jpg", "b.jpg"], 2, 0, 0)
    no_model(False)
    web.files[path + "b.jpg"], web.versions[path + "b.jpg"] = jpeg_bytes(99, 99), {header: form.format(8)}
    assert refresh(7, 8) == (["b.jpg"], 1, 1, 0)
    assert refresh(7, 8) == ([], 2, 0, 0)
    assert "SECRET" not in capsys.readouterr().out + (tmp_path / "out" / "manifest.json").read_text("utf-8")
    versions = {
        row["name" if kind == "google" else "key"][0]: (row["version"], row["width_px"])
        for row in read_tables(tmp_path / "out")[0]
    }
    assert versions["a"][0] == form.format(7) and versions["b"] == (form.format(8), 99)


# Many images, because windows hold some for each core before the first is labelled.
@pytest.mark.parametrize(("layout", "rows"), [("fused", 800), ("split", 8)])
def test_dedupe__images_of_the_same_listed_digest__share_a_request(
    tmp_path, tiny, web, monkeypatch, layout, rows
):
    data, path = {"a": jpeg_bytes(), "b": jpeg_bytes(99, 99)}, KINDS["google"][0]
    lines = ["bucket,name,size,md5Hash,generation"]
    for n in range(rows):
        image = data["ab"[n % 2]]
        web.files[f"{path}{n}.jpg"], web.versions[f"{path}{n}.jpg"] = image, {"X-Goog-Generation": str(n)}
        lines.append(f"photos,{n}.jpg,{len(image)},{hashlib.md5(image).hexdigest()},{n}")
    (tmp_path / "list.csv").write_text("\n".join(lines), "utf-8")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.uri(""))
    options = {"input": tmp_path / "list.csv", "output": tmp_path / "out", "model": tiny, "batch_size": 1}
    counts = run_pipeline(**options, fetch_threads=1, dedupe="content", layout=layout)["counts"]
    assert_sound(tmp_path / "out")
    assert (counts["labelled"], counts["reused"]) == (rows, rows - 2)
    requests = web.requests.total()
    assert requests == rows if layout == "split" else requests < rows
    predictions, _ = read_tables(tmp_path / "out")
    for row in predictions:
        n = int(row["name"].removesuffix(".jpg"))
        assert (row["version"], row["width_px"]) == (str(n), 99 if n % 2 else 64)
    assert len({str(row["labels"]) for row in predictions}) == 2


def test_refresh__hundreds_of_rows_of_which_none_changed__make_no_request_and_load_no_model(
    tmp_path, tiny, monkeypatch, no_model
):
    rows = 300
    publish_inventory(tmp_path, rows, tiny)
    options = {"input": tmp_path / "inventory.csv", "output": tmp_path / "output", "model": tiny}
    with serving(jpeg_bytes(), generation_of(rows)) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        no_model(True)
        counts = run_pipeline(**options, refresh="changed")["counts"]
        assert (counts["kept"], counts["unchecked"], server.requests) == (rows, 0, 0)
        no_model(False)
        write_inventory(tmp_path / "inventory.csv", rows, changed=2)
        counts = run_pipeline(**options, refresh="changed")["counts"]
        assert (counts["kept"], counts["labelled"], server.requests) == (rows - 2, 2, 2)
