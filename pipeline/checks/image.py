"""Checks of what workers have installed: their container image, or the packages that are sent to them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from typing import Any

from apache_beam.options.pipeline_options import SetupOptions

from labelbeam.pipeline.checks.findings import Case, Check, Finding, error, ok, warning
from labelbeam.pipeline.checks.google_api import ApiError, ask
from labelbeam.pipeline.runners.options import starts_image, worker_image

# A name of a container image, as the registries' specification has it.
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:(?P<host>localhost(?::\d+)?|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*(?:\.[A-Za-z0-9-]+|:\d+))/)?"
    rf"(?P<path>{_PART}(?:/{_PART})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?"
)
_BEAMS_OWN = re.compile(r"beam_python(?P<python>\d+\.\d+)_sdk(?:[a-z_-]*):(?P<beam>\d+\.\d+\.\d+)")
_GOOGLES = re.compile(r"(.+\.)?(pkg\.dev|gcr\.io)")
_REGISTRY = "https://{host}"
_ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)
# What the Dockerfile of this repository says of its image.
_LABELS = {"python": "labelbeam.python", "beam": "labelbeam.beam"}


def _check_image(case: Case) -> Iterator[Finding]:
    image = worker_image(case.options)
    if not image:
        yield from _check_packages(case)
        return
    named = _IMAGE.fullmatch(image)
    if not named:
        yield error(
            f"{image!r} is no name of an image.",
            "Write it as REGISTRY/PATH:TAG or REGISTRY/PATH@sha256:DIGEST, its path in lower case.",
        )
    elif not named["digest"] and named["tag"] in (None, "latest"):
        yield warning(
            f"{image} is whatever was pushed last: workers that start later may get another.",
            "Give a tag of its own, or a digest.",
        )
    else:
        yield ok(f"{image} is well named.")


def _check_packages(case: Case) -> Iterator[Finding]:
    setup = case.options.view_as(SetupOptions)
    sent = {
        "--setup_file": setup.setup_file,
        "--requirements_file": setup.requirements_file,
        "--extra_packages": ", ".join(setup.extra_packages or ()),
    }
    given = {option: value for option, value in sent.items() if value}
    option = "--sdk_container_image" if case.on_dataflow else "--environment_config=IMAGE"
    if not given:
        yield error(
            "workers would not have labelbeam: they start from Beam's own image.",
            f"Give {option} (see Dockerfile), or --setup_file=./setup.py.",
        )
    elif setup.setup_file and not os.path.isfile(setup.setup_file):
        yield error(f"--setup_file={setup.setup_file!r} is no file.", "Start from the repository's folder.")
    elif case.on_dataflow and any(pool.accelerator for pool in case.pools):
        yield warning(
            "workers start from Beam's own image, in which TensorFlow has no CUDA libraries.",
            f"Give {option} (see Dockerfile).",
        )
    else:
        told = ", ".join(f"{option}={value}" for option, value in given.items())
        yield ok(f"workers install labelbeam when they start ({told}); an image starts faster.")


def wanted_versions() -> dict[str, str]:
    """What workers must have, as the machine that submits has it."""
    names = {"beam": "apache-beam", "tensorflow": "tensorflow"}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{name: importlib.metadata.version(dist) for name, dist in names.items()}}


def _check_versions(case: Case) -> Iterator[Finding]:
    image, wanted = worker_image(case.options), wanted_versions()
    own = _BEAMS_OWN.search(image)
    there = own.groupdict() if own else {}
    unread = ""
    if _is_readable(case):
        try:
            there |= _versions_in(_config_of(case, image))
        except ApiError as e:
            if e.status == 404:
                yield error(f"there is no image {image}.", "Push it, or check its name.")
                return
            unread = f" ({e})"
    known = [name for name in wanted if name in there]
    wrong = [f"{name} {there[name]} (here {wanted[name]})" for name in known if there[name] != wanted[name]]
    same = [f"{name} {wanted[name]}" for name in known if there[name] == wanted[name]]
    if wrong:
        yield error(
            f"{image} has {', '.join(wrong)}.", "Build it again, or submit from an environment like it."
        )
    elif same:
        yield ok(f"{image} has {', '.join(same)}, as here.")
    if untold := [f"{name} {version}" for name, version in wanted.items() if name not in there]:
        yield warning(
            f"that {image} has {', '.join(untold)} could not be told{unread}.",
            "Where there is Docker, python deploy/check_image.py IMAGE tells.",
        )


def _config_of(case: Case, image: str) -> dict[str, Any]:
    """An image's configuration, from its registry.

    Raises:
      ApiError: It can't be had.
    """
    named = _IMAGE.fullmatch(image)
    assert named
    base = f"{_REGISTRY.format(host=named['host'])}/v2/{named['path']}"
    reference = named["digest"] or named["tag"] or "latest"
    manifest = ask(case, f"{base}/manifests/{reference}", accept=_ACCEPT)
    if listed := manifest.get("manifests"):
        ours = [m for m in listed if m.get("platform", {}).get("architecture") == "amd64"] or listed
        manifest = ask(case, f"{base}/manifests/{ours[0]['digest']}", accept=_ACCEPT)
    try:
        config = ask(case, f"{base}/blobs/{manifest['config']['digest']}")
        return config["config"]
    except KeyError as e:
        raise ApiError(0, f"the registry's answer has no {e}") from e


def _versions_in(config: dict[str, Any]) -> dict[str, str]:
    """The versions that an image's configuration tells."""
    labels = config.get("Labels") or {}
    there = {name: labels[label] for name, label in _LABELS.items() if label in labels}
    variables = dict(variable.partition("=")[::2] for variable in config.get("Env") or ())
    if python := variables.get("PYTHON_VERSION"):  # which Docker's own Python images set
        there.setdefault("python", ".".join(python.split(".")[:2]))
    return there


def _is_readable(case: Case) -> bool:
    """Whether the image is where Google's credentials can read it."""
    named = _IMAGE.fullmatch(worker_image(case.options))
    return bool(named and named["host"] and _GOOGLES.fullmatch(named["host"]))


def _has_image(case: Case) -> bool:
    return bool(_IMAGE.fullmatch(worker_image(case.options)))


CHECKS = (
    Check("image", _check_image, applies=lambda case: starts_image(case.options)),
    Check(
        "versions",
        _check_versions,
        applies=_has_image,
        is_remote=_is_readable,
        lacks=lambda case: "" if case.credentials or not _is_readable(case) else "credentials",
    ),
)
