"""What a run that works elsewhere is told of this machine's folders."""

import pytest

from pipeline.config import load_config
from pipeline.launch import with_absolute_paths


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("own", "{here}/own"),
        ("efficientnet-b0", "efficientnet-b0"),
        ("gs://bucket/model", "gs://bucket/model"),
        ("nowhere", "nowhere"),
    ],
)
def test_with_absolute_paths__model__is_absolute_where_it_is_a_folder_and_no_preset(
    tmp_path, monkeypatch, name, becomes
):
    monkeypatch.chdir(tmp_path)
    for folder in ("own", "efficientnet-b0"):
        (tmp_path / folder).mkdir()
    config = with_absolute_paths(load_config(None, {"input": "in", "output": "out", "model": name}))
    assert config.model.model == becomes.format(here=tmp_path)
    assert config.write.output == f"{tmp_path}/out"


def test_with_absolute_paths__output_in_a_bucket__stays():
    config = load_config(None, {"input": "in", "output": "gs://b/out", "model": "m"})
    assert with_absolute_paths(config).write.output == "gs://b/out"
