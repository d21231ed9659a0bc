"""Distribution of a value per image, such as the shift of a score, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labelbeam.pipeline.results.database import Database
from labelbeam.pipeline.results.histogram import Bin

# Values are counted in steps, because sorting as many values as there are images needs memory or disk.
_STEPS_PER_UNIT = 1_000_000
QUANTILES = (1, 5, 25, 50, 75, 95, 99)  # percent
BINS = 40
_STEPS = f"""
CREATE TABLE steps AS
SELECT CAST(floor(value * {_STEPS_PER_UNIT} + 0.5) AS INTEGER) AS step, count(*) AS images,
  sum(value) AS total, sum(abs(value)) AS distance, min(value) AS least, max(value) AS most
FROM (SELECT {{value}} AS value FROM {{images}})
WHERE value IS NOT NULL GROUP BY step
"""
_SUMMARY = """
WITH running AS (SELECT *, sum(images) OVER (ORDER BY step) AS so_far, sum(images) OVER () AS n FROM steps),
  by_distance AS (
    SELECT abs(step) AS step, sum(images) OVER (ORDER BY abs(step)) AS so_far, sum(images) OVER () AS n
    FROM steps
  )
SELECT sum(images)::BIGINT AS images, sum(total) / sum(images) AS mean,
  sum(distance) / sum(images) AS mean_distance, min(least) AS least, max(most) AS most,
  (SELECT min(step) FILTER (WHERE 100 * so_far >= 99 * n) FROM by_distance) AS reach,
  {quantiles}
FROM running
"""
# Values beyond the outermost bins are counted in them.
_BINS = """
SELECT greatest(0, least({last}, CAST(floor((step - {low}) / {width}) AS INTEGER))) AS bin,
  sum(images)::BIGINT AS images
FROM steps GROUP BY bin
"""


@dataclass(frozen=True, slots=True)
class Shifts:
    """Distribution of a value over images.

    Attributes:
      images: Number of images with a value.
      mean_absolute: Mean of the absolute values.
      least: Smallest value.
      most: Largest value.
      quantiles: By percent: the smallest value, to six digits, that so many images do not exceed.
      bins: Histogram; the outermost bins have all values beyond them, too.
    """

    images: int
    mean: float
    mean_absolute: float
    least: float
    most: float
    quantiles: Mapping[int, float]
    bins: tuple[Bin, ...]


def measure_shifts(db: Database, value: str, images: str) -> Shifts | None:
    """Measure a value of images.

    Args:
      db: Database with the images.
      value: SQL of the value, which lies in [-2, 2]; images with null have none.
      images: SQL of the images, with a row each.

    Returns:
      The distribution; None without values.
    """
    db.run(_STEPS.format(value=value, images=images))
    quantiles = ",\n  ".join(
        f"min(step) FILTER (WHERE 100 * so_far >= {percent} * n) AS q{percent}" for percent in QUANTILES
    )
    row = db.row(_SUMMARY.format(quantiles=quantiles))
    if row["images"] is None:
        return None
    return Shifts(
        images=row["images"],
        mean=row["mean"],
        mean_absolute=row["mean_distance"],
        least=row["least"],
        most=row["most"],
        quantiles={percent: row[f"q{percent}"] / _STEPS_PER_UNIT for percent in QUANTILES},
        bins=_histogram(db, row["reach"], is_signed=row["least"] < 0),
    )


def _histogram(db: Database, reach: int, is_signed: bool) -> tuple[Bin, ...]:
    """Return a histogram whose bins reach as far as 99 % of the values.

    Args:
      db: Database with the table `steps`.
      reach: Distance from 0 that 99 % of the values do not exceed, in steps.
      is_signed: Whether values may be negative.
    """
    bins_a_side = BINS // 2 if is_signed else BINS
    width = _round_up(reach / bins_a_side)
    low = -width * bins_a_side if is_signed else 0
    counts = {row["bin"]: row["images"] for row in db.rows(_BINS.format(low=low, width=width, last=BINS - 1))}
    edges = [(low + n * width) / _STEPS_PER_UNIT for n in range(BINS + 1)]
    return tuple(Bin(edges[n], edges[n + 1], counts.get(n, 0)) for n in range(BINS))


def _round_up(steps: float) -> int:
    """Return the next number of the form 1, 2 or 5 times a power of ten, because axes have such ticks."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= steps:
                return factor * power
        power *= 10
