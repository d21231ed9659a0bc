"""Launching: folders of this machine in a run elsewhere, and the processes of a run here."""

import subprocess
import sys

import pytest
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.launch import with_absolute_paths
from labelbeam.pipeline.runners.local import supervised
from tests.graphs import PATIENCE_SEC


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("own", "{here}/own"),
        ("efficientnet-b0", "efficientnet-b0"),
        ("gs://bucket/model", "gs://bucket/model"),
        ("nowhere", "nowhere"),
    ],
)
def test_with_absolute_paths__model__is_absolute_where_it_is_a_folder_and_no_preset(
    tmp_path, monkeypatch, name, becomes
):
    monkeypatch.chdir(tmp_path)
    for folder in ("own", "efficientnet-b0"):
        (tmp_path / folder).mkdir()
    config = with_absolute_paths(load_config(None, {"input": "in", "output": "out", "model": name}))
    assert config.model.model == becomes.format(here=tmp_path)
    assert config.write.output == f"{tmp_path}/out"


def test_with_absolute_paths__output_in_a_bucket__stays():
    config = load_config(None, {"input": "in", "output": "gs://b/out", "model": "m"})
    assert with_absolute_paths(config).write.output == "gs://b/out"


def test_supervised__worker_processes__ignore_the_ctrl_c_that_a_terminal_sends_to_all():
    python = f"{sys.executable} -c 'import signal; print(signal.getsignal(signal.SIGINT).name)'"
    before = SubprocessSDKEnvironment.from_command_string(python).command_string
    with supervised():
        command = SubprocessSDKEnvironment.from_command_string(python).command_string
    assert SubprocessSDKEnvironment.from_command_string(python).command_string == before
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=PATIENCE_SEC)
    assert done.stdout == "SIG_IGN\n"


@pytest.mark.parametrize("worker_error", ["", "exit status 1"])
def test_supervised__signals_that_were_ignored__stay_ignored_but_for_a_lost_worker(worker_error):
    """Ignore SIGINT first, as a shell does for jobs that it starts in the background."""
    code = f"""
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from labelbeam.pipeline.runners import local
watch = local._Watch()
watch.worker_error = {worker_error!r}
local._Watch = lambda: watch
try:
    with local.supervised():
        os.kill(os.getpid(), signal.SIGINT)
    print("ignored", signal.getsignal(signal.SIGINT).name)
except local.RunError:
    print("a worker is lost", signal.getsignal(signal.SIGINT).name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_SEC
    )
    assert done.stdout == ("a worker is lost SIG_IGN\n" if worker_error else "ignored SIG_IGN\n")
