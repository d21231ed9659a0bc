"""The record of a run in `runs/`, and its metrics file."""

import dataclasses
import errno
import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_fd_to_metric_families

from labelbeam.pipeline.commands.rerun import rerun
from labelbeam.pipeline.commands.verify import verify
from labelbeam.pipeline.config import RunConfig, load_config
from labelbeam.pipeline.launch import run_and_report
from labelbeam.pipeline.report import metrics
from labelbeam.pipeline.report import record as record_module
from labelbeam.pipeline.report.bottleneck import STEPS, Performance, measure_performance
from labelbeam.pipeline.report.metrics import failures_measured, write_metrics
from labelbeam.pipeline.report.record import (
    RunRecord,
    Stopwatch,
    make_attempt,
    make_record,
    read_run_record,
    write_run_record,
)
from labelbeam.pipeline.report.work import Work
from labelbeam.transforms.errors import Reason, RunError, UserError
from labelbeam.transforms.models import meter
from labelbeam.transforms.table.documents import write_document
from labelbeam.transforms.table.folder import TableFolder, tidy
from tests.graphs import assert_sound, run_pipeline
from tests.results import manifest_of
from tests.synthetic import HTML, jpeg_bytes

ROOT = Path(__file__).parents[2]
RUNNING, OUTPUT = ((ROOT / "docs" / name).read_text("utf-8") for name in ("running.md", "output.md"))
RUN_ID = "20261128T120000-0123abcd"
WORK = Work(
    Counter(
        {
            **{meter.WALL_USEC: 9_000_000, meter.CORE_USEC: 18_000_000, meter.OPEN_USEC: 18_000_000},
            **{meter.BUSY_USEC: 17_100_000, meter.IMAGES_RUN: 90, meter.SLOTS_RUN: 100},
            **{meter.FULL_SLOTS: 120, meter.LOADED: 1, meter.BATCH_SIZE: 8, meter.OOM_SPLITS: 3},
        }
    ),
    {"fetch": (200_000, 100), "decode": (400_000, 100), "write": (9_000, 3)},
)


def config_of(**options) -> RunConfig:
    return load_config(None, {"input": "in", "output": "out", "model": "m", **options})


def record_of(config=None, work=WORK, wrong=None):
    config = config or config_of()
    manifest = manifest_of({"timeout": 2}, listed=8, labelled=5, failed=2, duplicate=1)
    manifest = dataclasses.replace(manifest, run_id=RUN_ID)
    performance = work and measure_performance(work, config)
    return make_record(make_attempt(config, Stopwatch()), manifest, performance, wrong)


def raiser(error: BaseException):
    """Return a function that raises an error."""

    def fail(*_):
        raise error

    return fail


def read_metrics(path: Path) -> dict[tuple[str, ...], float]:
    """Return the samples of a metrics file by name and by label values, the output left out."""
    samples = {}
    with path.open(encoding="utf-8") as file:
        for family in text_fd_to_metric_families(file):
            assert family.type == "gauge" and family.documentation.endswith(".")
            assert re.fullmatch(r"labelbeam_(run|table)_[a-z_]+", family.name)
            for sample in family.samples:
                labels = dict(sample.labels)
                assert labels.pop("output")
                key = (sample.name, *(labels.values() if not sample.name.endswith("_info") else ()))
                assert key not in samples and sample.timestamp is None
                samples[key] = sample.value
    return samples


def info_of(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8") as file:
        (info,) = [f for f in text_fd_to_metric_families(file) if f.name == "labelbeam_run_info"]
    return {name: value for name, value in info.samples[0].labels.items() if value}


@pytest.mark.parametrize("work", [WORK, None], ids=["measured", "no metrics"])
@pytest.mark.parametrize("wrong", [None, "2 of 7 images failed"])
def test_run_record__written__is_read_as_it_was(tmp_path, work, wrong):
    record = record_of(work=work, wrong=wrong)
    write_run_record(str(tmp_path), record)
    assert read_run_record(str(tmp_path), RUN_ID) == record
    assert read_run_record(str(tmp_path), "another") is None
    assert read_run_record(str(tmp_path / "nowhere"), RUN_ID) is None
    assert datetime.fromisoformat(record.started).tzinfo == UTC
    assert record.images_per_sec == pytest.approx(7 / record.seconds)
    assert (record.performance is None) == (work is None) and record.verdict == wrong


def test_run_record__nothing_labelled__has_no_rate(tmp_path):
    manifest = manifest_of({"timeout": 2}, listed=2, failed=2)
    record = make_record(make_attempt(config_of(), Stopwatch()), manifest, None, None)
    assert record.images_per_sec is None


def changed(**keys) -> bytes:
    """Return a record with other values, and a checksum that fits."""
    values = {**dataclasses.asdict(record_of()), **keys}
    made = dataclasses.make_dataclass("Document", values.keys())
    return write_document(made(**values))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is damaged: the file is not JSON"),
        (b"[]", "is damaged: the file holds no JSON object"),
        (changed().replace(b'"labelled": 5', b'"labelled": 6'), "its checksum does not fit its contents"),
        (changed(seconds="soon"), "seconds='soon' is not of the type float"),
        (changed(counts={"labelled": 1.5}), "counts=1.5 is not of the type int"),
        (changed(performance={}), "performance has no key 'bottleneck'"),
        (changed(format=2), "has format 2, and this version of labelbeam reads formats up to 1"),
    ],
)
def test_read_run_record__damaged__is_refused_with_its_path_and_a_remedy(tmp_path, data, message):
    path = tmp_path / "runs" / f"{RUN_ID}.json"
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(UserError) as e:
        read_run_record(str(tmp_path), RUN_ID)
    assert str(path) in str(e.value) and message in str(e.value)
    assert str(e.value).endswith(("delete it: no row depends on it.", "give another --output."))


def test_read_run_record__keys_of_a_newer_version__are_left_out(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / f"{RUN_ID}.json").write_bytes(changed(energy_kwh=1.5))
    assert read_run_record(str(tmp_path), RUN_ID).run_id == RUN_ID


def test_run_record__in_a_bucket__is_written_and_read(gcs):
    gcs.put("gs://records/out/manifest.json", b"")
    record = record_of()
    write_run_record("gs://records/out", record)
    assert read_run_record("gs://records/out", RUN_ID) == record
    assert read_run_record("gs://records/out", "another") is None


def test_write_run_record__cannot_be_written__warns_in_words(tmp_path, capsys):
    (tmp_path / "runs").write_text("a file of the user's")
    write_run_record(str(tmp_path), record_of())
    (line,) = capsys.readouterr().err.splitlines()
    complete = "labelbeam: warning: The run's results are complete, but its numbers are not kept"
    assert line.startswith(f"{complete}: {tmp_path}/runs/{RUN_ID}.json cannot be written: ")
    assert (tmp_path / "runs").read_text() == "a file of the user's"


@pytest.mark.parametrize(
    "error",
    [OSError("No space"), RunError("The disk is full."), KeyError("a bug"), MemoryError()],
)
def test_write_run_record__any_error__is_a_warning(tmp_path, monkeypatch, capsys, error):
    monkeypatch.setattr(record_module, "write_file", raiser(error))
    write_run_record(str(tmp_path), record_of())
    (line,) = capsys.readouterr().err.splitlines()
    assert "results are complete" in line and str(error).strip("'") in line


def test_tidy__runs__keeps_records_and_the_users_files_and_deletes_what_a_killed_writer_left(tmp_path):
    write_run_record(str(tmp_path), record_of())
    kept = {f"{RUN_ID}.json", "notes.txt", "mine.json.tmp"}
    (tmp_path / "runs" / "notes.txt").write_text("")
    (tmp_path / "runs" / "mine.json.tmp").write_text("")
    (tmp_path / "runs" / f"{RUN_ID}.json.0123abcd.tmp").write_text("")
    tidy(str(tmp_path), 0)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == kept


SECRET = "s3cr3t"


def test_record_and_metrics__secrets__are_in_neither(tmp_path):
    model = f"https://me:{SECRET}@h.org/m.tar.gz?token={SECRET}&X-Goog-Signature={SECRET}"
    config = config_of(model=model, metrics_file=str(tmp_path / "m.prom"))
    record = record_of(config, wrong=f"at https://h/a.jpg?sig={SECRET}")
    write_run_record(str(tmp_path), record)
    write_metrics(config, record, succeeded=False)
    for path in (TableFolder(str(tmp_path)).record(RUN_ID), tmp_path / "m.prom"):
        text = Path(path).read_text("utf-8")
        assert SECRET not in text and "h.org/m.tar.gz" in text


def test_write_metrics__a_run__are_its_numbers_in_base_units(tmp_path):
    config = config_of(metrics_file=str(tmp_path / "m.prom"), output=str(tmp_path))
    record = record_of(config)
    write_metrics(config, record, succeeded=True)
    seen = read_metrics(tmp_path / "m.prom")
    start = datetime.fromisoformat(record.started).timestamp()
    expected = {
        ("labelbeam_run_info",): 1,
        ("labelbeam_run_success",): 1,
        ("labelbeam_run_start_timestamp_seconds",): start,
        ("labelbeam_run_end_timestamp_seconds",): start + record.seconds,
        ("labelbeam_run_duration_seconds",): record.seconds,
        ("labelbeam_run_images", "labelled"): 5,
        ("labelbeam_run_images", "failed"): 2,
        ("labelbeam_run_images", "kept"): 0,
        ("labelbeam_run_images", "duplicate"): 1,
        ("labelbeam_run_images", "not_chosen"): 0,
        ("labelbeam_table_rows", "predictions"): 5,
        ("labelbeam_table_rows", "failures"): 2,
        **{("labelbeam_table_failures", str(reason)): 2 * (reason == Reason.TIMEOUT) for reason in Reason},
        ("labelbeam_table_generation",): 1,
        **{("labelbeam_run_bottleneck", step): float(step == "model") for step in STEPS},
        ("labelbeam_run_image_seconds", "fetch"): 0.002,
        ("labelbeam_run_image_seconds", "decode"): 0.004,
        ("labelbeam_run_image_seconds", "model"): 0.19,
        ("labelbeam_run_image_seconds", "write"): 0.0001,
        ("labelbeam_run_model_waiting_ratio",): 0.05,
        ("labelbeam_run_batch_fill_ratio",): 0.75,
        ("labelbeam_run_batch_padding_ratio",): 0.1,
        ("labelbeam_run_batch_images",): 8,
        ("labelbeam_run_models",): 1,
        ("labelbeam_run_gpu_models",): 0,
        ("labelbeam_run_unfrozen_models",): 0,
        ("labelbeam_run_unoptimised_models",): 0,
        ("labelbeam_run_split_batches",): 3,
    }
    assert seen == pytest.approx(expected)
    info = info_of(tmp_path / "m.prom")
    assert (info["output"], info["run_id"], info["model"]) == (str(tmp_path), RUN_ID, "m")


def test_docs__keys_and_metrics__are_those_that_are_written(tmp_path):
    config = config_of(metrics_file=str(tmp_path / "m.prom"))
    work = Work(WORK.counts + Counter({meter.COMPARED: 57, meter.AGREED: 56}), WORK.times_usec)
    write_metrics(config, record_of(config, work), succeeded=True)
    documented = re.findall(r"labelbeam_(?:run|table)_\w+", RUNNING.split("## Metrics")[1].split("\n- ")[0])
    assert sorted(documented) == sorted({name for name, *_ in read_metrics(tmp_path / "m.prom")})
    section = OUTPUT.split("## Numbers of a run")[1].split("\n## ")[0]
    keys = {key for row in re.findall(r"^\| (`.*?) \|", section, re.M) for key in re.findall(r"`(\w+)`", row)}
    fields = {field.name for kind in (RunRecord, Performance) for field in dataclasses.fields(kind)}
    assert keys == fields | {"checksum"}


def test_metrics__numbers_of_the_work__are_all_there():
    """Give each field of `Performance` a value of its own, and find it among the metrics."""
    fields = {field.name for field in dataclasses.fields(Performance)}
    words = {"bottleneck", "remedies", "image_ms", "warnings"}
    numbers = {name: float(n) for n, name in enumerate(sorted(fields - words), start=2)}
    performance = Performance(
        bottleneck="model", remedies=(), image_ms={"fetch": 1e6}, warnings=(), **numbers
    )
    record = dataclasses.replace(record_of(), performance=performance)
    values = [sample.number for gauge in metrics._gauges(record, True) for sample in gauge.samples]
    assert {*numbers.values(), 1000.0} <= set(values)


@pytest.mark.parametrize(
    "output", ["out", "out/", "./out", "gs://b/out", "gs://b/out/", 'a "b"\\\nc', "übung"]
)
def test_write_metrics__any_output__is_a_label_that_does_not_depend_on_the_folder(
    tmp_path, output, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = config_of(output=output, metrics_file="m.prom")
    write_metrics(config, record_of(config), succeeded=True)
    expected = output if output.startswith("gs://") else str(tmp_path / Path(output))
    assert info_of(tmp_path / "m.prom")["output"] == expected.rstrip("/")


@pytest.mark.parametrize(
    "error", [RunError("broke"), UserError("wrong"), KeyboardInterrupt(), ValueError("bug")], ids=repr
)
def test_failures_measured__a_run_that_ends_early__has_what_is_known(tmp_path, error):
    path = tmp_path / "m.prom"
    path.write_text("labelbeam_run_success 1\n")
    with pytest.raises(type(error)), failures_measured(config_of(metrics_file=str(path)), Stopwatch()):
        raise error
    seen = read_metrics(path)
    assert seen["labelbeam_run_success",] == 0 and seen["labelbeam_run_duration_seconds",] >= 0
    assert {name for name, *_ in seen} == {
        *("labelbeam_run_info", "labelbeam_run_success", "labelbeam_run_duration_seconds"),
        *("labelbeam_run_start_timestamp_seconds", "labelbeam_run_end_timestamp_seconds"),
    }
    assert "run_id" not in info_of(path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.prom"]


def test_failures_measured__without_a_file__writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError), failures_measured(config_of(), Stopwatch()):
        raise RunError("broke")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("surrogates"), KeyError("a bug")]
)
def test_write_metrics__any_error__warns_and_leaves_the_old_file(tmp_path, monkeypatch, capsys, error):
    path = tmp_path / "m.prom"
    path.write_text("old")
    monkeypatch.setattr(metrics, "write_to_textfile", raiser(error))
    write_metrics(config_of(metrics_file=str(path)), record_of(), succeeded=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"labelbeam: warning: --metrics_file='{path}' has no metrics of this run: ")
    assert path.read_text() == "old"


def test_write_metrics__name_that_is_not_utf8__warns_and_leaves_nothing(tmp_path, capsys):
    config = config_of(metrics_file=str(tmp_path / "m.prom"), output="/out-\udcff")
    write_metrics(config, record_of(), succeeded=True)
    assert "has no metrics of this run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(9):
        (folder / f"{n}.jpg").write_bytes(jpeg_bytes(30 + n, 30))
    (folder / "bad.jpg").write_bytes(HTML)
    return folder


def test_run_and_report__runs_and_reruns__each_have_a_record_that_fits_the_manifest(
    tmp_path, tiny, images, capsys
):
    out, path = tmp_path / "out", tmp_path / "m.prom"
    flags = {"input": str(images), "output": str(out), "model": str(tiny), "loaders": "0"}
    flags |= {"max_failure_rate": "0.5", "metrics_file": str(path), "keep_generations": "3"}
    assert run_and_report(load_config(None, flags))
    manifest = assert_sound(out)
    record = read_run_record(str(out), manifest["run_id"])
    shared = ("run_id", "generation", "labelbeam", "counts", "rows", "failures_by_reason")
    assert {name: getattr(record, name) for name in shared} == {name: manifest[name] for name in shared}
    assert (record.runner, record.model, record.verdict) == ("FnApiRunner", str(tiny), None)
    assert record.performance.image_ms.keys() == {"fetch", "decode", "model", "write"}
    assert record.performance.models == 1 and 0 < record.performance.batch_fill <= 1
    seen = read_metrics(path)
    assert seen["labelbeam_run_success",] == 1 and info_of(path)["run_id"] == record.run_id
    assert seen["labelbeam_table_failures", "not_an_image"] == 1
    assert f"{record.images_per_sec:,.1f} images/s" in capsys.readouterr().out

    # The list grows, the bad image fails again, and then nothing is left to do.
    (images / "10.jpg").write_bytes(jpeg_bytes(50, 30))
    assert run_and_report(load_config(None, flags))
    assert rerun(str(out), None, {"metrics_file": str(path)}, ())
    assert read_metrics(path)["labelbeam_run_images", "failed"] == 1
    (images / "bad.jpg").write_bytes(jpeg_bytes(60, 30))
    assert rerun(str(out), None, {}, ())
    assert read_metrics(path)["labelbeam_table_failures", "not_an_image"] == 1  # left alone
    assert rerun(str(out), None, {"metrics_file": str(path)}, ())
    assert "Nothing to try again" in capsys.readouterr().out
    assert "labelbeam_table_failures" not in path.read_text() and read_metrics(path)["labelbeam_run_success",]
    assert_sound(out)
    assert verify(str(out), {"input": str(images)}) == []
    runs = sorted(path.stem for path in (out / "runs").iterdir())
    records = [read_run_record(str(out), run) for run in runs]
    assert [one.counts["labelled"] for one in records] == [9, 1, 0, 1]
    generations = [one.generation for one in records]
    assert generations == sorted(generations)
    kept = [json.loads(p.read_text()) for p in (out / "_generations").glob("*.json")]
    assert all(read_run_record(str(out), one["run_id"]) for one in kept) and kept


def test_run_and_report__over_budget__has_a_verdict_and_no_success(tmp_path, tiny, images):
    out, path = tmp_path / "out", tmp_path / "m.prom"
    flags = {"input": str(images), "output": str(out), "model": str(tiny), "loaders": "0"}
    assert not run_and_report(
        load_config(None, {**flags, "max_failure_rate": "0.01", "metrics_file": str(path)})
    )
    record = read_run_record(str(out), assert_sound(out)["run_id"])
    assert record.verdict.startswith("1 of 10 images failed")
    seen = read_metrics(path)
    assert seen["labelbeam_run_success",] == 0 and seen["labelbeam_run_images", "labelled"] == 9


def test_run_and_report__breaks_off__has_metrics_and_no_record(tmp_path, tiny, images):
    out, path = tmp_path / "out", tmp_path / "m.prom"
    flags = {"input": str(images), "output": str(out), "model": str(tiny), "loaders": "0"}
    for name in range(400):
        (images / f"bad{name}.jpg").write_bytes(HTML)
    with pytest.raises(RunError, match="Stopped early"):
        run_and_report(load_config(None, {**flags, "failure_floor": "50", "metrics_file": str(path)}))
    assert read_metrics(path)["labelbeam_run_success",] == 0
    assert info_of(path)["runner"] == "FnApiRunner" and not (out / "runs").exists()


def test_run_and_report__metrics_file_that_cannot_be_written__is_refused_before_the_run(
    tmp_path, images, capsys
):
    flags = {"input": str(images), "output": str(tmp_path / "out"), "model": "efficientnet-b0"}
    with pytest.raises(UserError, match="--metrics_file='/nowhere/m.prom' cannot be written: No such file"):
        run_and_report(load_config(None, {**flags, "metrics_file": "/nowhere/m.prom"}))
    assert not (tmp_path / "out").exists() and capsys.readouterr().err == ""


def test_run__by_itself__writes_no_record(tmp_path, tiny, images):
    """Leave records to the command, because a pipeline in a program may have no end to follow."""
    run_pipeline(input=images, output=tmp_path / "out", model=tiny)
    assert not (tmp_path / "out" / "runs").exists()
