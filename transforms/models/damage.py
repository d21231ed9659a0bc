"""Damage: models whose bytes are not what was saved."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from labelbeam.transforms.errors import LabelbeamError, UserError
from labelbeam.transforms.models.folders import cache_folder
from labelbeam.transforms.models.keras_file import EXPORT, HDF5_HEAD

# What a .keras file must hold; the weights are in one of two formats.
_KERAS_CONFIG = "config.json"
_KERAS_WEIGHTS = ("model.weights.h5", "model.weights.npz")
_LONGEST_ERROR = 300


class _Damage(Exception):
    """Damage to one file of a model."""


def check_bytes(path: Path, handle: str) -> None:
    """Check a model against the checksums that TensorFlow or Keras saved with it.

    The variables of a SavedModel have checksums of their own, as have the members of a `.keras` file. The
    graph of a SavedModel has one only in `fingerprint.pb`, which new versions of TensorFlow write but never
    read.

    Raises:
      UserError: A file is damaged.
    """
    try:
        if path.is_file():
            _refuse_hdf5(path, handle)
            _check_archive(path)
        else:
            _check_graph(path)
            _check_variables(path)
    except _Damage as e:
        raise UserError(f"model={handle!r} is damaged: {e}. Give a whole copy of the model.") from e


def _refuse_hdf5(path: Path, handle: str) -> None:
    """Refuse a whole file of the older format, which is no damaged archive."""
    with path.open("rb") as f:
        if f.read(len(HDF5_HEAD)) == HDF5_HEAD:
            raise UserError(f"model={handle!r} is an HDF5 file, the format before .keras. {EXPORT}.")


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            bad, names = archive.testzip(), archive.namelist()
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError) as e:
        raise _Damage(f"{path.name} is no whole zip archive, as Keras 3 saves models ({_line(e)})") from e
    if bad is not None:
        raise _Damage(f"the checksum of {bad!r} in {path.name} is wrong")
    if _KERAS_CONFIG not in names or not set(_KERAS_WEIGHTS) & set(names):
        raise _Damage(f"{path.name} has no {_KERAS_CONFIG} or no {_KERAS_WEIGHTS[0]}")


def _check_graph(folder: Path) -> None:
    """Compare `saved_model.pb` with its checksum, because TensorFlow runs a graph with a flipped bit."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow.python.saved_model.fingerprinting_utils import FingerprintException
    from tensorflow.python.saved_model.pywrap_saved_model.fingerprinting import CreateFingerprintDef

    try:
        # CreateFingerprintDef crashes the process where there is no graph.
        if not SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs:
            raise _Damage("saved_model.pb holds no graph")
        if not (folder / "fingerprint.pb").is_file():
            return
        saved = FingerprintDef.FromString((folder / "fingerprint.pb").read_bytes())
        actual = FingerprintDef.FromString(CreateFingerprintDef(str(folder)))
    except (DecodeError, FingerprintException) as e:
        raise _Damage(f"saved_model.pb or fingerprint.pb can't be parsed ({_line(e)})") from e
    # Other versions of the fingerprint may hash something else.
    same_version = saved.version.producer == actual.version.producer
    if same_version and saved.saved_model_checksum != actual.saved_model_checksum:
        raise _Damage(
            "saved_model.pb has another checksum than fingerprint.pb holds (delete fingerprint.pb if the "
            "graph was changed on purpose)"
        )


def _check_variables(folder: Path) -> None:
    """Read all variables once, because TensorFlow checks each one as it reads it."""
    import tensorflow as tf

    variables = folder / "variables" / "variables"
    if not variables.with_suffix(".index").is_file():
        return
    try:
        reader = tf.train.load_checkpoint(str(variables))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, IndexError) as e:  # IndexError: a data file is too short
        raise _Damage(f"the files in {variables.parent} are not what was saved ({_line(e)})") from e


@contextlib.contextmanager
def load_errors_explained(path: Path, kind: type[LabelbeamError]) -> Iterator[None]:
    """Turn whatever TensorFlow or Keras raises on loading a model into one line with a remedy.

    Args:
      path: The model.
      kind: The error to raise: `UserError` before a run, `RunError` on a worker.
    """
    import tensorflow as tf

    try:
        yield
    except (tf.errors.ResourceExhaustedError, tf.errors.InternalError):
        raise  # faults of the device, not of the model
    except (
        *(tf.errors.OpError, OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError),
        *(zipfile.BadZipFile, zlib.error),
    ) as e:
        raise kind(f"Model {str(path)!r} cannot be loaded: {_line(e)}. {_remedy(path, str(e))}") from e


def _remedy(path: Path, error: str) -> str:
    import tensorflow as tf

    export = f"export it with TensorFlow {tf.__version__}"
    if "Op type not registered" in error:
        return f"Remove the operation from the model, and {export}."
    if cache_folder() in path.parents:
        return f"Delete {path}, so that the next run brings it again; if that does not help, {export}."
    return f"Copy it again from where it is whole; if that does not help, {export}."


def _line(error: Exception) -> str:
    """Return an error's message in one line, cut where TensorFlow lists all it knows of the graph."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.removesuffix(".") if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}..."
