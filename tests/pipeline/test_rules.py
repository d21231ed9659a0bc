import re

import pytest

from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.runners.options import pipeline_options
from labelbeam.pipeline.runners.rules import RULES, Settings, broken_rules
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


def settings_of(options, flags):
    required = {"input": "gs://b/list.txt", "output": "gs://b/out", "model": "efficientnet-b0"}
    return Settings(load_config(None, required | options, flags), pipeline_options(flags))


# Rule, options and flags that break it, and its message.
BROKEN = [
    ("_unfit_runner", {}, ("--runner=DaskRunner",), "it drops .* Use FnApiRunner, PrismRunner"),
    *(
        (
            "_unfit_runner",
            {},
            ("--runner=SparkRunner", *flags),
            "=SparkRunner is not allowed: .* Use FnApiRunner",
        )
        for flags in ((), ("--spark_master_url=spark://localhost:7077",), ("--job_endpoint=localhost:8099",))
    ),
    ("_headers", {"http_header": "A=$NO_SUCH_VARIABLE"}, (), "needs the environment variable NO_SUCH_VAR"),
    ("_streaming", {}, ("--streaming",), "--streaming is not allowed: .* Remove --streaming"),
    (
        "_output_is_input",
        {"output": "gs://b/list.txt/"},
        (),
        "--output='gs://b/list.txt/' is the input, too, and",
    ),
    (
        "_prism_missing",
        {},
        ("--runner=PrismRunner", "--prism_location=/nowhere/prism"),
        "--prism_location='/nowhere/prism' is not a file. .* clone .*`python -m tests.engines.install",
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
        "_accelerator_required_without_one",
        {"require_accelerator": True},
        (DATAFLOW,),
        "--require_accelerator on Dataflow needs workers with an accelerator. Give --dataflow_service",
    ),
    ("_optimisation", {"precision": "bfloat16", "xla": "force"}, (), "can't be combined"),
    ("_optimisation", {"precision": "bfloat16", "require_accelerator": True}, (), "is for CPUs. Use --prec"),
    *(
        ("_optimisation", options, (DATAFLOW, *flags), message)
        for options, flags, message in (
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
        "_query_without_project",
        {"input": "bigquery:SELECT 1"},
        (),
        "--input='bigquery:SELECT 1' needs the proj",
    ),
    (
        "_copy_in_a_template",
        {"input": "https://host/list.txt?sig=5ec"},
        (DATAFLOW, "--template_location=gs://b/t"),
        r"--input='https://host/list.txt\?sig=…' .* Copy the list to a bucket",
    ),
    (
        "_loopback_on_a_cluster",
        {},
        (*ON_CLUSTER, "--environment_type=LOOPBACK"),
        "LOOPBACK is not allowed with --flink_master=cluster:8081: .* Use DOCKER, PROCESS or EXTERNAL",
    ),
    *(
        ("_no_wait_for_a_job_that_ends", {"no_wait": True}, flags, message)
        for flags, message in (
            (
                (),
                "because --runner=FnApiRunner runs in this command. Remove --no_wait, or use --runner=Data",
            ),
            (("--runner=PrismRunner",), "because --runner=PrismRunner runs in this command"),
            (
                ON_CLUSTER,
                "the job server that FlinkRunner starts ends with this command. Give --job_endpoint",
            ),
            (JOB_SERVER, "Give --environment_type=DOCKER, PROCESS or EXTERNAL"),
            ((*PORTABLE, "--environment_type=LOOPBACK"), "because workers of LOOPBACK end with this command"),
        )
    ),
    *(
        ("_metrics_file", {"metrics_file": path, **options}, flags, f"--metrics_file='{path}' {message}")
        for path, options, flags, message in (
            ("m.prom", {"no_wait": True}, (DATAFLOW,), "is not allowed with --no_wait, because the command"),
            ("m.prom", {}, (DATAFLOW, "--template_location=gs://b/t"), "is not allowed with --template_loc"),
            ("gs://b/m.prom", {}, (), "cannot be written: it is not on this machine. Give a file in"),
            ("/dev/stdout", {}, (), "cannot be written: it is no ordinary file"),
            ("/", {}, (), "cannot be written: it is no ordinary file"),
            ("/nowhere/m.prom", {}, (), "cannot be written: No such file or directory: '/nowhere'"),
            (f"{__file__}/m.prom", {}, (), "cannot be written: Not a directory: "),
        )
    ),
]


@pytest.mark.parametrize(("name", "options", "flags", "message"), BROKEN)
def test_rules__each_breach__is_refused_by_one_rule_in_one_line(name, options, flags, message):
    results = {rule.__name__: rule(settings_of(options, flags)) for rule in RULES}
    messages = {rule: result for rule, result in results.items() if result}
    assert messages.keys() == {name}
    assert re.search(message, messages[name]) and "\n" not in messages[name]


def test_rules__every_one__is_broken_by_an_example():
    assert {rule.__name__ for rule in RULES} == {name for name, *_ in BROKEN}


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"input": "list.txt", "output": "out"}, ()),
        ({"metrics_file": "/tmp/labelbeam.prom"}, ()),
        ({"metrics_file": "/tmp/labelbeam.prom"}, (DATAFLOW,)),
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
def test_rules__options_that_fit__are_not_refused(options, flags):
    assert list(broken_rules(*settings_of(options, flags))) == []


def test_run__a_broken_rule__writes_nothing(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\n", "utf-8")
    options = {"input": tmp_path / "list.txt", "output": tmp_path / "out", "model": "efficientnet-lite0"}
    with pytest.raises(UserError, match="needs --layout=split"):
        run_pipeline(accelerator_hint=HINT, **options)
    assert not (tmp_path / "out").exists()
