"""Calibration files, and the tables that they fit."""

from __future__ import annotations

from labelbeam.pipeline.config import PredictConfig
from labelbeam.transforms.calibration import FORMAT, Basis, Calibration
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import file_errors_as, read_file
from labelbeam.transforms.models.heads import MULTILABEL, Head
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.models.spec import ModelSpec
from labelbeam.transforms.table.documents import parse_file
from labelbeam.transforms.table.manifest import Manifest

_NAMES = {
    "model": "the model's fingerprint",
    "preprocessing": "the preprocessing's fingerprint",
    "head": "the kind of the model's outputs",
    "classes": "the number of classes",
}
_REMEDY = "Make one with labelbeam calibrate OUTPUT --truth …"


def read_calibration(path: str) -> Calibration:
    """Read a calibration file.

    Raises:
      UserError: The file can't be read, is damaged or of a newer format.
    """
    with file_errors_as(UserError, f"calibration={path!r} cannot be read", f"Check its name. {_REMEDY}"):
        data = read_file(path)
    calibration = parse_file(Calibration, data, path, FORMAT, _REMEDY, "make the file again")
    if fault := calibration.fault():
        raise UserError(f"{path} is damaged: {fault}. {_REMEDY}")
    return calibration


def read_fitting(path: str, basis: Basis, table: str) -> Calibration:
    """Read a calibration file that fits a table.

    Args:
      path: The file.
      basis: Properties of the table.
      table: The table, as the message names it.

    Raises:
      UserError: The file can't be used, or was made from a table with other properties.
    """
    calibration = read_calibration(path)
    differences = [
        f"{_NAMES.get(name, name)} ({there} in the file, {here} here)"
        for name, there, here in calibration.basis.differences(basis)
    ]
    if differences:
        raise UserError(f"calibration={path!r} does not fit {table}: {'; '.join(differences)}. {_REMEDY}")
    return calibration


def calibration_of(config: PredictConfig, model: ModelSpec) -> Calibration | None:
    """Return the calibration that labels are decided with; None for labels without decisions.

    Raises:
      UserError: The file can't be used, or does not fit the model and the options.
    """
    if not config.calibration:
        return None
    basis = Basis(
        model=model.model_fingerprint,
        preprocessing=model.preprocessing_fingerprint,
        head=model.head.kind,
        classes=model.head.classes(model.length),
        top_k=config.top_k,
        threshold=config.least_score if model.head.kind == MULTILABEL else None,
    )
    return read_fitting(config.calibration, basis, "this model with these options")


def basis_of_table(manifest: Manifest, output: str) -> Basis:
    """Return the properties of a published table that a calibration must fit.

    Raises:
      UserError: The rows have embeddings and no scores, or the manifest lacks a property.
    """
    model, labelled_with = manifest.model, manifest.labelled_with
    head, length = model.get("head"), model.get("length")
    if head == EMBEDDING:
        raise UserError(f"{output!r} holds embeddings, which have no scores to calibrate.")
    if not isinstance(head, str) or not isinstance(length, int):
        raise UserError(f"{output!r}: its manifest lacks the model's head and length. Label it again.")
    return Basis(
        model=labelled_with.model,
        preprocessing=labelled_with.preprocessing,
        head=head,
        classes=Head(head, "logits").classes(length),  # type: ignore[arg-type]
        top_k=labelled_with.top_k,
        threshold=labelled_with.threshold,
    )
