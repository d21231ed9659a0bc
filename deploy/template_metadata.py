"""Metadata of the Flex template: every option of `labelbeam run`, with its allowed values.

python deploy/template_metadata.py > metadata.json
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from labelbeam.pipeline.config import Divisors, Kind, Triple, options

_REQUIRED = ("input", "output", "model")
# Left out, because a launcher submits the job and never waits for its end.
_NOT_OF_A_TEMPLATE = ("no_wait",)
# A pattern of bucket paths, because the launcher's machine has no files of the user.
_BUCKET = r"^gs://[a-z0-9][a-z0-9._-]+[a-z0-9](/[^\r\n]*)?$"
_PATTERNS = {
    bool: "^([Tt]rue|[Ff]alse)$",
    int: r"^[0-9]+$",
    float: r"^[0-9]+(\.[0-9]+)?$",
    tuple: r"^-?[0-9]+(\.[0-9]+)?,-?[0-9]+(\.[0-9]+)?$",
    Triple: r"^-?[0-9]+(\.[0-9]+)?(,-?[0-9]+(\.[0-9]+)?){2}$",
    Divisors: r"^[0-9]+(\.[0-9]+)?(,[0-9]+(\.[0-9]+)?){2}$",
    dict: r"^[^=,]+=[^=,]+(,[^=,]+=[^=,]+)*$",
    str: r"^[^\r\n]+$",
}


def metadata() -> dict[str, Any]:
    """Return the metadata, as Dataflow's `TemplateMetadata`."""
    return {
        "name": "labelbeam",
        "description": "Labels every image of a corpus with a TensorFlow classifier, and accounts for each.",
        "parameters": [_parameter(n, f) for n, f in options().items() if n not in _NOT_OF_A_TEMPLATE],
    }


def _parameter(name: str, field: dataclasses.Field) -> dict[str, Any]:
    help_text, kind = field.metadata["help"], field.metadata["kind"]
    return {
        "name": name,
        "label": name.replace("_", " "),
        "helpText": f"{help_text[0].upper()}{help_text[1:]}. Allowed: {kind.allowed}.",
        "isOptional": name not in _REQUIRED,
        "regexes": [_BUCKET if name in ("input", "output") else _pattern(kind)],
    }


def _pattern(kind: Kind) -> str:
    if kind.choices:
        return f"^({'|'.join(map(re.escape, kind.choices))})$"
    pattern = _PATTERNS[kind.type]
    return "|".join([*(f"^{word}$" for word in kind.words), pattern])


if __name__ == "__main__":
    print(json.dumps(metadata(), indent=2))
