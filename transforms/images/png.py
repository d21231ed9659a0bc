"""PNG: workarounds for files whose pixels Pillow reads wrong."""

from __future__ import annotations

from PIL import ImageFile

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.images.containers import Chunk, png_chunks

_FIRST_CHUNK_AT, _COLOUR_TYPE_AT = 12, 25
# Lengths of tRNS in a PNG of grey, colour and palette (PNG 1.2, 4.2.1.1).
_TRANSPARENCY_BYTES = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}


def prepare_png(data: bytes, image: ImageFile.ImageFile) -> None:
    """Prepare an opened PNG for loading.

    Raises:
      ImageError: Pillow would read the pixels wrong.
    """
    if data.startswith(b"CgBI", _FIRST_CHUNK_AT):
        raise ImageError(
            Reason.UNSUPPORTED,
            "PNG: Apple's variant (CgBI) is not read; undo it: xcrun pngcrush -revert-iphone-optimizations",
        )
    if image.mode == "P" and image.palette is None:
        raise ImageError(Reason.DECODE_ERROR, "PNG: indices without a palette")
    # A chunk tRNS of a wrong length is ignored, as by libpng, because Pillow would read a key from it.
    chunk = next((c for c in png_chunks(data) if c.kind == b"tRNS"), None)
    if "transparency" in image.info and chunk and not is_valid_transparency(data, chunk):
        del image.info["transparency"]
    # The tile is set to the canvas, because a damaged animation may declare another size for its first frame.
    image.tile = [tile._replace(extents=(0, 0, *image.size)) for tile in image.tile]


def is_valid_transparency(data: bytes, chunk: Chunk) -> bool:
    """Return whether a chunk tRNS has a length that the PNG's colour type allows."""
    colour_type = int.from_bytes(data[_COLOUR_TYPE_AT : _COLOUR_TYPE_AT + 1])
    return chunk.end - 4 - chunk.body in _TRANSPARENCY_BYTES.get(colour_type, ())
