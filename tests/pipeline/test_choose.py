"""Whole runs over a share or a number of images, and over several inputs."""

import tarfile

import pytest

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.model import inspect_model
from labelbeam.pipeline.commands.rerun import rerun
from labelbeam.pipeline.commands.verify import verify
from labelbeam.pipeline.manifest import published_manifest
from labelbeam.pipeline.report.summary import summarise
from labelbeam.transforms.choose import bound_of, draw_of
from labelbeam.transforms.elements import InlineImage, id_of_uri
from tests.doctor import case_of, find
from tests.graphs import TWO_PROCESSES, assert_sound, read_tables, run_pipeline
from tests.synthetic import jpeg_bytes


@pytest.fixture
def inputs(tmp_path):
    """Return a folder of 30 images, and a list of 10 of these, of 3 that are missing, and of a bad line."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(30):
        (folder / f"{n}.jpg").write_bytes(jpeg_bytes(30 + n, 30))
    lines = [*(f"{folder}/{n}.jpg" for n in range(10)), *(f"{folder}/gone{n}.jpg" for n in range(3)), "\x07"]
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    return [folder, tmp_path / "list.txt"]


def ids_of(output):
    predictions, failures = read_tables(output)
    return {row["id"] for row in predictions + failures}


@pytest.mark.parametrize("flags", [(), TWO_PROCESSES], ids=["one process", "two"])
def test_run__larger_and_larger_limits__add_images_and_balance(inputs, tiny, tmp_path, flags):
    output = tmp_path / "out"
    options = {"input": inputs, "output": output, "model": tiny, "max_failure_rate": 1}
    seen = set()
    for limit in (7, 20, 1000):
        counts = run_pipeline(*flags, **options, limit=limit)["counts"]
        ids = ids_of(output)
        assert (
            seen < ids
            and len(ids) == min(limit, 34) == counts["kept"] + counts["labelled"] + counts["failed"]
        )
        assert counts["kept"] == len(seen) and counts["listed"] == 44
        assert counts["not_chosen"] + counts["duplicate"] + len(ids) == 44
        assert (counts["not_chosen"] == 0) == (limit == 1000)
        assert verify(str(output), {"input": list(map(str, inputs))}) == []
        assert_sound(output)
        seen = ids
    # With the limit of all, because the recorded one is that of the last run.
    assert len(verify(str(output), {"input": [str(inputs[0])], "limit": "7"})) == 0


def test_run__images_inside_several_files__are_chosen_and_counted_too(inputs, tiny, tmp_path):
    for n in range(2):
        with tarfile.open(tmp_path / f"{n}.tar", "w") as archive:
            for path in sorted(inputs[0].iterdir())[10 * n : 10 * n + 10]:
                archive.add(path, path.name)
    output, archives = tmp_path / "out", [tmp_path / "0.tar", tmp_path / "1.tar"]
    options = {"input": archives, "output": output, "model": tiny}
    seen = set()
    for limit, sample in ((6, 1), (15, 1), (100, 0.9)):
        counts = run_pipeline(**options, limit=limit, sample=sample)["counts"]
        assert seen <= ids_of(output)
        done = counts["kept"] + counts["labelled"]
        assert (counts["listed"], counts["not_chosen"]) == (20, 20 - done) and counts["failed"] == 0
        assert done == limit or limit == 100
        assert verify(str(output), {"input": list(map(str, archives))}) == []
        assert_sound(output)
        seen = ids_of(output)
    case = case_of(input=archives, limit=2)
    find("input", case)
    assert len(case.rows) == 2 and all(isinstance(row, InlineImage) for row in case.rows)


def test_run__sample__labels_the_ids_of_the_share_and_says_so(inputs, tiny, tmp_path):
    output = tmp_path / "out"
    run_pipeline(input=inputs, output=output, model=tiny, max_failure_rate=1, sample=0.4)
    manifest = published_manifest(str(output))
    listed = [id_of_uri(f"{inputs[0]}/{n}.jpg") for n in range(30)]
    assert ids_of(output) & set(listed) == {one for one in listed if draw_of(one) < bound_of(0.4)}
    assert manifest.config["input"] == list(map(str, inputs)) and manifest.balanced
    text = f"{manifest.counts['not_chosen']} were not chosen by --sample and --limit."
    assert text in summarise(manifest, str(output), 1)
    assert verify(str(output), {"input": list(map(str, inputs))}) == []
    assert len(verify(str(output), {"input": list(map(str, inputs)), "sample": "1"})) > 5


def test_rerun__after_a_limit__retries_all_that_failed(inputs, tiny, tmp_path):
    output = tmp_path / "out"
    options = {"output": output, "model": tiny, "max_failure_rate": 1}
    run_pipeline(input=inputs[1], **options)
    run_pipeline(input=inputs[1], **options, limit=1)
    assert rerun(str(output), None, {"loaders": "0"}, ())
    counts = published_manifest(str(output)).counts
    assert (counts["failed"], counts["not_chosen"]) == (4, 0)


def test_doctor_and_inspect__limit__label_the_same_images_once(inputs, tiny):
    (finding,) = find("input", case := case_of(input=inputs, limit=2))
    assert "is readable as images and lines" in finding.text and len(case.rows) == 2
    fits, text = inspect_model(str(tiny), {"input": list(map(str, inputs)), "limit": "2"})
    assert fits and "labels of 2 of the input's images" in text
    assert all(f"  {row.uri}: " in text for row in case.rows)
    (finding,) = find("input", case_of(input=inputs, sample=1e-9))
    assert finding.level == "error" and "lists no images that --sample and --limit choose" in finding.text


def test_cli__input_given_twice__is_several_inputs(inputs, tiny, tmp_path, capsys, own_signal_handlers):
    output = tmp_path / "out"
    flags = [f"--input={inputs[0]}", "--input", str(inputs[1])]
    main(["run", *flags, f"--model={tiny}", f"--output={output}", "--loaders=0", "--limit=5"])
    assert main(["verify", str(output), *flags]) == 0
    chosen = f"Each image of {inputs[0]}, {inputs[1]} that --sample and --limit choose has a row. The others"
    assert chosen in capsys.readouterr().out
