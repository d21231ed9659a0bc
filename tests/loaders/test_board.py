"""The board of a loader, read while it is written."""

from __future__ import annotations

import itertools
import os
import threading

from labelbeam.transforms.loaders.board import Board


def test_read__rows_of_any_state__are_the_images_at_work():
    board, fd = Board.create(3)
    os.close(fd)
    assert board.read() == []
    board.write(0, 7, "fetch", 0)
    board.write(2, 9, "decode", 5_000_000_000)
    (first, second) = board.read()
    assert (first.number, first.stage, second.number, second.stage) == (7, "fetch", 9, "decode")
    assert first.usec < 5_000_000 <= second.usec
    board.clear(0)
    assert [entry.number for entry in board.read()] == [9]
    board.close()


def test_read__while_rows_change__never_has_the_age_of_another_image():
    board, fd = Board.create(1)
    other = Board(fd, 1)
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            # Even images are old, odd ones new.
            board.write(0, number, "decode" if number % 2 else "fetch", 0 if number % 2 else 10**12)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    entries = list(itertools.islice(itertools.chain.from_iterable(iter(other.read, None)), 2_000))
    stop.set()
    writer.join()
    os.close(fd)
    assert all((entry.usec > 10**8) == (entry.number % 2 == 0) for entry in entries)
