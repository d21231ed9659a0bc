"""Chromium, driven from Python: one browser, pages without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from tests.engines.install import MissingToolError

# Without a sandbox, because CI runs as root in a container. Without a GPU, because such machines have none.
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


def chromium() -> str:
    """Return the path of the installed browser. The tests need no particular version of Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise MissingToolError("chromium is not on this machine")


@dataclass
class Tab:
    """An open page.

    Attributes:
      page: Playwright's page.
      requests: Addresses of all requests that the page made, its own file first.
      errors: Messages of the console, and errors of the page.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def violations(self) -> list[str]:
        """Return what axe finds against the page, all of its rules and best practices."""
        found = Axe().run(self.page).response["violations"]
        return [f"{v['id']}: {v['help']}: {n['target']}" for v in found for n in v["nodes"]]

    def overflow_px(self) -> int:
        """Return by how much the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


class Browser:
    """A browser that is started once for many tabs."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> Browser:
        self._playwright = sync_playwright().start()
        self._browser: Any = self._playwright.chromium.launch(executable_path=self._path, args=list(_FLAGS))
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.close()
        self._playwright.stop()

    @contextmanager
    def open(self, path: Path, width_px: int = 1280, scheme: Any = "light") -> Iterator[Tab]:
        """Open a file, with the network closed, in a light or dark colour scheme."""
        context = self._browser.new_context(
            viewport={"width": width_px, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        context.set_offline(True)
        address = path.absolute().as_uri()
        # Aborted and recorded, because a request that fails alone would leave no trace on the page.
        context.route(
            "**/*", lambda route: route.continue_() if route.request.url == address else route.abort()
        )
        tab = Tab(context.new_page())
        tab.page.on("request", lambda request: tab.requests.append(request.url))
        tab.page.on("console", lambda message: tab.errors.append(message.text))
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        try:
            tab.page.goto(address)
            yield tab
        finally:
            context.close()
