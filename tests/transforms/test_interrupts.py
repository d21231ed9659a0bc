"""Signals during calls that must not be interrupted, and before a command has started."""

import ast
import os
import signal
import subprocess
import sys
import threading

import pytest

from labelbeam.transforms.interrupts import ENDING_SIGNALS, handle_ending_signals, interrupts_deferred


@pytest.fixture(params=ENDING_SIGNALS, ids=lambda number: number.name)
def number(request):
    before = signal.signal(request.param, signal.default_int_handler)
    yield request.param
    signal.signal(request.param, before)


def test_deferred__signal_inside__is_raised_behind_it(number):
    steps = []
    with pytest.raises(KeyboardInterrupt), interrupts_deferred():
        os.kill(os.getpid(), number)
        steps.append("the body goes on")
    assert steps and signal.getsignal(number) == signal.default_int_handler


def test_deferred__no_signal_or_another_thread__changes_nothing(number):
    with interrupts_deferred():
        assert signal.getsignal(number) != signal.default_int_handler

    def body():
        with interrupts_deferred():
            handlers.append(signal.getsignal(number))

    handlers = []
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert [*handlers, signal.getsignal(number)] == [signal.default_int_handler] * 2


def test_handle__ignored_signal__stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    handle_ending_signals(signal.default_int_handler)
    with interrupts_deferred():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == signal.SIG_IGN


_INTERRUPTED_IMPORT = """
import builtins, os, sys
real = builtins.__import__
def interrupted(name, *args, **options):
    if name == "labelbeam.pipeline.cli":
        os.kill(os.getpid(), int(sys.argv[1]))
    return real(name, *args, **options)
builtins.__import__ = interrupted
from labelbeam.__main__ import main
main()
"""


def test_main__imports_before_its_handlers__are_few(number):
    """Limit the imports, because Ctrl-C during one of them would end in a traceback."""
    code = (
        "import sys; before = set(sys.modules); import labelbeam.__main__; print(set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(done.stdout)) <= {
        "labelbeam",
        "labelbeam.__main__",
        "signal",
        "enum",
        "types",
    }


def test_main__signal_before_the_command_line_is_imported__is_one_line(number):
    command = [sys.executable, "-c", _INTERRUPTED_IMPORT, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (130, "Interrupted. Nothing was started.\n")
