import io
import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from labelbeam.pipeline.report import progress
from labelbeam.pipeline.report.progress import Pace, Status, Tally, describe, shown, worked_of
from labelbeam.transforms.count import COUNTERS


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def count_in_a_process(tally: Tally) -> None:
    for _ in range(1000):
        tally("labelled", 1)


def test_tally__processes_and_threads__add_up(tmp_path):
    tally = Tally(tmp_path)
    assert tally.read() == {}
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=count_in_a_process, args=(tally,)) for _ in range(2)]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: tally("failed", 2), range(500)))
    for process in processes:
        process.join()
    assert tally.read() == {**dict.fromkeys(COUNTERS, 0), "labelled": 2000, "failed": 1000}


@pytest.mark.parametrize(
    ("counts", "rate", "line"),
    [
        ({}, 0, "nothing counted yet"),
        ({"listed": 5000}, 0, "0 of 5,000 images, 0.0%, 0 failed"),
        ({"listed": 1, "labelled": 1}, 0, "1 of 1 image, 100.0%, 0 failed"),
        (
            {"listed": 5000, "labelled": 1990, "failed": 10},
            50,
            "2,000 of 5,000 images, 40.0%, 50.0 images/s, 10 failed, ETA 1:00",
        ),
        (
            {"listed": 10**6, "labelled": 1},
            100,
            "1 of 1,000,000 images, 0.0%, 100.0 images/s, 0 failed, ETA 2:46:40",
        ),
        (
            {"listed": 1000, "labelled": 999},
            0,
            "999 of 1,000 images, 99.9%, 0 failed",
        ),
        (
            {"listed": 10, "labelled": 8, "duplicate": 2},
            4,
            "10 of 10 images, 100.0%, 4.0 images/s, 0 failed",
        ),
        (
            {"listed": 10, "kept": 3, "labelled": 2, "reused": 2, "failed": 1, "other": 50},
            2,
            "6 of 10 images, 60.0%, 2.0 images/s, 1 failed, ETA 0:02",
        ),
    ],
)
def test_describe__counts__is_one_line(counts, rate, line):
    assert describe(counts, rate) == line


def test_worked_of__rows_done_before__are_none_of_this_runs_work():
    counts = {"listed": 99, "kept": 30, "duplicate": 7, "labelled": 2, "reused": 1, "failed": 3, "other": 9}
    assert worked_of(counts) == 5 and worked_of({}) == 0


def test_pace__start_up__does_not_count():
    pace = Pace()
    assert pace.images_per_sec(0, 100.0) == 0
    assert pace.images_per_sec(10, 110.0) == 0
    assert pace.images_per_sec(60, 120.0) == 5.0


def test_shown__on_a_terminal__is_one_moving_line_that_goes_away(monkeypatch):
    monkeypatch.setattr(progress, "_TERMINAL_EVERY_SEC", 0.01)
    out = Terminal()
    with shown(lambda: {"listed": 3, "labelled": 2}, out):
        deadline = time.monotonic() + 30
        while "2 of 3 images" not in out.getvalue():
            assert time.monotonic() < deadline
    assert "\n" not in out.getvalue() and out.getvalue().endswith("\r\x1b[K")


def test_shown__slow_readings__moving_line_comes_back_and_counts_are_read_once(monkeypatch):
    monkeypatch.setattr(progress, "_TERMINAL_EVERY_SEC", 0.01)
    out, readings = Terminal(), []
    with shown(lambda: readings.append(1) or {"listed": 3, "labelled": 2}, out, least_sec=60) as print_line:
        for _ in range(2):
            deadline, before = time.monotonic() + 30, len(out.getvalue())
            while "2 of 3 images" not in out.getvalue()[before:]:
                assert time.monotonic() < deadline
            print_line("The job is running.")
    assert readings == [1]


@pytest.mark.parametrize(
    ("kind", "line"),
    [(Terminal, "\r\x1b[KThe job is done.\n"), (io.StringIO, "The job is done.\n")],
    ids=["terminal", "plain"],
)
def test_shown__a_line_that_stays__takes_the_moving_ones_place(kind, line):
    out = kind()
    with shown(dict, out) as print_line:
        print_line("The job is done.")
    assert line in out.getvalue()


def blocked():
    threading.Event().wait(10)


def failing():
    raise OSError("no metrics")


@pytest.mark.parametrize("read", [dict, blocked, failing])
def test_shown__no_counts__prints_the_status_after_a_silence(monkeypatch, read):
    for name in ("_PLAIN_EVERY_SEC", "_SILENCE_SEC", "_READ_SEC"):
        monkeypatch.setattr(progress, name, 0.01)
    out, silent = io.StringIO(), io.StringIO()
    with shown(read, out, status=Status("running")), shown(read, silent):
        deadline = time.monotonic() + 5
        while out.getvalue().count("\n") < 2:
            assert time.monotonic() < deadline
    assert (
        set(out.getvalue().splitlines()) == {"running, 0:00: nothing counted yet"} and not silent.getvalue()
    )


def test_progress__silence__is_at_most_30_seconds():
    assert progress._SILENCE_SEC + progress._PLAIN_EVERY_SEC + progress._READ_SEC <= 30


def test_shown__a_reading_that_is_late__is_shown_at_a_later_tick(monkeypatch):
    for name in ("_PLAIN_EVERY_SEC", "_READ_SEC"):
        monkeypatch.setattr(progress, name, 0.01)
    out, ready = io.StringIO(), threading.Event()
    with shown(lambda: ready.wait(5) and {"listed": 3, "labelled": 2}, out):
        ready.set()
        deadline = time.monotonic() + 5
        while "2 of 3 images" not in out.getvalue():
            assert time.monotonic() < deadline


def test_status__some_time_after_the_start__has_state_and_elapsed_time():
    assert str(Status("running", time.monotonic() - 3725)) == "running, 1:02:05"
