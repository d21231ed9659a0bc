"""Images that do harm to the process that decodes them."""

from __future__ import annotations

import textwrap
from pathlib import Path

# A module that Python imports when it starts. Images whose bytes begin so do harm to a loader process.
HOSTILE = textwrap.dedent(
    """
    import ctypes, os, sys, time
    import numpy
    import labelbeam.transforms.loaders.channel as channel
    import labelbeam.transforms.loaders.image as image

    decode_image = image.decode_image

    def hostile(data, *rest):
        if data.startswith(b"crash"):
            ctypes.string_at(0)
        if data.startswith(b"once"):
            path = data[5:].decode()
            if not os.path.exists(path):
                open(path, "w").close()
                ctypes.string_at(0)
            data = open(path + ".png", "rb").read()
        if data.startswith(b"sleep"):
            time.sleep(3600)
        if data.startswith(b"spin"):
            sys.setswitchinterval(3600)
            while True:
                pass
        if data.startswith(b"eat"):
            kept = []
            while True:
                kept.append(numpy.zeros(64 << 20, "u1"))
        if data.startswith(b"nibble"):
            kept = []
            while True:
                kept.append(bytearray(1 << 10))
        return decode_image(data, *rest)

    result_of = channel.result_of

    def unsendable(number, loaded):
        if getattr(loaded.value, "message", "").startswith("begins with b'unsendable"):
            raise MemoryError
        return result_of(number, loaded)

    channel.result_of = unsendable

    if sys.argv[:1] == ["-m"]:
        image.decode_image = hostile
    """
)


def write_hostile_site(folder: Path) -> Path:
    """Write the module into a folder, which a process then needs on its path, and return the folder."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOSTILE, "utf-8")
    return folder
