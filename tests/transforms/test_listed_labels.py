"""Labels of images by the digests in their list."""

import dataclasses

import pytest

from labelbeam.transforms.elements import ImageMetadata, ImageRef, Label, Prediction
from labelbeam.transforms.listed_labels import LabelsInCommon, ListedLabels

DIGEST = "0" * 32 + "/99"
REF = ImageRef("1", "gs://b/1.jpg", ("one",), listed_version="7", listed_digest=DIGEST)
METADATA = ImageMetadata(20, 10, "JPEG", 1, 1, 99, "f" * 64, "7")
PREDICTION = Prediction(REF, (Label(0, "cat", 0.5),), METADATA, b"outputs")
TWIN = ImageRef("2", "gs://b/2.jpg", ("two",), listed_version="8", listed_digest=DIGEST)


def find(prediction, ref, labels=None):
    labels = labels or ListedLabels(10)
    labels.remember(prediction)
    return labels.find(ref)


def test_find__same_digest__has_the_labels_with_its_own_row_and_version():
    assert find(PREDICTION, TWIN) == Prediction(
        TWIN, PREDICTION.labels, dataclasses.replace(METADATA, version="8"), b"outputs", reused=True
    )


@pytest.mark.parametrize(
    ("changes", "metadata"),
    [
        ({"listed_digest": None}, {}),
        # The image has changed since it was listed, or its version is unknown.
        ({}, {"version": "8"}),
        ({}, {"version": None}),
        ({"listed_version": None}, {"version": None}),
        # The object is stored compressed, and the digest is of its stored form.
        ({}, {"size_bytes": 100}),
    ],
)
def test_remember__bytes_that_are_not_the_listed_ones__are_not_kept(changes, metadata):
    ref = dataclasses.replace(REF, **changes)
    prediction = Prediction(ref, PREDICTION.labels, dataclasses.replace(METADATA, **metadata))
    assert find(prediction, TWIN) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"listed_digest": None},
        {"listed_digest": "0" * 32 + "/98"},
        {"listed_digest": "1" * 32 + "/99"},
        # Its labels may be newer than the list.
        {"known_version": "9"},
        {"uri": "gs://b/2.DNG"},
    ],
)
def test_find__image_that_needs_a_request__has_none(changes):
    assert find(PREDICTION, dataclasses.replace(TWIN, **changes)) is None


def test_find__more_digests_than_it_holds__forgets_the_least_recently_used():
    labels = ListedLabels(2)
    refs = [dataclasses.replace(REF, listed_digest=f"{n:032}/99") for n in range(3)]
    for ref in refs[:2]:
        labels.remember(dataclasses.replace(PREDICTION, ref=ref))
    assert labels.find(refs[0])
    labels.remember(dataclasses.replace(PREDICTION, ref=refs[2]))
    assert [labels.find(ref) is not None for ref in refs] == [True, False, True]


def test_labels_in_common__several_steps_of_a_pipeline__share_them_and_another_pipeline_does_not():
    labels, others = LabelsInCommon(10), LabelsInCommon(10)
    assert labels.acquire() is labels.acquire() is not others.acquire()
