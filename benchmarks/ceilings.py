"""The pipeline against the model alone and the decoder alone; optimised against plain.

python -m benchmarks.ceilings [--only b7,decoding,optimised] [--rounds 5]

b7         EfficientNet-B7's architecture at 600 px (random weights) against the same model on pixels
           that are there already.
decoding   a model that does nothing against a loop that reads, digests and decodes, one pinned process
           a core.
optimised  --precision bfloat16 --decoding fast against the plain loop written by hand, their labels
           compared first.

Rates are marginal, rounds interleaved, figures medians of the rounds' ratios, as in throughput.py.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import throughput
from benchmarks.hand_loop import on_every_core
from benchmarks.measure import Command, timed

_OPTIMISED = throughput.Bounds(same_classes=0.9, same_score=0.2)


def save_null_model(folder: str) -> None:
    """Write a model of 224 px that looks at one pixel."""
    import tensorflow as tf

    spec = tf.TensorSpec([None, 224, 224, 3], tf.uint8, name="inputs")
    serving = tf.function(lambda inputs: {"logits": tf.cast(inputs[:, 0, 0, :], tf.float32)}, [spec])
    tf.saved_model.save(tf.Module(), folder, {"serving_default": serving.get_concrete_function()})


def save_b7_model(folder: str) -> None:
    """Write B7's architecture."""
    from tests.b7_model import save_b7

    save_b7(folder)


def run_model_alone(corpus: str, model: str) -> None:
    """Label as many images as the corpus has; all are noise that is already in memory."""
    import numpy as np

    from labelbeam.transforms.models.classifier import Classifier
    from labelbeam.transforms.models.devices import choose_batch_size
    from labelbeam.transforms.models.runtime import configure_tensorflow
    from labelbeam.transforms.models.spec import ModelOptions
    from labelbeam.transforms.process import available_cores
    from tests.specs import resolve_spec

    cores = available_cores()
    configure_tensorflow(cores, cores)
    spec = resolve_spec(ModelOptions(model))
    size_px = spec.resize.size_px
    batch_size = choose_batch_size(None, size_px, on_gpu=False)
    classifier = Classifier(spec, top_k=5, batch_size=batch_size)
    batch = [np.random.default_rng(0).integers(0, 256, (size_px, size_px, 3), np.uint8)] * batch_size
    images = len(os.listdir(corpus))
    with ThreadPoolExecutor(cores) as pool:
        results = list(pool.map(classifier.classify, [batch] * (images // batch_size)))
    assert sum(map(len, results)) == images // batch_size * batch_size


def decode_shard(core: int, paths: Sequence[Path]) -> None:
    """Read, digest and decode files on one core."""
    os.sched_setaffinity(0, {core})
    from labelbeam.transforms.images.decode import decode_image
    from labelbeam.transforms.images.memory import tune_malloc
    from labelbeam.transforms.images.resize import ResizeRule

    tune_malloc()
    for path in paths:
        data = path.read_bytes()
        hashlib.sha256(data).hexdigest()
        assert decode_image(data, ResizeRule(224), 10**9).pixels.shape == (224, 224, 3)


def run_decoder_alone(corpus: str) -> None:
    """Decode a corpus on every core."""
    on_every_core(decode_shard, corpus)


def _here(function: str, *arguments: str) -> list[str]:
    called = f"from benchmarks import ceilings; ceilings.{function}{arguments}"
    return [sys.executable, "-c", called.replace(",)", ")")]


def contenders(name: str, folder: str) -> tuple[tuple[int, int], dict[str, Command]]:
    """Return the numbers of images of the two runs, and the commands; the first command is the reference."""
    if name == "b7":
        subprocess.run(_here("save_b7_model", folder), check=True, capture_output=True)
        alone: Command = lambda corpus: _here("run_model_alone", str(corpus), folder)  # noqa: E731
        return (16, 160), {
            "model alone": alone,
            "pipeline": functools.partial(throughput.pipeline, model=folder),
        }
    if name == "decoding":
        subprocess.run(_here("save_null_model", folder), check=True, capture_output=True)
        alone = lambda corpus: _here("run_decoder_alone", str(corpus))  # noqa: E731
        return (1000, 9000), {
            "decoder alone": alone,
            "pipeline": functools.partial(throughput.pipeline, model=folder),
        }
    fast = ("--precision=bfloat16", "--decoding=fast")
    optimised: Command = lambda corpus: throughput.pipeline(corpus, *fast)  # noqa: E731
    return (400, 1600), {"hand loop": throughput.hand_loop, "optimised pipeline": optimised}


def main() -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="b7,decoding,optimised")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    for name in args.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            images, runs = contenders(name, folder)
            timed_runs = {who: timed(command) for who, command in runs.items()}
            if name == "optimised":
                throughput.compare_labels("1600x1200", timed_runs, {"optimised pipeline": _OPTIMISED})
            throughput.measure("1600x1200", images, args.rounds, timed_runs)
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
