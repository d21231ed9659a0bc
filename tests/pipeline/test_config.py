import json
import math

import pytest
import yaml

from labelbeam.pipeline.cli import _parser
from labelbeam.pipeline.cli.parser import flags_of
from labelbeam.pipeline.config import RUN_OPTIONS, load_config, make_config, require_options
from labelbeam.pipeline.plan import budget_of
from labelbeam.transforms.budget import FailureBudget
from labelbeam.transforms.errors import UserError

NEEDED = {"input": "a.txt", "output": "out", "model": "efficientnet-b0"}


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, "utf-8")
    return str(path)


def test_load_config__flags_alone__gives_typed_values_and_defaults():
    config = load_config(None, {**NEEDED, "top_k": "3", "max_failure_rate": "0.25"})
    assert config.predict.top_k == 3
    assert config.budget.max_failure_rate == 0.25
    assert config.predict.batch_size is None


def test_load_config__file_and_flags__flags_win(tmp_path):
    path = write(tmp_path, "model: m\ntop_k: 7\nbatch_size: 4\nbeam: {runner: FlinkRunner}\n")
    config = load_config(path, {"input": "a", "output": "o", "top_k": "2"}, ["--runner=PrismRunner"])
    assert (config.model.model, config.predict.top_k, config.predict.batch_size) == ("m", 2, 4)
    assert config.beam_flags == ("--runner=FlinkRunner", "--runner=PrismRunner")


def test_load_config__beam_mapping__becomes_flags(tmp_path):
    path = write(tmp_path, "beam: {streaming: true, use_public_ips: false, experiments: [a, b], region: r}")
    flags = load_config(path, NEEDED).beam_flags
    assert flags == ("--streaming", "--no_use_public_ips", "--experiments=a", "--experiments=b", "--region=r")


EVERY_KIND = {
    "column_types": "a=string,b=int64",
    "uri_template": "gs://{bucket}/{name}",
    "header": 'bucket,name,"a,b"',
    "delimiter": "tab",
    "allow_hosts": "img.lan,*.corp.example,10.1.0.0/16",
    "input_range": "-1,1",
    "image_size": "224",
    "replace": True,
    "stage_sec": "0.5",
    "max_failure_rate": "0",
    "max_failure_rates": "timeout=0.01,not_found=0.2",
    "failure_floor": "7",
    "partition_by": "hash:8",
    "no_wait": True,
    "metrics_file": "labelbeam.prom",
    "user_agent": "me/1 (me@example.org)",
    "http_header": ["A=$B", "C=d $E"],
    "batch_size": "auto",
    "precision": "bfloat16",
}


@pytest.mark.parametrize("flags", [{}, EVERY_KIND], ids=["defaults", "every kind"])
def test_as_dict__any__loads_again_from_a_manifest_and_from_a_file(tmp_path, flags):
    config = load_config(None, {**NEEDED, **flags}, ["--runner=DirectRunner", "--streaming"])
    values = json.loads(json.dumps(config.as_dict()))
    beam_flags = values.pop("beam_flags")
    assert values.keys() == RUN_OPTIONS.keys()
    options = {name: value for name, value in values.items() if value not in (None, [], {})}
    assert make_config(options, "manifest: ", {}, beam_flags) == config
    assert load_config(write(tmp_path, yaml.safe_dump(options, sort_keys=False)), {}, beam_flags) == config


def test_make_config__flags__win_over_values_and_errors_name_the_source():
    config = make_config({**NEEDED, "top_k": 3, "stage_rows": 9}, "manifest: ", {"top_k": "4"}, ["--x"])
    assert (config.predict.top_k, config.write.stage_rows, config.beam_flags) == (4, 9, ("--x",))
    with pytest.raises(UserError, match="^manifest: top_k=0 is not allowed"):
        make_config({**NEEDED, "top_k": 0}, "manifest: ", {}, ())
    with pytest.raises(UserError, match="^manifest: unknown key 'topk'"):
        make_config({**NEEDED, "topk": 0}, "manifest: ", {}, ())


@pytest.mark.parametrize(
    ("args", "value"),
    [
        ([], False),
        (["--replace"], True),
        (["--replace", "--top_k=3"], True),
        (["--replace=true"], True),
        (["--replace", "True"], True),
        (["--replace=false"], False),
    ],
)
def test_load_config__switch_on_the_command_line__may_be_bare(args, value):
    flags = flags_of(_parser().parse_args(["run", *args]))
    assert load_config(None, {**NEEDED, **flags}).write.replace is value


@pytest.mark.parametrize("raw", ["yes", "1", "", 1, 0, None])
def test_load_config__switch_with_another_word__is_refused(raw):
    with pytest.raises(UserError, match=f"--replace={raw!r} is not allowed: it must be true or false"):
        load_config(None, {**NEEDED, "replace": raw})


def test_load_config__switch_in_a_file__is_yamls_and_a_flag_takes_it_back(tmp_path):
    path = write(tmp_path, "replace: true")
    assert load_config(path, NEEDED).write.replace is True
    assert load_config(path, {**NEEDED, "replace": "false"}).write.replace is False


def test_budget_of__options__by_flag_and_by_file(tmp_path):
    path = write(tmp_path, "max_failure_rates: {timeout: 0.01, not_found: 1}\nfailure_floor: 20")
    flags = {"max_failure_rates": "timeout=0.01,not_found=1", "failure_floor": "20", "max_failure_rate": "1"}
    rates = (("timeout", 0.01), ("not_found", 1.0))
    assert budget_of(load_config(path, NEEDED)) == FailureBudget(0.1, rates, 20)
    assert budget_of(load_config(None, {**NEEDED, **flags})) == FailureBudget(1.0, rates, 20)
    assert budget_of(load_config(None, NEEDED)) == FailureBudget(0.1, (), 1000)


@pytest.mark.parametrize(
    "rates", ["slow=0.1", "timeout=1.01", "timeout=-0.1", "timeout=nan", "empty=0.1,timeout=lots", "timeout"]
)
def test_load_config__no_such_reason_or_rate__is_refused(rates):
    with pytest.raises(UserError) as e:
        load_config(None, {**NEEDED, "max_failure_rates": rates})
    assert f"--max_failure_rates={rates!r} is not allowed: it must be REASON=RATE pairs" in str(e.value)
    assert "with rates from 0 to 1, and with the reasons bad_row, " in str(e.value)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("allow_hosts: [img.lan, 10.0.0.0.0]", "separated by commas; '10.0.0.0.0' is no address"),
        ("allow_hosts: 3", "names, globs such as"),
        ("allow_hosts: [3]", "names, globs such as"),
        ("topk: 3", "unknown key 'topk'. Did you mean top_k?"),
        ("nonsense: 3", "Known keys: accelerator_hint, allow_hosts, batch_size"),
        ("top_k: 0", "top_k=0 is not allowed: it must be a whole number from 1 to 1,000"),
        ("top_k: 2.5", "top_k=2.5"),
        ("top_k: true", "top_k=True"),
        ("top_k: [1]", "top_k=[1]"),
        ("max_failure_rate: 2", "a number from 0 to 1"),
        ("max_failure_rate: .nan", "a number from 0 to 1"),
        ("max_failure_rate: lots", "max_failure_rate='lots'"),
        ("resize: squeeze", "one of center_crop, stretch"),
        ("input_range: [1, 0]", "two ascending numbers"),
        ("input_range: [1, 1]", "two ascending numbers"),
        ("column_types: 3", "NAME=VALUE pairs"),
        ("max_failure_rates: timeout", "max_failure_rates='timeout' is not allowed: it must be REASON=RATE"),
        ("failure_floor: 0", "a whole number from 1 to 1,000,000,000"),
        ("dedupe: bytes", "one of id, content"),
        ("replace: 1", "replace=1 is not allowed: it must be true or false"),
        ("model: 3", "model=3 is not allowed: it must be text"),
        ("beam: 3", "it must map Beam's options"),
        ("- a", "must hold `key: value` lines"),
        ("a: [", "is not YAML: while parsing a flow node, expected the node content, but found"),
        ("a: b: c", "is not YAML: mapping values are not allowed here, line 1, column 5."),
    ],
)
def test_load_config__bad_file__one_line_names_key_value_and_allowed(tmp_path, yaml, message):
    with pytest.raises(UserError) as e:
        load_config(write(tmp_path, yaml), NEEDED)
    assert message in str(e.value) and "\n" not in str(e.value)


RANGES = {name: option.between for name, option in RUN_OPTIONS.items() if math.isfinite(option.between[1])}


@pytest.mark.parametrize("name", RANGES)
def test_load_config__number_at_the_edge_of_its_range__is_allowed_and_the_next_is_not(name):
    low, high = RANGES[name]
    step = 1 if RUN_OPTIONS[name].type is int else 1e-6
    for value in (low, high):
        for raw in (value, str(value)):
            assert load_config(None, {**NEEDED, name: raw}).as_dict()[name] == value
    for value in (low - step, high + step):
        with pytest.raises(UserError, match=f"^--{name}=.* is not allowed: it must be .* from "):
            load_config(None, {**NEEDED, name: value})


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("input_range", "0,255", [0, 255]),
        ("input_range", "0,1e-9", [0, 1e-9]),
        ("input_range", "1,1", None),
        ("input_range", "1,0", None),
        ("input_range", "-inf,0", None),
        ("input_range", "0,nan", None),
        ("input_range", "0", None),
        ("input_range", "0,1,2", None),
        ("input_range", "caffe", "caffe"),
        ("input_range", "keras", None),
        ("channel_mean", "0,-1,2", [0, -1, 2]),
        ("channel_mean", "0,1", None),
        ("channel_mean", "0,1,2,3", None),
        ("channel_mean", "0,1,inf", None),
        ("channel_std", "1,1e-9,1", [1, 1e-9, 1]),
        ("channel_std", "1,0,1", None),
        ("channel_std", "1,1,-1", None),
        ("max_failure_rates", "timeout=0,empty=1", {"timeout": 0, "empty": 1}),
        ("column_types", "a=b=c", {"a": "b=c"}),
        ("column_types", "a", None),
        ("header", 'bucket, key,"a,b"', ["bucket", "key", "a,b"]),
        ("header", "a,,b", None),
        ("delimiter", "tab", "\t"),
        ("delimiter", ";", ";"),
        ("delimiter", ",,", None),
        ("delimiter", "x", None),
        ("delimiter", '"', None),
        ("header", "a,A", None),
        ("header", '"a', None),
        ("header", "", None),
        ("header", [1, "a"], None),
        ("header", ["a", "b,c"], ["a", "b,c"]),
        ("allow_hosts", "img.lan, 10.0.0.0/8", ["img.lan", "10.0.0.0/8"]),
        ("allow_hosts", "img.lan,10.0.0.1/8", None),
        ("allow_hosts", "img.lan,", None),
        ("allow_hosts", "", None),
        ("batch_size", "auto", "auto"),
        ("batch_size", "all", None),
        ("stage_sec", "inf", None),
        ("top_k", "1e3", None),
        ("labels", "", None),
    ],
)
def test_load_config__values_of_each_kind__are_parsed_or_refused(name, raw, value):
    if value is None:
        with pytest.raises(UserError, match=f"^--{name}=.* is not allowed: it must be "):
            load_config(None, {**NEEDED, name: raw})
    else:
        assert load_config(None, {**NEEDED, name: raw}).as_dict()[name] == value


@pytest.mark.parametrize(("threshold", "least"), [(None, 0.5), ("0", 0.0), ("0.2", 0.2), ("1", 1.0)])
def test_least_score__threshold__is_the_default_only_if_it_is_not_set(threshold, least):
    flags = {} if threshold is None else {"threshold": threshold}
    assert load_config(None, {**NEEDED, **flags}).predict.least_score == least


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_load_config__required_option_missing__is_named(missing):
    with pytest.raises(UserError, match=f"--{missing} is missing"):
        require_options(load_config(None, {k: v for k, v in NEEDED.items() if k != missing}))


def test_load_config__no_such_file__is_named():
    with pytest.raises(UserError, match=r"--config='nowhere.yaml' cannot be read"):
        load_config("nowhere.yaml", NEEDED)


def test_options__every_one__has_help_and_kind():
    for name, option in RUN_OPTIONS.items():
        # Without a type, the allowed values are the option's words alone.
        assert option.help and option.allowed.removeprefix("one of "), name
