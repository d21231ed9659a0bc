"""Distances of the embeddings in two outputs."""

from __future__ import annotations

from labelbeam.pipeline.results.churn import MOST_IMAGES, Change, find_changes
from labelbeam.pipeline.results.database import Database, sample_of
from labelbeam.pipeline.results.shifts import Shifts, measure_shifts

# Bytes of the embeddings of one output that are joined. DuckDB can't join more of such wide rows within its
# memory, although it spills (1.5 GB failed).
_MOST_BYTES = 200_000_000
# In double precision, because distances of nearly equal embeddings would be rounding errors. Null if an
# embedding is zero, because the distance is then undefined.
_DISTANCES = """
CREATE TABLE distances AS
SELECT id, nullif(
    greatest(0, list_cosine_distance(a.embedding::DOUBLE[], b.embedding::DOUBLE[])), 'nan'
  ) AS distance
FROM (SELECT id, embedding FROM a_predictions {where}) AS a
JOIN (SELECT id, embedding FROM b_predictions {where}) AS b USING (id)
"""
_DISTANT = f"""
SELECT id, distance FROM distances WHERE distance > 0 ORDER BY distance DESC, id LIMIT {MOST_IMAGES}
"""


def measure_distances(
    db: Database, images: int, length: int
) -> tuple[Shifts | None, tuple[Change, ...], tuple[str, ...]]:
    """Measure the cosine distances of embeddings in the outputs attached as `a_` and `b_`.

    Args:
      db: Database with the tables.
      images: Number of images with an embedding in both.
      length: Numbers of an embedding.

    Returns:
      The distribution, or None without distances; the images with the largest ones; and reservations.
    """
    most = _MOST_BYTES // (4 * length)
    where = sample_of(images, most)
    db.run(_DISTANCES.format(where=where))
    compared = db.row("SELECT count(*) AS images, count(*) - count(distance) AS undefined FROM distances")
    warnings = []
    if where:
        warnings.append(
            f"Distances are of {compared['images']:,} of {images:,} images, chosen by a hash of the id, "
            "because the embeddings of all would need too much memory."
        )
    if compared["undefined"]:
        warnings.append(
            f"Images without a distance, because an embedding is zero: {compared['undefined']:,}."
        )
    distant = find_changes(db, _DISTANT, {})
    return measure_shifts(db, "distance", "distances"), distant, tuple(warnings)
