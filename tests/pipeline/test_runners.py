import pytest

from pipeline.config import PredictConfig
from pipeline.runners import accelerator_hints, check_accelerators, pipeline_options
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
