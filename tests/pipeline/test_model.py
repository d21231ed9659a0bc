import pytest

from labelbeam.pipeline.commands.model import inspect_model, mirror_model
from labelbeam.pipeline.config import parse_flags
from labelbeam.pipeline.report.model import describe_missing_names
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.cache import resolve_model
from labelbeam.transforms.models.kinds import digest_model
from labelbeam.transforms.models.probe import understand_model
from labelbeam.transforms.models.spec import ModelOptions
from tests.graphs import assert_sound, run_pipeline
from tests.synthetic import jpeg_bytes
from tests.tiny_model import save_tiny_model


def test_inspect__model_without_names__describes_it_and_fits(tiny):
    fits, text = inspect_model(str(tiny), {})
    assumed = "if it expects the input range 0,1, which is assumed"
    use = "a classifier, or an embedding of length 3 with --outputs embedding"
    assert fits and text.endswith(f"fits          yes, {use}, {assumed}")
    for line in (
        "signature     serving_default: inputs float32 [N, 16, 16, 3] -> logits float32 [N, 3]",
        f"digest        {digest_model(tiny)}",
        "input         float32, 16 px, the central square, 33% of the shorter side (center_crop)",
        "classes       3, such as 'class 0' (there is no label map: give one with --labels)",
        "range         0,1 (assumed: neither the model nor the sample photos show it)",
        "outputs       logits of one class per image (probed: the sample photos show it)",
        "frozen        yes",
    ):
        assert line in text, line


def test_inspect__embedded__fits(lite0_dir):
    fits, text = inspect_model("efficientnet-lite0", {})
    assert text.endswith("fits          yes, an image classifier")
    assert fits and "classes       1,000, such as 'tench'" in text


def test_inspect__wrong_options_or_model__gives_the_remedy(tiny, tmp_path):
    fits, text = inspect_model(str(tiny), {"labels": "imagenet"})
    assert not fits and "fits          no: Model" in text and "--labels FILE" in text
    unknown = save_tiny_model(tmp_path / "m", size_px=None)
    fits, text = inspect_model(str(unknown), {})
    assert not fits and "--image_size" in text
    assert inspect_model(str(unknown), {"image_size": "16"})[0]
    with pytest.raises(UserError, match="is no SavedModel"):
        inspect_model(str(tmp_path / "missing"), {})


def test_inspect__outputs_are_logits_after_all__is_refused(tiny):
    fits, text = inspect_model(str(tiny), {"outputs": "probabilities"})
    assert not fits and "fits          no: --outputs probabilities: model" in text


def test_inspect__doubtful_model__fits_perhaps(tmp_path):
    model = save_tiny_model(tmp_path / "m", size_px=16, gain=0.0)
    fits, text = inspect_model(str(model), {})
    assert (
        fits and "fits          perhaps: Model" in text and "equal outputs for all 57 sample photos" in text
    )


def test_inspect__embedding__fits_and_names_no_classes(tiny):
    fits, text = inspect_model(str(tiny), {"outputs": "embedding"})
    assert fits and "length        3" in text and "fits          yes, an embedding of length 3" in text


def test_mirror__to_a_bucket__can_be_run_from_there(tiny, tmp_path, gcs):
    gcs.put("gs://mirror/here", b"")
    handle, options = mirror_model(str(tiny), "gs://mirror/tiny/")
    assert (handle, options) == ("gs://mirror/tiny", "")
    assert digest_model(resolve_model(handle)) == digest_model(tiny)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg_bytes())
    run_pipeline(input=tmp_path / "in", output=tmp_path / "out", model=handle)
    assert_sound(tmp_path / "out")
    with pytest.raises(UserError, match="holds files already"):
        mirror_model(str(tiny), "gs://mirror/tiny")


def test_mirror__preset__needs_the_options_that_are_returned(lite0_dir, tmp_path):
    handle, options = mirror_model("efficientnet-lite0", str(tmp_path / "copy"))
    flags = dict(zip(*[(word.removeprefix("--") for word in options.split())] * 2, strict=True))
    copy = understand_model(ModelOptions(handle, **parse_flags(flags)), 600)
    preset = understand_model(ModelOptions("efficientnet-lite0"), 600)
    assert copy.preprocessing_fingerprint == preset.preprocessing_fingerprint
    for field in ("labels", "head", "resize", "scaling", "length"):
        assert getattr(copy, field) == getattr(preset, field)


def test_mirror__target_cannot_be_written__is_a_user_error(tiny):
    with pytest.raises(UserError, match="cannot be written"):
        mirror_model(str(tiny), "/proc/none")


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        (
            {},
            "Give one with --labels, or give --outputs embedding if the outputs are features.",
        ),
        ({"outputs": "multilabel"}, "Give one with --labels."),
    ],
)
def test_describe_missing_names__features_or_classes__gives_the_remedies(tiny, flags, remedy):
    spec = understand_model(ModelOptions(str(tiny), **flags), timeout_sec=60)
    first = "There is no label map, so labels are 'class 0' and so on. "
    assert describe_missing_names(spec) == first + remedy
