import pytest

from labelbeam.transforms.attempts import attempt
from labelbeam.transforms.elements import Failure, ImageRef
from labelbeam.transforms.errors import ImageError, Reason

REF = ImageRef("1", "http://example.test/a.jpg")


def test_attempt__image_error__becomes_a_failure():
    def fail():
        raise ImageError(Reason.TIMEOUT, "too slow")

    failure = Failure(REF, "fetch", "timeout", "too slow", 1, "example.test")
    assert attempt("fetch", REF, fail).value == failure


def test_attempt__any_other_error__is_raised():
    with pytest.raises(ZeroDivisionError):
        attempt("fetch", REF, lambda: 1 / 0)
