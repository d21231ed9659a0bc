"""A model's outputs as columns of the tables: logits, probabilities, embeddings."""

import json

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from labelbeam.pipeline.commands.verify import verify
from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.launch import run_and_report
from labelbeam.transforms.elements import EncodedImage, ImageRef
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.loaders.image import decode
from tests.graphs import assert_sound, make_mixed_corpus, read_tables, run_pipeline


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    uris = make_mixed_corpus(folder / "images", images=12)
    (folder / "list.txt").write_text("\n".join(uris), "utf-8")
    return folder / "list.txt"


def expected_outputs(uri: str) -> np.ndarray:
    """Return the tiny model's outputs for an image."""
    with open(uri, "rb") as f:
        image = decode(EncodedImage(ImageRef("1", uri), f.read(), "digest"), ResizeRule(16), 10**9)
    return image.pixels.mean(axis=(0, 1)) / 255 - 1


def test_keep_outputs__logits__are_a_column_of_fixed_size_lists(tmp_path, tiny, corpus):
    options = {"input": corpus, "output": tmp_path / "out", "model": tiny, "max_failure_rate": 1}
    run_pipeline(**options, keep_outputs=True)
    assert_sound(tmp_path / "out")
    schema = ds.dataset(tmp_path / "out" / "predictions").schema
    assert schema.field("logits").type == pa.list_(pa.float32(), 3)
    predictions, _ = read_tables(tmp_path / "out")
    for row in predictions:
        np.testing.assert_allclose(row["logits"], expected_outputs(row["uri"]), atol=1e-5)
        assert row["labels"][0]["class_id"] == int(np.argmax(row["logits"]))
    assert verify(str(tmp_path / "out"), {"input": str(corpus)}) == []
    with pytest.raises(
        UserError, match=r"columns of the model's outputs \(\{'logits': 3\} there, \{\} now\)"
    ):
        run_pipeline(**options)


def test_embedding__model_that_names_no_classes__has_embeddings_and_no_labels(tmp_path, tiny, corpus, capsys):
    options = {"input": corpus, "output": tmp_path / "out", "model": tiny, "max_failure_rate": 1}
    flags = {name: str(value) for name, value in options.items()}
    assert run_and_report(load_config(None, {**flags, "outputs": "embedding"}))
    output = capsys.readouterr().out
    assert "Top labels" not in output and "GROUP BY label" not in output and "evaluate" not in output
    assert_sound(tmp_path / "out")
    predictions, failures = read_tables(tmp_path / "out")
    assert len(predictions) == 12 and failures
    for row in predictions:
        assert not row.keys() & {"label", "score", "labels"}
        np.testing.assert_allclose(row["embedding"], expected_outputs(row["uri"]), atol=1e-5)
    assert verify(str(tmp_path / "out"), {"input": str(corpus)}) == []
    nearest = duckdb.sql(
        f"SELECT list_inner_product(embedding, embedding) FROM '{tmp_path}/out/predictions/*.parquet'"
    )
    assert len(nearest.fetchall()) == 12
    run_pipeline(**options, outputs="embedding", target_file_mb=0.01)  # counts the files that stay
    assert_sound(tmp_path / "out")


def test_multilabel__no_class_reaches_the_threshold__is_a_prediction_without_labels(
    tmp_path, tiny, corpus, capsys
):
    options = {"input": corpus, "output": tmp_path / "out", "model": tiny, "outputs": "multilabel"}
    flags = {name: str(value) for name, value in options.items()}
    flags |= {"threshold": "0.3785", "keep_outputs": "true", "max_failure_rate": "1"}
    assert run_and_report(load_config(None, flags))
    assert_sound(tmp_path / "out")
    predictions, _ = read_tables(tmp_path / "out")
    for row in predictions:
        scores = 1 / (1 + np.exp(-np.array(row["logits"])))
        expected = [n for n in np.argsort(-scores) if scores[n] >= 0.3785]
        assert [label["class_id"] for label in row["labels"]] == expected
        assert row["label"] == (f"class {expected[0]}" if expected else None)
        assert row["score"] == (pytest.approx(scores[expected[0]]) if expected else None)
    assert {len(row["labels"]) for row in predictions} > {0}
    assert verify(str(tmp_path / "out"), {"input": str(corpus)}) == []
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["model"]["head"] == "multilabel" and manifest["labelled_with"]["threshold"] == 0.3785
    unlabelled = f"SELECT count(*) FROM '{tmp_path}/out/predictions/*.parquet' WHERE label IS NULL"
    assert duckdb.sql(unlabelled).fetchall()[0][0] == sum(not row["labels"] for row in predictions)
    with pytest.raises(UserError, match=r"threshold \(0\.3785 there, 0\.5 now\)"):
        run_pipeline(**options, keep_outputs=True)


def test_threshold__model_of_one_class_per_image__is_a_mistake(tmp_path, tiny, corpus):
    with pytest.raises(UserError, match=r"--threshold=0\.5 is for multi-label models"):
        run_pipeline(input=corpus, output=tmp_path / "o", model=tiny, threshold=0.5)


def test_embedding__label_map__is_a_mistake(tmp_path, tiny, corpus):
    with pytest.raises(UserError, match="labels='imagenet': an embedding has no classes"):
        run_pipeline(input=corpus, output=tmp_path / "o", model=tiny, outputs="embedding", labels="imagenet")
