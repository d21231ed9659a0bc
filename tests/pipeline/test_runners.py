import subprocess

import apache_beam as beam
import pytest
from apache_beam.transforms.environments import DockerEnvironment, PythonLoopbackEnvironment

from labelbeam.pipeline.runners.options import (
    environment_of,
    is_dataflow,
    is_portable,
    is_submitted_elsewhere,
    keep_interrupts_from_job_server,
    name_apart,
    pipeline_options,
    runs_elsewhere,
    runs_here,
    worker_image,
)
from labelbeam.transforms.errors import UserError


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("dataflow", "DataflowRunner"),
        ("apache_beam.runners.dataflow.dataflow_runner.DataflowRunner", "DataflowRunner"),
        ("FLINKRUNNER", "FlinkRunner"),
        ("direct", "FnApiRunner"),
        ("my.own.DataflowRunner", "my.own.DataflowRunner"),
        ("NoSuch", "NoSuch"),
    ],
)
def test_pipeline_options__spellings_that_beam_takes__are_one_runner(spelling, name):
    assert pipeline_options((f"--runner={spelling}",)).get_all_options()["runner"] == name


@pytest.mark.parametrize("flags", [(), ("--runner=DirectRunner",), ("--runner=FnApiRunner",)])
def test_pipeline_options__the_local_runner__is_always_the_same(flags):
    assert pipeline_options(flags).get_all_options()["runner"] == "FnApiRunner"
    assert runs_here(pipeline_options(flags))


@pytest.mark.parametrize(
    ("flags", "least", "most"),
    [
        (("--runner=PrismRunner",), 86400, 1e9),
        (("--runner=PrismRunner", "--job_server_timeout=7"), 7, 7),
        (("--runner=FlinkRunner",), 1, 3600),
        (("--runner=my.own.PrismRunner",), 1, 3600),
    ],
)
def test_pipeline_options__prism__has_no_limit_that_would_end_a_long_job(flags, least, most):
    assert least <= pipeline_options(flags).get_all_options()["job_server_timeout"] <= most


@pytest.mark.parametrize(
    ("flag", "meant"), [("--refesh=changed", "refresh"), ("--max_num_worker=3", "max_num_workers")]
)
def test_pipeline_options__misspelt__names_what_is_near(flag, meant):
    with pytest.raises(UserError, match=f"Unknown flag .* Did you mean --{meant}\\? See labelbeam"):
        pipeline_options((flag,))


@pytest.mark.parametrize("runner", ["FlinkRunner", "PrismRunner", "PortableRunner"])
def test_pipeline_options__flags_for_a_runner_s_service__are_passed_on(runner):
    flags = (f"--runner={runner}", "--of_the_service=2")
    assert pipeline_options(flags).get_all_options(retain_unknown_options=True)["of_the_service"] == "2"
    with pytest.raises(UserError, match="Unknown flag --of_the_service: neither labelbeam nor Beam has it"):
        pipeline_options(flags[1:])


DATAFLOW = "--runner=DataflowRunner"
PORTABLE = ("--runner=PortableRunner", "--job_endpoint=localhost:8099")
FLINK = ("--runner=FlinkRunner", "--flink_master=http://localhost:8081")


@pytest.mark.parametrize(
    ("flags", "elsewhere"),
    [
        ((), False),
        ((DATAFLOW,), True),
        (("--runner=PrismRunner",), False),
        (("--runner=BundleBasedDirectRunner",), False),
        (PORTABLE, True),
        (("--runner=PortableRunner", "--job_endpoint=embed"), False),
        (("--runner=FlinkRunner",), False),
        (FLINK, True),
    ],
)
def test_runs_elsewhere__runners__those_whose_jobs_outlive_the_command(flags, elsewhere):
    assert runs_elsewhere(pipeline_options(flags)) == elsewhere


@pytest.mark.parametrize("name", ["FnApiRunner", "DataflowRunner", "FlinkRunner"])
def test_runner__of_a_name_like_beams__is_none_of_beams(name):
    options = pipeline_options((f"--runner=my.own.{name}",))
    assert not (runs_here(options) or is_dataflow(options) or is_portable(options))
    assert not runs_elsewhere(options)


@pytest.mark.parametrize(
    ("flags", "elsewhere"),
    [
        (("--runner=FlinkRunner",), False),
        (FLINK, False),
        (("--runner=FlinkRunner", "--flink_master=https://far:8081"), True),
        (("--runner=PrismRunner", "--flink_master=far:8081"), False),
        (PORTABLE, False),
        (("--runner=PortableRunner", "--job_endpoint=127.0.0.2:8099"), False),
        (("--runner=PortableRunner", "--job_endpoint=far:8099"), True),
        (("--runner=PortableRunner", "--job_endpoint=embed"), False),
        (("--runner=PortableRunner", "--job_endpoint=[far"), False),
    ],
)
def test_is_submitted_elsewhere__job_servers_and_clusters__those_of_other_machines(flags, elsewhere):
    assert is_submitted_elsewhere(pipeline_options(flags)) is elsewhere


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        (("--runner=PrismRunner",), "LOOPBACK"),
        (("--runner=FlinkRunner",), "LOOPBACK"),
        (("--runner=FlinkRunner", "--flink_master=[local]"), "LOOPBACK"),
        (FLINK, "DOCKER"),
        ((*FLINK, "--environment_type=beam:env:process:v1"), "PROCESS"),
        (PORTABLE, "DOCKER"),
        ((*FLINK, "--environment_type=PROCESS"), "PROCESS"),
        (("--runner=PrismRunner", "--environment_type=DOCKER"), "DOCKER"),
    ],
)
def test_environment_of__none_or_one_said__is_what_beam_takes(flags, environment):
    assert environment_of(pipeline_options(flags)) == environment


@pytest.mark.parametrize("flags", [("--runner=PrismRunner",), ("--runner=FlinkRunner",), FLINK, PORTABLE])
def test_environment_of__none_said__is_what_beam_itself_makes(flags):
    options = pipeline_options(flags)
    environment = environment_of(options)  # before Beam writes its own choice into the options
    made = beam.Pipeline(options=options).runner.default_environment(options)
    assert type(made) is {"DOCKER": DockerEnvironment, "LOOPBACK": PythonLoopbackEnvironment}[environment]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ((*FLINK, "--job_name=nightly"), "nightly-run-1"),
        (FLINK, None),
        ((DATAFLOW, "--job_name=nightly"), "nightly"),
    ],
)
def test_name_apart__a_fixed_name_on_a_cluster__is_the_runs_own(flags, name):
    options = pipeline_options(flags)
    name_apart(options, "run-1")
    assert options.get_all_options()["job_name"] == name


def test_keep_interrupts_from_job_server__its_java__does_not_hear_them(tmp_path):
    java = tmp_path / "java"
    java.write_text('#!/bin/sh\necho "$@"\nkill -INT $$\necho lives\n')
    java.chmod(0o755)
    flags = (*FLINK, f"--job_server_java_launcher={java}", "--job_server_jvm_properties=-Xmx1g")
    options = pipeline_options(flags)
    keep_interrupts_from_job_server(options)
    values = options.get_all_options()
    command = [values["job_server_java_launcher"], *values["job_server_jvm_properties"], "-jar", "a b.jar"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "-Xmx1g -jar a b.jar\nlives\n" and done.returncode == 0


OWN, CONFIG = "--sdk_container_image=image:sdk", "--environment_config=image:config"
OPTION = "--environment_options=docker_container_image=image:option"


@pytest.mark.parametrize(
    ("flags", "image"),
    [
        ((DATAFLOW, OWN, CONFIG), "image:sdk"),
        ((DATAFLOW, CONFIG), ""),
        ((*FLINK, OWN, CONFIG), "image:config"),
        ((*FLINK, OWN, OPTION), "image:option"),
        ((*FLINK, OWN), ""),
        ((*FLINK, CONFIG, "--environment_type=EXTERNAL"), ""),
        (("--runner=FlinkRunner", CONFIG), ""),
        ((CONFIG, OWN), ""),
    ],
)
def test_worker_image__options__those_that_the_runner_reads(flags, image):
    assert worker_image(pipeline_options(flags)) == image
