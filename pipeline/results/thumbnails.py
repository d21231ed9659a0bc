"""Small pictures of images, which are fetched again."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.plan import limits_of
from labelbeam.pipeline.results.overview import LabelledImage
from labelbeam.transforms.boxes import box_alone
from labelbeam.transforms.elements import BoxedImage, DecodedImage, ImageRef, is_box
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.loaders.image import Loaded, Loading
from labelbeam.transforms.loaders.loaders import start_loaders
from labelbeam.transforms.sources.secrets import lacks_secrets

# Longest side of a picture, px.
SIDE_PX = 160
_QUALITY = 80


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture, or the reason why there is none.

    Attributes:
      data: Address `data:` of a JPEG; empty without a picture.
      width_px: Width of the picture.
      height_px: Height of the picture.
      missing: Reason why there is no picture, in words; empty with one.
    """

    data: str = ""
    width_px: int = 0
    height_px: int = 0
    missing: str = ""


def fetch_thumbnails(images: Iterable[LabelledImage], config: RunConfig) -> dict[str, Thumbnail]:
    """Fetch images, each once, and return their pictures by id.

    Images are fetched as the run has fetched them: by the same clients, within the same limits.

    Raises:
      UserError: A header of requests needs a variable that is not set.
    """
    by_id = {image.id: image for image in images}
    names = config.read.secret_params
    thumbnails = {
        image.id: Thumbnail(missing="its address has a secret, which tables do not have")
        for image in by_id.values()
        if lacks_secrets(image.uri, names)
    }
    wanted = [image for image in by_id.values() if image.id not in thumbnails]
    # Twice the size, because the square is then reduced to the image's own proportions.
    rule = ResizeRule(2 * SIDE_PX, "stretch")
    loading = Loading(limits_of(config), rule, round(config.load.max_megapixels * 1e6))
    # In processes of their own, because a hostile image may crash its decoder.
    loaders = start_loaders(loading) if wanted else None
    futures = [(image, loaders.submit(_loadable(image))) for image in wanted] if loaders else []
    thumbnails.update((image.id, _thumbnail_of(image, future.result())) for image, future in futures)
    return thumbnails


def _loadable(image: LabelledImage) -> ImageRef | BoxedImage:
    ref = ImageRef(image.id, image.uri)
    return box_alone(ref) if is_box(image.id, image.uri) else ref


def _thumbnail_of(image: LabelledImage, loaded: Loaded) -> Thumbnail:
    (value,) = loaded.values
    if not isinstance(value, DecodedImage):
        return Thumbnail(missing=f"could not be loaded again: {getattr(value, 'reason', 'unchanged')}")
    # Compared, because a picture beside labels of another picture would deceive.
    if value.metadata.sha256 != image.sha256:
        return Thumbnail(missing="changed since it was labelled")
    width, height = _fit(value.metadata.width_px, value.metadata.height_px)
    small = Image.fromarray(value.pixels).resize((width, height), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=_QUALITY, optimize=True)
    return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}", width, height)


def _fit(width: int, height: int) -> tuple[int, int]:
    """Return a size of the same proportions whose longest side is `SIDE_PX`, or that of a smaller image."""
    scale = min(1.0, SIDE_PX / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
