"""Settings of a run, as its manifest and the `run.json` of its unfinished rows record them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from labelbeam import __version__
from labelbeam.pipeline.config import OPTIONS_BY_HEADING, RunConfig, make_config
from labelbeam.pipeline.input_names import public_input
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.heads import MULTILABEL
from labelbeam.transforms.models.spec import ModelSpec
from labelbeam.transforms.sources.secrets import hide_in_message, public_uri
from labelbeam.transforms.table.column_types import type_to_text
from labelbeam.transforms.table.folder import TableFolder, read_manifest, staged_files, staged_runs
from labelbeam.transforms.table.manifest import FORMAT, LabelledWith, Manifest
from labelbeam.transforms.table.rows import RowMetadata


def new_run_id() -> str:
    """Return a name for a run: the time it started, UTC, and eight random digits."""
    # The time first, because names then sort by age; digits, because two runs may start in one second.
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def labelled_with(model: ModelSpec, rows: RowMetadata, config: RunConfig) -> LabelledWith:
    """Return the settings that rows of one table must have in common."""
    predict = config.predict
    return LabelledWith(
        model=model.model_fingerprint,
        preprocessing=model.preprocessing_fingerprint,
        precision=predict.precision,
        xla=predict.xla != "off",
        top_k=predict.top_k,
        # None for other models, so that their tables stay comparable: a threshold does not matter to them.
        threshold=predict.least_score if model.head.kind == MULTILABEL else None,
        outputs=dict([rows.outputs] if rows.outputs else []),
        columns={name: type_to_text(kind) for name, kind in rows.columns},
        # Because ids differ, and a later run would publish what an earlier one hid.
        secret_params=",".join(sorted({name.lower() for name in config.read.secret_params})),
        calibration=rows.decisions.fingerprint if rows.decisions else "",
    )


def published_manifest(folder: str) -> Manifest:
    """Return the manifest of a table folder.

    Raises:
      UserError: There is none.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        staged = sum(stored.file.rows for stored in staged_files(folder, staged_runs(folder)))
        why = (
            f"its last run broke off, or is still at work, with {staged:,} rows finished. Run the same "
            "command again to continue it"
            if staged
            else f"there is no {TableFolder(folder).manifest}. Check the folder's name: it is the --output "
            "of a run that has ended"
        )
        raise UserError(f"{folder!r} holds no published results: {why}.")
    return manifest


def published_row_metadata(manifest: Manifest) -> RowMetadata:
    """Return the columns that are equal in all rows of published tables."""
    labelled_with = manifest.labelled_with
    return RowMetadata(
        run_id=manifest.run_id,
        model_fingerprint=labelled_with.model,
        preprocessing_fingerprint=labelled_with.preprocessing,
        columns=labelled_with.column_types,
        outputs=labelled_with.outputs_column,
        decisions=labelled_with.decisions,
    )


def recorded_config(
    manifest: Manifest, flags: Mapping[str, Any], beam_flags: Sequence[str] = ()
) -> RunConfig:
    """Return the configuration of the run that published a manifest, flags and Beam's flags added.

    Raises:
      UserError: An option is unknown or has a value that is not allowed.
    """
    # Empty values are left out, because the parsers refuse them and they equal the defaults.
    values = {name: value for name, value in manifest.config.items() if value not in (None, [], {})}
    recorded_beam_flags = values.pop("beam_flags", ())
    if not isinstance(recorded_beam_flags, (list, tuple)):
        raise UserError(
            f"manifest.json: config.beam_flags={recorded_beam_flags!r} is not allowed: it must be a list."
        )
    for name in OPTIONS_BY_HEADING["launching"]:
        values.pop(name, None)  # because they are of that command alone
    return make_config(values, "manifest.json: config.", flags, (*map(str, recorded_beam_flags), *beam_flags))


def manifest_fields(config: RunConfig, model: ModelSpec, rows: RowMetadata) -> dict[str, Any]:
    """Return the keys of the manifest that do not depend on counts."""
    template = config.read.uri_template
    inputs = [public_input(name, config.read.secret_params) for name in config.read.inputs]
    return {
        "format": FORMAT,
        "labelbeam": __version__,
        "run_id": rows.run_id,
        "labelled_with": labelled_with(model, rows, config),
        "model": {
            "handle": public_uri(model.handle),
            "sha256": model.digest,
            "outputs": model.outputs,
            "head": model.head.kind,
            "head_from": model.head_from,
            "length": model.length,
            "fingerprint": model.model_fingerprint,
            "doubts": list(map(hide_in_message, model.doubts)),
            "photos_known": model.photos_known,
            "photos_right": dict(model.photos_right),
            "classes": list(model.labels),
        },
        "preprocessing": {
            "resize": model.resize.describe(),
            **model.scaling.describe(),
            "scaling_from": model.scaling_from,
            "fingerprint": model.preprocessing_fingerprint,
        },
        "partitioned_by": config.write.partition_by,
        "config": {
            **config.as_dict(),
            "model": public_uri(config.model.model),
            "uri_template": template and public_uri(template, config.read.secret_params),
            "input": inputs[0] if len(inputs) == 1 else inputs,
        },
    }
