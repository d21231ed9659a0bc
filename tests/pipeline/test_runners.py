import pytest

from pipeline.config import PredictConfig
from pipeline.runners import (
    accelerator_hints,
    check_accelerators,
    check_no_wait,
    pipeline_options,
    runs_elsewhere,
)
from tests.graphs import run_pipeline
from transforms.errors import UserError

HINT = "type:nvidia-l4;count:1;install-nvidia-driver"
SPLIT = PredictConfig(layout="split", accelerator_hint=HINT)
DATAFLOW = "--runner=DataflowRunner"


@pytest.mark.parametrize(
    ("predict", "flags", "hints"),
    [
        (PredictConfig(), (), {}),
        (PredictConfig(), (f"--dataflow_service_options=worker_accelerator={HINT}",), {}),
        (PredictConfig(layout="split"), (f"--dataflow_service_options=worker_accelerator={HINT}",), {}),
        (SPLIT, (), {"accelerator": HINT}),
        (SPLIT, (DATAFLOW, "--dataflow_service_options=enable_prime"), {"accelerator": HINT}),
    ],
)
def test_accelerator_hints__what_goes_together__is_as_asked(predict, flags, hints):
    assert accelerator_hints(predict, pipeline_options(flags)) == hints


@pytest.mark.parametrize(
    ("predict", "flags", "said"),
    [
        (
            PredictConfig(accelerator_hint=HINT),
            (),
            f"--accelerator_hint={HINT!r} needs --layout=split: .* '--resource_hints=accelerator={HINT}'",
        ),
        (
            SPLIT,
            (DATAFLOW, f"--dataflow_service_options=worker_accelerator={HINT}"),
            f"--dataflow_service_options='worker_accelerator={HINT}' is not allowed .* Leave it out",
        ),
        (SPLIT, (DATAFLOW, "--flexrs_goal=COST_OPTIMIZED"), "--flexrs_goal=COST_OPTIMIZED is not allowed"),
    ],
)
def test_accelerator_hints__what_excludes_each_other__is_refused_in_one_line(predict, flags, said):
    with pytest.raises(UserError, match=said) as e:
        accelerator_hints(predict, pipeline_options(flags))
    assert "\n" not in str(e.value)


NO_SUCH = "--experiments=no_use_multiple_sdk_containers"


@pytest.mark.parametrize(
    ("flags", "hints"),
    [
        ((DATAFLOW, f"--dataflow_service_options=worker_accelerator={HINT}"), {}),
        ((DATAFLOW, f"--resource_hints=accelerator={HINT}"), {}),
        ((DATAFLOW,), {"accelerator": HINT}),
    ],
)
def test_check_accelerators__several_processes_on_dataflow__are_refused(flags, hints):
    with pytest.raises(UserError, match=r"needs --experiments=no_use_multiple_sdk_containers") as e:
        check_accelerators(pipeline_options(flags), hints)
    assert HINT in str(e.value)
    check_accelerators(pipeline_options((*flags, NO_SUCH)), hints)
    check_accelerators(pipeline_options(flags[1:]), hints)  # not on Dataflow


def test_run__accelerator_hint_in_the_fused_layout__writes_nothing(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\n", "utf-8")
    options = {"input": tmp_path / "list.txt", "output": tmp_path / "out", "model": "efficientnet-lite0"}
    with pytest.raises(UserError, match="needs --layout=split"):
        run_pipeline(accelerator_hint=HINT, **options)
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize("flags", [(DATAFLOW,), (*PORTABLE, "--environment_type=DOCKER")])
def test_check_no_wait__job_needs_nothing_of_us__is_allowed(flags):
    check_no_wait(pipeline_options(flags))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "not allowed with --runner=FnApiRunner.* such as --runner=DataflowRunner"),
        (("--runner=PrismRunner",), "not allowed with --runner=PrismRunner"),
        (FLINK, "needs --job_endpoint with --runner=FlinkRunner"),
        (PORTABLE, "needs --environment_type=DOCKER, PROCESS or EXTERNAL"),
        ((*PORTABLE, "--environment_type=LOOPBACK"), "needs --environment_type=DOCKER, PROCESS or EXTERNAL"),
    ],
)
def test_check_no_wait__job_ends_with_us__is_refused_with_a_remedy(flags, said):
    with pytest.raises(UserError, match=said) as e:
        check_no_wait(pipeline_options(flags))
    assert "\n" not in str(e.value)
