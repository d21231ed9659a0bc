"""Metrics of a run as a text file for Prometheus, which node_exporter's textfile collector reads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from prometheus_client import write_to_textfile
from prometheus_client.core import GaugeMetricFamily

from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.report.bottleneck import STEPS, Performance
from labelbeam.pipeline.report.record import Attempt, RunRecord, Stopwatch, make_attempt, warn
from labelbeam.pipeline.runners.errors import FOREIGN_ERRORS
from labelbeam.transforms.count import DUPLICATE, FAILED, KEPT, LABELLED, NOT_CHOSEN
from labelbeam.transforms.errors import Reason, UserError, describe_error
from labelbeam.transforms.files import is_local
from labelbeam.transforms.sources.secrets import public_uri

# Each image of a run has one of them.
_OUTCOMES = (LABELLED, FAILED, KEPT, DUPLICATE, NOT_CHOSEN)


def fault_of_metrics_file(path: str) -> str | None:
    """Return why a metrics file cannot be written; None if it can."""
    if not is_local(path):
        return "it is not on this machine"
    # Neither links nor devices, such as /dev/stdout, because the new file would be renamed into their place.
    if os.path.lexists(path) and (os.path.islink(path) or not os.path.isfile(path)):
        return "it is no ordinary file"
    folder = os.path.dirname(os.path.abspath(path))
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        return f"{os.strerror(e.errno or 0)}: {folder!r}"
    return None


@contextmanager
def failures_measured(config: RunConfig, watch: Stopwatch) -> Iterator[None]:
    """Write the metrics of a run that fails in the body, if its configuration has a metrics file."""
    try:
        yield
    except BaseException as e:
        path = config.launch.metrics_file
        # A run is refused if its metrics file can't be written, and a warning would repeat the message.
        if path and not (isinstance(e, UserError) and fault_of_metrics_file(path)):
            write_metrics(config, make_attempt(config, watch), succeeded=False)
        raise


def write_metrics(config: RunConfig, attempt: Attempt, succeeded: bool) -> None:
    """Write the metrics of a run that has ended, and warn if that fails; without a metrics file, do nothing.

    Args:
      config: Configuration of the run.
      attempt: The run; a `RunRecord` if it has published.
      succeeded: Whether the run published and kept to its failure budget.
    """
    path, output = config.launch.metrics_file, config.write.output
    if path is None:
        return
    try:
        # By prometheus_client, because the collector must never read half a file.
        write_to_textfile(path, _Metrics(attempt, succeeded, _name_of(output)))
    # No error of any kind, because the metrics decide nothing about the results.
    except FOREIGN_ERRORS as e:
        warn(f"--metrics_file={path!r} has no metrics of this run: {describe_error(e)}.")


def _name_of(output: str) -> str:
    # Absolute, because the label must not depend on the folder that a command is started in.
    return public_uri(os.path.abspath(output) if output and is_local(output) else output.rstrip("/"))


@dataclass(frozen=True, slots=True)
class _Metrics:
    """The metrics of a run, as prometheus_client collects them."""

    attempt: Attempt
    succeeded: bool
    output: str

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for gauge in _gauges(self.attempt, self.succeeded):
            if gauge.samples:
                yield self._family(gauge)

    def _family(self, gauge: _Gauge) -> GaugeMetricFamily:
        # With the output in each series, because equal series of two files are an error for node_exporter.
        names = ["output", *gauge.samples[0].labels]
        family = GaugeMetricFamily(f"labelbeam_{gauge.name}", gauge.help, labels=names)
        for labels, number in gauge.samples:
            family.add_metric([self.output, *labels.values()], number)
        return family


class _Sample(NamedTuple):
    labels: Mapping[str, str]
    number: float


class _Gauge(NamedTuple):
    """A metric and its samples, whose labels have the same names."""

    name: str
    help: str
    samples: list[_Sample]


def _one(number: float | None) -> list[_Sample]:
    return [] if number is None else [_Sample({}, number)]


def _each(label: str, numbers: Mapping[str, float]) -> list[_Sample]:
    return [_Sample({label: value}, number) for value, number in numbers.items()]


def _gauges(attempt: Attempt, succeeded: bool) -> Iterator[_Gauge]:
    record = attempt if isinstance(attempt, RunRecord) else None
    start = datetime.fromisoformat(attempt.started).timestamp()
    info = {
        "run_id": record.run_id if record else "",
        "model": attempt.model,
        "runner": attempt.runner,
        "version": attempt.labelbeam,
    }
    yield _Gauge("run_info", "Last run that ended.", [_Sample(info, 1)])
    yield _Gauge(
        "run_success",
        "Whether the run published its results and kept to its failure budget (1 or 0).",
        _one(succeeded),
    )
    yield _Gauge("run_start_timestamp_seconds", "Start of the run, Unix time.", _one(start))
    yield _Gauge("run_end_timestamp_seconds", "End of the run, Unix time.", _one(start + attempt.seconds))
    yield _Gauge("run_duration_seconds", "Time of the run, start-up included.", _one(attempt.seconds))
    if record:
        yield from _gauges_of_tables(record)
        if record.performance:
            yield from _gauges_of_work(record.performance)


def _gauges_of_tables(record: RunRecord) -> Iterator[_Gauge]:
    images = {outcome: record.counts[outcome] for outcome in _OUTCOMES}
    # All reasons, because a series that comes and goes is hard to alert on.
    failures = {**dict.fromkeys(map(str, Reason), 0), **record.failures_by_reason}
    yield _Gauge("run_images", "Images of the run by outcome.", _each("outcome", images))
    yield _Gauge("table_rows", "Rows of the tables.", _each("table", record.rows))
    yield _Gauge("table_failures", "Failures in the tables by reason.", _each("reason", failures))
    yield _Gauge("table_generation", "Generation of the tables.", _one(record.generation))


def _gauges_of_work(work: Performance) -> Iterator[_Gauge]:
    steps = {step: float(step == work.bottleneck) for step in STEPS}
    image_seconds = {stage: ms / 1000 for stage, ms in work.image_ms.items()}
    yield _Gauge(
        "run_bottleneck",
        "Slowest step of the run (1), and other steps (0); all 0 for a run that was too short.",
        _each("step", steps),
    )
    yield _Gauge("run_image_seconds", "Mean time of an image in a stage.", _each("stage", image_seconds))
    ratios = {
        "run_model_waiting_ratio": ("Share of the time in which the model waited.", work.model_waited),
        "run_batch_fill_ratio": ("Share of the places in full batches that had an image.", work.batch_fill),
        "run_batch_padding_ratio": ("Share of the computed places that had no image.", work.padding),
        "run_agreement_ratio": (
            "Share of the sample photos whose best class the faster model keeps.",
            work.agreement,
        ),
    }
    numbers = {
        "run_batch_images": ("Images in a full batch.", work.batch_size),
        "run_models": ("Loaded models, one for each device of each process.", work.models),
        "run_gpu_models": ("Loaded models on GPUs.", work.models_on_gpu),
        "run_unfrozen_models": ("Loaded models that could not be frozen.", work.models_not_frozen),
        "run_unoptimised_models": (
            "Loaded models without the requested precision or XLA.",
            work.models_not_optimised,
        ),
        "run_split_batches": ("Batches that were split because memory ran out.", work.oom_splits),
    }
    for name, (text, number) in {**ratios, **numbers}.items():
        yield _Gauge(name, text, _one(number))
