"""Checks of calls: tolerance of equal outputs, and calls that do not return."""

import threading

import numpy as np
import pytest

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.models.call_checks import CallClock, change_of, model_calls, run_in_time


@pytest.mark.parametrize(
    ("outputs", "others", "change"),
    [
        ([1.0, 3.0], [1.0, 3.0], 0.0),
        ([1.0, 3.0], [2.0, 4.0], 1.0),  # of a standard deviation of 1
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([10.0], [11.0], 1.0),  # one output has no deviation: a tenth of its size counts
        ([0.3], [0.31], 0.02),  # bfloat16
        ([1.0, float("nan")], [5.0, 9.0], 0.0),
        ([1.0, 3.0], [float("inf"), 3.0], 0.0),
    ],
)
def test_change_of__outputs__is_in_units_of_their_spread(outputs, others, change):
    assert change_of(np.array(outputs), np.array(others)) == pytest.approx(change)


def test_clock__calls_in_several_threads__shows_the_oldest():
    clock, started, released = CallClock(), threading.Barrier(2, timeout=60), threading.Event()

    def call():
        with clock.running():
            started.wait()
            released.wait(60)

    assert clock.longest_sec() == 0
    thread = threading.Thread(target=call)
    thread.start()
    started.wait()
    first = clock.longest_sec()
    with clock.running():
        assert clock.longest_sec() > first > 0
    released.set()
    thread.join()
    assert clock.longest_sec() == 0


def test_run_in_time__call_that_does_not_return__ends_the_wait():
    released = threading.Event()

    def task():
        with model_calls.running():
            released.wait(60)

    with pytest.raises(RunError, match=r"Model 'm' did not return within predict_timeout_sec=0\.2"):
        run_in_time("m", 0.2, task)
    released.set()


def test_run_in_time__task_that_takes_longer_than_each_call__has_its_time():
    waiting = threading.Event()
    assert run_in_time("m", 0.05, lambda: waiting.wait(0.3)) is False
    with pytest.raises(ValueError, match="its own"):
        run_in_time("m", 60, lambda: (_ for _ in ()).throw(ValueError("its own")))
