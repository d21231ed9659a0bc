"""Stub of Google's APIs that the doctor uses: Compute Engine and a container registry, on loopback."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.engines.service import Request, Service

PROJECT, REGION = "some-project", "us-central1"


class ComputeStub(Service):
    """A project's resources, which tests can change.

    Attributes:
      zones: Zones that have a resource, by kind (`machineTypes` or `acceleratorTypes`) and name.
      built_in: Accelerators of machine types, by name.
      images: Configurations of container images, by `path:tag`; each is listed for two processors.
      answers: Status and body by path; they replace all other responses.
      requests: Number of requests by path.
    """

    def __init__(self) -> None:
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"
        everywhere = [f"{REGION}-a", f"{REGION}-b", "europe-west4-a"]
        machines = [f"{family}-standard-{n}" for family in ("n1", "n2", "g2") for n in (4, 8)]
        self.built_in = {
            "g2-standard-4": "nvidia-l4",
            "g2-standard-8": "nvidia-l4",
            "a2-highgpu-1g": "nvidia-tesla-a100",
        }
        self.zones = {
            "machineTypes": dict.fromkeys([*machines, "a2-highgpu-1g"], everywhere),
            "acceleratorTypes": {
                f"nvidia-{name}": [f"{REGION}-a", "europe-west4-a"]
                for name in ("l4", "tesla-t4", "tesla-a100")
            },
        }
        self.images: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, tuple[int, Any]] = {}
        self.requests: Counter[str] = Counter()

    def respond(self, request: Request) -> tuple[int, Any]:
        assert request.headers["Authorization"] == "Bearer none"
        path, query = request.path, request.query
        self.requests[path] += 1
        parts = path.strip("/").split("/")
        if path in self.answers:
            return self.answers[path]
        if parts[0] == "v2":
            return self._image(parts)
        if parts[:3] == ["projects", PROJECT, "aggregated"]:
            return 200, self._list(parts[3], query["filter"][0].removeprefix("name="), query)
        return 404, {"error": {"code": 404, "message": f"no {path}"}}

    def _list(self, kind: str, name: str, query: dict[str, list[str]]) -> dict[str, Any]:
        """Return one page for each zone."""
        zones = self.zones[kind].get(name, ())
        n = int(query.get("pageToken", ["0"])[0])
        more = {"nextPageToken": str(n + 1)} if n + 1 < len(zones) else {}
        limit = {"maximumCardsPerInstance": 8} if kind == "acceleratorTypes" else {}
        item: dict[str, Any] = {"name": name, **limit}
        if card := self.built_in.get(name):
            item["accelerators"] = [{"guestAcceleratorType": card, "guestAcceleratorCount": 1}]
        items: dict[str, Any] = {"zones/nowhere-a": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}}
        items |= {f"zones/{zone}": {kind: [item]} for zone in zones[n : n + 1]}
        return {"items": items, **more}

    def _image(self, parts: list[str]) -> tuple[int, Any]:
        path, kind, reference = "/".join(parts[1:-2]), parts[-2], parts[-1]
        arch, _, tag = reference.partition("-")
        if kind == "manifests" and f"{path}:{reference}" in self.images:
            listed = [
                {"digest": f"{arch}-{reference}", "platform": {"architecture": arch}}
                for arch in ("arm64", "amd64")
            ]
            return 200, {"manifests": listed}
        if kind == "manifests" and arch in ("amd64", "arm64"):
            return 200, {"config": {"digest": reference}}
        if kind == "blobs" and arch == "amd64":
            return 200, {"config": self.images[f"{path}:{tag}"]}
        return 404, {"errors": [{"code": "MANIFEST_UNKNOWN"}]}
