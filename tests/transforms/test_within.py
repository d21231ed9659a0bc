"""Calls that return, fail, or never return."""

import threading

import pytest

from labelbeam.transforms.within import NoResponseError, within


def raise_it(error: BaseException) -> None:
    raise error


def test_within__answer__is_given():
    assert within(10, lambda: 7) == 7


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("its own"), KeyboardInterrupt()])
def test_within__what_the_call_raises__is_raised_here(error):
    with pytest.raises(type(error)) as caught:
        within(10, lambda: raise_it(error))
    assert caught.value is error


def test_within__no_answer__is_an_error_that_names_the_time():
    released = threading.Event()
    with pytest.raises(NoResponseError, match=r"it did not respond within 0\.05 s"):
        within(0.05, released.wait)
    released.set()
