"""The command line as its user sees it: a process, its output and its exit status."""

import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from labelbeam.pipeline import GO_ON
from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.sample import score
from tests.graphs import PATIENCE_SEC, assert_sound, besides_progress, wait_until
from tests.synthetic import HTML, encoded, jpeg_bytes
from tests.tiny_model import save_tiny_model

ROOT = Path(__file__).parent.parent.parent
COMMAND = (sys.executable, "-m", "labelbeam")


def labelbeam(*args, **kwargs) -> subprocess.CompletedProcess:
    command = [*COMMAND, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SEC, **kwargs)


@pytest.fixture(scope="module")
def whole_table(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    images = make_images(folder / "in", good=1)
    assert labelbeam("run", "--input", images, "--output", folder / "out", "--model", tiny).returncode == 0
    return folder / "out"


def make_images(folder: Path, good: int, bad: int = 0) -> Path:
    folder.mkdir()
    for n in range(good):
        (folder / f"{n:05d}.jpg").write_bytes(jpeg_bytes(30 + n % 50, 30))
    for n in range(bad):
        (folder / f"bad{n:05d}.jpg").write_bytes(HTML)
    return folder


def test_sample__the_readmes_command__labels_the_photos_right(tmp_path, lite0_dir):
    done = labelbeam("sample", "--output", tmp_path / "out")
    assert (done.returncode, besides_progress(done.stderr)) == (0, [])
    assert "Labelled 57 of 57 images" in done.stdout
    manifest = assert_sound(tmp_path / "out")
    assert manifest["model"]["handle"] == "embedded:efficientnet-lite0"
    top_1, top_5, checked = score(str(tmp_path / "out"))
    assert checked == 27 and top_1 >= 24 and top_5 >= 26
    assert f"Of 27 photos whose class is known, {top_1} are right at top-1" in done.stdout
    shown = re.search(r"^```\n(Labelled .+?)^```", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    first, last = without_times(shown).split("…\n")
    printed = without_times(done.stdout.replace(str(tmp_path / "out"), "labelbeam-sample"))
    assert printed.startswith(first) and printed.endswith(last)


def without_times(summary: str) -> str:
    return re.sub(r"[\d.]+ s \([\d.]+ images/s", "", summary)


def test_sample__again__goes_to_a_folder_of_its_own(tmp_path, lite0_dir, own_signal_handlers):
    (tmp_path / "out").mkdir()
    assert main(["sample", f"--output={tmp_path / 'out'}"]) == 0
    assert_sound(tmp_path / "out-2")


def test_run__model_that_does_not_return__ends_with_its_name_and_keeps_what_is_staged(
    tmp_path, own_signal_handlers, capsys
):
    images = make_images(tmp_path / "in", good=40)
    white = encoded(Image.new("RGB", (30, 30), "white"))
    (tmp_path / "in" / "99999.png").write_bytes(white)
    model = save_tiny_model(tmp_path / "stuck", 16, stuck=True)
    flags = ["--input", images, "--output", tmp_path / "out", "--model", model, "--batch_size", 2]
    done = labelbeam("run", *flags, "--predict_timeout_sec", 2, "--stage_rows", 1)
    assert done.returncode == 1 and done.stderr.count("Traceback") == 0
    assert "stuck' did not return within predict_timeout_sec=2" in besides_progress(done.stderr)[-1]
    (images / "99999.png").unlink()
    assert main(["run", *map(str, flags)]) == 0
    assert "were done before" in capsys.readouterr().out


def test_run__failures_within_budget__exits_with_0_and_tells_them_and_what_it_ran(tmp_path, tiny):
    images = make_images(tmp_path / "in", good=19, bad=1)
    flags = ["--input", images, "--output", tmp_path / "out", "--model", tiny]
    done = labelbeam("run", *flags, "--batch_size", "2", "--input_range", "-1,1")
    assert (done.returncode, besides_progress(done.stderr)) == (0, [])
    assert "Labelled 19 of 20 images" in done.stdout and "1  not_an_image" in done.stdout
    assert "Model: input range -1,1 (given)" in done.stdout  # a value that looks like a flag
    manifest = assert_sound(tmp_path / "out")
    config = manifest["config"]
    assert (config["input"], config["top_k"], config["batch_size"]) == (str(images), 5, 2)
    assert manifest["preprocessing"]["resize"]["size_px"] == 16


def test_run__failures_over_budget__exits_with_1_and_keeps_the_results(
    tmp_path, tiny, own_signal_handlers, capsys
):
    images = make_images(tmp_path / "in", good=1, bad=1)
    assert main(["run", f"--input={images}", f"--output={tmp_path / 'out'}", f"--model={tiny}"]) == 1
    out = capsys.readouterr().out
    assert "1 of 2 images failed (50.0%), more than --max_failure_rate 0.1 allows" in out
    assert "--max_failure_rate 0.5 would allow this share." in out
    assert "not_an_image (1)" in out
    assert_sound(tmp_path / "out")


def test_run__output_was_labelled_with_something_else__is_refused_and_left_alone(
    tmp_path, tiny, own_signal_handlers, capfd
):
    images = make_images(tmp_path / "in", good=2)
    args = ["run", f"--input={images}", f"--output={tmp_path / 'out'}", f"--model={tiny}"]
    assert main(args) == 0
    capfd.readouterr()
    before = sorted((p, p.read_bytes()) for p in (tmp_path / "out").rglob("*") if p.is_file())
    status = main([*args, "--top_k=2"])
    _, err = capfd.readouterr()
    assert status == 2 and "top_k (5 there, 2 now)" in err
    assert "--replace" in err and len(err.splitlines()) == 1
    assert sorted((p, p.read_bytes()) for p in (tmp_path / "out").rglob("*") if p.is_file()) == before


MISTAKES = [
    ([], "COMMAND"),
    (["walk"], "Unknown command 'walk'. See labelbeam --help."),
    (["run"], "--input is missing"),
    (["run", "--inptu=x"], "Unknown flag --inptu: neither labelbeam nor Beam has it. Did you mean --input?"),
    (["run", "--batchsize=8"], "Did you mean --batch_size?"),
    (["run", "--direct-num-worker=2"], "Unknown flag --direct_num_worker: "),
    (["run", "--batch-size=0"], "--batch_size='0' is not allowed"),
    (["run", "IN", "OUT", "MODEL", "--direct-num-workers=two"], "--direct_num_workers"),
    (["run", "--top_k", "0"], "--top_k='0' is not allowed: it must be a whole number from 1 to 1,000"),
    (["run", "--top_k"], "expected one argument"),
    (["run", "--config", "nowhere.yaml"], "--config='nowhere.yaml' cannot be read"),
    (["run", "IN", "OUT", "--model=nowhere/model"], "model='nowhere/model' is no SavedModel"),
    (["run", "IN", "OUT", "MODEL", "--topk=3"], "Unknown flag --topk"),
    (["run", "IN", "OUT", "MODEL", "stray"], "'stray' is no flag. See labelbeam run --help."),
    (["run", "tests", "OUT", "MODEL"], "'tests' is no flag. Write --input tests."),
    (
        ["run", "--input=README.md", "docs/design.md", "docs/images.md", "OUT"],
        "'docs/design.md' and 1 more are no flags. Write --input docs, put a glob in quotes",
    ),
    (["verify", "nowhere", "setup.py", "LICENSE"], "'setup.py' and 1 more are no flags. Write --input ., "),
    (["sample", "tests"], "'tests' is no flag. See labelbeam sample --help."),
    (["run", "IN", "-o", "o1"], "-o is no flag: flags have two dashes. Did you mean --output? See labelbeam"),
    (["run", "-inptu=x"], "-inptu=x is no flag: flags have two dashes. Did you mean --input?"),
    (["rerun", "nowhere", "--top_k", "3"], "rerun has no option --top_k, because a rerun keeps the settings"),
    (["rerun", "nowhere", "--replace"], "keeps the settings of the run. Remove it, or use labelbeam run."),
    (["rerun", "nowhere", "--config=x"], "labelbeam rerun has no option --config, because"),
    (["verify", "nowhere", "--batch-size=8"], "labelbeam verify has no option --batch_size. Remove it, or"),
    (["model", "inspect", "m", "--top_k=3"], "labelbeam model inspect has no option --top_k. Remove it"),
    (["--input=x"], "labelbeam has no option --input. Remove it, or use labelbeam run."),
    (
        ["run", "--input=s3://b/in", "OUT", "MODEL"],
        "input='s3://b/in' is not allowed: a local path, gs://, http",
    ),
    (["run", "IN", "OUT", "MODEL", "--runner=NoRunner"], "NoRunner"),
    (["run", "IN", "OUT", "MODEL", "--no_wait"], "--no_wait is not allowed, because --runner=FnApiRunner"),
    (["run", "IN", "OUT", "MODEL", "--direct_num_workers=two"], "--direct_num_workers"),
    (["run", "--input=nowhere/*.jpg", "OUT", "MODEL"], "input='nowhere/*.jpg' matches nothing"),
    (["run", "--input=nowhere.txt", "OUT", "MODEL"], "input='nowhere.txt' matches nothing"),
    (["run", "--input=http://h.invalid/list.txt?sig=5ec", "OUT", "MODEL"], "list.txt?sig=…' cannot be downl"),
    (["run", "IN", "--output=s3://b/out", "MODEL"], "output='s3://b/out' is not allowed: a local folder"),
    (["verify", "s3://b/out"], "output='s3://b/out' is not allowed: a local folder"),
    (["verify", "nowhere"], "'nowhere' holds no published results"),
    (["verify", "nowhere", "--inptu=x"], "Unknown argument --inptu=x. Did you mean --input?"),
    (["verify", "nowhere", "--id-column=key"], "--id_column is an option of an input. Add --input."),
    (["rerun", "nowhere", "--only=timeout"], "'nowhere' holds no published results"),
    (["model", "inspect", "nowhere"], "model='nowhere' is no SavedModel"),
    (["run", "IN", "--output=/proc/none", "MODEL"], "output='/proc/none' cannot be written"),
    (["run", "IN", "OUT", "MODEL", "--labels=nowhere.txt"], "labels='nowhere.txt' cannot be read"),
    (["run", "IN", "OUT", "MODEL", "--require_accelerator"], "TensorFlow sees no GPU"),
    (["run", "EMPTY", "OUT", "MODEL"], "holds no images"),
    (["run", "IN", "OUT", "MODEL", "--labels=imagenet"], "has 3 classes, and its label map has 1000"),
    (["run", "CSV", "OUT", "MODEL", "--uri_column=link"], "uri_column='link' is no column of"),
    (["run", "CSV", "OUT", "MODEL", "--column_types=n=float99"], "n='float99' is not allowed: one of"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=str)
@pytest.mark.usefixtures("own_signal_handlers")
def test_run__a_users_mistake__is_one_line_status_2_and_nothing_written(
    tmp_path, tiny, monkeypatch, capfd, args, message
):
    monkeypatch.chdir(ROOT)
    status = main(mistaken(tmp_path, tiny, args))
    assert_mistake(status, *capfd.readouterr(), message)
    assert not (tmp_path / "out").exists()


# Commands that lack required arguments and have a misspelling, its correction, and the command with help.
UNKNOWN = [
    ("runn", "run", ""),
    ("--verison", "--version", ""),
    ("run --inptu=x", "--input", " run"),
    ("run --confg CONFIG", "--config", " run"),
    ("run --config=CONFIG --top_k=0 --batch-sise 8", "--batch_size", " run"),
    ("doctor --ofline", "--offline", " doctor"),
    ("doctor --config=CONFIG --inptu x", "--input", " doctor"),
    ("rerun --onyl", "--only", " rerun"),
    ("rerun --onyl timeout", "--only", " rerun"),
    ("rerun nowhere --onyl=timeout", "--only", " rerun"),
    ("verify --inptu", "--input", " verify"),
    ("verify --inptu x", "--input", " verify"),
    ("model inspct", "inspect", " model"),
    ("model --hepl", "--help", " model"),
    ("model inspect --image-sise=3", "--image_size", " model inspect"),
    ("model inspect --image_sise 3", "--image_size", " model inspect"),
    ("model mirror x --verbos", "--verbose", " model mirror"),
    ("sample --outptu x", "--output", " sample"),
]


@pytest.mark.parametrize(("command", "meant", "program"), UNKNOWN, ids=str)
@pytest.mark.usefixtures("own_signal_handlers")
def test_command__unknown_flag_or_command__is_reported_first(
    tmp_path, monkeypatch, capfd, command, meant, program
):
    monkeypatch.chdir(tmp_path)
    status = main(command.replace("CONFIG", str(ROOT / "run_configs" / "local.yaml")).split())
    out, err = capfd.readouterr()
    assert_mistake(status, out, err, f"Did you mean {meant}? See labelbeam{program} --help.")
    assert err.startswith("labelbeam: Unknown ") and list(tmp_path.iterdir()) == []


def test_rerun__misspelt_flag__is_refused_though_nothing_failed(whole_table, own_signal_handlers, capfd):
    status = main(["rerun", str(whole_table), "--onyl", "timeout"])
    assert_mistake(status, *capfd.readouterr(), "Unknown flag --onyl: ")


@pytest.mark.parametrize(("args", "message"), [MISTAKES[0], MISTAKES[9], MISTAKES[-3]], ids=str)
def test_command__a_users_mistake__is_one_line_and_status_2(tmp_path, tiny, args, message):
    """Run processes, because TensorFlow and Beam write to standard error when they are first imported."""
    done = labelbeam(*mistaken(tmp_path, tiny, args))
    assert_mistake(done.returncode, done.stdout, done.stderr, message)
    assert not (tmp_path / "out").exists()


def mistaken(tmp_path, tiny, args) -> list[str]:
    """Return arguments with their placeholders replaced by files and folders that exist."""
    make_images(tmp_path / "in", good=1)
    (tmp_path / "list.csv").write_text("uri,n\na.jpg,1\n")
    (tmp_path / "empty").mkdir()
    places = {
        "EMPTY": f"--input={tmp_path / 'empty'}",
        "IN": f"--input={tmp_path / 'in'}",
        "CSV": f"--input={tmp_path / 'list.csv'}",
        "OUT": f"--output={tmp_path / 'out'}",
        "MODEL": f"--model={tiny}",
    }
    return [places.get(arg, arg) for arg in args]


def assert_mistake(status: int, out: str, err: str, message: str) -> None:
    assert status == 2, err
    assert message in err and "Traceback" not in err
    assert len(err.splitlines()) == 1 and out == ""


def test_help__run__tells_options_and_exit_statuses():
    done = labelbeam("run", "--help")
    assert done.returncode == 0
    for text in (
        "--max_failure_rate",
        "labelling: --top_k",
        "failures: --max_failure_rate",
        "(default: 5)",
        "Exit status",
        "130 interrupted",
    ):
        assert text in " ".join(done.stdout.split())


@pytest.mark.parametrize(("is_terminal", "lines"), [(True, ["Loading Beam…"]), (False, [])])
@pytest.mark.usefixtures("own_signal_handlers")
def test_command__terminal__shows_that_modules_are_being_loaded(monkeypatch, capsys, is_terminal, lines):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert main(["verify", "nowhere"]) == 2
    assert capsys.readouterr().err.splitlines()[:-1] == lines


@pytest.mark.parametrize(
    ("command", "function", "message"),
    [
        ("run", "launch.run_and_report", f"Interrupted. {GO_ON}"),
        ("rerun nowhere", "commands.rerun.rerun", f"Interrupted. {GO_ON}"),
        ("doctor", "commands.doctor.doctor", "Interrupted."),
        ("verify nowhere", "commands.verify.verify", "Interrupted."),
        ("sample", "commands.sample.run_sample", "Interrupted."),
    ],
)
@pytest.mark.usefixtures("own_signal_handlers")
def test_command__interrupted__advises_to_continue_runs_alone(
    tmp_path, monkeypatch, capsys, command, function, message
):
    monkeypatch.chdir(tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"labelbeam.pipeline.{function}", interrupt)
    disabled = logging.root.manager.disable
    try:
        assert main(command.split()) == 130
    finally:
        logging.disable(disabled)
    assert capsys.readouterr().err == f"{message}\n"


def start_slow_run(tmp_path, tiny, web, *flags) -> subprocess.Popen:
    """Start a run over images that take longer than the test to arrive."""
    (tmp_path / "list.txt").write_text("\n".join(web.uri(f"/silent/{n}") for n in range(100)))
    args = ["run", f"--input={tmp_path / 'list.txt'}", f"--output={tmp_path / 'out'}", f"--model={tiny}"]
    process = subprocess.Popen(
        [*COMMAND, *args, "--fetch_threads=2", "--image_timeout_sec=3600", "--allow_hosts=127.0.0.1", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: web.requests, process)
    return process


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_run__interrupted__ends_soon_with_130(tmp_path, tiny, web, sent):
    process = start_slow_run(tmp_path, tiny, web)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 130
    assert "Interrupted" in stderr and "Traceback" not in stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_run__worker_process_killed__says_so_and_exits_with_1(tmp_path, tiny, web):
    flags = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    process = start_slow_run(tmp_path, tiny, web, *flags)
    os.kill(youngest_worker(process.pid), signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 1, stderr
    assert "A worker process ended early" in stderr and "Traceback" not in stderr + stdout
    assert not (tmp_path / "out" / "manifest.json").exists()


def youngest_worker(pid: int) -> int:
    """Return a process below `pid` that runs Beam's worker."""
    children = psutil.Process(pid).children(recursive=True)
    return max(p.pid for p in children if "sdk_worker_main" in p.cmdline()[2])


def test_run__progress__is_plain_lines_without_a_terminal(tmp_path, tiny, monkeypatch):
    from labelbeam.pipeline.report import progress

    monkeypatch.setattr(progress, "_PLAIN_EVERY_SEC", 0.01)
    shown = tmp_path / "shown"
    with shown.open("w") as out, progress.shown(lambda: {"listed": 10, "labelled": 4, "failed": 1}, out):
        wait_until(shown.read_text)
    assert shown.read_text().splitlines()[0] == "5 of 10 images, 50.0%, 1 failed"
