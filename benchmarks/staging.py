"""The cost of staging and publishing: the pipeline against the same steps with Beam's own Parquet sink.

python -m benchmarks.staging [--images 20000] [--rounds 5]
python -m benchmarks.staging straight CORPUS OUTPUT

Each run is a fresh process that labels all images into an empty folder; times
include start-up, which both have. Rounds are interleaved; the figure is the
median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import apache_beam as beam
import pyarrow.dataset as ds

from benchmarks import throughput
from benchmarks.corpus import make_corpus
from benchmarks.measure import Command, Cost, cost_of
from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.plan import Plan
from labelbeam.pipeline.prepare import prepared
from labelbeam.pipeline.runners.options import new_pipeline, pipeline_options
from labelbeam.transforms.elements import Prediction
from labelbeam.transforms.load import LoadImages
from labelbeam.transforms.predict import PredictLabels
from labelbeam.transforms.read import ReadImageRefs
from labelbeam.transforms.select import SelectUnlabelled
from labelbeam.transforms.table.rows import PREDICTIONS, RowMetadata, prediction_row, predictions_schema

SIZE = (160, 120)
TARGET = 1.03


def label_straight(pipe: beam.Pipeline, plan: Plan) -> None:
    """Write labels by the pipeline's own steps and Beam's sink: nothing is staged, counted or published."""
    predict, metadata = plan.config.predict, plan.staging.row_metadata
    schema = predictions_schema(metadata)
    rows = pipe | "ReadImageRefs" >> ReadImageRefs(plan.corpus)
    done = pipe | "ReadDoneIds" >> plan.done
    images = (rows, done) | "SelectUnlabelled" >> SelectUnlabelled()
    max_pixels = round(plan.config.load.max_megapixels * 1e6)
    loaded = images.ok | "LoadImages" >> LoadImages(
        plan.limits, plan.model.resize, max_pixels, threads=plan.threads
    )
    predictions = loaded.ok | "PredictLabels" >> PredictLabels(
        plan.model, predict.top_k, predict.batch_size, plan.threads, reuse=predict.dedupe == "content"
    )
    _ = (
        predictions.ok
        | "AsDicts" >> beam.Map(as_dict, schema.names, metadata).with_output_types(dict)
        | "Write"
        >> beam.io.WriteToParquet(
            f"{plan.output}/{PREDICTIONS}/part", schema, codec="zstd", file_name_suffix=".parquet"
        )
    )


def as_dict(prediction: Prediction, names: list[str], metadata: RowMetadata) -> dict:
    """Return a row as Beam's sink takes it."""
    return dict(zip(names, prediction_row(prediction, metadata), strict=True))


def straight(corpus: str, output: str) -> None:
    """Label a corpus, and end the process at once, as the pipeline does."""
    options = pipeline_options(())
    config = load_config(None, {"input": corpus, "output": output, "model": throughput.MODEL})
    with prepared(config, options) as plan, new_pipeline(options) as pipe:
        label_straight(pipe, plan)
    os._exit(0)


def straight_command(corpus: Path) -> list[str]:
    """Return the command that labels a corpus into an empty folder with Beam's sink."""
    output = corpus.parent / "output"
    shutil.rmtree(output, ignore_errors=True)
    return [sys.executable, "-m", "benchmarks.staging", "straight", str(corpus), str(output)]


def checked_cost(command: Command, corpus: Path, images: int) -> Cost:
    """Return the time of a run that labels all images."""
    cost = cost_of(command(corpus))
    rows = ds.dataset(corpus.parent / "output" / PREDICTIONS, format="parquet").count_rows()
    assert rows == images, f"{rows} rows of {images} images"
    return cost


def main() -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    contenders = {"pipeline": throughput.pipeline, "straight": straight_command}
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder) / "images", args.images, *SIZE)
        for n in range(args.rounds):
            for name, command in contenders.items():
                costs[name].append(checked_cost(command, corpus, args.images))
            now = ", ".join(f"{k} {v[-1].wall_sec:.1f} s ({v[-1].cpu_sec:.1f} CPU)" for k, v in costs.items())
            print(f"round {n + 1}: {now}", flush=True)
    for clock in ("wall", "cpu"):
        ratios = [
            getattr(ours, f"{clock}_sec") / getattr(beams, f"{clock}_sec")
            for ours, beams in zip(costs["pipeline"], costs["straight"], strict=True)
        ]
        print(
            f"pipeline / straight, {clock}: median {statistics.median(ratios):.3f}, target <= {TARGET}"
            f" (min {min(ratios):.3f}, max {max(ratios):.3f}, {args.rounds} rounds, {args.images:,} images)"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["straight"]:
        straight(*sys.argv[2:])
    else:
        main()
