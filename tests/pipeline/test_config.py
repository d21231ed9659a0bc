import pytest

from pipeline.config import load_config, options
from transforms.errors import UserError

NEEDED = {"input": "a.txt", "output": "out", "model": "efficientnet-b0"}


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, "utf-8")
    return str(path)


def test_load_config__flags_alone__gives_typed_values_and_defaults():
    config = load_config(None, {**NEEDED, "top_k": "3", "max_failure_rate": "0.25"})
    assert config.predict.top_k == 3
    assert config.write.max_failure_rate == 0.25
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


def test_as_dict__any__loads_again(tmp_path):
    config = load_config(
        None, {**NEEDED, "column_types": "a=string", "input_range": "-1,1", "image_size": "224"}
    )
    values = config.as_dict()
    values.pop("beam_flags")
    import yaml

    path = write(tmp_path, yaml.safe_dump({k: _plain(v) for k, v in values.items() if v not in (None, ())}))
    assert load_config(path, {}) == config


def _plain(value):
    if isinstance(value, tuple):
        return dict(value) if isinstance(value[0], tuple) else list(value)
    return value


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("topk: 3", "unknown key 'topk'. Did you mean 'top_k'?"),
        ("nonsense: 3", "Known keys: batch_size"),
        ("top_k: 0", "top_k=0 is not allowed: it must be a whole number from 1 to 1,000"),
        ("top_k: 2.5", "top_k=2.5"),
        ("top_k: true", "top_k=True"),
        ("top_k: [1]", "top_k=[1]"),
        ("max_failure_rate: 2", "a number from 0 to 1"),
        ("max_failure_rate: .nan", "a number from 0 to 1"),
        ("max_failure_rate: lots", "max_failure_rate='lots'"),
        ("resize: squeeze", "one of center_crop, stretch"),
        ("input_range: [1, 0]", "two ascending numbers"),
        ("column_types: 3", "NAME=TYPE"),
        ("model: 3", "model=3 is not allowed: it must be text"),
        ("beam: 3", "it must map Beam's options"),
        ("- a", "must hold `key: value` lines"),
        ("a: [", "is not YAML"),
    ],
)
def test_load_config__bad_file__one_line_names_key_value_and_allowed(tmp_path, yaml, said):
    with pytest.raises(UserError) as e:
        load_config(write(tmp_path, yaml), NEEDED)
    assert said in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_load_config__required_option_missing__is_named(missing):
    with pytest.raises(UserError, match=f"--{missing} is missing"):
        load_config(None, {k: v for k, v in NEEDED.items() if k != missing})


def test_load_config__no_such_file__is_named():
    with pytest.raises(UserError, match=r"--config='nowhere.yaml' cannot be read"):
        load_config("nowhere.yaml", NEEDED)


def test_options__every_one__has_help_and_kind():
    for name, field in options().items():
        assert field.metadata["help"] and field.metadata["kind"].allowed, name
