"""A GCS emulator on loopback."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path

from gcp_storage_emulator.server import create_server
from google.cloud import storage


class GcsEmulator:
    """A GCS server with buckets in memory; `env` points clients to it.

    Attributes:
      env: Environment variables for this and other processes.
    """

    def __enter__(self) -> GcsEmulator:
        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        self._server = create_server("127.0.0.1", 0, in_memory=True)
        self._server.start()
        port = self._server._api._httpd.socket.getsockname()[1]
        self._folder = tempfile.TemporaryDirectory()
        credentials = Path(self._folder.name) / "credentials.json"
        credentials.write_text(json.dumps(_CREDENTIALS), "utf-8")
        self.env = {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
            "GOOGLE_CLOUD_PROJECT": "test",
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._folder.cleanup()

    def empty(self) -> None:
        """Delete all buckets, because a test must not list what another one left."""
        self._server.wipe()

    def put(self, uri: str, data: bytes) -> None:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        if not self._client.lookup_bucket(bucket):
            self._client.create_bucket(bucket)
        self._client.bucket(bucket).blob(name).upload_from_string(data)

    def get(self, uri: str) -> bytes:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        return self._client.bucket(bucket).blob(name).download_as_bytes()

    def names(self, uri: str) -> list[str]:
        bucket, _, prefix = uri.removeprefix("gs://").partition("/")
        return sorted(blob.name for blob in self._client.list_blobs(bucket, prefix=prefix))

    @property
    def _client(self) -> storage.Client:
        assert os.environ.get("STORAGE_EMULATOR_HOST") == self.env["STORAGE_EMULATOR_HOST"]
        return storage.Client(project="test")


# Credentials that Beam accepts without requesting a token from a server.
_CREDENTIALS = {
    "type": "authorized_user",
    "client_id": "none",
    "client_secret": "none",
    "refresh_token": "none",
    "token": "none",
    "expiry": "2099-01-01T00:00:00Z",
}
