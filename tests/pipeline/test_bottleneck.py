from collections import Counter

import pytest
from apache_beam.metrics import monitoring_infos
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.portable_runner import PipelineResult

from labelbeam.pipeline.config import RunConfig, load_config
from labelbeam.pipeline.launch import run
from labelbeam.pipeline.report.bottleneck import describe_performance, find_bottleneck, measure_performance
from labelbeam.pipeline.report.work import Work, counters_of, namespace_of, query_metrics, work_of
from labelbeam.transforms.count import CountRows
from labelbeam.transforms.models import meter
from tests.graphs import make_mixed_corpus
from tests.tiny_model import save_tiny_model

SECOND = 1_000_000


def config(**options: str) -> RunConfig:
    """Return the configuration of a run."""
    return load_config(None, {"input": "in", "output": "out", "model": "m", **options})


def work(model: float, decode: float, on_gpu: bool = False, sec: int = 10, **counts: int) -> Work:
    """Return the work of two cores, from the shares of time in which the model and the decoders were busy."""
    callers = 1 if on_gpu else 2
    counted = {
        meter.WALL_USEC: sec * SECOND,
        meter.CORE_USEC: 2 * sec * SECOND,
        meter.OPEN_USEC: callers * sec * SECOND,
        meter.BUSY_USEC: round(model * callers * sec * SECOND),
        meter.IMAGES_RUN: 950,
        meter.SLOTS_RUN: 1000,
        meter.FULL_SLOTS: 1900,
        meter.LOADED: 1,
        meter.ON_GPU: int(on_gpu),
    }
    decode_usec = round(decode * 2 * sec * SECOND)
    times = {"fetch": (1_900_000, 950), "decode": (decode_usec, 950), "write": (95_000, 3)}
    return Work(Counter({**counted, **counts}), times)


def describe(work: Work, config: RunConfig) -> list[str]:
    return describe_performance(measure_performance(work, config), config)


@pytest.mark.parametrize(
    ("seen", "bottleneck"),
    [
        (work(0.95, 0.2, on_gpu=True), "model on GPU"),
        (work(0.5, 0.95, on_gpu=True), "decoding"),
        (work(0.5, 0.5, on_gpu=True), "fetching"),
        (work(0.95, 0.5), "model"),
        (work(0.6, 0.4), "model"),  # together they keep the cores busy
        (work(0.3, 0.65), "decoding"),
        (work(0.1, 0.1), "fetching"),
    ],
)
def test_find_bottleneck__shares__names_the_slowest_step(seen, bottleneck):
    assert find_bottleneck(seen) == bottleneck


def test_describe_performance__a_run__lists_times_waiting_padding_and_troubles():
    wrong = {meter.OOM_SPLITS: 2, meter.NOT_FROZEN: 1, meter.NOT_OPTIMISED: 1}
    _, first, times, waited, *warnings = describe(work(0.9, 0.19, **wrong), config())
    assert first == (
        "Bottleneck of this run: model. Remedies: --precision bfloat16, more cores or workers, a GPU or a "
        "smaller model."
    )
    assert times == "  an image took 2.0 ms to fetch, 4.0 to decode, 18.9 in the model, 0.10 to write"
    model = "waited 10% of the time; its batches were 50% full, and 5.0% of what it computed was padding"
    assert waited == f"  the model {model}"
    assert [line.split()[:3] for line in warnings] == [
        ["2", "batches", "were"],
        ["1", "of", "1"],
        ["1", "of", "1"],
    ]


def test_describe_performance__options_that_are_set__are_no_remedies():
    changed = config(precision="float16", batch_size="auto", decoding="fast")
    _, first, *_ = describe(work(0.9, 0.1, on_gpu=True), changed)
    assert first == "Bottleneck of this run: model on GPU. Remedies: more GPUs or a smaller model."
    _, first, *_ = describe(work(0.1, 0.9), changed)
    assert first == "Bottleneck of this run: decoding. Remedies: more cores or workers or smaller images."


@pytest.mark.parametrize(
    ("model", "bottleneck"),
    [
        (0.9, "model. Remedies: --precision bfloat16"),
        (0.5, "unpacking. Remedies: more cores a labelling worker or more labelling workers."),
    ],
)
def test_describe_performance__split_layout__is_about_the_side_with_the_model(model, bottleneck):
    # Decoding is not counted against the model, because it took the cores of other workers.
    _, first, *_ = describe(work(model, 0.95), config(layout="split"))
    assert first.startswith(f"Bottleneck of the labelling side: {bottleneck}")


def test_describe_performance__a_short_run__lists_troubles_only():
    assert describe(work(0.9, 0.19, sec=1), config()) == []
    _, line = describe(work(0.9, 0.19, sec=1, **{meter.NOT_FROZEN: 1}), config())
    assert "1 of 1 models could not be frozen" in line


def test_describe_performance__a_short_run__lists_automatic_choices():
    tried = {meter.LOADED: 2, meter.BATCH_SIZE: 16, meter.COMPARED: 114, meter.AGREED: 112}
    lines = describe(work(0.9, 0.19, sec=1, **tried), config(batch_size="auto", precision="bfloat16"))
    assert lines == [
        "",
        "  --batch_size auto chose 8",
        "  the faster model keeps the best class of 98.2% of the sample photos",
    ]


def test_measure_performance__a_run__has_times_shares_and_troubles():
    counts = {
        meter.OOM_SPLITS: 2,
        meter.NOT_FROZEN: 1,
        meter.BATCH_SIZE: 8,
        meter.COMPARED: 57,
        meter.AGREED: 56,
    }
    seen = measure_performance(work(0.9, 0.19, on_gpu=True, **counts), config())
    assert dict(seen.image_ms) == pytest.approx(
        {"fetch": 2.0, "decode": 4.0, "model": 9000 / 950, "write": 0.1}
    )
    shares = (seen.model_waited, seen.batch_fill, seen.padding, seen.agreement)
    assert shares == pytest.approx((0.1, 0.5, 0.05, 56 / 57))
    assert (seen.bottleneck, seen.batch_size, seen.models, seen.models_on_gpu) == ("model on GPU", 8, 1, 1)
    assert (seen.oom_splits, seen.models_not_frozen, seen.models_not_optimised) == (2, 1, 0)
    assert [warning.split()[0] for warning in seen.warnings] == ["2", "1"]
    assert seen.remedies[0] == "--precision float16"


def test_measure_performance__a_short_run__has_numbers_and_no_bottleneck():
    seen = measure_performance(work(0.9, 0.19, sec=1), config())
    assert (seen.bottleneck, seen.remedies) == (None, ())
    assert seen.model_waited == pytest.approx(0.1) and seen.image_ms.keys() == {
        "fetch",
        "decode",
        "model",
        "write",
    }


def test_measure_performance__nothing_labelled__has_no_number_that_was_not_measured():
    nothing = Work(Counter(), {"fetch": (0, 0), "decode": (0, 0), "write": (0, 0)})
    seen = measure_performance(nothing, config())
    assert (dict(seen.image_ms), seen.bottleneck, seen.warnings, seen.models) == ({}, None, (), 0)
    unknown = (seen.model_waited, seen.batch_fill, seen.padding, seen.batch_size, seen.agreement)
    assert unknown == (None,) * 5
    assert describe_performance(seen, config(batch_size="auto")) == []
    only_fetched = Work(Counter(), {"fetch": (6000, 3), "decode": (0, 0), "write": (0, 0)})
    assert dict(measure_performance(only_fetched, config()).image_ms) == {"fetch": 2.0}


def test_work_of__runner_that_gives_no_metrics__is_none():
    class Silent:
        def metrics(self):
            raise NotImplementedError

    assert work_of(Silent()) is None and work_of(None) is None


@pytest.mark.parametrize("flags", [(), ("--direct_num_workers=2", "--direct_running_mode=multi_processing")])
def test_work_of__a_run__counts_every_image_of_all_processes(tmp_path, flags):
    model = save_tiny_model(tmp_path / "tiny", size_px=16)
    (tmp_path / "list.txt").write_text("\n".join(make_mixed_corpus(tmp_path / "in", images=11)), "utf-8")
    options = {"input": tmp_path / "list.txt", "output": tmp_path / "out", "model": model, "batch_size": 4}
    settings = {name: str(value) for name, value in options.items()}
    finished = run(load_config(None, {**settings, "max_failure_rate": "1"}, flags))
    seen = finished.work
    processes = 2 if flags else 1
    assert seen.counts[meter.IMAGES_RUN] == finished.manifest.counts["labelled"]
    assert seen.counts[meter.SLOTS_RUN] >= seen.counts[meter.IMAGES_RUN]
    assert 1 <= seen.counts[meter.LOADED] <= processes and seen.counts[meter.NOT_FROZEN] == 0
    assert 0 < seen.counts[meter.BUSY_USEC] <= seen.counts[meter.OPEN_USEC]
    assert seen.times_usec["decode"][1] >= 11 and seen.times_usec["write"][1] >= 1


class CountingJobService:
    """A job server whose counter goes up."""

    labelled = 0

    def GetJobMetrics(self, _request):
        self.labelled += 1
        namespace = namespace_of(CountRows)
        info = monitoring_infos.int64_user_counter(namespace, "labelled", self.labelled, ptransform="s")
        return beam_job_api_pb2.GetJobMetricsResponse(
            metrics=beam_job_api_pb2.MetricResults(attempted=[info])
        )


def test_query_metrics__job_of_a_job_server__are_those_of_now():
    result = PipelineResult(CountingJobService(), "job-1", iter(()), iter(()))
    seen = [counters_of(query_metrics(result), CountRows)["labelled"] for _ in range(3)]
    assert seen == [1, 2, 3]
