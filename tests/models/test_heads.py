"""Heads: scores, classes and names of each kind of head."""

import numpy as np
import pytest
import tensorflow as tf

from labelbeam.transforms.models.heads import Head

ONE_CLASS = Head("single_label", "logits"), Head("single_label", "probabilities")
SEVERAL = Head("multilabel", "logits"), Head("multilabel", "probabilities")
BINARY = Head("binary", "logits"), Head("binary", "probabilities")
EMBEDDING = Head("embedding", "embedding")
LOG_3 = float(np.log(3))


@pytest.mark.parametrize(
    ("head", "outputs", "scores"),
    [
        (ONE_CLASS[0], [[0, LOG_3], [5, 5]], [[0.25, 0.75], [0.5, 0.5]]),
        (ONE_CLASS[1], [[0.25, 0.75]], [[0.25, 0.75]]),
        (SEVERAL[0], [[0, LOG_3, -LOG_3]], [[0.5, 0.75, 0.25]]),
        (SEVERAL[1], [[0.5, 0.75, 0.75]], [[0.5, 0.75, 0.75]]),
        (BINARY[0], [[LOG_3], [0]], [[0.25, 0.75], [0.5, 0.5]]),
        (BINARY[1], [[0.75], [0]], [[0.25, 0.75], [1, 0]]),
        (EMBEDDING, [[3, -4]], [[3, -4]]),
    ],
    ids=str,
)
def test_scores__each_head__are_those_of_its_classes(head, outputs, scores):
    result = head.scores(tf.constant(outputs, tf.float32)).numpy()
    np.testing.assert_allclose(result, scores, rtol=1e-5)
    assert result.dtype == np.float32
    assert head is EMBEDDING or result.shape[1] == head.classes(len(outputs[0]))


@pytest.mark.parametrize(
    ("heads", "length", "classes", "name"),
    [
        (ONE_CLASS, 1000, 1000, "one class per image"),
        (SEVERAL, 1, 1, "any number of classes per image"),
        (BINARY, 1, 2, "one of two classes"),
        ((EMBEDDING,), 1280, 0, "embedding"),
    ],
)
def test_head__each_kind__has_its_classes_and_its_name(heads, length, classes, name):
    for head in heads:
        assert head.classes(length) == classes
        assert str(head) == (name if head is EMBEDDING else f"{head.values} of {name}")
