"""The command `sample`: a run over real photos with the embedded model, without downloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.dataset as ds

from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.launch import run_and_report
from labelbeam.transforms.files import exists, join_path
from labelbeam.transforms.photos import PHOTOS, right_classes
from labelbeam.transforms.table.rows import PREDICTIONS

MODEL = "efficientnet-lite0"


def run_sample(output: str, beam_flags: Sequence[str]) -> bool:
    """Label the sample photos, and print how many labels are right."""
    # A new folder each time, because a second run into the same one would find all photos done.
    folder = _free_folder(output)
    flags = {"input": str(PHOTOS), "output": folder, "model": MODEL}
    ok = run_and_report(load_config(None, flags, beam_flags))
    top_1, top_5, photos = score(folder)
    print(f"\nOf {photos} photos whose class is known, {top_1} are right at top-1 and {top_5} at top-5.")
    return ok


def score(output: str) -> tuple[int, int, int]:
    """Return how many photos are right at top-1 and at top-5, and the number of photos of known class."""
    classes = right_classes()
    rows = ds.dataset(join_path(output, PREDICTIONS)).to_table(["uri", "labels"]).to_pylist()
    class_ids = {Path(row["uri"]).name: [label["class_id"] for label in row["labels"]] for row in rows}
    top_1 = sum(bool(right & set(class_ids.get(name, [])[:1])) for name, right in classes.items())
    top_5 = sum(bool(right & set(class_ids.get(name, [])[:5])) for name, right in classes.items())
    return top_1, top_5, len(classes)


def _free_folder(output: str) -> str:
    """Return the folder, or the first of `output-2`, `output-3`, … that does not exist yet."""
    folder, n = output, 1
    while exists(folder):
        n += 1
        folder = f"{output}-{n}"
    return folder
