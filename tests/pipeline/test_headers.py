"""Headers of requests: their options, and where their values never stand."""

import json
import logging

import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.cli import _parser, main
from labelbeam.pipeline.cli.parser import flags_of
from labelbeam.pipeline.commands.rerun import rerun
from labelbeam.pipeline.config import RUN_OPTIONS, RunConfig, load_config
from labelbeam.pipeline.headers import HIDDEN, resolve_headers
from labelbeam.pipeline.plan import limits_of
from labelbeam.pipeline.runners.options import pipeline_options
from labelbeam.pipeline.runners.rules import broken_rules
from labelbeam.transforms.errors import UserError
from tests.sources.fault_server import End
from tests.synthetic import jpeg_bytes


def headers(*arguments: str) -> tuple[tuple[str, str], ...]:
    flags = flags_of(_parser().parse_args(["run", *(f"--http_header={one}" for one in arguments)]))
    return load_config(None, flags).load.http_header


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ()),
        (["A=b"], (("A", "b"),)),
        (["A=b,C=d"], (("A", "b"), ("C", "d"))),
        (["A=b", "C=d,E=f"], (("A", "b"), ("C", "d"), ("E", "f"))),
        (["A= b =c "], (("A", "b =c"),)),
        (["Accept=image/webp,image/*;q=0.8"], (("Accept", "image/webp,image/*;q=0.8"),)),
        (["Authorization=Bearer $T=="], (("Authorization", "Bearer $T=="),)),
    ],
)
def test_http_header__once_or_several_times__is_pairs(arguments, expected):
    assert headers(*arguments) == expected


def test_http_header__in_a_file__is_a_mapping_or_a_list(tmp_path):
    path = tmp_path / "run.yaml"
    for text in ("http_header: {A: b, C: 'd,E=f'}", "http_header: ['A=b', 'C=d']", "http_header: A=b"):
        path.write_text(text)
        assert load_config(str(path), {}).load.http_header[0] == ("A", "b")
        assert load_config(str(path), {"http_header": ["X=y"]}).load.http_header == (("X", "y"),)


SECRET, LITERAL = "s3cret", "lit3ral"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (SECRET, "--http_header is not allowed: it must be NAME=VALUE"),
        (f"={SECRET}", "must be NAME=VALUE"),
        (f"A B={SECRET}", "must be NAME=VALUE"),
        (f"A:{SECRET}", "must be NAME=VALUE"),
        (f"A\r\nB={SECRET}", "must be NAME=VALUE"),
        (f"A={SECRET}\r\nB: c", "--http_header A is not allowed: its value must be one line"),
        (f"A={SECRET}\0", "must be one line"),
        ("A=", "must be one line"),
        (f"A=b,a={SECRET}", "--http_header a is there 2 times. Give it once."),
        (
            f"Host={SECRET}",
            "--http_header Host is not allowed: labelbeam sets this header itself. Remove it.",
        ),
        (f"user-agent={SECRET}", "labelbeam sets this header itself. Use --user_agent. Remove it."),
        (f"Range={SECRET}", "labelbeam sets this header itself"),
    ],
)
def test_http_header__not_allowed__is_refused_without_its_value(argument, message):
    with pytest.raises(UserError, match=".") as e:
        headers(argument)
    assert message in str(e.value) and SECRET not in str(e.value)


@pytest.mark.parametrize("raw", [3, None, [3], {"A": 3}, {3: "a"}, {"A": None}, [["A", "b"]]])
def test_http_header__no_text__is_refused(raw):
    with pytest.raises(UserError, match="^--http_header"):
        RUN_OPTIONS["http_header"].parse("http_header", raw)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("$KEY", "s3cret"),
        ("Bearer ${KEY}!", "Bearer s3cret!"),
        ("a$$KEY", "a$KEY"),
        ("no variable", "no variable"),
        ("$LINE", "ends in a line break"),
    ],
)
def test_resolve_headers__variables__are_of_the_environment(value, text):
    environment = {"KEY": SECRET, "LINE": "ends in a line break\n"}
    assert resolve_headers([("A", value)], environment) == (("A", text),)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("$NONE", "--http_header A needs the environment variable NONE, which is not set"),
        ("$ 5 s3cret", "--http_header A has a single dollar sign"),
        ("$LINES", "its value from the environment must be one line"),
        ("$EMPTY", "its value from the environment must be one line"),
        (HIDDEN, "--http_header A has a value that no manifest records. Give the option again"),
    ],
)
def test_resolve_headers__no_value__is_refused_without_showing_any(value, message):
    with pytest.raises(UserError, match=".") as e:
        resolve_headers([("A", value)], {"LINES": f"{SECRET}\n{SECRET}", "EMPTY": " "})
    assert message in str(e.value) and SECRET not in str(e.value)
    config = load_config(None, {"http_header": [f"A={value}"]})
    if value in ("$NONE", HIDDEN):  # in this process's environment, too
        assert [m for m in broken_rules(config, pipeline_options(())) if m.startswith("--http_header A")]


def test_as_dict__headers__have_names_and_variables_alone():
    config = load_config(None, {"http_header": [f"A=$KEY,B={SECRET},C=Bearer $KEY,D=$$5"]})
    assert config.as_dict()["http_header"] == {"A": "$KEY", "B": HIDDEN, "C": "Bearer $KEY", "D": HIDDEN}


def test_limits_of__settings__are_those_of_requests(monkeypatch):
    monkeypatch.setenv("KEY", SECRET)
    flags = {"user_agent": "me/1 (me@example.org)", "http_header": ["A=$KEY"], "ignore_opt_out": True}
    settings = limits_of(load_config(None, flags)).http
    assert settings.user_agent == "me/1 (me@example.org)" and settings.ignore_opt_out
    assert settings.headers == (("A", SECRET),)
    assert SECRET not in repr(settings)
    assert limits_of(RunConfig()).http.user_agent is None


@pytest.mark.parametrize("raw", ["", " ", "a\nb", "a\r\nX: y", "\x1b[31m"])
def test_user_agent__several_lines__is_refused(raw):
    with pytest.raises(UserError, match="--user_agent=.* is not allowed: it must be one line of text"):
        load_config(None, {"user_agent": raw})


def test_run__header_from_the_environment__is_sent_and_stands_nowhere(
    tmp_path, tiny, faults, monkeypatch, capfd, caplog, own_signal_handlers
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("KEY", SECRET)
    faults.image = jpeg_bytes()
    # A server that repeats the header.
    faults.raw["a"] = (f"HTTP/1.1 403 No\r\n\r\nno such key: {SECRET}, {LITERAL}".encode(), End.CLOSE)
    (tmp_path / "list.txt").write_text(f"{faults.uri('image/a.jpg')}\n{faults.uri('raw/a')}\n")
    out = tmp_path / "out"
    flags = [f"--input={tmp_path / 'list.txt'}", f"--model={tiny}", f"--output={out}", "--max_failure_rate=1"]
    options = [f"--http_header=X-Key=$KEY,X-Other={LITERAL}", "--verbose", "--allow_hosts=127.0.0.1"]
    assert main(["run", *flags, *options]) == 0
    sent = faults.headers["/image/a.jpg"]
    assert (sent["x-key"], sent["x-other"]) == (SECRET, LITERAL)
    recorded = json.loads((out / "manifest.json").read_text())["config"]["http_header"]
    assert recorded == {"X-Key": "$KEY", "X-Other": HIDDEN}
    (failure,) = pq.read_table(out / "failures").to_pylist()
    assert failure["message"] == "the server returned status 403: no such key: …, …"
    with pytest.raises(UserError, match="--http_header X-Other has a value that no manifest records"):
        rerun(str(out), None, {}, ())
    assert rerun(str(out), None, {"http_header": [f"X-Key=$KEY,X-Other={LITERAL}"]}, ())
    assert main(["doctor", *flags, *options]) in (0, 1)
    written = [str(part) for part in capfd.readouterr()] + [caplog.text]
    for path in out.rglob("*"):
        if path.suffix == ".parquet":
            written.append(str(pq.read_table(path).to_pylist()))
        elif path.is_file():
            written.append(path.read_text())
    text = "".join(written)
    assert "X-Key" in text and SECRET not in text and LITERAL not in text
