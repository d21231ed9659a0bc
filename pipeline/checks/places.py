"""Checks of buckets: that they are there, where they are, and what may be done in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import requests
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from google.api_core import exceptions as api
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage

from labelbeam.pipeline.checks.findings import (
    ANSWER_SEC,
    CONNECT_SEC,
    Case,
    Check,
    Finding,
    always,
    error,
    ok,
    on_dataflow,
    warning,
)
from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.sources.gcs import split_uri

_GET = ("storage.objects.get",)
_READ = (*_GET, "storage.objects.list")
_CREATE = "storage.objects.create"
_WRITE = (*_READ, _CREATE, "storage.objects.delete")
_LIMITS = (CONNECT_SEC, ANSWER_SEC)
_NO_ANSWER = (api.GoogleAPICallError, GoogleAuthError, requests.RequestException, ConnectionError)

# The regions of Cloud Storage's larger places, from its page "Bucket locations"; of dual regions made to
# measure, the bucket tells.
_CONTINENTS = {"US": "us-", "EU": "europe-", "ASIA": "asia-"}
_NOT_IN_EU = ("europe-west2", "europe-west6")
_PAIRS: dict[str, tuple[str, ...]] = {
    "NAM4": ("us-central1", "us-east1"),
    "EUR4": ("europe-north1", "europe-west4"),
    "EUR5": ("europe-west1", "europe-west2"),
    "EUR7": ("europe-west2", "europe-west3"),
    "EUR8": ("europe-west3", "europe-west6"),
    "ASIA1": ("asia-northeast1", "asia-northeast2"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A folder or file in a bucket.

    Attributes:
      option: What names it.
      uri: Where it is.
      permissions: What must be allowed there to who submits.
      of_workers: What must be allowed there to workers.
    """

    option: str
    uri: str
    permissions: tuple[str, ...]
    of_workers: tuple[str, ...]

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return split_uri(self.uri)[0]


def places_of(case: Case) -> list[Place]:
    """All that a run reads or writes in buckets; of images, the first ones, once the input was read."""
    config, cloud = case.config, case.options.view_as(GoogleCloudOptions)
    places = [
        Place("input", config.read.input, _READ, _READ),
        Place("model", config.model.model, _READ, _READ),
        Place("output", config.write.output, _WRITE, _WRITE),
    ]
    if case.on_dataflow:
        places += [
            Place("temp_location", cloud.temp_location or "", _WRITE, _WRITE),
            Place("staging_location", cloud.staging_location or "", _WRITE, _GET),
            Place("template_location", cloud.template_location or "", _WRITE, ()),
        ]
    places += [Place("images", row.uri, _GET, _GET) for row in case.rows if isinstance(row, ImageRef)]
    return [place for place in places if place.uri.startswith("gs://")]


def permissions_by_bucket(case: Case, of_workers: bool = False) -> dict[str, tuple[str, ...]]:
    """What must be allowed in each bucket, to who submits or to workers."""
    needed: dict[str, set[str]] = {}
    for place in places_of(case):
        permissions = place.of_workers if of_workers else place.permissions
        needed.setdefault(place.bucket, set()).update(permissions)
    return {bucket: tuple(sorted(permissions)) for bucket, permissions in needed.items() if permissions}


def role_for(permissions: Iterable[str]) -> str:
    """The role that has some permissions in a bucket."""
    return "roles/storage.objectUser" if _CREATE in permissions else "roles/storage.objectViewer"


def staging_folders(options: PipelineOptions) -> list[str]:
    """What of --temp_location and --staging_location Beam can use."""
    cloud = options.view_as(GoogleCloudOptions)
    validator = PipelineOptionsValidator(options, None)
    names = ("temp_location", "staging_location")
    return [getattr(cloud, name) for name in names if not validator.validate_gcs_path(cloud, name)]


def contains(location: str, data_locations: list[str], region: str) -> bool:
    """Whether a bucket's location is, or has a part in, a region."""
    place = location.upper()
    if place in _CONTINENTS and not data_locations:
        return region.startswith(_CONTINENTS[place]) and not (place == "EU" and region in _NOT_IN_EU)
    regions = [r.lower() for r in data_locations] or _PAIRS.get(place, (location.lower(),))
    return region in regions


def _check_staging(case: Case) -> Iterator[Finding]:
    cloud = case.options.view_as(GoogleCloudOptions)
    if good := staging_folders(case.options):
        yield ok(f"the job is staged in {good[-1]}.")
    elif given := cloud.temp_location or cloud.staging_location:
        yield error(f"{given!r} is no folder in a bucket.", "Give --temp_location=gs://BUCKET/FOLDER.")
    else:
        told = "neither --temp_location nor --staging_location is given: Beam makes a bucket, and keeps it."
        yield warning(told, "Give --temp_location=gs://BUCKET/FOLDER.")


def _check_buckets(case: Case) -> Iterator[Finding]:
    client = storage.Client(project=case.project or "none", credentials=case.credentials)
    for name, permissions in permissions_by_bucket(case).items():
        if name not in case.looked_at:
            case.looked_at.add(name)
            yield from _check_bucket(case, client.bucket(name), permissions)


def _check_bucket(case: Case, bucket: storage.Bucket, wanted: tuple[str, ...]) -> Iterator[Finding]:
    options = dict.fromkeys(place.option for place in places_of(case) if place.bucket == bucket.name)
    used = f"{bucket.name} ({', '.join(options)})"
    try:
        bucket.reload(timeout=_LIMITS, retry=None)
        case.buckets.add(bucket.name)
        if case.on_dataflow and case.region:
            yield _compared(used, bucket.location or "", list(bucket.data_locations or ()), case.region)
    except api.NotFound:
        yield error(f"there is no bucket {used}.", "Check its name, or create it in the job's region.")
        return
    except api.Forbidden as e:
        case.buckets.add(bucket.name)
        yield warning(f"{used}: where it is could not be told: {e.message}.", "It needs storage.buckets.get.")
    except _NO_ANSWER as e:
        yield error(f"{used} gave no answer: {e!s:.200}.", "Check the network and the credentials.")
        return
    yield _allowed(bucket, used, wanted)


def _compared(used: str, location: str, data_locations: list[str], region: str) -> Finding:
    if contains(location, data_locations, region):
        return ok(f"{used} is in {location}, as the job in {region}.")
    return warning(
        f"{used} is in {location}, and the job in {region}: what crosses regions is slower, and billed, from "
        "0.02 USD a GB within a continent.",
        "Give the --region of the bucket, or a bucket of that region.",
    )


def _allowed(bucket: storage.Bucket, used: str, wanted: tuple[str, ...]) -> Finding:
    try:
        allowed = bucket.test_iam_permissions(wanted, timeout=_LIMITS, retry=None)
    except _NO_ANSWER as e:
        told = f"{used}: what you may do there could not be told: {e!s:.200}."
        return warning(told, "Check the roles by hand.")
    if missing := [permission for permission in wanted if permission not in allowed]:
        return error(f"{used}: you have no {', '.join(missing)}.", f"Get {role_for(wanted)} on it.")
    return ok(f"{used}: you may do there what the run does.")


def _lacks_credentials(case: Case) -> str:
    return "" if case.credentials else "credentials"


def _has_other_buckets(case: Case) -> bool:
    """Whether images of a job are in buckets that were not asked yet."""
    images = {place.bucket for place in places_of(case) if place.option == "images"}
    return case.on_dataflow and not images <= case.looked_at


CHECKS = (
    Check("staging", _check_staging, on_dataflow),
    Check(
        "buckets",
        _check_buckets,
        applies=lambda case: bool(places_of(case)),
        is_remote=always,
        lacks=_lacks_credentials,
    ),
)
# Of images, once the input was read.
CHECKS_OF_IMAGES = (
    Check("sources", _check_buckets, _has_other_buckets, is_remote=always, lacks=_lacks_credentials),
)
