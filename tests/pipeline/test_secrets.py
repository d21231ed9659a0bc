"""Whole runs over addresses with secrets: no byte of the output has one, and fresh signatures resume."""

import base64
import dataclasses
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.rerun import rerun
from labelbeam.pipeline.commands.verify import verify
from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.label import label
from labelbeam.pipeline.manifest import manifest_fields
from labelbeam.transforms.elements import id_of_uri
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.models.spec import ModelOptions
from labelbeam.transforms.sources import Limits
from labelbeam.transforms.sources.secrets import lacks_secrets
from labelbeam.transforms.table.rows import RowMetadata
from tests.graphs import PATIENCE_SEC, assert_sound, read_tables, run_pipeline
from tests.specs import resolve_spec
from tests.synthetic import HTML, jpeg_bytes

ROOT = Path(__file__).parents[2]
# In each secret, so that its beginning is found, too.
MARK = "s3cr3t"


class Signer:
    """Signs addresses anew, and keeps all secrets.

    Attributes:
      secrets: Values that must be in no output.
    """

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self._numbers = itertools.count()

    def secret(self) -> str:
        self.secrets.add(value := f"{MARK}{next(self._numbers):04}+/%3D'x=")
        return value

    def list_of(self, web) -> list[str]:
        """Return addresses of every fate, signed anew; the first four can be fetched."""
        user = f"{MARK}{next(self._numbers):04}:{MARK}pw"
        self.secrets.add(base64.b64encode(user.encode()).decode())
        new, uri = self.secret, web.uri
        return [
            uri(f"/a.jpg?w=1&X-Goog-Credential={new()}&X-Goog-Date={new()}&X-Goog-Signature={new()}"),
            uri(f"/b.jpg?sv=2024-11-04&se={new()}&sp=r&sig={new()}"),
            uri(f"/c.jpg?token={new()}"),
            uri("/d.jpg").replace("://", f"://{user}@"),
            uri(f"/a.jpg?w=1&X-Goog-Credential={new()}&X-Goog-Date={new()}&X-Goog-Signature={new()}"),
            uri(f"/bad.jpg?X-Amz-Security-Token={new()}&X-Amz-Signature={new()}"),
            uri(f"/none.jpg?Expires={new()}&Signature={new()}&Key-Pair-Id={new()}"),
            uri(f"/echo/x.jpg?Policy={new()}&Signature={new()}").replace("://", f"://{user}@"),
            uri(f"/redirect/none.jpg?password={new()}"),
            uri(f"/short/?access_token={new()}"),
            uri(f"/status/503/?sig={new()}"),
            f'"https://h/a.jpg?sig={new()}"',
            f"//h/a.jpg?api_key={new()}",
            f"www.h.org/a.jpg?sig={new()}",
            f"h.org/a.jpg?sig={new()}",
            f"http://[::bad?sig={new()}",
            f"http://h:port/a.jpg?sig={new()}",
            f"http://?sig={new()}",
            f"ftp://{user}@h/a.jpg",
            f"s3://{user}@h/a.jpg",
            f"https://h/\x01.jpg?sig={new()}",
        ]


@pytest.fixture
def signer():
    return Signer()


@pytest.fixture
def photos(web):
    for n, name in enumerate("abcd"):
        web.files[f"/{name}.jpg"] = jpeg_bytes(40 + n, 40)
    web.files["/bad.jpg"] = HTML
    return web


def write_list(folder: Path, uris: list[str]) -> Path:
    path = folder / "list.txt"
    path.write_text("\n".join(uris), "utf-8")
    return path


def values_in(output: Path) -> str:
    """Return all values and metadata of all Parquet files of a folder, as text."""
    tables = [pq.read_table(path, partitioning=None) for path in output.rglob("*.parquet")]
    return "\n".join(f"{table.to_pylist()} {table.schema.metadata}" for table in tables)


def assert_no_secrets(signer: Signer, output: Path, *texts: str) -> None:
    """Check that no file of a folder has a secret, by its bytes and by its values, nor has a text."""
    found = [*texts, values_in(output), *(str(path) for path in output.rglob("*"))]
    found += [p.read_bytes().decode("utf-8", "replace") for p in output.rglob("*") if p.is_file()]
    for text in found:
        assert MARK not in text, text[max(0, text.index(MARK) - 300) :][:400]
        assert not any(secret in text for secret in signer.secrets)


def labelbeam(*args) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "labelbeam", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SEC)


def test_run__signed_addresses__have_no_secret_in_any_byte(tmp_path, tiny, photos, signer):
    options = ["--output", tmp_path / "out", "--model", tiny, "--max_failure_rate=1", "--keep_generations=3"]
    options += ["--allow_hosts=127.0.0.1", f"--metrics_file={tmp_path}/labelbeam.prom"]
    path = write_list(tmp_path, signer.list_of(photos))
    for command in ("doctor", "run"):
        done = labelbeam(command, "--verbose", "--input", path, *options)
        assert_no_secrets(signer, tmp_path / "out", done.stdout, done.stderr)
        assert done.returncode == 0 or command == "doctor", done.stderr
    manifest = assert_sound(tmp_path / "out")
    metrics = (tmp_path / "labelbeam.prom").read_text("utf-8")
    assert_no_secrets(signer, tmp_path / "out" / "runs", metrics)
    assert (tmp_path / "out" / "runs" / f"{manifest['run_id']}.json").exists()
    assert (manifest["counts"]["labelled"], manifest["counts"]["duplicate"]) == (4, 1)
    predictions, failures = read_tables(tmp_path / "out")
    rows = predictions + failures
    assert all(row["id"] == id_of_uri(row["uri"]) and lacks_secrets(row["uri"]) for row in rows)
    assert {f["reason"] for f in failures} >= {"bad_uri", "not_an_image", "not_found", "forbidden"}
    fetched = dict(photos.requests)

    # Signed anew: nothing is fetched, whether it was labelled or failed.
    path = write_list(tmp_path, signer.list_of(photos))
    done = labelbeam("run", "--verbose", "--input", path, *options)
    assert done.returncode == 0 and photos.requests == fetched
    assert assert_sound(tmp_path / "out")["counts"]["kept"] == len(rows)
    done = labelbeam("verify", tmp_path / "out", "--input", path)
    assert done.returncode == 0, done.stdout
    assert_no_secrets(signer, tmp_path / "out", done.stdout, done.stderr)

    # Once an image can be fetched, a list that is signed anew has it tried again.
    photos.files["/none.jpg"] = jpeg_bytes()
    path = write_list(tmp_path, signer.list_of(photos))
    done = labelbeam("rerun", tmp_path / "out", "--only=not_found", "--input", path, "--verbose")
    assert_no_secrets(signer, tmp_path / "out", done.stdout, done.stderr)
    assert assert_sound(tmp_path / "out")["counts"]["labelled"] == 2


def test_run__split_layout_and_processes__hide_secrets(tmp_path, tiny, photos, signer):
    path = write_list(tmp_path, signer.list_of(photos))
    options = {"layout": "split", "loaders": 1, "max_failure_rate": 1}
    run_pipeline(input=path, output=tmp_path / "out", model=tiny, **options)
    assert_no_secrets(signer, tmp_path / "out")
    assert len(read_tables(tmp_path / "out")[0]) == 4


def test_run__broken_off__stages_no_secret(tmp_path, tiny, photos, signer):
    rows = [f"{uri},{n}" for n, uri in enumerate(signer.list_of(photos)) if "," not in uri and '"' not in uri]
    (tmp_path / "list.csv").write_text(
        "\n".join(["uri,n", *rows, f"http://h/a?sig={signer.secret()}"]), "utf-8"
    )
    options = {"partition_by": "n", "max_partitions": 2, "max_failure_rate": 1}
    with pytest.raises(RunError, match="folders"):
        run_pipeline(input=tmp_path / "list.csv", output=tmp_path / "out", model=tiny, **options)
    assert list((tmp_path / "out").glob("_staging/*/failures/*.parquet"))
    assert_no_secrets(signer, tmp_path / "out")


def test_run__bad_rows__have_no_secrets_and_replace_each_other(tmp_path, tiny, photos, signer):
    def write() -> None:
        sig, user = signer.secret(), f"{signer.secret()[:10]}:{MARK}"
        lines = [
            f"{photos.uri('/a.jpg')}?sig={sig},1,too,many",
            f"https://{user}@h/a.jpg",
            f'"https://h/a.jpg?sig={sig}',
            # Rows have the first 1,000 characters of a line, which end within this one's user info.
            f"{'x' * 980},https://{user}@h/a.jpg?sig={sig},4",
            f"gs://b/a.jpg,https://h/a.jpg?w=1&token={sig}&w=2,5",
        ]
        text = "\n".join(["uri,n", *lines])
        (tmp_path / "list.csv").write_bytes(text.encode() + f"\nhttp://h/\xff?sig={sig}".encode("latin-1"))

    options = {
        "input": tmp_path / "list.csv",
        "output": tmp_path / "out",
        "model": tiny,
        "max_failure_rate": 1,
    }
    for _ in range(2):
        write()
        assert run_pipeline(**options)["failures_by_reason"] == {"bad_row": 6}
        assert_no_secrets(signer, tmp_path / "out")


def test_run__unparsed_value_with_a_secret__has_an_example_without(tmp_path, tiny, photos, signer, capsys):
    (tmp_path / "list.csv").write_text(f"uri,n\n{photos.uri('/a.jpg')},http://h?sig={signer.secret()}\n")
    args = [f"--input={tmp_path / 'list.csv'}", f"--output={tmp_path / 'out'}", f"--model={tiny}"]
    args += ["--loaders=0", "--allow_hosts=127.0.0.1"]
    status = main(["run", *args, "--column_types=n=int64"])
    captured = capsys.readouterr()
    assert status == 0 and "http://h?sig=…" in captured.out
    assert_no_secrets(signer, tmp_path / "out", captured.out, captured.err)


def test_run__own_column_with_a_signed_address__passes_through(tmp_path, tiny, photos):
    uri = photos.uri("/a.jpg?sig=mine")
    (tmp_path / "list.csv").write_text(f"uri,link\n{uri},{uri}\n")
    run_pipeline(input=tmp_path / "list.csv", output=tmp_path / "out", model=tiny)
    ((row,), _) = read_tables(tmp_path / "out")
    assert (row["uri"], row["link"]) == (photos.uri("/a.jpg?sig=…"), uri)


def test_run__own_ids__are_compared_by_addresses_without_secrets(tmp_path, tiny, photos, signer):
    options = {"output": tmp_path / "out", "model": tiny, "id_column": "n", "input": tmp_path / "list.csv"}

    def write(*rows: str) -> None:
        options["input"].write_text("\n".join(["uri,n", *rows]), "utf-8")

    write(*(photos.uri(f"/{name}.jpg?sig={signer.secret()},{name}") for name in "abba"))
    counts = run_pipeline(**options)["counts"]
    assert (counts["labelled"], counts["duplicate"], counts["failed"]) == (2, 2, 0)
    write(*(photos.uri(f"/{name}.jpg?sig={signer.secret()},{name}") for name in "ab"))
    counts = run_pipeline(**options)["counts"]
    assert (counts["kept"], counts["labelled"]) == (2, 0)
    assert verify(str(tmp_path / "out"), {"input": str(options["input"])}) == []
    write(photos.uri(f"/c.jpg?sig={signer.secret()},a"), photos.uri(f"/b.jpg?sig={signer.secret()},b"))
    assert len(verify(str(tmp_path / "out"), {"input": str(options["input"])})) == 1
    counts = run_pipeline(**options)["counts"]
    assert (counts["kept"], counts["other_uri"]) == (1, 1)
    assert_no_secrets(signer, tmp_path / "out")


def test_run__parameters_that_may_name_images__tell_them_apart(tmp_path, tiny, photos, signer):
    photos.files["/i"] = jpeg_bytes()
    names = [signer.secret() for _ in range(6)]
    uris = [photos.uri(f"/i?{name}={value}") for name in ("key", "token") for value in names]
    options = {"output": tmp_path / "out", "model": tiny}
    counts = run_pipeline(input=write_list(tmp_path, uris + uris[:3]), **options)["counts"]
    assert (counts["labelled"], counts["duplicate"]) == (12, 3)
    assert_no_secrets(signer, tmp_path / "out")
    options["output"] = tmp_path / "own"
    counts = run_pipeline(input=write_list(tmp_path, uris), **options, secret_params="token")["counts"]
    assert (counts["labelled"], counts["duplicate"]) == (7, 5)


def test_run__secret_params__hide_further_names(tmp_path, tiny, photos, signer):
    options = {"output": tmp_path / "out", "model": tiny, "secret_params": "s,hush"}
    for labelled in (1, 0):
        uris = [photos.uri(f"/a.jpg?w=1&s={signer.secret()}&HUSH={signer.secret()}")]
        uris.append(photos.uri(f"/none.jpg?s={signer.secret()}"))
        counts = run_pipeline(input=write_list(tmp_path, uris), **options, max_failure_rate=1)["counts"]
        assert counts["labelled"] == labelled
    assert_no_secrets(signer, tmp_path / "out")
    assert read_tables(tmp_path / "out")[0][0]["uri"] == photos.uri("/a.jpg?w=1&s=…&HUSH=…")
    photos.files["/none.jpg"] = jpeg_bytes()
    assert rerun(str(tmp_path / "out"), None, {"input": str(tmp_path / "list.txt")}, ())
    assert assert_sound(tmp_path / "out")["rows"] == {"predictions": 2, "failures": 0}


def test_run__later_run_without_the_names__is_refused(tmp_path, tiny, photos, signer):
    path = write_list(tmp_path, [photos.uri(f"/a.jpg?ticket={signer.secret()}")])
    options = {"input": path, "output": tmp_path / "out", "model": tiny}
    run_pipeline(**options, secret_params="Ticket")
    with pytest.raises(UserError, match="something else: --secret_params"):
        run_pipeline(**options)
    assert run_pipeline(**options, secret_params="ticket")["counts"]["labelled"] == 0
    assert_no_secrets(signer, tmp_path / "out")


@pytest.mark.parametrize("names", ["?ticket=", "a=b", "a b", "&a", "a#", "a,", "/a"])
def test_secret_params__no_name_of_a_parameter__is_refused(names):
    with pytest.raises(
        UserError, match=r"secret_params=.* is not allowed: it must be names of query parameters"
    ):
        load_config(None, {"input": "a.txt", "output": "out", "model": "m", "secret_params": names}, [])


@pytest.mark.parametrize("others", [0, 1])
def test_rerun__secrets_are_gone__takes_the_list_again(tmp_path, tiny, photos, signer, capsys, others):
    gone = [photos.uri(f"/status/503/{n}?sig={signer.secret()}") for n in range(2)]
    other = [photos.uri(f"/status/503/other{n}") for n in range(others)]
    path = write_list(tmp_path, gone + other)
    args = [f"--input={path}", f"--output={tmp_path / 'out'}", f"--model={tiny}", "--loaders=0"]
    args += ["--allow_hosts=127.0.0.1", "--fetch_attempts=1"]
    assert main(["run", *args, "--max_failure_rate=1"]) == 0
    assert f"labelbeam rerun {tmp_path / 'out'} --only http_5xx --input {path}" in capsys.readouterr().out
    fetched = photos.requests.copy()
    status = main(["rerun", str(tmp_path / "out"), "--max_failure_rate=1"])
    stderr = capsys.readouterr().err
    (line,) = [line for line in stderr.splitlines() if "secrets" in line]
    assert line.startswith(
        f"labelbeam: {'warning: ' * others}2 of {2 + others} failed images can't be fetched"
    )
    assert re.search(r"/status/503/[01]\?sig=…'", line)
    assert line.endswith(f"labelbeam rerun {tmp_path / 'out'} --input {path}")
    assert status == (0 if others else 2)
    assert sum((photos.requests - fetched).values()) == others
    assert_no_secrets(signer, tmp_path / "out", stderr)
    assert main(["rerun", str(tmp_path / "out"), "--max_failure_rate=1", f"--input={path}"]) == 0
    assert sum((photos.requests - fetched).values()) == 2 + 2 * others


def test_run__list_of_public_forms__fetches_nothing_and_names_the_remedy(tmp_path, tiny, photos):
    path = write_list(tmp_path, [photos.uri("/a.jpg?sig=…"), photos.uri("/b.jpg")])
    run_pipeline(input=path, output=tmp_path / "out", model=tiny)
    _, (failure,) = read_tables(tmp_path / "out")
    assert failure["reason"] == "bad_uri" and "list it as it was signed" in failure["message"]
    assert not any("a.jpg" in request for request in photos.requests)


ERRORS = {
    "header": ("list.csv", "https://h/a.jpg?sig=s3cr3t,1\n", []),
    "columns": ("list.csv", "id;https://h/a.jpg?sig=s3cr3t,x\n", []),
    "name": ("list.txt", "", ["--input=https://u:s3cr3t@h/list.txt?sig=s3cr3t&w=1"]),
    "model": ("list.txt", "a", ["--model=http://u:s3cr3t@127.0.0.1:9/m?sig=s3cr3t"]),
}


@pytest.mark.parametrize("command", ["run", "doctor"])
@pytest.mark.parametrize(("name", "text", "flags"), ERRORS.values(), ids=ERRORS.keys())
def test_commands__error_that_quotes_a_secret__is_without_it(
    tmp_path, tiny, capfd, command, name, text, flags
):
    (tmp_path / name).write_text(text)
    args = [f"--input={tmp_path / name}", f"--output={tmp_path / 'out'}", f"--model={tiny}", *flags]
    assert main([command, *args]) != 0
    captured = capfd.readouterr()
    assert MARK not in captured.out + captured.err


def test_label__signed_addresses__give_rows_without_secrets(photos, signer, lite0_dir):
    uris = [uri for uri in signer.list_of(photos) if "127.0.0.1" in uri]
    table = label(uris, limits=Limits(allow_hosts=("127.0.0.1",)))
    assert table.num_rows == len(uris) and MARK not in str(table.to_pylist())
    assert [row["reason"] for row in table.to_pylist()[:5]] == [None] * 5


def test_manifest_fields__model_whose_address_has_secrets__are_without_them(tiny):
    model = resolve_spec(ModelOptions(str(tiny)))
    address = f"https://u:{MARK}@h/m?token={MARK}&w=1"
    model = dataclasses.replace(model, handle=address, doubts=(f"Model {address!r} has one output.",))
    config = load_config(None, {"model": address})
    fields = str(manifest_fields(config, model, RowMetadata("run", "m", "p")))
    assert MARK not in fields and fields.count("https://…@h/m?token=…") == 3
