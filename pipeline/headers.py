"""Headers of requests as options have them: `NAME=VALUE`, with values from the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from string import Template
from typing import Any, Final

from labelbeam.transforms.errors import UserError

# Value of a header in a manifest in place of one that does not come from the environment.
HIDDEN: Final = "…"

# RFC 9110, 5.6.2.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NAME = re.compile(_TOKEN)
# A comma within a value, as in `image/webp,image/*`, begins no further header.
_BETWEEN = re.compile(rf",(?={_TOKEN}=)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Headers whose change would break the transfer or the comparison of versions, and the remedy.
_OURS = {
    **dict.fromkeys(("host", "connection", "content-length", "transfer-encoding", "te", "upgrade"), ""),
    **dict.fromkeys(("accept-encoding", "range", "if-none-match", "if-modified-since"), ""),
    "user-agent": "Use --user_agent. ",
}


def parse_headers(raw: Any) -> tuple[tuple[str, str], ...]:
    """Parse headers from one text, several, or a mapping of YAML.

    Raises:
      UserError: A header is not allowed. The message does not have its value, which may be secret.
    """
    pairs = tuple(raw.items()) if isinstance(raw, Mapping) else tuple(_split(raw))
    for name, value in pairs:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(
                "--http_header is not allowed: it must be NAME=VALUE, with a NAME of letters, digits and "
                "dashes, such as X-Api-Key=$API_KEY. Its value is not shown here."
            )
        if name.lower() in _OURS:
            raise UserError(
                f"--http_header {name} is not allowed: labelbeam sets this header itself. "
                f"{_OURS[name.lower()]}Remove it."
            )
        if not isinstance(value, str) or not value.strip() or _CONTROL.search(value.strip()):
            raise UserError(f"--http_header {name} is not allowed: its value must be one line of text.")
    names = [name.lower() for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--http_header {name} is there {names.count(name)} times. Give it once.")
    return tuple((name, value.strip()) for name, value in pairs)


def _split(raw: Any) -> Iterable[tuple[str, Any]]:
    for text in [raw] if isinstance(raw, str) else raw if isinstance(raw, (list, tuple)) else [None]:
        for item in _BETWEEN.split(text) if isinstance(text, str) else [""]:
            name, equals, value = item.partition("=")
            # Without a name, because the text of an item without = may be a secret.
            yield name if equals else "", value


def without_values(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers as a manifest records them: values only where they name variables."""
    return {name: value if Template(value).get_identifiers() else HIDDEN for name, value in headers}


def resolve_headers(
    headers: Iterable[tuple[str, str]], environment: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Replace `$NAME` and `${NAME}` in values by variables, and `$$` by `$`.

    Raises:
      UserError: A variable is not set or holds several lines, or the value was not recorded.
    """
    resolved = []
    for name, value in headers:
        if value == HIDDEN:
            raise UserError(
                f"--http_header {name} has a value that no manifest records. Give the option again, or name "
                f"a variable in its place, such as {name}=$NAME."
            )
        try:
            text = Template(value).substitute(environment).strip()
        except KeyError as e:
            variable = e.args[0]
            raise UserError(
                f"--http_header {name} needs the environment variable {variable}, which is not set. Set it, "
                "or write $$ for a dollar sign."
            ) from e
        except ValueError as e:
            raise UserError(f"--http_header {name} has a single dollar sign. Write $$ for it.") from e
        if not text or _CONTROL.search(text):
            raise UserError(
                f"--http_header {name} is not allowed: its value from the environment must be one line of "
                "text."
            )
        resolved.append((name, text))
    return tuple(resolved)
