"""Jobs: services that fail or are silent, a Flink cluster, and runs on a job server."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import psutil
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.report import progress
from labelbeam.pipeline.runners import jobs
from labelbeam.pipeline.runners.jobs import DataflowJob, FlinkJob, Job, PortableJob
from labelbeam.transforms.errors import RunError
from tests.engines.job_server import JobServer
from tests.graphs import PATIENCE_SEC, assert_sound, read_until, wait_until
from tests.pipeline.test_cli import ROOT, labelbeam, make_images, start_slow_run

RUNNING, DONE, FAILED = PipelineState.RUNNING, PipelineState.DONE, PipelineState.FAILED


class ScriptedJob(Job):
    """A job whose service returns a script: states, exceptions to raise, `interrupt` or `silent`."""

    def __init__(self, *answers, cancelling=None):
        super().__init__(None, "job-1", "https://console/job-1")
        self.answers = list(answers)
        self.cancelling = cancelling

    def state(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == "silent":
            time.sleep(60)
        if answer == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            return RUNNING
        if isinstance(answer, Exception):
            raise answer
        return answer

    def news(self):
        return []

    def reason(self):
        return "it had enough"

    def cancel(self):
        if self.cancelling:
            raise self.cancelling


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    monkeypatch.setattr(jobs, "_POLL_SEC", 0.01)
    monkeypatch.setattr(jobs, "_CANCEL_POLL_SEC", 0.01)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(jobs, "_SILENCE_SEC", 0.5)
    monkeypatch.setattr(jobs, "_CANCEL_SEC", 0.5)


def test_follow__one_answer_is_an_error__goes_on(capsys):
    jobs.follow(ScriptedJob(RUNNING, OSError("broken pipe"), RUNNING, DONE), dict)
    running, hiccup, done = capsys.readouterr().err.splitlines()
    assert (running, done) == ("The job is running.", "The job is done.")
    assert hiccup.startswith("The job's state is unknown (broken pipe); retrying for 15 minutes")


def test_follow__running_job__prints_state_and_elapsed_time(monkeypatch, capsys):
    for name in ("_PLAIN_EVERY_SEC", "_SILENCE_SEC", "_READ_SEC"):
        monkeypatch.setattr(progress, name, 0.01)
    jobs.follow(ScriptedJob(*[RUNNING] * 20, DONE), dict)
    lines = capsys.readouterr().err.splitlines()
    assert {"The job is running.", "running, 0:00: nothing counted yet", "The job is done."} <= set(lines)


class Refused(Exception):
    code = 403


def test_follow__the_service_refuses__is_final(capsys):
    with pytest.raises(RunError, match=r"The state of job .* is unknown \(not for you\)\. It may run on"):
        jobs.follow(ScriptedJob(RUNNING, Refused("not for you")), dict)


class LateMessages:
    """A client of Dataflow whose first response is late and whose second one is an error."""

    def __init__(self):
        self.calls = 0
        self.may_respond = threading.Event()

    def list_messages(self, _job_id, **_):
        self.calls += 1
        if self.calls == 1:
            self.may_respond.wait(PATIENCE_SEC)
        if self.calls == 2:
            raise OSError("broken pipe")
        text, level = "The zone has no L4 left.", SimpleNamespace(name="JOB_MESSAGE_WARNING")
        return [SimpleNamespace(time=1, message_text=text, message_importance=level)], None


def test_news__late_and_failed_answers__lose_no_message(monkeypatch):
    monkeypatch.setattr(jobs, "_NEWS_SEC", 0.1)
    options = PipelineOptions(["--project=p", "--region=r"])
    client, others = LateMessages(), set(threading.enumerate())
    job = DataflowJob(SimpleNamespace(job_id=lambda: "job-1"), client, options)
    assert [job.news(), job.news()] == [[], []]
    client.may_respond.set()
    for late in set(threading.enumerate()) - others:
        late.join(PATIENCE_SEC)
    assert job.news() == ["Dataflow: The zone has no L4 left."]
    assert job.news() == []


class FlinkRest:
    """The REST interface of a Flink cluster: states of jobs by id, and the requests to change them."""

    def __init__(self, jobs, status=202):
        self.jobs, self.status, self.requests = jobs, status, []
        rest = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                jobs = [{"jid": jid, "name": n, "state": s} for jid, (n, s) in rest.jobs.items()]
                self.answer(200, {"jobs": jobs} if self.path == "/jobs/overview" else {})

            def do_PATCH(self):
                rest.requests.append(self.path)
                self.answer(rest.status, {})

            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.master = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class CancelledResult:
    """Beam's result of a job that its job server reports as cancelled."""

    _job_id = "nightly-run_1_5f3c"
    state = PipelineState.CANCELLED

    def wait_until_finish(self):
        pass


def test_flink_job__cancelled__has_ended_when_it_has_on_the_cluster():
    other, tried_before = ("nightly-run_2", "RUNNING"), ("nightly-run_1", "FAILED")
    with FlinkRest({"a": ("nightly-run_1", "CREATED"), "b": other, "c": tried_before}) as rest:
        job = FlinkJob(CancelledResult(), rest.master)
        assert [job.state(), job.state()] == ["CANCELLING", "CANCELLING"]
        assert rest.requests == ["/jobs/a?mode=cancel"] * 2
        rest.jobs["a"] = ("nightly-run_1", "CANCELED")
        assert job.state() == PipelineState.CANCELLED


@pytest.mark.parametrize("status", [404, 409])
def test_flink_job__it_ended_meanwhile__is_no_error(status):
    with FlinkRest({"a": ("nightly-run_1", "RUNNING")}, status) as rest:
        assert FlinkJob(CancelledResult(), rest.master).state() == "CANCELLING"


def test_flink_job__the_cluster_refuses__is_an_error():
    refuses = pytest.raises(RunError, match="returns 500 for PATCH jobs/a")
    with FlinkRest({"a": ("nightly-run_1", "RUNNING")}, 500) as rest, refuses:
        FlinkJob(CancelledResult(), rest.master).state()


def test_follow__cancelled_by_somebody__message_depends_on_the_runner():
    class OfAJobServer(ScriptedJob):
        cancelled = PortableJob.cancelled

    with pytest.raises(
        RunError, match="not by this command. The job server reports it as cancelled. Check on the"
    ):
        jobs.follow(OfAJobServer(PipelineState.CANCELLED), dict)
    with pytest.raises(RunError, match="not by this command. Finished work is kept"):
        jobs.follow(ScriptedJob(PipelineState.CANCELLED), dict)


@pytest.mark.parametrize(
    ("answer", "why"), [("silent", "it did not respond within 0.5 s"), (OSError("no route"), "no route")]
)
def test_follow__no_answer_for_long__gives_up_and_warns_that_the_job_may_run(impatient, answer, why):
    message = rf"The state of job job-1 \(https://console/job-1\) is unknown \({why}"
    with pytest.raises(RunError, match=message) as e:
        jobs.follow(ScriptedJob(answer), dict)
    assert "Do not start another" in str(e.value) and "run the same command" not in str(e.value)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (ScriptedJob("interrupt", PipelineState.CANCELLED), "Interrupted: the job is cancelled"),
        (ScriptedJob("interrupt", DONE), "The job was done before it could be cancelled"),
        (ScriptedJob("interrupt", FAILED), "The job failed: it had enough"),
        (ScriptedJob("interrupt", RUNNING, cancelling=OSError("403 forbidden")), "cancelled .403 forbidden"),
    ],
)
def test_follow__interrupted__reports_the_end(job, message):
    with pytest.raises(KeyboardInterrupt, match=message):
        jobs.follow(job, dict)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (ScriptedJob("interrupt", RUNNING), r"Cancelled, but job job-1 \(.*\) has not ended yet"),
        (ScriptedJob("interrupt", "silent"), r"The job could not be cancelled \(it did not respond"),
    ],
)
def test_follow__interrupted_and_it_does_not_end__is_reported_after_a_while(impatient, job, message):
    with pytest.raises(KeyboardInterrupt, match=message):
        jobs.follow(job, dict)


@pytest.fixture(scope="module")
def server():
    with JobServer() as server:
        yield server


@pytest.fixture
def server_to_kill():
    """Yield a server of its own, because a job left running, or a dead server, would disturb other tests."""
    with JobServer() as server:
        yield server


def test_run__job_server__is_followed_until_the_job_is_done(
    server, tmp_path, tiny, capsys, own_signal_handlers
):
    images = make_images(tmp_path / "in", good=3)
    args = ["run", f"--input={images}", f"--output={tmp_path / 'out'}", f"--model={tiny}", *server.flags]
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert "\nSubmitted as\n  " in out and "Labelled 3 of 3 images" in out
    assert "The job is done." in err
    assert_sound(tmp_path / "out")


def test_run__job_server__a_failed_jobs_cause_comes_first(
    server, tmp_path, tiny, capsys, own_signal_handlers
):
    images = make_images(tmp_path / "in", good=1, bad=3)
    args = ["run", f"--input={images}", f"--output={tmp_path / 'out'}", f"--model={tiny}", *server.flags]
    assert main([*args, "--failure_floor=1", "--max_failure_rate=0"]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("labelbeam: The job failed: ") and "not_an_image" in err
    assert "Traceback" not in err


def test_run__job_server__ctrl_c_cancels_the_job(server_to_kill, tmp_path, tiny, web):
    process = start_slow_run(tmp_path, tiny, web, *server_to_kill.flags)
    read_until(process.stderr, "The job is running.")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 130, err
    assert "the job is cancelled. The job server reports it as cancelled" in err and "Traceback" not in err


def test_run__ctrl_c_while_a_job_server_starts__ends_at_once_and_leaves_nothing(tmp_path, tiny):
    java, jar, started = tmp_path / "java", tmp_path / "job-server.jar", tmp_path / "started"
    java.write_text(f"#!/bin/sh\necho $$ > {started}.tmp && mv {started}.tmp {started}\nexec sleep 600\n")
    java.chmod(0o755)
    jar.write_bytes(b"")
    images = make_images(tmp_path / "in", good=1)
    args = ["run", f"--input={images}", f"--output={tmp_path / 'out'}", f"--model={tiny}"]
    workers = ["--environment_type=EXTERNAL", "--environment_config=localhost:2"]
    cluster = ["--runner=FlinkRunner", "--flink_master=localhost:1", *workers]
    server = [f"--flink_job_server_jar={jar}", f"--job_server_java_launcher={java}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "labelbeam", *args, *cluster, *server],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(started.exists, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 130, err
    assert err.startswith("Interrupted while the job was being submitted") and "Traceback" not in err
    assert not psutil.pid_exists(int(started.read_text()))


def test_run__job_server_dies__warns_that_the_job_may_run(server_to_kill, tmp_path, tiny, web):
    process = start_slow_run(tmp_path, tiny, web, *server_to_kill.flags)
    read_until(process.stderr, "The job is running.")
    server_to_kill.kill()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 130, err
    assert "The job could not be cancelled" in err and "may still run" in err and "Traceback" not in err


def test_run__job_server__no_wait__the_job_publishes_by_itself(server, tmp_path, tiny):
    images = make_images(tmp_path / "in", good=3)
    args = ["run", f"--input={images}", f"--output={tmp_path / 'out'}", f"--model={tiny}", *server.flags]
    done = labelbeam(*args, "--no_wait")
    assert (done.returncode, done.stderr) == (0, "") and "publishes its results without this" in done.stdout
    wait_until((tmp_path / "out" / "manifest.json").exists)
