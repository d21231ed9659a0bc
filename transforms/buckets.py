"""Buckets: the key by which references are joined with done ids."""

from __future__ import annotations

import zlib

from labelbeam.transforms.elements import FILE_ID_CHARS, image_id_of

# 4,096 buckets, because a bucket is joined in memory by one worker: of 100 M ids some 24,000 fall into each,
# which takes little memory and time, and thousands of workers get a share.
BUCKETS = 1 << 12
# Rows that are gathered before a shuffle, because rows of one bucket then travel as one element.
GATHERED_ROWS = 1 << 16


def hash_of(image_id: str) -> int:
    """Return a number from 0 to 2**32 - 1."""
    # CRC-32, because Python's `hash` of a string differs between processes.
    return zlib.crc32(image_id.encode("utf-8", "surrogatepass"))


def bucket_of_image(row_id: str) -> int:
    """Return the bucket of the image that a box is of."""
    return bucket_of(image_id_of(row_id))


def bucket_of_file(image_id: str) -> int:
    """Return the bucket of the file that an image is inside of."""
    return hash_of(image_id[:FILE_ID_CHARS]) % BUCKETS


def bucket_of(image_id: str) -> int:
    """Return the bucket of an id."""
    return hash_of(image_id) % BUCKETS
