"""The sample run: real photos, the embedded model, nothing to download."""

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
    """Labels the sample photos and says how many labels are right."""
    folder = _free_folder(output)
    flags = {"input": str(PHOTOS), "output": folder, "model": MODEL}
    ok = run_and_report(load_config(None, flags, beam_flags))
    top_1, top_5, known = score(folder)
    print(f"\nOf {known} photos whose class is known, {top_1} are right at top-1 and {top_5} at top-5.")
    return ok


def score(output: str) -> tuple[int, int, int]:
    """Counts right labels in the sample's output: at top-1, at top-5, and the photos known."""
    classes = right_classes()
    rows = ds.dataset(join_path(output, PREDICTIONS)).to_table(["uri", "labels"]).to_pylist()
    found = {Path(row["uri"]).name: [label["class_id"] for label in row["labels"]] for row in rows}
    top_1 = sum(found.get(name, [])[:1] != [] and found[name][0] in right for name, right in classes.items())
    top_5 = sum(bool(right & set(found.get(name, [])[:5])) for name, right in classes.items())
    return top_1, top_5, len(classes)


def _free_folder(output: str) -> str:
    """The folder, or the first of `output-2`, `output-3`, … that is not there yet."""
    folder, n = output, 1
    while exists(folder):
        n += 1
        folder = f"{output}-{n}"
    return folder
