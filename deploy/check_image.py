"""Compare the versions in a worker image with those of this machine: Python, Beam, TensorFlow and labelbeam.

They must be equal, because Beam sends pickled code from this machine to the workers.

python deploy/check_image.py IMAGE
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys

PACKAGES = ("apache-beam", "tensorflow", "labelbeam")
_PROBE = f"""
import importlib.metadata, json, os, platform
versions = {{"python": ".".join(platform.python_version_tuple()[:2])}}
for name in {PACKAGES}:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        versions[name] = "none"
versions["boot"] = "there" if os.access("/opt/apache/beam/boot", os.X_OK) else "none"
print(json.dumps(versions))
"""


def expected_versions() -> dict[str, str]:
    """Return the versions of this machine, which the image must have."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions, "boot": "there"}


def versions_in(image: str) -> dict[str, str]:
    """Return the versions that the image has.

    Raises:
      SystemExit: Docker or the image does not run.
    """
    command = ["docker", "run", "--rm", "--entrypoint", "python", image, "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("docker is not installed here: check the image on a machine that has it.")
    if done.returncode:
        sys.exit(f"{image} does not run: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def differences(image: str) -> list[str]:
    """Return the differences and their remedies, one line each."""
    versions = versions_in(image)
    return [
        f"{name}: {versions.get(name)} in {image}, {version} here. Build the image again, or submit from an "
        "environment like it."
        for name, version in expected_versions().items()
        if versions.get(name) != version
    ]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    lines = differences(sys.argv[1])
    print("\n".join(lines) or f"{sys.argv[1]} fits.")
    sys.exit(1 if lines else 0)
