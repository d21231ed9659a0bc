import csv
import datetime
import functools
import shutil

import apache_beam as beam
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.graph import build_graph
from labelbeam.pipeline.prepare import prepared
from labelbeam.pipeline.runners.options import pipeline_options
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.spec import ModelOptions
from tests.graphs import (
    TWO_PROCESSES,
    assert_same_rows,
    assert_sound,
    label_purely,
    make_mixed_corpus,
    read_tables,
    run_pipeline,
)
from tests.specs import resolve_spec
from tests.synthetic import BAD_IMAGES, jpeg_bytes


def counts_of(manifest):
    return {kind: count for kind, count in manifest["counts"].items() if count}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Write a list in several files, with good and bad images, some of them twice."""
    folder = tmp_path_factory.mktemp("corpus")
    uris = make_mixed_corpus(folder / "images")
    for n in range(4):
        (folder / f"list-{n}.txt").write_text("\n".join([*uris[n::4], uris[0], uris[-1]]) + "\n", "utf-8")
    return folder, uris


@pytest.fixture(scope="module")
def expected(corpus, tiny):
    """Return labels and failures by id, from the pure functions."""
    return label_purely(corpus[1], Classifier(resolve_spec(ModelOptions(str(tiny))), 3, 4))


@pytest.mark.parametrize(
    "flags",
    [(), TWO_PROCESSES, ("--direct_runner_bundle_repeat=1",), ("--runner=BundleBasedDirectRunner",)],
    ids=["one_process", "two_processes", "bundles_twice", "bundle_based"],
)
def test_graph__mixed_corpus_in_shards__gives_what_the_pure_functions_give(
    tmp_path, corpus, expected, tiny, flags
):
    (folder, uris), (labels, failed) = corpus, expected
    options = {"input": f"{folder}/list-*.txt", "output": tmp_path / "out", "model": tiny, "top_k": 3}
    run_pipeline(*flags, loaders=2, **options)
    manifest = assert_sound(tmp_path / "out")
    predictions, failures = read_tables(tmp_path / "out")
    assert {f["id"]: (f["stage"], f["reason"]) for f in failures} == failed
    assert {p["id"] for p in predictions} == labels.keys()
    for p in predictions:
        ours = labels[p["id"]]
        assert [(one["class_id"], one["label"]) for one in p["labels"]] == [one[:2] for one in ours]
        assert [one["score"] for one in p["labels"]] == pytest.approx([one[2] for one in ours], abs=1e-5)
        assert (p["label"], p["score"]) == (p["labels"][0]["label"], p["labels"][0]["score"])
    assert manifest["counts"]["duplicate"] == 8 and manifest["counts"]["listed"] == len(uris) + 8
    assert len(failed) == len(BAD_IMAGES) + 2


@pytest.fixture(scope="module")
def fused(corpus, tiny, tmp_path_factory):
    """Return options, counts and output of a run in the fused layout, one for each value of --dedupe."""
    folder = tmp_path_factory.mktemp("fused")
    _, uris = corpus
    shutil.copy(uris[0], folder / "copy.jpg")
    (folder / "list.txt").write_text("\n".join([*uris, f"{folder}/copy.jpg", uris[0], uris[-1]]), "utf-8")

    @functools.cache
    def label(dedupe: str):
        options = {"input": folder / "list.txt", "model": tiny, "dedupe": dedupe, "loaders": 1}
        return options, run_pipeline(output=folder / dedupe, **options)["counts"], folder / dedupe

    return label


@pytest.mark.parametrize(
    ("flags", "dedupe"),
    [
        ((), "content"),
        (TWO_PROCESSES, "id"),
        (("--direct_runner_bundle_repeat=1",), "id"),
        (("--runner=BundleBasedDirectRunner",), "content"),
    ],
    ids=["one_process", "two_processes", "bundles_twice", "bundle_based"],
)
def test_graph__split_layout__gives_the_rows_of_the_fused_layout(tmp_path, fused, flags, dedupe):
    options, counts, output = fused(dedupe)
    split = run_pipeline(*flags, output=tmp_path / "split", layout="split", **options)
    assert_sound(tmp_path / "split")
    assert split["counts"] == counts and counts["duplicate"] == 2
    assert_same_rows(tmp_path / "split", output)


def test_graph__output_of_the_other_layout__goes_on(tmp_path, corpus, tiny):
    _, uris = corpus
    options = {"input": tmp_path / "list.txt", "output": tmp_path / "out", "model": tiny}
    for layout, listed in (("split", 10), ("fused", 20), ("split", len(uris))):
        (tmp_path / "list.txt").write_text("\n".join(uris[:listed]), "utf-8")
        run_pipeline(layout=layout, **options)
    assert assert_sound(tmp_path / "out")["counts"]["kept"] == 20


HINT = "type:nvidia-l4;count:1;install-nvidia-driver"


@pytest.mark.parametrize("options", [{"layout": "split", "accelerator_hint": HINT}, {"layout": "split"}])
def test_graph__split_layout__is_one_stage_on_each_side_of_one_shuffle(tmp_path, tiny, options):
    stages = stages_of(tmp_path, tiny, **options)
    decoding, labelling = (
        ("SelectUnlabelled/Unpack", "LoadImages", "HandOverImages/Deal"),
        (
            *("HandOverImages/GroupByKey/Read", "HandOverImages/Unpack", "PredictLabels"),
            *("StageResults/Write0", "StageResults/Write1", "CountResults/Count0", "CountResults/Count1"),
        ),
    )
    hint = options.get("accelerator_hint")
    assert [h for names, h in stages if has_all(names, labelling)] == [hint]
    assert [h for names, h in stages if has_all(names, decoding)] == [None]
    assert sum(has_all(names, ("HandOverImages/",)) for names, _ in stages) == 2


def test_graph__fused_layout__is_one_stage_from_references_to_staged_rows(tmp_path, tiny):
    steps = ("Unpack", "LoadImages", "PredictLabels", "StageEarly/Write1", "StageResults/Write0")
    stages = stages_of(tmp_path, tiny)
    assert [h for names, h in stages if has_all(names, steps)] == [None]
    assert not any(has_all(names, ("HandOverImages",)) for names, _ in stages)


def has_all(names, parts):
    return all(any(part in name for name in names) for part in parts)


def stages_of(tmp_path, tiny, **options):
    """Return the stages that Beam's local runner fuses, each as its steps' names and its accelerator."""
    (tmp_path / "list.txt").write_text("a.jpg\n", "utf-8")
    needed = {"input": str(tmp_path / "list.txt"), "output": str(tmp_path / "out"), "model": str(tiny)}
    config, beam_options = load_config(None, needed | options), pipeline_options(())
    pipeline = beam.Pipeline(options=beam_options)
    with prepared(config, beam_options) as plan:
        build_graph(pipeline, plan)
    context, stages = FnApiRunner().create_stages(pipeline.to_runner_api())
    environments = context.components.environments
    return [
        (
            [transform.unique_name for transform in stage.transforms],
            asked_of(environments[stage.environment]) if stage.environment else None,
        )
        for stage in stages
    ]


def asked_of(environment):
    hint = environment.resource_hints.get("beam:resources:accelerator:v1")
    return hint.decode() if hint else None


def test_graph__csv__its_own_columns_pass_through_with_their_types(tmp_path, tiny):
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes())
    (tmp_path / "b.jpg").write_bytes(jpeg_bytes(40, 40))
    rows = [
        ["key", "path", "price", "stock", "day", "label", "code"],
        ["k1", tmp_path / "a.jpg", "2.5", "7", "2026-01-02", "truth", "007"],
        ["k2", tmp_path / "b.jpg", "", "few", "", "", "0x1F"],
        ["k3", tmp_path / "none.jpg", "1", "1", "2026-01-03", "x", "1"],
    ]
    with (tmp_path / "list.csv").open("w", newline="") as f:
        csv.writer(f).writerows(rows)
    manifest = run_pipeline(
        input=tmp_path / "list.csv",
        output=tmp_path / "out",
        model=tiny,
        uri_column="path",
        id_column="key",
        column_types="price=float64,stock=int64,day=date",
    )
    assert_sound(tmp_path / "out")
    schema = ds.dataset(tmp_path / "out" / "predictions").schema
    types = {"price": pa.float64(), "stock": pa.int64(), "day": pa.date32(), "code": pa.string()}
    assert {name: schema.field(name).type for name in types} == types
    (a, b), (none,) = read_tables(tmp_path / "out")
    assert (a["id"], a["price"], a["stock"], a["code"], a["input_label"]) == ("k1", 2.5, 7, "007", "truth")
    assert a["day"] == datetime.date(2026, 1, 2)
    assert (b["price"], b["stock"], b["day"], b["code"]) == (None, None, None, "0x1F")
    assert manifest["unparsed"] == {"stock": {"count": 1, "examples": ["few"]}}
    assert (none["id"], none["reason"], none["price"]) == ("k3", "not_found", 1.0)


def test_graph__all_bad_lines_and_no_image__still_accounts(tmp_path, tiny):
    (tmp_path / "list.csv").write_text('uri,n\na\n"b\na\n', "utf-8")
    run_pipeline(input=tmp_path / "list.csv", output=tmp_path / "out", model=tiny)
    manifest = assert_sound(tmp_path / "out")
    assert counts_of(manifest) == {"listed": 3, "failed": 2, "duplicate": 1}


def test_graph__empty_list__is_an_empty_table(tmp_path, tiny):
    (tmp_path / "list.txt").write_text("\n\n", "utf-8")
    run_pipeline(input=tmp_path / "list.txt", output=tmp_path / "out", model=tiny)
    assert assert_sound(tmp_path / "out")["counts"]["listed"] == 0


def test_graph__web_images__are_labelled_or_fail_by_their_fault(tmp_path, tiny, web):
    web.files.update({f"/{n}.jpg": jpeg_bytes(30 + n, 30) for n in range(20)})
    faults = {
        "/status/403": "forbidden",
        "/status/500": "http_5xx",
        "/short": "truncated",
        "/none": "not_found",
    }
    uris = [web.uri(path) for path in [*web.files, *faults]]
    (tmp_path / "list.txt").write_text("\n".join(uris), "utf-8")
    run_pipeline(input=tmp_path / "list.txt", output=tmp_path / "out", model=tiny)
    manifest = assert_sound(tmp_path / "out")
    _, failures = read_tables(tmp_path / "out")
    assert {f["uri"]: f["reason"] for f in failures} == {web.uri(p): r for p, r in faults.items()}
    assert {f["host"] for f in failures} == {web.uri("").removeprefix("http://")}
    assert manifest["counts"]["labelled"] == 20


def test_graph__all_on_gcs__list_images_model_and_output(tmp_path, tiny, gcs):
    for path in tiny.rglob("*"):
        if path.is_file():
            gcs.put(f"gs://lab/model/{path.relative_to(tiny)}", path.read_bytes())
    for n in range(12):
        gcs.put(f"gs://lab/photos/{n}.jpg", jpeg_bytes(30 + n, 30))
    uris = [f"gs://lab/photos/{n}.jpg" for n in range(13)]
    gcs.put("gs://lab/lists/all.txt", "\n".join(uris).encode())
    manifest = run_pipeline(input="gs://lab/lists/all.txt", output="gs://lab/out", model="gs://lab/model")
    assert counts_of(manifest) == {"listed": 13, "labelled": 12, "failed": 1}
    names = gcs.names("gs://lab/out/")
    assert names == sorted(["out/manifest.json", *(f"out/{f['path']}" for f in manifest["files"])])
    copy = tmp_path / "copy"
    for name in names:
        target = copy / name.removeprefix("out/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gcs.get(f"gs://lab/{name}"))
    assert_sound(copy)


def test_graph__folder_on_gcs__takes_its_images(tiny, gcs):
    for name in ("a.jpg", "deep/b.jpg", "notes.txt"):
        gcs.put(f"gs://folder/in/{name}", jpeg_bytes())
    manifest = run_pipeline(input="gs://folder/in", output="gs://folder/out", model=tiny)
    assert manifest["counts"]["listed"] == manifest["counts"]["labelled"] == 2
