"""Differences of two outputs: every number against plain Python, classes of other models, settings."""

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from labelbeam.pipeline.commands.diff import describe_difference
from labelbeam.pipeline.results import distances
from labelbeam.pipeline.results.diff import Difference
from labelbeam.pipeline.results.fates import LABELLED
from labelbeam.pipeline.results.settings import Setting
from labelbeam.pipeline.results.shifts import BINS, QUANTILES
from labelbeam.pipeline.results.truth import TruthOptions
from labelbeam.pipeline.results.verdict import explain_test, mcnemar
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.table.documents import write_document
from labelbeam.transforms.table.folder import read_manifest
from tests.pairs import CLASSES, MULTI, SINGLE, Images, difference_of, publish_labels, random_pair
from tests.tables import RUN_ID, Settings, publish_rows


@pytest.fixture(params=[(SINGLE, SINGLE), (MULTI, MULTI), (SINGLE, MULTI), ("binary", SINGLE)], ids="-".join)
def heads(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.mark.parametrize("seed", range(2))
def test_compare__random_tables__equals_plain_python(tmp_path, heads, seed):
    a, b = random_pair(seed, heads)
    truth = TruthOptions("truth")
    found = difference_of(a.publish(tmp_path / "a"), b.publish(tmp_path / "b"), truth)
    check_fates(found, a, b)
    twice = sorted(a.labels.keys() & b.labels.keys())
    check_labels(found, a, b, twice)
    check_shifts(found, a, b, [i for i in twice if a.classes(i) == b.classes(i)])
    check_verdict(found, a, b, twice)
    assert any("compared as sets" in warning for warning in found.warnings) == (heads == (SINGLE, MULTI))


def check_fates(found: Difference, a: Images, b: Images) -> None:
    ids = {*a.labels, *a.reasons, *b.labels, *b.reasons}
    fates: dict[tuple, list[str]] = {}
    for image in sorted(ids):
        fates.setdefault((a.outcome(image), b.outcome(image)), []).append(image)
    assert {(fate.a, fate.b): fate.images for fate in found.fates} == {k: len(v) for k, v in fates.items()}
    assert [f.images for f in found.fates] == sorted(map(len, fates.values()), reverse=True)
    for fate in found.fates:
        same = fate.a == fate.b
        assert [e.id for e in fate.examples] == ([] if same else fates[fate.a, fate.b][:3])
        assert all(e.uri == f"gs://bucket/{e.id}.jpg" for e in fate.examples)
        failed = [f"{side}: {r}" for side, r in (("b", fate.b), ("a", fate.a)) if r not in (LABELLED, None)]
        assert all(e.message == (failed[0] if failed else "") for e in fate.examples)
    assert sum(found.images.values()) == len(ids)
    assert found.images["only in A"] == sum(b.outcome(i) is None for i in ids)
    assert found.images["only in B"] == sum(a.outcome(i) is None for i in ids)
    assert found.images["failed in A, labelled in B"] == len(a.reasons.keys() & b.labels.keys())
    assert found.images["labelled in A, failed in B"] == len(a.labels.keys() & b.reasons.keys())
    assert (found.a.labelled, found.a.failed) == (len(a.labels), len(a.reasons))


def check_labels(found: Difference, a: Images, b: Images, twice: list[str]) -> None:
    labels = found.labels
    same = [i for i in twice if a.classes(i) == b.classes(i)]
    assert (labels.same.value, labels.same.images) == (pytest.approx(len(same) / len(twice)), len(twice))
    jaccards = {i: jaccard(a.classes(i), b.classes(i)) for i in twice}
    if labels.multilabel:
        values = list(jaccards.values())
        assert labels.jaccard.value == pytest.approx(np.mean(values), abs=1e-9)
        half = 1.959963984540054 * np.std(values, ddof=1) / math.sqrt(len(twice))
        assert labels.jaccard.high == pytest.approx(np.mean(values) + half, abs=1e-9)
        assert not labels.churn
    else:
        assert labels.jaccard is None
        pairs = Counter((a.classes(i)[0], b.classes(i)[0]) for i in twice if i not in same)
        expected = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
        assert [(p.a, p.b, p.images) for p in labels.churn] == [
            (CLASSES[x], CLASSES[y], n) for (x, y), n in expected
        ]
        assert labels.pairs == len(pairs)
    for c, name in enumerate(CLASSES):
        of_a, of_b = ({i for i in twice if c in side.classes(i)} for side in (a, b))
        change = next((one for one in labels.classes if one.label == name), None)
        counts = (change.a, change.b, change.lost, change.gained) if change else (0, 0, 0, 0)
        assert counts == (len(of_a), len(of_b), len(of_a - of_b), len(of_b - of_a))
    sizes = [one.lost + one.gained for one in labels.classes]
    assert sizes == sorted(sizes, reverse=True)

    def certainty(i: str) -> float:
        return min(a.score(i) or 0, b.score(i) or 0)

    changed = sorted(set(twice) - set(same), key=lambda i: (jaccards[i], -certainty(i), i))[:50]
    assert [one.id for one in labels.changed] == changed
    for one in labels.changed:
        assert one.a == tuple(CLASSES[c] for c in a.classes(one.id))
        assert one.b == tuple(CLASSES[c] for c in b.classes(one.id))
        assert (one.a_score, one.b_score) == (pytest.approx(a.score(one.id)), pytest.approx(b.score(one.id)))
    moved = [abs(one.b_score - one.a_score) for one in labels.shifted]
    shifts = [abs(b.score(i) - a.score(i)) for i in same if a.score(i) is not None]
    assert moved == pytest.approx(sorted((s for s in shifts if s), reverse=True)[:50])


def jaccard(a: Iterable, b: Iterable) -> float:
    a, b = set(a), set(b)
    return len(a & b) / len(a | b) if a | b else 1.0


def check_shifts(found: Difference, a: Images, b: Images, same: list[str]) -> None:
    values = [b.score(i) - a.score(i) for i in same if a.score(i) is not None]
    check_distribution(found, values)


def check_distribution(found: Difference, values: list[float]) -> None:
    shifts = found.shifts
    assert shifts.images == len(values)
    assert shifts.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert shifts.mean_absolute == pytest.approx(np.mean(np.abs(values)), abs=1e-9)
    assert (shifts.least, shifts.most) == (pytest.approx(min(values)), pytest.approx(max(values)))
    ordered = sorted(values)
    for percent in QUANTILES:
        rank = math.ceil(percent * len(values) / 100) - 1
        assert shifts.quantiles[percent] == pytest.approx(ordered[rank], abs=0.501e-6)
    assert len(shifts.bins) == BINS
    counts = [0] * BINS
    for value in values:
        step = math.floor(value * 1e6 + 0.5) / 1e6
        inside = [n for n, one in enumerate(shifts.bins) if one.low - 1e-9 <= step < one.high - 1e-9]
        counts[inside[0] if inside else 0 if step < shifts.bins[0].low else BINS - 1] += 1
    assert [one.images for one in shifts.bins] == counts
    # All but one of a hundred values are inside the bins.
    assert np.mean(np.abs(values) <= shifts.bins[-1].high) >= 0.99


def check_verdict(found: Difference, a: Images, b: Images, twice: list[str]) -> None:
    verdict = found.verdict
    counts = Counter((a.is_right(i), b.is_right(i)) for i in twice)
    assert (verdict.both, verdict.neither) == (counts[True, True], counts[False, False])
    assert (verdict.only_a, verdict.only_b) == (counts[True, False], counts[False, True])
    assert verdict.a.value == pytest.approx(np.mean([a.is_right(i) for i in twice]))
    assert verdict.b.value == pytest.approx(np.mean([b.is_right(i) for i in twice]))
    assert verdict.a.low < verdict.a.value < verdict.a.high
    assert verdict.p_value == pytest.approx(exact_p_value(verdict.only_a, verdict.only_b))


def exact_p_value(only_a: int, only_b: int) -> float:
    """Return McNemar's p-value by its definition: twice the smaller tail of a fair coin's tosses."""
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)


@pytest.mark.parametrize("only_a", [0, 1, 2, 5, 9, 40])
@pytest.mark.parametrize("only_b", [0, 1, 3, 10, 25])
def test_mcnemar__counts__equals_the_definition(only_a, only_b):
    assert mcnemar(only_a, only_b) == pytest.approx(exact_p_value(only_a, only_b), rel=1e-9)


def test_mcnemar__example_by_hand__is_exact():
    # 1 of 6: (1 + 6) of 64 on either side.
    assert mcnemar(1, 5) == pytest.approx(14 / 64)


def test_compare__embeddings__are_measured_by_cosine_distance(tmp_path):
    rng = np.random.default_rng(3)
    n, length = 120, 5
    vectors = rng.normal(size=(2, n, length)).astype(np.float32)
    vectors[1, ::2] = vectors[0, ::2] * np.float32(2)
    vectors[1, 7] = 0
    settings = Settings((), "embedding", outputs={"embedding": length})
    for side, values in zip("ab", vectors, strict=True):
        rows = [{"id": f"i{i}", "labels": [], "embedding": v.tolist()} for i, v in enumerate(values)]
        publish_rows(tmp_path / side, settings, rows)
    found = difference_of(tmp_path / "a", tmp_path / "b")

    a, b = vectors.astype(float)
    defined = np.arange(n) != 7
    lengths = np.linalg.norm(a[defined], axis=1) * np.linalg.norm(b[defined], axis=1)
    distances = 1 - (a[defined] * b[defined]).sum(1) / lengths
    check_distribution(found, distances.tolist())
    farthest = np.argsort(-distances, kind="stable")[:50]
    assert [one.id for one in found.distant] == [f"i{np.flatnonzero(defined)[i]}" for i in farthest]
    assert [one.distance for one in found.distant] == pytest.approx(distances[farthest].tolist())
    assert found.labels is None
    assert found.warnings == ("Images without a distance, because an embedding is zero: 1.",)
    assert "Cosine distance of the embeddings in A and B" in "\n".join(describe_difference(found))


def test_compare__more_embeddings_than_fit__are_compared_by_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(distances, "_MOST_BYTES", 4 * 3 * 40)
    rng = np.random.default_rng(4)
    settings = Settings((), "embedding", outputs={"embedding": 3})
    vectors = rng.normal(size=(2, 200, 3))
    for side, values in zip("ab", vectors, strict=True):
        rows = [{"id": f"i{i}", "labels": [], "embedding": v.tolist()} for i, v in enumerate(values)]
        publish_rows(tmp_path / side, settings, rows)
    found = difference_of(tmp_path / "a", tmp_path / "b")
    hashes = [int.from_bytes(hashlib.md5(f"i{i}".encode()).digest()[8:], "little") for i in range(200)]
    chosen = np.array(hashes) < 2**64 // 5
    a, b = vectors.astype(np.float32).astype(float)[:, chosen]
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    check_distribution(found, (1 - (a * b).sum(1) / lengths).tolist())
    assert 20 < chosen.sum() < 60
    assert found.images["labelled in both"] == 200
    assert found.warnings[0].startswith(f"Distances are of {chosen.sum()} of 200 images, chosen by a hash")


def test_compare__the_same_output_twice__has_no_difference(tmp_path):
    a, _ = random_pair(0, (SINGLE, SINGLE))
    output = a.publish(tmp_path)
    found = difference_of(output, output, TruthOptions("truth"))
    assert (found.labels.same.value, found.labels.churn, found.labels.changed) == (1, (), ())
    assert (found.shifts.least, found.shifts.most, found.settings, found.warnings) == (0, 0, (), ())
    assert sum(one.images for one in found.shifts.bins) == len(a.labels)
    assert (found.verdict.only_a, found.verdict.only_b, found.verdict.p_value) == (0, 0, 1)
    text = "\n".join(describe_difference(found))
    assert "All settings are the same." in text and "so that the truth decides for neither" in text


def test_compare__generations_of_one_output__are_told_apart(tmp_path):
    settings = Settings(CLASSES)
    publish_rows(tmp_path, settings, [{"id": "a", "labels": [(0, 0.5)]}], [{"id": "b"}])
    (tmp_path / "_generations").mkdir()
    (tmp_path / "manifest.json").rename(tmp_path / "_generations/000001.json")
    for table in ("predictions", "failures"):
        (tmp_path / table).rename(tmp_path / "_generations" / table)
    later = dataclasses.replace(settings, generation=2, run_id=f"{RUN_ID[:-1]}2")
    publish_rows(tmp_path, later, [{"id": "a", "labels": [(1, 0.75)]}, {"id": "b", "labels": [(2, 0.5)]}])
    found = difference_of(f"{tmp_path}@1", tmp_path)
    assert (found.a.generation, found.b.generation) == (1, 2)
    assert [(p.a, p.b, p.images) for p in found.labels.churn] == [("zero", "one", 1)]
    assert found.images["failed in A, labelled in B"] == 1


def test_compare__other_class_lists__are_matched_by_name(tmp_path):
    a = publish_labels(
        tmp_path / "a", ("ant", "crane", "Sea_Lion", "crane"), {"1": 0, "2": 1, "3": 2, "4": 0}
    )
    others = ("background", "sea lion", "crane", "ant", "bee")
    b = publish_labels(tmp_path / "b", others, {"1": 3, "2": 2, "3": 1, "4": 4})
    found = difference_of(a, b)
    assert found.labels.matched_by == "label"
    assert [(p.a, p.b, p.images) for p in found.labels.churn] == [("ant", "bee", 1)]
    assert found.labels.same.value == 0.75
    assert found.warnings == (
        "The models have 4 and 5 classes, of which 3 have the same name. Labels are compared by name: one "
        "that the other model lacks counts as changed.",
        "Several classes of a model have the same label, and are compared as one: 'crane'.",
    )
    # The other way round, too.
    assert [(p.a, p.b) for p in difference_of(b, a).labels.churn] == [("bee", "ant")]


def test_compare__same_list_of_other_models__is_matched_by_class_id(tmp_path):
    classes = ("crane", "ant", "crane")
    a = publish_labels(tmp_path / "a", classes, {"1": 0, "2": 1})
    b = publish_labels(tmp_path / "b", classes, {"1": 2, "2": 1})
    found = difference_of(a, b)
    assert (found.labels.matched_by, found.labels.same.value, found.warnings) == ("class id", 0.5, ())


def test_compare__older_manifest_of_the_same_model__has_the_classes_of_the_other(tmp_path):
    a = publish_labels(tmp_path / "a", CLASSES, {"1": 0}, model="m")
    b = publish_labels(tmp_path / "b", CLASSES, {"1": 1}, model="m")
    drop_classes(a)
    assert [(p.a, p.b) for p in difference_of(a, b).labels.churn] == [("zero", "one")]
    assert [(p.a, p.b) for p in difference_of(b, a).labels.churn] == [("one", "zero")]
    drop_classes(b)
    with pytest.raises(UserError, match="no list of the model's classes"):
        difference_of(a, b)


def drop_classes(output: Path) -> None:
    """Rewrite a manifest as versions without the list of classes did."""
    manifest = read_manifest(str(output))
    model = {key: value for key, value in manifest.model.items() if key != "classes"}
    (output / "manifest.json").write_bytes(write_document(dataclasses.replace(manifest, model=model)))


@pytest.mark.parametrize("side", ["a", "b"])
def test_verdict__truth_of_one_output_alone__judges_both(tmp_path, side):
    own = {side: {"columns": {"truth": "string"}}}
    a = publish_labels(tmp_path / "a", ("ant", "bee"), {"1": 0, "2": 1}, **own.get("a", {}))
    b = publish_labels(tmp_path / "b", ("fly", "bee", "ant"), {"1": 2, "2": 2}, **own.get("b", {}))
    verdict = difference_of(a, b, TruthOptions("truth")).verdict
    assert (verdict.both, verdict.only_a, verdict.only_b, verdict.neither) == (1, 0, 1, 0)


def test_verdict__classes_of_b_alone__count_for_b_by_name_and_not_by_number(tmp_path):
    a = publish_labels(tmp_path / "a", ("ant", "bee"), {"1": 0, "2": 0, "3": 1})
    b = publish_labels(tmp_path / "b", ("fly", "bee", "ant"), {"1": 0, "2": 0, "3": 1})
    (tmp_path / "t.csv").write_text("id,class\n1,fly\n2,2\n3,1\n")
    found = difference_of(a, b, TruthOptions(file=str(tmp_path / "t.csv")))
    verdict = found.verdict
    assert found.warnings[-1].startswith("Truths that are numbers are taken for class ids of A")
    # The number 1 is A's class "bee"; 2 is no class of A, and is left out.
    assert (verdict.both, verdict.only_a, verdict.only_b, verdict.neither) == (1, 0, 1, 0)
    assert [one.truth for one in verdict.match.unmatched] == ["2"]


@pytest.mark.parametrize(
    ("only_a", "only_b", "words"),
    [
        (0, 0, "A and B are right on the same images"),
        (1, 0, "Of 1 image that only one output has right, A has 1, which may be chance: "),
        (3, 3, "Of 6 images that only one output has right, A and B have half each."),
        (1, 5, "Of 6 images that only one output has right, B has 5, which may be chance: "),
        (1, 5, "would come in 22 % of such comparisons (McNemar's exact test, p = 0.219)."),
        (15, 1, "A has 15, so that A is better, hardly by chance: were both equally good"),
        (900, 1, "in less than 0.01 % of such comparisons"),
    ],
)
def test_explain_test__counts__are_words_for_a_person(tmp_path, only_a, only_b, words):
    a, b = random_pair(0, (SINGLE, SINGLE), 20)
    found = difference_of(a.publish(tmp_path / "a"), b.publish(tmp_path / "b"), TruthOptions("truth"))
    p_value = mcnemar(only_a, only_b)
    verdict = dataclasses.replace(found.verdict, only_a=only_a, only_b=only_b, p_value=p_value)
    assert words in explain_test(verdict)


def test_compare__settings__are_listed_in_words_where_they_differ(tmp_path):
    a = publish_labels(tmp_path / "a", CLASSES, {"1": 0}, top_k=3, head=MULTI, threshold=0.5)
    b = publish_labels(tmp_path / "b", CLASSES, {"1": 0}, top_k=5, head=MULTI, threshold=0.25)
    rule = {"size_px": 224, "mode": "center_crop", "crop_padding_px": 32, "algorithm": "x"}
    change_manifest(a, preprocessing={"resize": rule, "input_range": [0.0, 1.0]}, decoding="good", loaders=4)
    rule = {"size_px": 300, "mode": "stretch", "algorithm": "y"}
    scaling = {"input_range": [-1.0, 1.0], "channel_order": "bgr"}
    change_manifest(b, preprocessing={"resize": rule, **scaling}, decoding="fast", loaders=None)
    found = difference_of(a, b)
    assert {one.name: (one.a, one.b) for one in found.settings} == {
        "model": ("a model (a)", "a model (b)"),
        "input size": ("224 px", "300 px"),
        "part of the image": (
            "the central square, 88% of the shorter side (center_crop)",
            "the whole image, stretched to a square (stretch)",
        ),
        "input range": ("0, 1", "-1, 1"),
        "channel order": (None, "bgr"),
        "labels of a row": ("at most 3", "at most 5"),
        "least score of a label": ("0.5", "0.25"),
        "--decoding": ("good", "fast"),
        "--loaders": ("4", "-"),
    }
    assert found.warnings == (
        "--top_k differs: labels beyond it are missing in one output, and count as changed.",
    )


def change_manifest(output: Path, preprocessing: Mapping, **options: object) -> None:
    manifest = read_manifest(str(output))
    config = {**manifest.config, **options}
    changed = dataclasses.replace(manifest, preprocessing=preprocessing, config=config)
    (output / "manifest.json").write_bytes(write_document(changed))


def test_settings__resizing_that_changed_alone__is_listed(tmp_path):
    a, b = (publish_labels(tmp_path / side, CLASSES, {"1": 0}, model="m") for side in "ab")
    rule = {"size_px": 224, "mode": "stretch"}
    change_manifest(a, preprocessing={"resize": {**rule, "algorithm": "x-1"}})
    change_manifest(b, preprocessing={"resize": {**rule, "algorithm": "x-2"}})
    assert difference_of(a, b).settings == (Setting("resizing", "x-1", "x-2"),)


def test_settings__decisions_of_a_calibration__are_listed(tmp_path):
    a, b = (publish_labels(tmp_path / side, CLASSES, {"1": 0}, model="m") for side in "ab")
    manifest = read_manifest(str(b))
    settings = dataclasses.replace(manifest.labelled_with, calibration="c-1")
    changed = dataclasses.replace(manifest, labelled_with=settings)
    (b / "manifest.json").write_bytes(write_document(changed))
    assert difference_of(a, b).settings == (Setting("decisions", None, "of the calibration c-1"),)
