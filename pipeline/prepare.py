"""Preparation of a run: model, plan and table folder, before the graph is built."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict

from apache_beam.options.pipeline_options import PipelineOptions

from labelbeam.pipeline.calibration import read_calibration
from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.copies import add_name_of_copy, is_copy
from labelbeam.pipeline.output import folder_of, locked, prepare_output
from labelbeam.pipeline.plan import (
    Plan,
    find_input,
    make_plan,
    optimisation_of,
    partitioning_of,
)
from labelbeam.pipeline.runners.options import runs_here, threads_of_process
from labelbeam.transforms.count import Listener
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import FileSink, escape_glob, file_errors_as, join_path
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import ListFile, match_files
from labelbeam.transforms.models.heads import MULTILABEL
from labelbeam.transforms.models.probe import understand_model
from labelbeam.transforms.models.runtime import NO_GPU, configure_tensorflow, has_gpu, load_tensorflow
from labelbeam.transforms.models.spec import ModelOptions, ModelSpec
from labelbeam.transforms.process import available_cores
from labelbeam.transforms.table.folder import TableFolder

_CHUNK_BYTES = 8 << 20


@contextmanager
def prepared(
    config: RunConfig,
    options: PipelineOptions,
    listener: Listener | None = None,
    corpus: Corpus | None = None,
) -> Iterator[Plan]:
    """Prepare a run, and keep other runs of this machine out of its table folder while the body runs.

    Raises:
      UserError: The input, the model or the table folder can't be used.
      RunError: The model does not return.
    """
    folder = folder_of(config.write.output)
    corpus = corpus or find_input(config)
    # Both are checked here and not only by `make_plan`, because the model's download may take minutes.
    partitioning_of(config, corpus)
    if config.predict.calibration:
        read_calibration(config.predict.calibration)
    model = prepare_model(config, options)
    with locked(folder):
        # Planned under the lock, because another run could otherwise change the folder after it was read.
        plan = make_plan(config, options, corpus, model, listener)
        prepare_output(config.write, plan.output_state, plan.run_id, plan.labelled_with)
        if not runs_here(options):
            # Only now, because a folder of a run that is not announced would be tidied away.
            copies = join_path(TableFolder(folder).run(plan.run_id), "input")
            plan = dataclasses.replace(plan, corpus=_with_copies_in(copies, plan.corpus))
        yield plan


def _with_copies_in(folder: str, corpus: Corpus) -> Corpus:
    """Return a corpus whose files of this process are moved to where all workers can read them."""
    files = tuple(
        _upload(file, join_path(folder, *file.path.split(os.sep)[-2:])) if is_copy(file.path) else file
        for file in corpus.files
    )
    parts = tuple(_with_copies_in(folder, part) for part in corpus.parts)
    return dataclasses.replace(corpus, files=files, parts=parts)


def _upload(file: ListFile, path: str) -> ListFile:
    with file_errors_as(UserError, f"{path} cannot be written", "Check the output's name and rights."):
        with open(file.path, "rb") as source, closing(FileSink(path)) as sink:
            shutil.copyfileobj(source, sink, _CHUNK_BYTES)
        (copied,) = match_files(escape_glob(path))
    os.remove(file.path)
    add_name_of_copy(copied.path, file.path)
    return copied


def prepare_model(config: RunConfig, options: PipelineOptions) -> ModelSpec:
    """Download the model to this machine's cache, try it, and resolve it.

    Raises:
      UserError: The model can't be fetched or used, an option does not fit it, or this machine can't make it
        faster as requested.
      RunError: The model does not return.
    """
    if runs_here(options):
        _prepare_tensorflow(config, options)
    load_tensorflow()
    model = understand_model(ModelOptions(**asdict(config.model)), config.predict.predict_timeout_sec)
    if config.predict.threshold is not None and model.head.kind != MULTILABEL:
        raise UserError(
            f"--threshold={config.predict.threshold:g} is for multi-label models, and {config.model.model!r} "
            f"returns {model.head}. Remove --threshold, or give --outputs multilabel."
        )
    return model


def _prepare_tensorflow(config: RunConfig, options: PipelineOptions) -> None:
    # Before the model is tried, because TensorFlow's threads can't be changed after its first operation, and
    # a local run labels in this process.
    cores = threads_of_process(options) or available_cores()
    configure_tensorflow(cores, cores)
    on_gpu = has_gpu()
    if config.predict.require_accelerator and not on_gpu:
        raise UserError(f"{NO_GPU}, but --require_accelerator is set.")
    if unfit := optimisation_of(config).unfit(on_gpu):
        raise UserError(unfit)
