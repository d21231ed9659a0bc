"""The Python API: `label`, the names of the package, and the examples of docs/library.md."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import warnings
from pathlib import Path

import pyarrow as pa
import pytest

import labelbeam
from labelbeam import HttpSettings, ImageRef, Limits, UserError, label
from labelbeam.transforms.photos import photo_paths
from tests.pipeline.test_cli import make_images
from tests.synthetic import jpeg_bytes
from tests.tiny_model import save_tiny_model

ROOT = Path(__file__).parent.parent
EXAMPLES = re.findall(
    r"^## (.+?)$.*?^```python\n(.+?)^```", (ROOT / "docs/library.md").read_text(), re.M | re.S
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", size_px=16))


def label_quietly(*args, **options) -> pa.Table:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return label(*args, **options)


def test_label__paths_in_any_state__have_a_row_each_in_their_order(tmp_path, tiny):
    names = sorted(make_images(tmp_path / "in", 40).iterdir())
    images = [*names[:20], tmp_path / "nowhere.jpg", *names[20:], tmp_path / "text.jpg"]
    (tmp_path / "text.jpg").write_text("no image")
    table = label_quietly(iter(images), tiny, top_k=2)
    assert table["uri"].to_pylist() == [str(image) for image in images]
    reasons = [None] * 20 + ["not_found"] + [None] * 20 + ["not_an_image"]
    assert table["reason"].to_pylist() == reasons
    for row in table.to_pylist():
        assert (row["label"] is None) == (row["labels"] is None) == (row["reason"] is not None)
        assert row["labels"] is None or len(row["labels"]) == 2


def test_label__secrets_in_addresses__are_in_no_row(tiny):
    images = [f"http://127.0.0.1:9/a.jpg?{name}=hush" for name in ("token", "s", "t", "w")]
    table = label_quietly(images, tiny, secret_params=["s", "t"])
    shown = [uri.partition("?")[2] for uri in table["uri"].to_pylist()]
    assert shown == ["token=…", "s=…", "t=…", "w=hush"]
    assert table["id"].to_pylist() == label_quietly(table["uri"].to_pylist(), tiny)["id"].to_pylist()


def test_label__any_thread_and_any_batch_size__gives_the_same_table(tmp_path, tiny):
    names = sorted(make_images(tmp_path / "in", 7).iterdir())
    tables: list[pa.Table] = []

    def run(size: int) -> None:
        tables.append(label_quietly(names, tiny, batch_size=size, keep_outputs=True))

    for size in (1, 2, 16):
        thread = threading.Thread(target=run, args=[size])
        thread.start()
        thread.join()
    assert (
        tables[0]["logits"].type.list_size > 0 and tables[0].equals(tables[1]) and tables[0].equals(tables[2])
    )


def test_label__folder_list_and_nothing__are_read_as_by_run(tmp_path, tiny):
    names = sorted(make_images(tmp_path / "in", 3).iterdir())
    (tmp_path / "list.csv").write_text(
        "".join(["uri,price\n", *(f"{name},7\n" for name in names), "short\n"])
    )
    folder, listed = (
        label_quietly(str(tmp_path / "in"), tiny),
        label_quietly(str(tmp_path / "list.csv"), tiny),
    )
    assert sorted(folder["uri"].to_pylist()) == sorted(map(str, names))
    assert listed["price"].to_pylist() == ["7", "7", "7", None]
    assert listed["reason"].to_pylist() == [None, None, None, "bad_row"]
    empty = label_quietly([], tiny)
    assert empty.num_rows == 0 and empty.schema.names == folder.schema.names


def test_label__mistakes__are_user_errors_and_doubts_are_warnings(tmp_path, tiny):
    with pytest.raises(UserError, match="matches nothing"):
        label(str(tmp_path / "none.txt"), tiny)
    with pytest.raises(UserError, match="nowhere"):
        label([], "nowhere")
    with pytest.raises(TypeError, match="inptu_range"):
        label([], tiny, inptu_range=(0, 1))
    with pytest.warns(UserWarning, match=r"input range .* is assumed.* Give input_range"):
        label([], tiny)
    with pytest.warns(UserWarning, match="channel_std"):
        label([], tiny, channel_std=(1e9, 1e9, 1e9))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"top_k": 0}, UserError, "top_k=0 is not allowed: it must be a whole number from 1 to 1,000"),
        ({"top_k": None}, UserError, "top_k=None is not allowed"),
        ({"threshold": 1.5}, UserError, "threshold=1.5 is not allowed"),
        ({"keep_outputs": "perhaps"}, UserError, "keep_outputs='perhaps' is not allowed"),
        ({"batch_size": 0}, UserError, "batch_size=0 is not allowed: it must be auto, or"),
        ({"max_megapixels": 0}, UserError, "max_megapixels=0 is not allowed"),
        ({"image_size": 5000}, UserError, "image_size=5000 is not allowed"),
        ({"input_range": (1, 0)}, UserError, "input_range=.1, 0. is not allowed"),
        ({"limits": Limits(connections=0)}, UserError, "limits.connections .fetch_threads.=0 is not"),
        ({"limits": Limits(max_bytes=0)}, UserError, "limits.max_bytes .max_image_mb.=0.0 is not"),
        (
            {"limits": Limits(http=HttpSettings("a\nb"))},
            UserError,
            "limits.http.user_agent='a.*nb' is not allowed",
        ),
        ({"limits": Limits(http=HttpSettings(headers=(("A", "b\nc"),)))}, UserError, "A is not allowed"),
        ({"limits": Limits(total_timeout_sec=0)}, UserError, "limits.total_timeout_sec .*=0.0 is not"),
        ({"model": ""}, UserError, "model='' is not allowed"),
        ({"topk": 3}, TypeError, r"label\(\) has no argument 'topk'. Did you mean top_k\?"),
        ({"allow_hosts": ["h"]}, TypeError, r"Give limits=Limits\(allow_hosts=…\)\."),
        ({"fetch_threads": 3}, TypeError, r"Give limits=Limits\(connections=…\)\."),
        ({"host_rate": 3}, TypeError, r"Give limits=Limits\(manners=Manners\(host_rate=…\)\)\."),
        (
            {"secret_params": ["?s"]},
            UserError,
            r"secret_params=\['\?s'\] is not allowed: it must be names of query",
        ),
        ({"input_rnge": (0, 1)}, TypeError, r"Did you mean input_range\?"),
        (
            {"images": [b"x", None, 3]},
            TypeError,
            r"images\[0\] is b'x', of type bytes. Decode it with os.fsdecode",
        ),
        ({"images": ["x", None]}, TypeError, r"images\[1\] is None, of type NoneType. Give a str or"),
        ({"images": 3}, TypeError, "images is 3, of type int"),
        ({"images": b"x"}, TypeError, "images is b'x', of type bytes"),
    ],
)
def test_label__argument_that_is_not_allowed__is_named_with_its_remedy(arguments, error, message):
    with pytest.raises(error, match=message):
        label(**{"images": [], **arguments})


def test_api__without_a_log_level__prints_nothing_of_tensorflow(tiny):
    code = (
        f"from labelbeam import ModelOptions, label, understand_model; "
        f"understand_model(ModelOptions({tiny!r}), 600); label([], {tiny!r})"
    )
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_package__every_name__is_there_and_nothing_heavy_is_imported_before():
    assert {"label", "ImageRef", "PredictLabels"} <= set(dir(labelbeam))
    for name in dir(labelbeam):
        assert getattr(labelbeam, name).__name__ == name
    assert labelbeam.ImageRef is ImageRef and not hasattr(labelbeam, "Nothing")
    code = "import sys, labelbeam; print({'apache_beam', 'tensorflow', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_package__beside_modules_of_the_same_names__is_not_disturbed(tmp_path):
    """Import labelbeam beside a user's own `pipeline` and `transforms`, which must not hide ours."""
    for name in ("pipeline", "transforms"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong module')")
    done = subprocess.run(
        [sys.executable, "-m", "labelbeam", "--help"],
        **{"cwd": tmp_path, "env": {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}},
        **{"capture_output": True, "text": True},
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_examples__as_they_are_printed__run(tmp_path, monkeypatch, lite0_dir, capsys, title, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, photo in zip(("cat.jpg", "dog.jpg"), photo_paths(), strict=False):
        shutil.copy(photo, tmp_path / "photos" / name)
    lines = [
        f'{{"sku": "{n}", "photo": "photos/{name}", "price": {n}}}'
        for n, name in enumerate(("cat.jpg", "none.jpg"))
    ]
    (tmp_path / "products.jsonl").write_text("\n".join(lines))
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(tmp_path / "photos", "photos")
    save_tiny_model(tmp_path / "my_model", size_px=16)
    (tmp_path / "my_labels.txt").write_text("red\ngreen\nblue\n")
    exec(compile(code, title, "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out + "".join(p.read_text() for p in sorted(tmp_path.glob("*-of-*")))
    assert all(word in printed for word in EXPECTED[title]), printed


EXPECTED = {
    "A notebook": ("photos/cat.jpg", "photos/dog.jpg", "'score': 0."),
    "A JSONL pipeline": ('{"sku": "0", "price": 0, "label": ', "1: not_found"),
    "A source of your own": ("photos/cat.jpg,", "photos/dog.jpg,"),
    "Two models": ("photos/cat.jpg: {", "'lite0': ", "'mine': "),
}


def test_examples__all__are_expected():
    assert [title for title, _ in EXAMPLES] == list(EXPECTED)


def test_label__host_that_is_not_public__is_fetched_if_it_is_allowed(web, tiny):
    web.files["/a.jpg"] = jpeg_bytes()
    images = [web.uri("/a.jpg")]
    assert label_quietly(images, tiny)["reason"].to_pylist() == ["forbidden_address"]
    limits = Limits(allow_hosts=("127.0.0.1",))
    assert label_quietly(images, tiny, limits=limits)["reason"].to_pylist() == [None]
