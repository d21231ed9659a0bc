"""SavedModels: folders with a graph, variables and signatures. A kind of model, see `kinds`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.models.contract import (
    Contract,
    Model,
    Shape,
    check_inputs,
    choose_name,
    list_tensors,
    read_classes,
    read_size_px,
    shape_text,
)
from labelbeam.transforms.models.folders import cache_folder
from labelbeam.transforms.models.refusals import LOADING_ERRORS, one_line

if TYPE_CHECKING:
    import tensorflow as tf
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

SUFFIX = ""
GRAPH = "saved_model.pb"
# Checksum of the graph, which new versions of TensorFlow write and never read.
_FINGERPRINT = "fingerprint.pb"
SERVING = "serving_default"
# A signature for TensorFlow's own use.
_INTERNAL = "__saved_model_init_op"
_TEXT = "string"
_CHUNK_BYTES = 1 << 20


def matches(path: Path) -> bool:
    """Return whether a folder holds a graph. Its name is no sign, because TensorFlow wrote any name."""
    return (path / GRAPH).is_file()


def list_files(path: Path) -> dict[str, Path]:
    """Return all files by name."""
    # The graph comes last, because a copy that was cut off then has no graph and is no model.
    files = sorted(file for file in path.rglob("*") if file.is_file())
    files.sort(key=lambda file: file == path / GRAPH)
    return {file.relative_to(path).as_posix(): file for file in files}


def digest_parts(path: Path) -> Iterator[bytes]:
    """Yield the files without the fingerprint, because TensorFlow puts a random number into each one."""
    for name, file in sorted(list_files(path).items(), key=lambda item: item[1]):
        if file.name == _FINGERPRINT:
            continue
        yield f"{name}\0{file.stat().st_size}\0".encode()
        with file.open("rb") as f:
            while chunk := f.read(_CHUNK_BYTES):
                yield chunk


def find_damage(path: Path) -> str:
    """Return missing files, or files that differ from the checksums that TensorFlow saved with them."""
    return _graph_damage(path) or _variables_damage(path / "variables")


def _graph_damage(folder: Path) -> str:
    # Compared with its checksum here, because TensorFlow runs a graph with a flipped bit.
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow.python.saved_model.fingerprinting_utils import FingerprintException
    from tensorflow.python.saved_model.pywrap_saved_model.fingerprinting import CreateFingerprintDef

    try:
        # Checked first, because CreateFingerprintDef crashes the process if there is no graph.
        if not SavedModel.FromString((folder / GRAPH).read_bytes()).meta_graphs:
            return f"{GRAPH} holds no graph"
        if not (folder / _FINGERPRINT).is_file():
            return ""
        saved = FingerprintDef.FromString((folder / _FINGERPRINT).read_bytes())
        actual = FingerprintDef.FromString(CreateFingerprintDef(str(folder)))
    except (DecodeError, FingerprintException) as e:
        return f"{GRAPH} or {_FINGERPRINT} can't be parsed ({one_line(e)})"
    # Compared within one version, because another version of the fingerprint may hash something else.
    same_version = saved.version.producer == actual.version.producer
    if not same_version or saved.saved_model_checksum == actual.saved_model_checksum:
        return ""
    return (
        f"{GRAPH} has another checksum than {_FINGERPRINT} holds (delete {_FINGERPRINT} if the graph was "
        "changed on purpose)"
    )


def _variables_damage(folder: Path) -> str:
    import tensorflow as tf

    if not folder.is_dir() or not any(folder.iterdir()):  # a model without variables
        return ""
    # All variables are read, because TensorFlow compares the checksum of each one only when it reads it.
    try:
        reader = tf.train.load_checkpoint(str(folder / "variables"))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, IndexError) as e:  # IndexError: a data file is too short
        return f"the files in {folder} are not what was saved ({one_line(e)})"
    return ""


def read_contract(path: Path, signature: str | None = None, output: str | None = None) -> Contract:
    """Read the contract of a signature: the requested one, else `serving_default`, else the only one."""
    signatures = _read_signatures(path)
    if not signatures and (signature or output):
        raise UserError(
            f"{path} has no signatures: it is called itself, without --signature or --output_name."
        )
    if not signatures:
        return Contract()
    name = choose_name(path, "signature", signature, signatures, SERVING)
    return _signature_contract(path, name, signatures, output)


def _read_signatures(folder: Path) -> dict[str, SignatureDef]:
    """Read the signatures by name from the graph alone, because loading a large model takes seconds.

    Raises:
      UserError: The graph is damaged, or made for TensorFlow 1.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    if (folder / "tfhub_module.pb").exists():
        raise UserError(
            f"{folder} is a module of TensorFlow 1 (TF Hub's old format), which TensorFlow 2 can't run. "
            "Take the model's TF2 version, or convert it to a SavedModel with TensorFlow 1.15."
        )
    try:
        saved = SavedModel.FromString((folder / GRAPH).read_bytes())
    except DecodeError as e:
        raise UserError(f"{folder / GRAPH} is damaged: {e}. Copy or download the model again.") from e
    served = next((graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags), None)
    if served is None:
        tags = [list(graph.meta_info_def.tags) for graph in saved.meta_graphs]
        raise UserError(f"{folder} has no graph with the tag 'serve', only {tags}. Export it for serving.")
    return {name: s for name, s in served.signature_def.items() if name != _INTERNAL and s.inputs}


def _signature_contract(
    path: Path, name: str, signatures: Mapping[str, SignatureDef], output: str | None
) -> Contract:
    where = f"signature {name!r} of {path}"
    signature = signatures[name]
    inputs = _dtypes(signature)
    if _TEXT in inputs.values():
        raise UserError(
            f"{where} takes {list_tensors(inputs)}, such as encoded images; labelbeam decodes images itself. "
            f"{_other_signature(signatures)}."
        )
    check_inputs(where, inputs)
    ((input_name, tensor),) = signature.inputs.items()
    shape = _shape(tensor)
    output_name = choose_name(path, "output", output, signature.outputs)
    result = signature.outputs[output_name]
    return Contract(
        signature=name,
        input_name=input_name,
        input_dtype=_dtype(tensor),
        batch=shape[0] if shape else None,
        size_px=read_size_px(where, shape),
        output_name=output_name,
        classes=read_classes(where, output_name, _dtype(result), _shape(result)),
    )


def _shape(tensor: TensorInfo) -> Shape:
    if tensor.tensor_shape.unknown_rank:
        return None
    return [d.size if d.size > 0 else None for d in tensor.tensor_shape.dim]


def _dtype(tensor: TensorInfo) -> str:
    import tensorflow as tf

    return tf.dtypes.as_dtype(tensor.dtype).name


def _dtypes(signature: SignatureDef) -> dict[str, str]:
    return {name: _dtype(tensor) for name, tensor in signature.inputs.items()}


def _other_signature(signatures: Mapping[str, SignatureDef]) -> str:
    """Return the remedy for a signature that takes encoded images."""
    others = [name for name, signature in signatures.items() if _TEXT not in _dtypes(signature).values()]
    if others:
        return f"Choose another signature with --signature: {', '.join(sorted(others))}"
    return "Export it where its code is, with a signature 'serving_default' that takes float32 [N, S, S, 3]"


def describe(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each signature with its inputs and outputs."""
    for name, signature in sorted(_read_signatures(path).items()):
        ends = (signature.inputs, signature.outputs)
        inputs, outputs = (
            ", ".join(f"{n} {_dtype(t)} {shape_text(_shape(t) or [])}" for n, t in sorted(end.items()))
            for end in ends
        )
        yield "signature", f"{name}: {inputs} -> {outputs}"


def load(path: Path, handle: str, contract: Contract, size_px: int) -> Model:
    """Load a signature, or the restored object itself if there are no signatures."""
    import tensorflow as tf
    import tensorflow_hub as hub

    try:
        loaded = hub.load(str(path))
        signature = loaded.signatures[contract.signature] if contract.signature else None
    except (tf.errors.ResourceExhaustedError, tf.errors.InternalError):
        raise  # faults of the device, not of the model
    except (tf.errors.OpError, *LOADING_ERRORS) as e:
        raise RunError(f"Model {str(path)!r} cannot be loaded: {one_line(e)}. {_remedy(path, str(e))}") from e
    if signature is None:
        return _load_callable(loaded, handle, contract, size_px)

    def call(images: tf.Tensor) -> tf.Tensor:
        return signature(**{contract.input_name: images})[contract.output_name]

    # A reference to the whole model, because a signature does not keep its variables alive: without it, the
    # first call after a garbage collection fails on a deleted variable.
    call.loaded = loaded  # type: ignore[attr-defined]
    return call


def _load_callable(loaded: Any, handle: str, contract: Contract, size_px: int) -> Model:
    """Find a way to call a restored object without signatures: with images alone, for inference."""
    import tensorflow as tf

    if not callable(loaded):
        raise RunError(f"Model {handle!r} is neither callable nor has it a signature. Export it again.")
    images = tf.TensorSpec([None, size_px, size_px, 3], contract.input_dtype)
    parameters = loaded.__call__.function_type.parameters
    # `training` is passed, because its default may be True, or may be missing among the exported traces.
    # None means False where nothing else was traced.
    ways: tuple[dict, ...] = ({"training": False}, {"training": None}) if "training" in parameters else ({},)
    for way in ways:
        call = functools.partial(loaded, **way)
        try:
            outputs = tf.function(call).get_concrete_function(images).outputs
        except (TypeError, ValueError):  # no such trace
            continue
        if len(outputs) == 1:
            return lambda images, call=call: tf.nest.flatten(call(images))[0]  # type: ignore[misc]
    raise RunError(
        f"Model {handle!r} has no signature, and can't be called with images {images.shape} alone for "
        f"one result (parameters: {', '.join(parameters)}). Export it with a signature 'serving_default'."
    )


def _remedy(path: Path, error: str) -> str:
    import tensorflow as tf

    export = f"export it with TensorFlow {tf.__version__}"
    if "Op type not registered" in error:
        return f"Remove the operation from the model, and {export}."
    if cache_folder() in path.parents:
        return f"Delete {path}, so that the next run fetches it again; if that does not help, {export}."
    return f"Copy it again from where it is whole; if that does not help, {export}."
