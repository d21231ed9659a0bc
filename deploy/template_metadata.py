"""Metadata of the Flex template: every option of `labelbeam run`, with its allowed values.

python deploy/template_metadata.py > metadata.json
"""

from __future__ import annotations

import json
import re
from typing import Any

from labelbeam.pipeline.config import (
    RUN_OPTIONS,
    Columns,
    Delimiter,
    Divisors,
    Headers,
    Hosts,
    Line,
    Names,
    Option,
    Pair,
    Pairs,
    Rates,
    Triple,
)

_REQUIRED = ("input", "output", "model")
# Left out, because a launcher submits the job and never waits for its end.
_NOT_OF_A_TEMPLATE = ("no_wait", "metrics_file")
# A pattern of bucket paths, because the launcher's machine has no files of the user.
_BUCKET = r"^gs://[a-z0-9][a-z0-9._-]+[a-z0-9](/[^\r\n]*)?$"
# Inputs that the launcher and workers reach, and lists of them in JSON.
_ANY_INPUT = r"(gs://[a-z0-9][a-z0-9._-]+[a-z0-9]/?|https?://|bigquery:)[^\r\n]*"
_INPUT = rf'^{_ANY_INPUT}$|^\["{_ANY_INPUT}"\]$'
# Dataflow checks these patterns before it starts a launcher, because a launcher takes minutes to report a
# typo.
_PATTERNS: dict[Any, str] = {
    bool: "^([Tt]rue|[Ff]alse)$",
    int: r"^[0-9]+$",
    float: r"^[0-9]+(\.[0-9]+)?$",
    Pair: r"^-?[0-9]+(\.[0-9]+)?,-?[0-9]+(\.[0-9]+)?$",
    Triple: r"^-?[0-9]+(\.[0-9]+)?(,-?[0-9]+(\.[0-9]+)?){2}$",
    Divisors: r"^[0-9]+(\.[0-9]+)?(,[0-9]+(\.[0-9]+)?){2}$",
    Pairs: r"^[^=,]+=[^=,]+(,[^=,]+=[^=,]+)*$",
    Rates: r"^[a-z0-9_]+=[0-9.]+(,[a-z0-9_]+=[0-9.]+)*$",
    Headers: r"^[^=,:\s]+=[^\r\n]+$",
    Line: r"^[^\r\n]+$",
    Hosts: r"^[^,\s]+(,[^,\s]+)*$",
    Names: r"^[^\s?&=#;/,]+(,[^\s?&=#;/,]+)*$",
    Columns: r"^[^\r\n]+$",
    Delimiter: r'^([^\r\n"a-zA-Z0-9]|tab|\\t)$',
    str: r"^[^\r\n]+$",
}


def metadata() -> dict[str, Any]:
    """Return the metadata, as Dataflow's `TemplateMetadata`."""
    return {
        "name": "labelbeam",
        "description": "Labels every image of a corpus with a TensorFlow classifier, and accounts for each.",
        "parameters": [_parameter(n, one) for n, one in RUN_OPTIONS.items() if n not in _NOT_OF_A_TEMPLATE],
    }


def _parameter(name: str, option: Option) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.replace("_", " "),
        "helpText": f"{option.help[0].upper()}{option.help[1:]}. Allowed: {option.allowed}.",
        "isOptional": name not in _REQUIRED,
        "regexes": [_FORMS.get(name) or _pattern(option)],
    }


_FORMS = {"input": _INPUT, "output": _BUCKET, "calibration": _BUCKET}


def _pattern(option: Option) -> str:
    if option.type is None:
        return f"^({'|'.join(map(re.escape, option.words))})$"
    return "|".join([*(f"^{word}$" for word in option.words), _PATTERNS[option.type]])


if __name__ == "__main__":
    print(json.dumps(metadata(), indent=2))
