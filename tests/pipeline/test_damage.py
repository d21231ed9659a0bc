"""Damaged output folders: each damage is reported by name, with a remedy that works, or does no harm."""

import hashlib
import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow.dataset as ds
import pytest

from labelbeam.pipeline import launch, prepare
from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.verify import verify
from labelbeam.pipeline.runners.options import pipeline_options
from labelbeam.transforms.errors import LabelbeamError, RunError, UserError
from labelbeam.transforms.models.heads import Head
from labelbeam.transforms.models.scaling import UNIT
from labelbeam.transforms.table import integrity
from labelbeam.transforms.table.folder import staged_files
from labelbeam.transforms.table.manifest import TABLES, Announcement, Manifest, parse
from tests.damage import NEW, OLD, files_below, flip, label, run_number
from tests.results import plan_publication, publish, stage

pytestmark = pytest.mark.usefixtures("brisk")

LONGER = OLD + NEW
REACHED = "the graph is reached"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Return an output folder with two generations and an unfinished run; tests change only copies of it."""
    output = tmp_path_factory.mktemp("whole") / "out"
    label(output, run_number(1), OLD[3:])
    label(output, run_number(2), OLD)
    stage(output, run_number(3), NEW[:4])
    return output


@pytest.fixture
def output(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


@pytest.fixture
def command(output, tmp_path, monkeypatch, capsys):
    """Return a function that runs a command up to its graph; the function returns status and message."""
    spec = SimpleNamespace(
        **{"handle": "a model", "digest": "d", "outputs": "logits", "length": 10, "labels": ("a",)},
        **{"model_fingerprint": "model-1", "preprocessing_fingerprint": "pre-1"},
        **{"resize": SimpleNamespace(describe=dict), "scaling": UNIT, "scaling_from": "read"},
        **{"head": Head("single_label", "logits"), "head_from": "read", "doubts": ()},
        **{"photos_known": 0, "photos_right": ()},
    )

    def reached(*_):
        raise UserError(REACHED)

    runs = set((output / "_staging").iterdir())
    options = pipeline_options(())
    for stub, value in (("pipeline_options", options), ("check_rules", None), ("new_pipeline", None)):
        monkeypatch.setattr(launch, stub, lambda *_, value=value: value)  # Beam takes 0.1 s
    monkeypatch.setattr(prepare, "prepare_model", lambda *_: spec)
    monkeypatch.setattr(launch, "build_graph", reached)
    (tmp_path / "list.csv").write_text("uri,price\na.jpg,0.5\n", "utf-8")
    flags = [f"--input={tmp_path}/list.csv", f"--output={output}", "--model=m", "--top_k=2"]
    arguments = {"run": ["run", *flags], "rerun": ["rerun", str(output)], "verify": ["verify", str(output)]}

    def run(name: str) -> tuple[int, str]:
        status = main(arguments[name])
        out, err = capsys.readouterr()
        for folder in set((output / "_staging").iterdir()) - runs:
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        return status, err if name != "verify" else out + err

    return run


COMMANDS = ("run", "rerun", "verify")


def test_commands__whole_output__come_to_their_graphs(command):
    assert [command(name) for name in COMMANDS[:2]] == [(2, f"labelbeam: {REACHED}\n")] * 2
    assert command("verify")[0] == 0


def places(value, path=()):
    """Yield the paths of all keys and items of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def edited(document, place, value):
    """Return a copy of a document with another value at a place; None removes the key."""
    copy = json.loads(json.dumps(document))
    *above, last = place
    inner = copy
    for key in above:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return copy


def edits(document):
    """Yield copies of a document, each with one key removed, retyped or emptied."""
    for place in places(document):
        value = document
        for key in place:
            value = value[key]
        empty = type(value)() if value is not None else ""
        for other in (None, 7 if isinstance(value, str) else "x", empty):
            if other != value or type(other) is not type(value):
                yield place, edited(document, place, other)


DOCUMENTS = ("manifest.json", "_generations/000001.json", f"_staging/{run_number(3)}/run.json")


def content_of(path) -> tuple[dict, str]:
    """Return a document without its checksum, and the checksum."""
    content = json.loads(path.read_text("utf-8"))
    return content, content.pop("checksum")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_parse__any_key_of_a_document_edited__names_the_document(whole, document):
    content, checksum = content_of(whole / document)
    for place, edit in edits({**content, "checksum": checksum}):
        assert_refused(document, edit, place)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_parse__any_key_edited_under_a_right_checksum__is_refused_or_fits_its_type(whole, document):
    content, _ = content_of(whole / document)
    refused = set()
    for place, edit in edits(content):
        edit["checksum"] = checksum_of(edit)
        try:
            parsed(document, json.dumps(edit).encode())
        except UserError:
            assert_refused(document, edit, place)
            refused.add(place[0])
    # Each key but those that are None here, because the edits make texts of None, which they may be.
    assert refused == content.keys() - {"partitioned_by", "labelled_by"}


def assert_refused(document, edit, place):
    with pytest.raises(UserError, match="a document is damaged: ") as error:
        parsed(document, json.dumps(edit).encode())
    assert len(str(error.value).splitlines()) == 1, place


def checksum_of(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_parse__keys_of_a_newer_version__are_passed_over(whole, document):
    content, _ = content_of(whole / document)
    newer = {**content, "more": 1, "labelled_with": {**content["labelled_with"], "more": [1]}}
    data = json.dumps({**newer, "checksum": checksum_of(newer)}).encode()
    assert parsed(document, data) == parsed(document, (whole / document).read_bytes())


def parsed(document, data):
    kind = Announcement if "run.json" in document else Manifest
    return parse(kind, data, "a document", "a remedy")


def rows_of(output: Path) -> list[dict]:
    rows = [row for table in TABLES for row in ds.dataset(output / table).to_table().to_pylist()]
    return sorted(({**row, "run_id": ""} for row in rows), key=lambda row: row["id"])


@pytest.fixture(scope="module")
def longer(whole, tmp_path_factory) -> list[dict]:
    """Return the rows after a run over a longer list."""
    output = shutil.copytree(whole, tmp_path_factory.mktemp("longer") / "out")
    label(output, run_number(4), LONGER)
    return rows_of(output)


def mend(output: Path, whole: Path, path: Path, message: str) -> None:
    """Apply the remedy of a message to a file."""
    if "or delete" in message and "_staging" in str(path):
        shutil.rmtree(path.parent)
    elif "or delete" in message:
        path.unlink()
    else:
        assert "Put a whole copy" in message or "The next run deletes it" in message
        if path.is_dir():
            path.rmdir()
        if "Put a whole copy" in message:
            shutil.copy(whole / path.relative_to(output), path)


def check_damaged(output: Path, whole: Path, path: Path, longer: list[dict]) -> None:
    """Check that a file's damage is reported by name or harmless.

    `verify` names the file if readers see it. A run of a longer list refuses it with a remedy that works,
    or ends with the tables that it would have without the damage.
    """
    name = str(path.relative_to(output))
    try:
        findings = verify(str(output))
    except UserError as e:
        findings = [str(e)]
    seen_by_readers = not name.startswith("_")
    assert any(name in line for line in findings) == seen_by_readers, (findings, name)
    message = ""
    try:
        label(output, run_number(4), LONGER)
    except LabelbeamError as e:
        message = str(e)
        assert str(path) in message and "\n" not in message
        mend(output, whole, path, message)
        label(output, run_number(5), LONGER)
        assert verify(str(output)) == []
    assert message or not seen_by_readers
    assert rows_of(output) == longer


def test_bits__flipped_anywhere__are_reported_by_name_or_harmless(whole, longer, tmp_path):
    chance = random.Random(1)
    names = [path.relative_to(whole) for path in files_below(whole)]
    for n in range(200):
        output = Path(shutil.copytree(whole, tmp_path / str(n)))
        path = output / chance.choice(names)
        flip(path, chance.randrange(8 * path.stat().st_size))
        check_damaged(output, whole, path, longer)
        shutil.rmtree(output)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def fill_with_junk(path: Path) -> None:
    path.write_bytes(b"\x00\xff" * 50)


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace(path: Path) -> None:
    """Replace a file by other bytes of the same length."""
    path.write_bytes(bytes(reversed(path.read_bytes())))


NEWER = b'{"format": 2, "anything": []}'


@pytest.mark.parametrize("change", [empty, truncate, fill_with_junk, put_folder, Path.unlink, replace])
@pytest.mark.parametrize("kind", [*TABLES, f"_staging/*/{TABLES[0]}", *DOCUMENTS])
def test_files__damaged__are_reported_with_a_remedy_that_works(output, whole, longer, kind, change):
    if kind == "manifest.json" and change is Path.unlink:
        pytest.skip("has a test of its own")
    (path, *_) = sorted(output.glob(kind if kind in DOCUMENTS else f"{kind}/*.parquet"))
    change(path)
    check_damaged(output, whole, path, longer)


def test_manifest__gone_while_its_tables_are_there__deletes_nothing(output, whole, longer):
    path = output / "manifest.json"
    path.unlink()
    before = files_below(output)
    with pytest.raises(
        UserError, match=f"exists, but {path} does not.*Put a whole copy of manifest.json in its place"
    ) as error:
        label(output, run_number(4), LONGER)
    assert files_below(output) == before
    mend(output, whole, path, str(error.value))
    label(output, run_number(4), LONGER)
    assert rows_of(output) == longer


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_format__newer__is_refused_and_never_overwritten(output, command, document, name):
    path = output / document
    path.write_bytes(NEWER)
    before = files_below(output)
    status, message = command(name)
    assert path.read_bytes() == NEWER and files_below(output) == before
    if name != "verify" or document == "manifest.json":
        assert status == 2 and message.startswith(f"labelbeam: {path} has format 2, and this version")


@pytest.mark.parametrize(
    "kind", ["predictions/", "failures/", "_staging/", "manifest.json", "_generations/0"]
)
def test_objects__damaged_in_a_bucket__are_reported_with_a_remedy_that_works(gcs, one_client, kind):
    output = f"gs://damage/{kind.strip('/')}"
    gcs.put("gs://damage/here", b"")
    for n in (1, 2):
        label(output, run_number(n), OLD[: 3 * n + 3])
    stage(output, run_number(3), NEW[:4])
    bucket = "gs://damage/"
    (name, *_) = [n for n in gcs.names(output) if f"{output}/{kind}" in bucket + n and "run.json" not in n]
    whole = gcs.get(bucket + name)
    gcs.put(bucket + name, whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    if kind == "_staging/":  # saved work alone: deleted and done again
        assert label(output, run_number(4), LONGER) > len(NEW) - 4
    else:
        with pytest.raises(
            LabelbeamError, match=f"{bucket}{name} is damaged: .* Put a whole copy in its place"
        ):
            label(output, run_number(4), LONGER)
        gcs.put(bucket + name, whole)
        label(output, run_number(5), LONGER)
    assert verify(output) == []


def test_staged_file__read_wrongly_once__is_not_deleted(output, monkeypatch):
    source = staged_files(str(output), [run_number(3)])[0]
    data = Path(source.file.path).read_bytes()
    reads = [bytes(len(data)), data]
    monkeypatch.setattr(integrity, "read_file", lambda path: reads.pop(0))
    assert integrity.keep_whole(source) and Path(source.file.path).exists()


def test_staged_file__cannot_be_read__is_not_deleted(output, monkeypatch):
    source = staged_files(str(output), [run_number(3)])[0]
    monkeypatch.setattr(integrity, "read_file", lambda path: Path(path).read_bytes()[:-1])
    with pytest.raises(RunError, match="could be read"):
        integrity.keep_whole(source)
    assert Path(source.file.path).exists()


@pytest.mark.parametrize("kind", [*TABLES, f"_staging/*/{TABLES[0]}"])
def test_file__damaged_after_its_ids_were_read__is_not_copied(output, kind):
    """Damage a file after the run has read its ids, before the run copies its rows."""
    publication = plan_publication(output, run_number(4))
    for path in output.glob(f"{kind}/*.parquet"):
        for bit in range(0, 8 * path.stat().st_size, 997):
            flip(path, bit)
            with pytest.raises(RunError, match=f"{path} is damaged: ") as error:
                publish(publication)
            assert ("The next run deletes it" in str(error.value)) == ("_staging" in kind)
            flip(path, bit)
