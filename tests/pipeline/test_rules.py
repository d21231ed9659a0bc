import pytest

from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.runners.options import pipeline_options
from labelbeam.pipeline.runners.rules import RULES, Said, broken_rules
from labelbeam.transforms.errors import UserError
from tests.graphs import run_pipeline

HINT = "type:nvidia-l4;count:1;install-nvidia-driver"
SPLIT = {"layout": "split", "accelerator_hint": HINT}
DATAFLOW = "--runner=DataflowRunner"
SERVICE_OPTION = f"--dataflow_service_options=worker_accelerator={HINT}"
HINT_FOR_ALL = f"--resource_hints=accelerator={HINT}"
RAM = "--resource_hints=min_ram=16GB"
FLEXRS = "--flexrs_goal=COST_OPTIMIZED"
ONE_PROCESS = "--experiments=no_use_multiple_sdk_containers"
PORTABLE = ("--runner=PortableRunner", "--job_endpoint=localhost:8099")
JOB_SERVER = ("--runner=FlinkRunner", "--job_endpoint=localhost:8099")
ON_CLUSTER = ("--runner=FlinkRunner", "--flink_master=cluster:8081")


def said(options, flags):
    given = {"input": "gs://b/list.txt", "output": "gs://b/out", "model": "efficientnet-b0"} | options
    return Said(load_config(None, given, flags), pipeline_options(flags))


# Rule, what breaks it, and what is said.
BROKEN = [
    ("_runner_loses_rows", {}, ("--runner=DaskRunner",), "it drops .* Use FnApiRunner, PrismRunner"),
    ("_streaming", {}, ("--streaming",), "--streaming is not allowed: .* Leave it out"),
    ("_main_session", {}, ("--save_main_session",), "--save_main_session is not allowed: .* Leave it out"),
    *(
        ("_local_processes_elsewhere", {}, flags, f"mean nothing to {flags[0][9:]}. .* --runner=FnApiRunner")
        for flags in (
            ("--runner=PrismRunner", "--direct_num_workers=2"),
            ("--runner=PrismRunner", "--direct_running_mode=multi_processing"),
            (DATAFLOW, "--direct_num_workers=0"),
            ("--runner=BundleBasedDirectRunner", "--direct_num_workers=2"),
        )
    ),
    (
        "_processes_without_effect",
        {},
        ("--direct_num_workers=2",),
        "--direct_num_workers=2 has no effect in one process. Give --direct_running_mode=multi_processing",
    ),
    ("_output_is_input", {"output": "gs://b/list.txt/"}, (), "--output='gs://b/list.txt/' is the input, too"),
    (
        "_prism_missing",
        {},
        ("--runner=PrismRunner", "--prism_location=/nowhere/prism"),
        "--prism_location='/nowhere/prism' is no file. .* `python -m tests.engines.install prism`",
    ),
    (
        "_hint_without_split",
        {"accelerator_hint": HINT},
        (),
        f"--accelerator_hint={HINT!r} needs --layout=split: .* '--resource_hints=accelerator={HINT}'",
    ),
    *(
        ("_hint_and_service_option", options, flags, "worker_accelerator=.* not allowed with the hint")
        for options, flags in (
            (SPLIT, (DATAFLOW, SERVICE_OPTION, ONE_PROCESS)),
            ({}, (DATAFLOW, SERVICE_OPTION, HINT_FOR_ALL, ONE_PROCESS)),
            ({}, (DATAFLOW, SERVICE_OPTION, RAM, ONE_PROCESS)),
        )
    ),
    *(
        (
            "_accelerator_or_hint_and_flexrs",
            options,
            flags,
            "--flexrs_goal=COST_OPTIMIZED is not allowed with '.*(nvidia|min_ram=16GB).*': FlexRS",
        )
        for options, flags in (
            (SPLIT, (DATAFLOW, FLEXRS, ONE_PROCESS)),
            ({}, (DATAFLOW, FLEXRS, HINT_FOR_ALL, ONE_PROCESS)),
            ({}, (DATAFLOW, FLEXRS, SERVICE_OPTION, ONE_PROCESS)),
            ({}, (DATAFLOW, FLEXRS, RAM)),
        )
    ),
    *(
        ("_several_processes_a_gpu", options, flags, f"{HINT}' needs --experiments=no_use_multiple_sdk")
        for options, flags in (
            ({}, (DATAFLOW, SERVICE_OPTION)),
            ({}, (DATAFLOW, HINT_FOR_ALL)),
            (SPLIT, (DATAFLOW,)),
        )
    ),
    (
        "_accelerator_required_and_not_asked_for",
        {"require_accelerator": True},
        (DATAFLOW,),
        "--require_accelerator on Dataflow needs workers that have one. Give --dataflow_service_options=",
    ),
    ("_optimisation", {"precision": "bfloat16", "xla": "force"}, (), "can't be combined"),
    ("_optimisation", {"precision": "bfloat16", "require_accelerator": True}, (), "is for CPUs. Use --prec"),
    *(
        ("_optimisation", options, (DATAFLOW, *flags), says)
        for options, flags, says in (
            ({"precision": "float16"}, (), "is for GPUs, and there is none. Use --precision bfloat16"),
            ({"xla": "on"}, (), "is for GPUs, and there is none"),
            (
                {"precision": "bfloat16"},
                (SERVICE_OPTION, ONE_PROCESS),
                "is for CPUs. Use --precision float16",
            ),
        )
    ),
    ("_local_path_on_dataflow", {"input": "list.txt"}, (DATAFLOW,), "--input='list.txt' is on this machine"),
    ("_local_path_on_dataflow", {"output": "out"}, (DATAFLOW,), "--output='out' is on this .* a gs:// path"),
    (
        "_loopback_on_a_cluster",
        {},
        (*ON_CLUSTER, "--environment_type=LOOPBACK"),
        "LOOPBACK is not allowed with --flink_master=cluster:8081: .* Use DOCKER, PROCESS or EXTERNAL",
    ),
    *(
        (rule, {"no_wait": True}, flags, says)
        for rule, flags, says in (
            ("_no_wait_here", (), "not allowed with --runner=FnApiRunner.* such as --runner=DataflowRunner"),
            ("_no_wait_here", ("--runner=PrismRunner",), "not allowed with --runner=PrismRunner"),
            ("_no_wait_with_an_own_job_server", ON_CLUSTER, "needs --job_endpoint with --runner=FlinkRunner"),
            ("_no_wait_with_own_workers", JOB_SERVER, "needs --environment_type=DOCKER, PROCESS or EXTERNAL"),
            ("_no_wait_with_own_workers", (*PORTABLE, "--environment_type=LOOPBACK"), "workers of LOOPBACK"),
        )
    ),
]


@pytest.mark.parametrize(("name", "options", "flags", "says"), BROKEN)
def test_rules__what_breaks_one__is_refused_by_it_alone_and_in_one_line(name, options, flags, says):
    found = {rule.__name__: rule(said(options, flags)) for rule in RULES}
    wrong = {rule: message for rule, message in found.items() if message}
    assert wrong.keys() == {name}
    with pytest.raises(UserError, match=says):
        raise UserError(wrong[name])
    assert "\n" not in wrong[name]


def test_rules__every_one__is_broken_by_an_example():
    assert {rule.__name__ for rule in RULES} == {name for name, *_ in BROKEN}


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"input": "list.txt", "output": "out"}, ()),
        ({"layout": "split"}, (SERVICE_OPTION,)),
        ({}, (DATAFLOW, SERVICE_OPTION, ONE_PROCESS)),
        ({}, (DATAFLOW, HINT_FOR_ALL, ONE_PROCESS)),
        ({"require_accelerator": True}, (DATAFLOW, SERVICE_OPTION, ONE_PROCESS)),
        ({"require_accelerator": True}, ()),
        (SPLIT, (DATAFLOW, "--dataflow_service_options=enable_prime", ONE_PROCESS)),
        ({}, (DATAFLOW, FLEXRS)),
        ({}, (DATAFLOW, FLEXRS, "--resource_hints=max_active_bundles_per_worker=2")),
        ({"precision": "float16"}, ()),
        ({"precision": "float16"}, (DATAFLOW, SERVICE_OPTION, ONE_PROCESS)),
        ({}, ("--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing")),
        ({}, ("--runner=FlinkRunner", "--environment_type=LOOPBACK")),
        ({}, (*ON_CLUSTER, "--environment_type=EXTERNAL")),
        ({"no_wait": True}, (DATAFLOW,)),
        ({"no_wait": True}, PORTABLE),
        ({"no_wait": True}, (*JOB_SERVER, "--environment_type=DOCKER")),
        ({}, ("--runner=PrismRunner", f"--prism_location={__file__}")),
        (
            {},
            ("--runner=PrismRunner", "--prism_location=https://github.com/apache/beam/releases/tag/v2.77.0"),
        ),
    ],
)
def test_rules__what_goes_together__is_not_refused(options, flags):
    assert list(broken_rules(*said(options, flags))) == []


def test_run__a_broken_rule__writes_nothing(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\n", "utf-8")
    options = {"input": tmp_path / "list.txt", "output": tmp_path / "out", "model": "efficientnet-lite0"}
    with pytest.raises(UserError, match="needs --layout=split"):
        run_pipeline(accelerator_hint=HINT, **options)
    assert not (tmp_path / "out").exists()
