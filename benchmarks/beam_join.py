"""The join that a user would write with Beam alone: the ids of one list that are also in another list.

python -m benchmarks.beam_join IDS_FILE DONE_FILE
"""

from __future__ import annotations

import sys

import apache_beam as beam

LISTED, DONE = "listed", "done"


def name_case(_id: str, lists: dict[str, list[int]]) -> str:
    """Return the names of the lists that contain an id."""
    return " and ".join(name for name in (LISTED, DONE) if any(lists[name]))


def join(ids_file: str, done_file: str) -> None:
    """Print the number of ids in each list alone and in both."""
    with beam.Pipeline("FnApiRunner") as pipe:
        lists = {
            name: pipe
            | f"Read {name}" >> beam.io.ReadFromText(path)
            | f"Key {name}" >> beam.Map(lambda one: (one, 1))
            for name, path in ((LISTED, ids_file), (DONE, done_file))
        }
        cases = lists | "Meet" >> beam.CoGroupByKey() | "Case" >> beam.MapTuple(name_case)
        _ = cases | "Count" >> beam.combiners.Count.PerElement() | beam.Map(print)


if __name__ == "__main__":
    join(*sys.argv[1:])
