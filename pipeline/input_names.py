"""Names of inputs: files, standard input, lists on the web, and tables and queries of BigQuery."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Final

from labelbeam.transforms.sources.secrets import public_uri

STDIN: Final = "-"
_WEB: Final = ("http://", "https://")
_BIGQUERY: Final = "bigquery:"


def is_copied(name: str) -> bool:
    """Return whether an input is standard input or a list on the web."""
    return name == STDIN or is_on_web(name)


def is_on_web(name: str) -> bool:
    """Return whether an input is a list on the web."""
    return name.lower().startswith(_WEB)


def public_input(name: str, secret_params: Collection[str] = ()) -> str:
    """Return the name of an input without secrets."""
    return public_uri(name, secret_params) if is_on_web(name) else name


def input_flags(names: Collection[str]) -> str:
    """Return inputs as options of a command, with a space in front of each."""
    return "".join(f" --input {shlex.quote(public_input(name))}" for name in names)


def is_in_bigquery(name: str) -> bool:
    """Return whether an input is a table or a query of BigQuery."""
    return name.startswith(_BIGQUERY)


def is_query(name: str) -> bool:
    """Return whether an input is a query of BigQuery, which costs money to run."""
    return is_in_bigquery(name) and not name.startswith(f"{_BIGQUERY}//")


def is_path(name: str) -> bool:
    """Return whether an input is files that workers read themselves."""
    return not is_copied(name) and not is_in_bigquery(name)
