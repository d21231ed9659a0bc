"""Stub of Google's APIs that the doctor uses: Compute Engine, IAM and a container registry, on loopback."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROJECT, REGION = "some-project", "us-central1"
WORKER = "123-compute@developer.gserviceaccount.com"


class ComputeStub:
    """A project's resources, which tests can change.

    Attributes:
      quotas: Limit and usage of the region's quotas, by metric.
      project_quotas: Limit and usage of the project's quotas.
      zones: Zones that have a resource, by kind (`machineTypes` or `acceleratorTypes`) and name.
      cores: Cores of machine types, by name.
      built_in: Accelerators of machine types, by name.
      accounts: Service accounts, by e-mail.
      may_act: Whether the user may use the accounts.
      access: State of permissions by resource and permission; others are granted.
      images: Configurations of container images, by `path:tag`; each is listed for two processors.
      answers: Status and body by path; they replace all other answers.
      requests: Number of requests by path.
    """

    def __init__(self) -> None:
        self.quotas: dict[str, tuple[float, float]] = {
            **dict.fromkeys(("CPUS", "N2_CPUS", "G2_CPUS", "A2_CPUS"), (1000.0, 0.0)),
            "IN_USE_ADDRESSES": (100.0, 0.0),
            **{f"NVIDIA_{name}_GPUS": (100.0, 0.0) for name in ("L4", "T4", "A100")},
        }
        self.project_quotas: dict[str, tuple[float, float]] = {"GPUS_ALL_REGIONS": (100.0, 0.0)}
        everywhere = [f"{REGION}-a", f"{REGION}-b", "europe-west4-a"]
        self.cores = {f"{family}-standard-{n}": n for family in ("n1", "n2", "g2") for n in (4, 8)}
        self.cores["a2-highgpu-1g"] = 12
        self.built_in = {
            "g2-standard-4": "nvidia-l4",
            "g2-standard-8": "nvidia-l4",
            "a2-highgpu-1g": "nvidia-tesla-a100",
        }
        self.zones = {
            "machineTypes": dict.fromkeys(self.cores, everywhere),
            "acceleratorTypes": {
                f"nvidia-{name}": [f"{REGION}-a", "europe-west4-a"]
                for name in ("l4", "tesla-t4", "tesla-a100")
            },
        }
        self.accounts: dict[str, dict[str, Any]] = {WORKER: {}}
        self.may_act = True
        self.access: dict[tuple[str, str], str] = {}
        self.images: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, tuple[int, Any]] = {}
        self.requests: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> ComputeStub:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        """Return status and body for a request."""
        parts = path.strip("/").split("/")
        if path in self.answers:
            return self.answers[path]
        if path == "/iam:troubleshoot":
            return self._access(**json.loads(body)["accessTuple"])
        if parts[0] == "v2":
            return self._image(parts)
        if parts[:2] == ["projects", "-"]:
            return self._account(method, *parts[3].partition(":")[::2])
        if parts[:2] != ["projects", PROJECT]:
            return 404, _error(404, f"no project {path}")
        if len(parts) == 2:
            return 200, {"defaultServiceAccount": WORKER, "quotas": _quotas(self.project_quotas)}
        if parts[2:] == ["regions", REGION]:
            return 200, {"name": REGION, "quotas": _quotas(self.quotas)}
        if parts[2] == "aggregated":
            return 200, self._list(parts[3], query["filter"][0].removeprefix("name="), query)
        return 404, _error(404, f"no {path}")

    def _list(self, kind: str, name: str, query: dict[str, list[str]]) -> dict[str, Any]:
        """Return one page for each zone."""
        zones = self.zones[kind].get(name, ())
        n = int(query.get("pageToken", ["0"])[0])
        more = {"nextPageToken": str(n + 1)} if n + 1 < len(zones) else {}
        item: dict[str, Any] = {"name": name, "maximumCardsPerInstance": 8}
        if kind == "machineTypes":
            item = {"name": name, "guestCpus": self.cores.get(name, 0)}
        if card := self.built_in.get(name):
            item["accelerators"] = [{"guestAcceleratorType": card, "guestAcceleratorCount": 1}]
        items: dict[str, Any] = {"zones/nowhere-a": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}}
        items |= {f"zones/{zone}": {kind: [item]} for zone in zones[n : n + 1]}
        return {"items": items, **more}

    def _account(self, method: str, email: str, action: str) -> tuple[int, Any]:
        if email not in self.accounts:
            return 404, _error(404, f"Unknown service account {email}")
        if action:
            assert (method, action) == ("POST", "testIamPermissions")
            return 200, {"permissions": ["iam.serviceAccounts.actAs"]} if self.may_act else {}
        return 200, {"email": email, **self.accounts[email]}

    def _access(self, principal: str, fullResourceName: str, permission: str) -> tuple[int, Any]:
        if principal not in self.accounts:
            return 400, _error(400, f"no principal {principal}")
        return 200, {"access": self.access.get((fullResourceName, permission), "GRANTED")}

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


def _quotas(quotas: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    return [{"metric": name, "limit": limit, "usage": usage} for name, (limit, usage) in quotas.items()]


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message}}


def _handler_of(stub: ComputeStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            stub.requests[address.path] += 1
            asked = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            assert self.headers["Authorization"] == "Bearer none"
            status, body = stub.answer(self.command, address.path, parse_qs(address.query), asked)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    return Handler
