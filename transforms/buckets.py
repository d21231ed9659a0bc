"""Buckets: the key under which references and done ids meet."""

from __future__ import annotations

import zlib

# Of a hundred million ids some 24,000 fall into one bucket: few enough to hold in memory and to
# finish within minutes, and enough buckets to share out among thousands of workers.
BUCKETS = 1 << 12
# Rows that are gathered before they go to their buckets, so that those of one go together.
GATHERED_ROWS = 1 << 16


def hash_of(image_id: str) -> int:
    """A number from 0 to 2**32 - 1, the same in every process."""
    return zlib.crc32(image_id.encode("utf-8", "surrogatepass"))


def bucket_of(image_id: str) -> int:
    """The bucket of an id."""
    return hash_of(image_id) % BUCKETS
