"""The step that loads images."""

from __future__ import annotations

import hashlib

import pytest

from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.load import LoadImages
from labelbeam.transforms.sources import Limits
from tests.eager import RUNNERS, eagerly
from tests.engines.http_server import LOOPBACK
from tests.synthetic import png_bytes

LIMITS = Limits(5, 10_000_000, 4, allow_hosts=LOOPBACK)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("loaders", [0, 1])
def test_load_images__known_version__is_unchanged_and_not_fetched(tmp_path, web, runner, loaders):
    data = png_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    web.files.update({"/same.jpg": data, "/other.jpg": data})
    path = tmp_path / "same.jpg"
    path.write_bytes(data)
    file_version = f"{path.stat().st_mtime_ns}-{len(data)}"
    refs = [
        ImageRef("file", str(path), (1,), file_version),
        ImageRef("same", web.uri("/same.jpg"), (2,), '"v1"'),
        ImageRef("other", web.uri("/other.jpg"), (3,), '"v0"'),
        ImageRef("digest", web.uri("/same.jpg"), (3,), f"sha256:{sha256}"),
        ImageRef("new", str(path), (4,)),
        ImageRef("new digest", str(path), (4,), f"sha256:{'0' * 64}"),
        ImageRef("none", web.uri("/none.jpg"), (5,), '"v1"'),
    ]
    loaded = eagerly(LoadImages(LIMITS, ResizeRule(16), 10**6, loaders), refs, runner)
    assert sorted(one.ref.id for one in loaded.unchanged) == ["digest", "file", "none", "same"]
    assert [one.ref.id for one in loaded.unchanged if not one.checked] == ["none"]
    assert {one.ref for one in loaded.unchanged} <= set(refs)
    assert sorted((one.ref.id, one.metadata.version) for one in loaded.ok) == [
        ("new", file_version),
        ("new digest", file_version),
        ("other", '"v1"'),
    ]
    assert {(one.pixels.shape, one.metadata.sha256) for one in loaded.ok} == {((16, 16, 3), sha256)}
    assert loaded.failures == []
