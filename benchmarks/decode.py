"""Decoding and resizing on one thread: gains by drafting and by malloc's settings, and cost of drafting.

Labels are EfficientNet-Lite0's, so that only figures at 224 px have them.

python -m benchmarks.decode [--images 57] [--rounds 5]
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.corpus import make_corpus
from labelbeam.transforms.images.decode import decode_image
from labelbeam.transforms.images.memory import tune_malloc
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.spec import ModelOptions
from labelbeam.transforms.photos import photo_paths
from tests.specs import resolve_spec

SIZE = (1600, 1200)
TARGETS_PX = (224, 600)


def decode_fully(data: bytes, rule: ResizeRule) -> np.ndarray:
    """Decode every pixel, then crop and resize as the pipeline does."""
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
        return np.asarray(rgb.resize((rule.size_px,) * 2, Image.Resampling.BICUBIC, rule.box(*rgb.size)))


def decode_drafted(data: bytes, rule: ResizeRule) -> np.ndarray:
    """Decode as the pipeline does."""
    return decode_image(data, rule, 10**9).pixels


def msec_per_image(decode, images: list[bytes], rule: ResizeRule) -> float:  # type: ignore[no-untyped-def]
    """Return the CPU milliseconds per image."""
    start = time.process_time()
    for data in images:
        decode(data, rule)
    return 1000 * (time.process_time() - start) / len(images)


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def measure(folder: str, tuned: bool) -> None:
    """Print one process's figures."""
    if tuned:
        tune_malloc()
    images = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    for target in TARGETS_PX:
        rules = ResizeRule(target), ResizeRule(target, decoding="fast")
        full = msec_per_image(decode_fully, images, rules[0])
        good, fast = (msec_per_image(decode_drafted, images, rule) for rule in rules)
        noises = [
            statistics.median(psnr_db(decode_fully(d, rule), decode_drafted(d, rule)) for d in images)
            for rule in rules
        ]
        print(target, full, good, fast, *noises)


def label_changes() -> dict[str, tuple[float, float]]:
    """Return the share of photos with a full decode's best class, and the largest change of its score."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder) / "images", len(photo_paths()), *SIZE)
        images = [path.read_bytes() for path in sorted(corpus.iterdir())]
    classifier = Classifier(resolve_spec(ModelOptions("efficientnet-lite0")), top_k=5, batch_size=8)
    rule = classifier.spec.resize
    full = classifier.classify([decode_fully(data, rule) for data in images])
    changes = {}
    for decoding in ("good", "fast"):
        fitted = replace(rule, decoding=decoding)
        drafted = classifier.classify([decode_drafted(data, fitted) for data in images])
        same = [a.class_ids[0] == b.class_ids[0] for a, b in zip(full, drafted, strict=True)]
        shift = [abs(a.scores[0] - b.scores[0]) for a, b in zip(full, drafted, strict=True)]
        changes[decoding] = (float(np.mean(same)), float(max(shift)))
    return changes


def main() -> None:
    """Measure with and without malloc's settings in turn, each in fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=57)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    figures: dict[tuple[str, int], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder) / "images", args.images, *SIZE)
        for _ in range(args.rounds):
            for tuned in ("plain", "tuned"):
                script = (
                    f"from benchmarks.decode import measure; measure({str(corpus)!r}, {tuned == 'tuned'})"
                )
                done = subprocess.run(
                    [sys.executable, "-c", script], check=True, capture_output=True, text=True
                )
                for line in done.stdout.splitlines():
                    target, *values = line.split()
                    figures.setdefault((tuned, int(target)), []).append([float(v) for v in values])
    print(f"{SIZE[0]}x{SIZE[1]} JPEG, CPU ms an image, medians of {args.rounds} rounds")
    for (tuned, target), rounds in sorted(figures.items()):
        full, good, fast, *noises = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"malloc {tuned}, to {target} px: full {full:.2f}, good {good:.2f} ({good / full:.2f} of full, "
            f"{noises[0]:.1f} dB), fast {fast:.2f} ({fast / full:.2f} of full, {noises[1]:.1f} dB)"
        )
    for decoding, (same, shift) in label_changes().items():
        print(
            f"{decoding}: {same:.3f} of photos keep their best class; best scores change by up to {shift:.3f}"
        )


if __name__ == "__main__":
    main()
