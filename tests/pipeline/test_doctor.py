"""The doctor on this machine: options, runner, input, output, model, images, and the whole command."""

import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from labelbeam.pipeline.checks.findings import Check, examine, ok
from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands import doctor as command
from labelbeam.pipeline.output import locked
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.photos import PHOTOS
from tests.doctor import case_of, find, find_one, levels_of
from tests.graphs import PATIENCE_SEC, run_pipeline
from tests.synthetic import HTML, jpeg_bytes
from tests.tiny_model import save_tiny_model

ROOT = Path(__file__).parent.parent.parent
DATAFLOW = ("--runner=DataflowRunner", "--project=some-project", "--region=us-central1")
L4 = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"


def make_images(folder: Path, good: int, bad: int = 0) -> Path:
    folder.mkdir()
    for n in range(good):
        (folder / f"{n:05d}.jpg").write_bytes(jpeg_bytes(30 + n, 30))
    for n in range(bad):
        (folder / f"bad{n:05d}.jpg").write_bytes(HTML)
    return folder


# How a check is run


def test_examine__a_check_raises__keeps_its_findings_and_reports_the_exception():
    def find_and_fail(case):
        yield ok("so far.")
        raise RuntimeError("two\nlines")

    first, second = examine(Check("some", find_and_fail), case_of())
    assert first == ok("so far.")
    assert (second.level, second.text) == ("error", "the check itself failed: RuntimeError: two lines.")


def test_examine__a_users_mistake__is_reported_unchanged():
    def refuse(case):
        yield ok("so far.")
        raise UserError("x=1 is not allowed. Leave it out.")

    findings = examine(Check("some", refuse), case_of())
    assert [f.text for f in findings] == ["so far.", "x=1 is not allowed. Leave it out."]
    assert levels_of(findings) == ["ok", "error"]


def test_examine__a_remote_check_takes_too_long__is_given_up():
    over = threading.Event()

    def wait(case):
        yield ok("so far.")
        over.wait()

    check = Check("some", wait, is_remote=lambda case: True, limit_sec=0.05)
    first, second = examine(check, case_of())
    over.set()
    assert first.text == "so far."
    assert (second.level, second.text) == ("error", "no response within 0.05 s.")


def test_examine__a_remote_check_raises__is_an_error_all_the_same():
    def fail(case):
        raise KeyError("quotas")
        yield

    (finding,) = examine(Check("some", fail, is_remote=lambda case: True), case_of())
    assert (finding.level, finding.text) == ("error", "the check itself failed: KeyError: 'quotas'.")


def test_examine__offline_or_something_missing__is_left_out():
    def never(case):
        raise AssertionError
        yield

    remote = Check("some", never, is_remote=lambda case: True, lacks=lambda case: "credentials")
    offline = examine(remote, case_of(offline=True))
    lacking = examine(remote, case_of())
    assert levels_of(offline + lacking) == ["skipped", "skipped"]
    assert "--offline is set" in offline[0].text and "needs credentials" in lacking[0].text


# Options


def test_options__that_go_together__are_ok():
    assert find_one("options", case_of()) == ("ok", "the options are valid for FnApiRunner. ")
    assert find("options", case_of(*DATAFLOW))[0].text == "the options are valid for DataflowRunner."


@pytest.mark.parametrize(
    ("flags", "options", "expected"),
    [
        ((), {"precision": "bfloat16", "xla": "force"}, "can't be combined"),
        ((), {"precision": "bfloat16", "require_accelerator": True}, "precision=bfloat16 is for CPUs"),
        ((), {"accelerator_hint": "type:nvidia-l4"}, "needs --layout=split"),
        ((*DATAFLOW, f"--dataflow_service_options={L4}"), {}, "no_use_multiple_sdk_containers"),
        ((*DATAFLOW, "--job_name=Not_A_Name"), {}, "Beam refuses .*Invalid job_name"),
        ((*DATAFLOW, "--num_workers=3", "--max_num_workers=2"), {}, "cannot exceed"),
        (("--runner=NoRunner",), {}, "Beam refuses .*NoRunner"),
    ],
)
def test_options__that_contradict_each_other__are_errors(flags, options, expected):
    (finding,) = find("options", case_of(*flags, **options))
    assert finding.level == "error"
    assert re.search(expected, finding.text), finding.text


def test_options__several_mistakes__are_all_reported():
    flags = (*DATAFLOW, f"--dataflow_service_options={L4}", "--job_name=Not_A_Name")
    findings = find("options", case_of(*flags, precision="bfloat16", xla="force"))
    assert levels_of(findings) == ["error"] * 3


def test_options__dataflow_without_staging__asks_for_no_bucket_and_makes_none(monkeypatch):
    from apache_beam.io.gcp import gcsio

    def refuse(*args, **kwargs):
        raise AssertionError("a bucket was asked for")

    monkeypatch.setattr(gcsio, "get_or_create_default_gcs_bucket", refuse)
    monkeypatch.setattr(gcsio, "GcsIO", refuse)
    assert find_one("options", case_of(*DATAFLOW))[0] == "ok"
    assert find_one("options", case_of(*DATAFLOW, "--temp_location=gs://bucket/t"))[0] == "ok"
    assert find_one("options", case_of(*DATAFLOW, "--temp_location=/tmp"))[0] == "ok"  # see `project`


# Runner


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_runner__local__is_not_checked():
    assert find("runner", case_of()) == []


@pytest.mark.parametrize(
    "option", ["--runner=PortableRunner --job_endpoint=", "--runner=FlinkRunner --job_endpoint="]
)
def test_runner__endpoint__is_ok_if_it_accepts_connections(listening, option):
    runner, endpoint = option.split()
    level, text = find_one("runner", case_of(runner, f"{endpoint}127.0.0.1:{listening}"))
    assert level == "ok" and "accepts connections" in text
    port = closed_port()
    level, text = find_one("runner", case_of(runner, f"{endpoint}localhost:{port}"))
    assert level == "error" and f"--job_endpoint='localhost:{port}' did not respond" in text
    for nonsense in ("localhost", "[::1", "localhost:port"):
        level, text = find_one("runner", case_of(runner, f"{endpoint}{nonsense}", offline=True))
        assert level == "error" and "HOST:PORT" in text


def test_runner__portable_without_endpoint__is_an_error():
    level, text = find_one("runner", case_of("--runner=PortableRunner"))
    assert level == "error" and "Set --job_endpoint" in text


def test_runner__endpoint_elsewhere__is_left_out_offline(listening):
    elsewhere = case_of("--runner=PortableRunner", "--job_endpoint=flink.example:8099", offline=True)
    assert find_one("runner", elsewhere)[0] == "skipped"
    here = case_of("--runner=PortableRunner", f"--job_endpoint=localhost:{listening}", offline=True)
    assert find_one("runner", here)[0] == "ok"


def test_runner__prism__is_at_its_location(tmp_path):
    prism = tmp_path / "prism"
    prism.write_bytes(b"binary")
    there = case_of("--runner=PrismRunner", f"--prism_location={prism}")
    assert find_one("runner", there) == ("ok", f"Prism is {prism}. ")
    elsewhere = case_of("--runner=PrismRunner", "--prism_location=https://github.com/apache/beam/releases")
    assert find_one("runner", elsewhere)[0] == "ok"
    nowhere = case_of("--runner=PrismRunner", f"--prism_location={prism}x")
    assert not find("runner", nowhere) and find_one("options", nowhere)[0] == "error"
    level, text = find_one("runner", case_of("--runner=PrismRunner"))
    assert level == "warning" and "--prism_location" in text


def test_runner__flink__cluster_and_java_are_checked(tmp_path, monkeypatch, listening):
    monkeypatch.setenv("PATH", str(tmp_path))
    level, text = find_one("runner", case_of("--runner=FlinkRunner"))
    assert level == "error" and "Install Java" in text
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\n")
    java.chmod(0o755)
    assert find_one("runner", case_of("--runner=FlinkRunner"))[0] == "ok"
    findings = find("runner", case_of("--runner=FlinkRunner", f"--flink_master=http://localhost:{listening}"))
    assert levels_of(findings) == ["ok", "ok"]
    findings = find("runner", case_of("--runner=FlinkRunner", f"--flink_master=localhost:{closed_port()}"))
    assert levels_of(findings) == ["error", "ok"] and "--flink_master" in findings[0].text


# Output


def test_output__nothing_there__is_ok_and_left_as_it_was(tmp_path):
    output = tmp_path / "deep" / "out"
    level, text = find_one("output", case_of(output=output))
    assert level == "ok" and "is writable and empty" in text
    assert list(tmp_path.iterdir()) == []
    output.mkdir(parents=True)
    assert find_one("output", case_of(output=output))[0] == "ok"
    assert output.is_dir() and list(output.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "expected"), [("/proc/none", "cannot be written"), ("s3://b/out", "a local folder or gs://")]
)
def test_output__that_cannot_be_written__is_an_error(output, expected):
    level, text = find_one("output", case_of(output=output))
    assert level == "error" and expected in text


def test_output__in_a_bucket__is_probed_and_left_empty(gcs):
    gcs.put("gs://doctored/here", b"")
    case = case_of(output="gs://doctored/out")
    assert find_one("output", case) == (
        "skipped",
        "skipped: the check needs the bucket 'doctored'. ",
    )
    case.buckets.add("doctored")
    assert find_one("output", case)[0] == "ok"
    assert gcs.names("gs://doctored/") == ["here"]


def snapshot(folder: Path) -> list:
    return sorted((p, p.read_bytes()) for p in folder.rglob("*") if p.is_file())


def test_output__with_rows__reports_number_and_model(tmp_path, tiny):
    images, output = make_images(tmp_path / "in", good=3, bad=1), tmp_path / "out"
    options = {"input": images, "output": output, "model": tiny}
    run_pipeline(max_failure_rate=1, **options)
    before = snapshot(output)
    level, text = find_one("output", case_of(**options))
    assert level == "ok" and f"holds 3 predictions, 1 failures, labelled with {tiny}" in text
    assert snapshot(output) == before


def test_output__a_run_is_at_work_there__is_a_warning(tmp_path):
    output = tmp_path / "out"
    with locked(str(output)):
        level, text = find_one("output", case_of(output=output))
    assert level == "warning" and "another run is writing to" in text
    assert find_one("output", case_of(output=output))[0] == "ok"


# Input


def test_input__folder__first_rows_are_shown(tmp_path):
    images = make_images(tmp_path / "in", good=12)
    case = case_of(input=images)
    (finding,) = find("input", case)
    assert finding.level == "ok" and "is readable as images" in finding.text
    assert finding.details == tuple(str(images / f"0000{n}.jpg") for n in range(3))
    assert len(case.rows) == 10


def test_input__csv__columns_and_bad_rows_are_shown(tmp_path):
    (tmp_path / "list.csv").write_text('uri,price\na.jpg,1.5\nb.jpg\n"c.jpg",\n')
    (finding,) = find("input", case_of(input=tmp_path / "list.csv"))
    assert finding.level == "ok"
    first, second, third = finding.details
    assert (first, third) == ("a.jpg, price='1.5'", "c.jpg, price=''")
    assert second.startswith("bad_row: ")


def test_input__typed_columns__are_shown_in_plain_words(tmp_path):
    (tmp_path / "list.csv").write_text("uri,day,n\na.jpg,2026-01-01,\n")
    options = {"input": tmp_path / "list.csv", "column_types": "day=date,n=int64"}
    (finding,) = find("input", case_of(**options))
    assert finding.details == ("a.jpg, day=2026-01-01, n=null",)


@pytest.mark.parametrize(
    ("text", "level", "shown"),
    [
        ("url,n\na.jpg,1\n", "ok", ["a.jpg, n='1'", "The column 'url' holds the URIs, by its name."]),
        # Only a folder, which is no image.
        (
            "bucket,name,generation\nb,a/,1\n",
            "error",
            [
                "The list is an inventory of Cloud Storage; the URIs are gs://{bucket}/{name}.",
                "Left out of it are folders, and files whose names end otherwise than images' names.",
                "The column generation has the versions of gs:// images.",
            ],
        ),
    ],
)
def test_input__choices_by_names_of_columns__are_shown(tmp_path, text, level, shown):
    (tmp_path / "list.csv").write_text(text)
    (finding,) = find("input", case_of(input=tmp_path / "list.csv"))
    assert (finding.level, list(finding.details)) == (level, shown)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("nowhere.txt", {}, "matches nothing"),
        ("empty.txt", {}, "lists no images"),
        ("list.csv", {"uri_column": "link"}, "uri_column='link' is no column"),
    ],
)
def test_input__that_is_not_there_or_not_so__is_an_error(tmp_path, name, options, expected):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "list.csv").write_text("uri,price\na.jpg,1.5\n")
    case = case_of(input=tmp_path / name, **options)
    level, text = find_one("input", case)
    assert level == "error" and expected in text
    assert case.corpus is None


def test_input__partitioned_by_no_column__is_an_error_beside_the_rows(tmp_path):
    (tmp_path / "list.csv").write_text("uri,price\na.jpg,1.5\n")
    findings = find("input", case_of(input=tmp_path / "list.csv", partition_by="prize"))
    assert levels_of(findings) == ["ok", "error"] and "partition_by='prize'" in findings[1].text


# Model, and what it labels


def test_model__that_fits__is_loaded(tiny):
    case = case_of(model=tiny)
    level, text = find_one("model", case)
    assert level == "ok" and f"{tiny} loads: 16 px, 3 classes, fingerprint " in text
    assert case.spec and case.classifier and case.classifier.spec is case.spec


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"labels": "imagenet"}, "has 3 classes, and its label map has 1000"),
        ({"model": "nowhere"}, "is no SavedModel"),
        ({"require_accelerator": True}, "TensorFlow sees no GPU"),
    ],
)
def test_model__that_does_not_fit__is_an_error(tiny, options, expected):
    case = case_of(**{"model": tiny, **options})
    level, text = find_one("model", case)
    assert level == "error" and expected in text
    assert find("images", case)[0].level == "skipped"


def test_model__doubtful__is_a_warning_beside_its_facts(tmp_path):
    model = save_tiny_model(tmp_path / "m", size_px=16, gain=0.0)
    findings = find("model", case_of(model=model))
    assert levels_of(findings) == ["ok", "warning"] and "equal outputs for all 57" in findings[1].text
    assert findings[0].details[0].startswith("range: 0,1 (assumed") and findings[0].details[1].startswith(
        "outputs: "
    )


def test_model__for_gpus_that_are_elsewhere__is_tried_plain(tiny):
    findings = find("model", case_of(*DATAFLOW, model=tiny, precision="float16"))
    assert levels_of(findings) == ["ok", "warning"] and "float16 is for GPUs" in findings[1].text


def test_model__no_way_to_its_server__is_an_error_without_a_download(monkeypatch, cache_dir):
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.delenv("TFHUB_CACHE_DIR", raising=False)
    model = f"http://127.0.0.1:{closed_port()}/model.tar.gz"
    level, text = find_one("model", case_of(model=model))
    assert level == "error" and "the model's server cannot be reached: 127.0.0.1:" in text
    assert find_one("model", case_of(model=model, offline=True))[0] == "skipped"


def checked_case(*beam_flags: str, **options) -> object:
    """Return a case after the checks that `table` and `images` need."""
    case = case_of(*beam_flags, **options)
    for name in ("output", "input", "model"):
        find(name, case)
    return case


def test_table__same_or_other_model__goes_on_or_is_refused(tmp_path, tiny):
    options = {"input": make_images(tmp_path / "in", good=2), "output": tmp_path / "out", "model": tiny}
    assert find_one("table", checked_case(**options)) == ("ok", "the run starts a new table. ")
    run_pipeline(**options)
    level, text = find_one("table", checked_case(**options))
    assert level == "ok" and "continues from them" in text
    level, text = find_one("table", checked_case(**options, top_k=1))
    assert level == "error" and "top_k (5 there, 1 now)" in text and "--replace" in text
    level, text = find_one("table", checked_case(**options, top_k=1, replace=True))
    assert level == "warning" and "deletes the rows" in text


def test_table__no_model__is_left_out(tmp_path):
    case = checked_case(input=make_images(tmp_path / "in", good=1), output=tmp_path / "out")
    level, text = find_one("table", case)
    assert level == "skipped" and "needs the model" in text


def test_doctor__closed_pipe__has_no_traceback(tmp_path):
    command = [sys.executable, "-m", "labelbeam", "doctor", "--input=nowhere", "--model=nowhere"]
    process = subprocess.Popen(
        [*command, f"--output={tmp_path}/out"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


def test_paths__of_this_machine__are_errors_on_dataflow_alone(tmp_path, tiny):
    images = make_images(tmp_path / "in", good=1)
    options = {"input": images, "output": tmp_path / "out", "model": tiny}
    case = checked_case(*DATAFLOW, **options)
    findings = find("paths", case)
    assert levels_of(findings) == ["warning"] and "model=" in findings[0].text
    text = [f.text for f in find("options", case)]
    assert len(text) == 1 and "--input=" in text[0]  # the rule that a run stops at
    assert find_one("output", case)[0] == "skipped"
    (tmp_path / "list.txt").write_text(str(images / "00000.jpg"))
    findings = find("paths", checked_case(*DATAFLOW, **{**options, "input": tmp_path / "list.txt"}))
    assert levels_of(findings) == ["warning", "error"] and str(images / "00000.jpg") in findings[1].text
    bundled = {**options, "model": "efficientnet-b0"}
    assert find("paths", case_of(*DATAFLOW, **bundled)) == []  # not ok beside the error of `options`
    far = {"input": "gs://b/l.txt", "output": "gs://b/o", "model": "efficientnet-b0"}
    assert find_one("paths", case_of(*DATAFLOW, **far))[0] == "ok"
    assert find("paths", checked_case(**options)) == []


@pytest.mark.parametrize(
    ("flags", "applies"),
    [
        (("--environment_type=DOCKER",), True),
        (("--environment_type=EXTERNAL", "--environment_config=localhost:50000"), True),
        (("--environment_type=PROCESS",), False),
        (("--environment_type=PROCESS", "--flink_master=far:8081"), True),
        (("--environment_type=PROCESS", "--job_endpoint=embed"), False),
        (("--environment_type=LOOPBACK", "--flink_master=[local]"), False),
        ((), True),
        (("--flink_master=[local]",), False),
        (("--flink_master=[local]", "--environment_type=DOCKER"), True),
    ],
)
def test_paths__of_this_machine__are_warnings_on_a_cluster_with_other_disks(tmp_path, flags, applies):
    cluster = ("--runner=FlinkRunner", "--flink_master=localhost:8081")
    options = {"input": tmp_path / "in", "output": tmp_path / "out", "model": "efficientnet-b0"}
    findings = find("paths", case_of(*cluster, *flags, **options))
    assert levels_of(findings) == (["warning"] * 2 if applies else [])
    assert all("mount this disk there" in f.remedy for f in findings)


def test_images__all_good__ten_are_labelled_and_shown(tmp_path, tiny):
    case = checked_case(input=make_images(tmp_path / "in", good=12), model=tiny, output=tmp_path / "out")
    (finding,) = find("images", case)
    assert (finding.level, finding.text) == ("ok", "10 of the first 10 images were labelled.")
    for n, line in enumerate(finding.details):
        assert line.startswith(f"{tmp_path / 'in' / f'{n:05d}.jpg'}: class ")
    assert len(finding.details) == 10


def test_images__some_fail__is_a_warning_with_uris_and_reasons(tmp_path, tiny, web):
    web.files["/a.jpg"] = jpeg_bytes()
    good, missing, silent = web.uri("/a.jpg"), web.uri("/b.jpg"), "ftp://host/a.jpg"
    (tmp_path / "list.txt").write_text(f"{good}\n{missing}\n{silent}\n")
    options = {"input": tmp_path / "list.txt", "model": tiny, "output": tmp_path / "out"}
    (finding,) = find("images", checked_case(**options))
    assert finding.level == "error" and "forbidden_address (2)" in finding.text
    options["allow_hosts"] = "127.0.0.1"
    (finding,) = find("images", checked_case(**options))
    assert finding.level == "warning"
    assert finding.text == "1 of the first 3 images were labelled; failed: not_found (1), bad_uri (1)."
    assert [line.split(": ")[0] for line in finding.details] == [good, missing, silent]
    assert "fetch, not_found" in finding.details[1]
    assert levels_of(find("images", checked_case(**options, offline=True))) == ["skipped"]


def test_images__all_fail__is_an_error(tmp_path, tiny):
    (tmp_path / "list.csv").write_text("uri,n\nmissing.jpg,1\nb\n")
    bad = tmp_path / "list.csv"
    (finding,) = find("images", checked_case(input=bad, model=tiny, output=tmp_path / "out"))
    assert finding.level == "error" and "0 of the first 2 images" in finding.text
    assert "not_found (1)" in finding.text and "bad_row (1)" in finding.text


def test_images__of_a_model_without_classes__gives_embeddings(tmp_path, tiny):
    images = make_images(tmp_path / "in", good=1, bad=1)
    options = {"input": images, "model": tiny, "output": tmp_path / "out", "outputs": "embedding"}
    (finding,) = find("images", checked_case(**options))
    assert finding.level == "warning" and "not_an_image (1)" in finding.text
    assert "an embedding" in finding.details[0] and "decode, not_an_image" in finding.details[1]


# The command


def labelbeam(*args: object) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "labelbeam", *map(str, args)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SEC)


def test_doctor__sample_photos_and_embedded_model__are_well(tmp_path, lite0_dir):
    output = tmp_path / "out"
    done = labelbeam("doctor", f"--input={PHOTOS}", f"--output={output}", "--model=efficientnet-lite0")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["ok", name] for name in ("options", "output", "input", "model", "table", "images")
    ]
    assert lines[-1] == "0 errors, 0 warnings, 6 ok, 0 skipped."
    assert "10 of the first 10 images were labelled" in done.stdout
    assert not output.exists()


def test_doctor__an_error__is_status_1_and_keeps_no_check_from_running(tmp_path, tiny):
    images = make_images(tmp_path / "in", good=1)
    done = labelbeam("doctor", f"--input={images}", "--output=/proc/none", f"--model={tiny}", "--offline")
    assert (done.returncode, done.stderr) == (1, "")
    levels = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()[:-1] if line[0] != " "}
    assert levels == {
        **dict.fromkeys(("options", "input", "model", "images"), "ok"),
        "output": "error",
        "table": "skipped",
    }
    assert done.stdout.splitlines()[-1] == "1 error, 0 warnings, 4 ok, 1 skipped."


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "--input is missing"),
        (["--config=nowhere.yaml"], "--config='nowhere.yaml' cannot be read"),
        (["--input=i", "--output=o", "--model=m", "--topk=3"], "Unknown flag --topk"),
        (["--input=i", "--output=o", "--model=m", "--top_k=0"], "--top_k='0' is not allowed"),
    ],
)
@pytest.mark.usefixtures("own_signal_handlers")
def test_doctor__a_mistake_in_the_command__is_one_line_and_status_2(args, expected, capfd):
    status = main(["doctor", *args])
    out, err = capfd.readouterr()
    assert status == 2 and expected in err
    assert len(err.splitlines()) == 1 and out == ""


def test_doctor__checks__have_names_of_their_own():
    names = [check.name for check in command.CHECKS]
    assert len(set(names)) == len(names) and max(map(len, names)) <= 12
