"""Extras: packages that only some commands need."""

from __future__ import annotations

import importlib.util

from labelbeam.transforms.errors import UserError

_REPORT = ("duckdb", "fsspec", "jinja2", "scipy", "vl_convert")


def require_report(command: str) -> None:
    """Refuse a command whose packages are not installed.

    Raises:
      UserError: A package of the extra `report` is missing.
    """
    require(command, "report", _REPORT)


def require(command: str, extra: str, modules: tuple[str, ...]) -> None:
    """Refuse a command if a module of an extra is missing.

    Raises:
      UserError: A module is missing.
    """
    if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
        raise UserError(
            f"{command} needs the package {missing[0]!r} and others. Install them with: "
            f"pip install 'labelbeam[{extra}]'"
        )
