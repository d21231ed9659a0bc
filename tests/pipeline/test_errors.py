import pytest

from labelbeam.pipeline.runners.errors import cause_of, cause_of_error, own_message, remedy_of

WORKER = """Traceback (most recent call last):
  File "common.py", line 1498, in process
ValueError: boom [while running 'LoadImages/ParDo-ptransform-47']
"""
FLINK = f"""Pipeline job-1 failed in state FAILED: java.lang.RuntimeException: Error received from SDK \
harness for instruction 4: {WORKER}
\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient$ResponseStreamObserver.onNext(Fn.java:180)
\t... 1 more
"""
OURS = WORKER.replace("ValueError: boom", "labelbeam.transforms.errors.UserError: model='x' is gone.")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", ""),
        ("The zone is full.\nTry another.", "The zone is full."),
        (WORKER, "ValueError: boom"),
        (f"{WORKER}\nDuring handling:\n\n{WORKER.replace('boom', 'bang')}", "ValueError: bang"),
        (f"{WORKER}\npassed through:\n==>\n    worker/fnapi.cc:157\n", "ValueError: boom"),
        (FLINK, "ValueError: boom"),
        (OURS, "model='x' is gone."),
        (f"{OURS}\n{WORKER}", "model='x' is gone."),
    ],
)
def test_cause_of__messages_of_runners__is_the_line_with_the_cause(text, cause):
    assert cause_of(text) == cause


def test_own_message__errors_of_others__are_none():
    assert own_message(WORKER) is None and own_message(OURS) == "model='x' is gone."


def test_remedy_of__prism_that_cannot_be_downloaded__names_the_option():
    assert "--prism_location" in remedy_of(
        "Unable to fetch remote prism binary at https://h/p.zip: <gaierror>"
    )
    assert remedy_of("ValueError: boom") == ""


class Refused(Exception):
    """An error like gRPC's: its text has many lines, and the cause is in a method."""

    def __str__(self):
        return "<_InactiveRpcError of RPC that terminated with:\n\tstatus = StatusCode.UNAVAILABLE\n>"

    def details(self):
        return "failed to connect to all addresses"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError("no route\nto host"), "no route"),
        (TimeoutError(), "TimeoutError()"),
        (Refused(), "failed to connect to all addresses"),
        (RuntimeError(WORKER), "ValueError: boom"),
    ],
)
def test_cause_of_error__exceptions_of_clients__is_one_line(error, cause):
    assert cause_of_error(error) == cause
