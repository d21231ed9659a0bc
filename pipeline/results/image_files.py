"""Image files of published tables: formats and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labelbeam.pipeline.results.database import Database
from labelbeam.pipeline.results.histogram import Bin


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Sizes and formats of labelled images.

    Attributes:
      formats: Name, images and bytes of each format, the most frequent first.
      megapixels: Distribution of the number of pixels.
      kilobytes: Distribution of the length of the files.
      facts: Numbers of images: `small` ones, which are smaller than the model's input; `turned` ones by
        their orientation; `animated` ones with several frames; all `images`; and `bytes`.
    """

    formats: tuple[Mapping[str, Any], ...]
    megapixels: tuple[Bin, ...]
    kilobytes: tuple[Bin, ...]
    facts: Mapping[str, int]


def read_image_files(db: Database, size_px: int) -> ImageFiles:
    """Return sizes and formats of labelled images; `size_px` is the side of the model's input."""
    db.run(f"""
CREATE TABLE image_files AS
SELECT format, {_log_bin("width_px::BIGINT * height_px / 1e6")} AS megapixels,
  {_log_bin("size_bytes / 1e3")} AS kilobytes,
  count(*) AS images, sum(size_bytes)::BIGINT AS bytes,
  count(*) FILTER (least(width_px, height_px) < {size_px}) AS small,
  count(*) FILTER (orientation > 1) AS turned,
  count(*) FILTER (frames IS NULL OR frames > 1) AS animated
FROM predictions GROUP BY ALL
""")
    return ImageFiles(
        formats=tuple(
            db.rows(
                "SELECT format, sum(images)::BIGINT AS images, sum(bytes)::BIGINT AS bytes "
                "FROM image_files GROUP BY format ORDER BY images DESC, format"
            )
        ),
        megapixels=_log_bins(db, "megapixels"),
        kilobytes=_log_bins(db, "kilobytes"),
        facts=db.row(
            "SELECT "
            + ", ".join(
                f"coalesce(sum({column}), 0)::BIGINT AS {column}"
                for column in ("images", "bytes", "small", "turned", "animated")
            )
            + " FROM image_files"
        ),
    )


def _log_bin(value: str) -> str:
    return f"floor(log2({value}))::INTEGER"


def _log_bins(db: Database, column: str) -> tuple[Bin, ...]:
    rows = db.rows(f"SELECT {column} AS bin, sum(images)::BIGINT AS images FROM image_files GROUP BY bin")
    images = {row["bin"]: row["images"] for row in rows}
    if not images:
        return ()
    low, high = min(images), max(images)
    # At least three bins, because one bar alone is no picture of a distribution.
    if high - low < 2:
        low, high = low - 1, high + 1
    return tuple(Bin(2.0**n, 2.0 ** (n + 1), images.get(n, 0)) for n in range(low, high + 1))
