import pytest

from pipeline.runners import is_local, pipeline_options, runs_elsewhere
from transforms.errors import UserError


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("dataflow", "DataflowRunner"),
        ("apache_beam.runners.dataflow.dataflow_runner.DataflowRunner", "DataflowRunner"),
        ("FLINKRUNNER", "FlinkRunner"),
        ("direct", "FnApiRunner"),
        ("my.own.DataflowRunner", "my.own.DataflowRunner"),
        ("NoSuch", "NoSuch"),
    ],
)
def test_pipeline_options__spellings_that_beam_takes__are_one_runner(said, name):
    assert pipeline_options((f"--runner={said}",)).get_all_options()["runner"] == name


@pytest.mark.parametrize("flags", [(), ("--runner=DirectRunner",), ("--runner=FnApiRunner",)])
def test_pipeline_options__the_local_runner__is_always_the_same(flags):
    assert pipeline_options(flags).get_all_options()["runner"] == "FnApiRunner"
    assert is_local(pipeline_options(flags))


@pytest.mark.parametrize(
    ("flags", "least", "most"),
    [
        (("--runner=PrismRunner",), 86400, 1e9),
        (("--runner=PrismRunner", "--job_server_timeout=7"), 7, 7),
        (("--runner=FlinkRunner",), 1, 3600),
    ],
)
def test_pipeline_options__prism__has_no_limit_that_would_end_a_long_job(flags, least, most):
    assert least <= pipeline_options(flags).get_all_options()["job_server_timeout"] <= most


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
        (("--runner=SparkRunner",), False),
        (("--runner=SparkRunner", "--spark_master_url=spark://localhost:7077"), True),
    ],
)
def test_runs_elsewhere__runners__those_whose_jobs_outlive_the_command(flags, elsewhere):
    assert runs_elsewhere(pipeline_options(flags)) == elsewhere
