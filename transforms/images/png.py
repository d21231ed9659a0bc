"""PNG: files whose pixels Pillow would read wrong."""

from __future__ import annotations

from PIL import ImageFile

from transforms.errors import ImageError, Reason

_FIRST_CHUNK_AT = 12


def prepare_png(data: bytes, image: ImageFile.ImageFile) -> None:
    """Make an opened PNG ready to be loaded.

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
    # The still image fills the canvas, whatever size a damaged animation declares for its first frame.
    image.tile = [tile._replace(extents=(0, 0, *image.size)) for tile in image.tile]
