"""The plan: a run, resolved, before anything is built or written."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.config import RunConfig
from pipeline.corpus import find_corpus, output_columns
from pipeline.manifest import manifest_facts, new_run_id, read_manifest
from pipeline.runners import is_local, threads_of_process
from transforms.count import Listener
from transforms.errors import UserError
from transforms.files import make_folder, write_file
from transforms.models.runtime import configure_tensorflow, load_tensorflow
from transforms.models.spec import ModelOptions, ModelSpec, resolve_spec
from transforms.overlap import available_cores
from transforms.read import Corpus
from transforms.rows import RowFacts
from transforms.stores import Limits


@dataclass(frozen=True)
class Plan:
    """A run, resolved: all that the graph is built from.

    Attributes:
      config: What the user said.
      corpus: What the input is.
      model: What labels it.
      rows: What every row carries.
      limits: Of one request.
      output: Folder of the tables.
      staging: Folder of unfinished work.
      manifest_facts: What the manifest says beside counts and files.
      threads: Cores of a worker process; None for all it has.
      listener: Called on workers with what became of images.
    """

    config: RunConfig
    corpus: Corpus
    model: ModelSpec
    rows: RowFacts
    limits: Limits
    output: str
    staging: str
    manifest_facts: dict[str, Any]
    threads: int | None = None
    listener: Listener | None = None


def make_plan(config: RunConfig, options: PipelineOptions, listener: Listener | None = None) -> Plan:
    """Resolves a configuration: corpus, model, limits, and where results go.

    Raises:
      UserError: The input, the model or the output is not as it should be.
    """
    threads = threads_of_process(options)
    corpus = find_corpus(config.read)
    columns = output_columns(corpus)
    if is_local(options):
        cores = threads or available_cores()
        configure_tensorflow(cores, cores)
    load_tensorflow()
    model = resolve_spec(ModelOptions(**_shallow(config.model)))
    output = check_output(config.write.output)
    run_id = new_run_id()
    return Plan(
        config=config,
        corpus=corpus,
        model=model,
        rows=RowFacts(run_id, model.model_fingerprint, model.preprocessing_fingerprint, columns),
        limits=_limits(config),
        output=output,
        staging=FileSystems.join(output, "_staging", run_id),
        manifest_facts=manifest_facts(run_id, config, model),
        threads=threads,
        listener=listener,
    )


def _shallow(section: Any) -> dict[str, Any]:
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}


def _limits(config: RunConfig) -> Limits:
    fetch = config.fetch
    return Limits(
        connect_timeout_sec=fetch.connect_timeout_sec,
        total_timeout_sec=fetch.fetch_timeout_sec,
        max_bytes=round(fetch.max_image_mb * 1e6),
        connections=fetch.fetch_threads,
    )


def check_output(output: str) -> str:
    """Checks that results can go to a folder; gives its name without a slash at the end.

    Raises:
      UserError: It can't be written, or holds the results of another run.
    """
    folder = output.rstrip("/") or "/"
    try:
        done = read_manifest(folder)
        if done is None:
            make_folder(folder)
            probe = FileSystems.join(folder, f"_probe-{new_run_id()}")
            write_file(probe, b"labelbeam")
            FileSystems.delete([probe])
    except (BeamIOError, OSError, ValueError) as e:
        raise UserError(f"output={output!r} cannot be written: {e}.") from e
    if done is not None:
        raise UserError(
            f"output={output!r} holds the results of run {done['run_id']}. "
            "Give another --output, or remove that folder."
        )
    return folder
