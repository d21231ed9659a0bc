"""Whether an image of workers fits the machine that submits: the same Python, Beam, TensorFlow and labelbeam.

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
seen = {{"python": ".".join(platform.python_version_tuple()[:2])}}
for name in {PACKAGES}:
    try:
        seen[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        seen[name] = "none"
seen["boot"] = "there" if os.access("/opt/apache/beam/boot", os.X_OK) else "none"
print(json.dumps(seen))
"""


def wanted_versions() -> dict[str, str]:
    """Return the versions that the image must have."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions, "boot": "there"}


def versions_in(image: str) -> dict[str, str]:
    """Return the versions that the image has.

    Raises:
      SystemExit: Docker, or the image, does not run.
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
    there = versions_in(image)
    return [
        f"{name}: {there.get(name)} in {image}, {version} here. Build the image again, or submit from an "
        "environment like it."
        for name, version in wanted_versions().items()
        if there.get(name) != version
    ]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    wrong = differences(sys.argv[1])
    print("\n".join(wrong) or f"{sys.argv[1]} fits.")
    sys.exit(1 if wrong else 0)
