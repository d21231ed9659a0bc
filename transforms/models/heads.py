"""Heads: the meaning of a model's outputs, and scores from outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from labelbeam.transforms.models.presets import EMBEDDING, Outputs

if TYPE_CHECKING:
    import tensorflow as tf

HeadKind = Literal["single_label", "multilabel", "binary", "embedding"]
# Values of --outputs: a kind of number if each image has one class, or a kind of head.
OutputsOption = Literal["logits", "probabilities", "multilabel", "embedding"]
# Least score of a label of a multi-label head.
DEFAULT_THRESHOLD = 0.5
MULTILABEL: Literal["multilabel"] = "multilabel"
BINARY: Literal["binary"] = "binary"


@dataclass(frozen=True, slots=True)
class Head:
    """The last layer of a model.

    Attributes:
      kind: `single_label`: one class is right, scores sum to 1. `multilabel`: each class is judged by itself.
        `binary`: one output, the score of the second of two classes. `embedding`: no classes.
      values: Kind of number in the outputs: `logits`, `probabilities` or an `embedding`.
    """

    kind: HeadKind
    values: Outputs

    def __str__(self) -> str:
        """Describe the head for a person."""
        if self.kind == EMBEDDING:
            return EMBEDDING
        return f"{self.values} of {_NOUNS[self.kind]}"

    def classes(self, length: int) -> int:
        """Return the number of classes of a model with `length` outputs."""
        return {BINARY: 2, EMBEDDING: 0}.get(self.kind, length)

    def scores(self, outputs: tf.Tensor) -> tf.Tensor:
        """Turn outputs, `[N, length] float32`, into scores in [0, 1], `[N, classes] float32`.

        The outputs of an embedding stay as they are.
        """
        import tensorflow as tf

        if self.kind == EMBEDDING:
            return outputs
        squash = tf.nn.softmax if self.kind == "single_label" else tf.math.sigmoid
        scores = squash(outputs) if self.values == "logits" else outputs
        # A binary head gets a column for each class, because top-k and label maps need one.
        return tf.concat([1 - scores, scores], axis=1) if self.kind == BINARY else scores


_NOUNS: dict[HeadKind, str] = {
    "single_label": "one class per image",
    "multilabel": "any number of classes per image",
    "binary": "one of two classes",
}
