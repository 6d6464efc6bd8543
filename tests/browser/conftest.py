"""A headless browser that is on the machine, and pages that it opens."""

from __future__ import annotations

import base64
import io
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
AXE = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    place = os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, NAMES)), None)
    if place is None:
        pytest.skip(f"no browser: expected one of {', '.join(NAMES)}, or its path in BROWSER_PATH")
    with sync_playwright() as tools:
        # Root has no sandbox.
        one = tools.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield one
        one.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def host(folder: Path) -> Iterator[str]:
    """The address of a folder on Python's own server, which sends no special headers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_port}/"
        one.shutdown()


def serious_faults(page: Page) -> list[str]:
    """What axe finds of accessibility, with the first place of each."""
    page.evaluate(AXE.read_text())
    # Loading styles anew, which a page from disk may not, would tell it about other widths only.
    found = page.evaluate("axe.run({preload: false}).then((result) => result.violations)")
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in serious]


@dataclass
class Tab:
    """A page that is ready, and what it said in the console."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, str]:
        """What the page notes of itself: ready and all, in seconds; difference, from PyTorch."""
        return self.page.evaluate("({...document.documentElement.dataset})")

    def picture(self, selector: str) -> str:
        """A canvas as the text of its bytes."""
        return self.page.eval_on_selector(selector, "(canvas) => canvas.toDataURL()")

    def shades(self, selector: str, side: int) -> np.ndarray:
        """The middle of each of side x side places of a grey picture, 0 .. 255."""
        content = base64.b64decode(self.picture(selector).partition(",")[2])
        grey = np.asarray(Image.open(io.BytesIO(content)).convert("L")).astype(float)
        at = ((np.arange(side) + 0.5) * len(grey) / side).astype(int)
        return grey[np.ix_(at, at)]

    def settle(self) -> None:
        """Waits until pictures change no more."""
        before = ""
        for _ in range(200):
            now = self.picture("#one") + self.page.inner_html("#columns")
            if now == before:
                return
            before = now
            self.page.wait_for_timeout(150)
        raise AssertionError("the pictures change without end")


@pytest.fixture
def open_tab(browser):
    """open_tab(url, width=1200, theme="light") -> Tab; at the end nothing may have gone wrong."""
    tabs: list[Tab] = []

    def open_one(url: str | Path, width: int = 1200, theme: str = "light") -> Tab:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        tab = Tab(context.new_page())
        tabs.append(tab)
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.page.on(
            "console",
            lambda line: (
                tab.errors.append(line.text) if line.type in ("error", "warning") else None
            ),
        )
        tab.page.goto(url.as_uri() if isinstance(url, Path) else url)
        tab.page.wait_for_selector("html[data-all]", timeout=60_000)
        tab.settle()
        return tab

    yield open_one
    for tab in tabs:
        assert tab.errors == []
        assert "error" not in (tab.page.get_attribute("#status", "class") or "")
        tab.page.context.close()
