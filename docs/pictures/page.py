"""Photographs of the page for docs/page.md: `python docs/pictures/page.py`, with Chromium here."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import fewstep as fs
from fewstep.page import files
from fewstep.page.model import model_of

NAMES = ("chromium", "chromium-browser", "google-chrome")
HERE = Path(__file__).parent


def main(run: str = "digits", out: Path = HERE / "page.png") -> None:
    place = os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, NAMES)), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as tools:
        page_file = Path(folder, "page.html")
        files.write(model_of(fs.load(run, device="cpu")), page_file)
        browser = tools.chromium.launch(executable_path=place, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-all]", timeout=120_000)
        page.select_option("#steps", "4")
        page.locator("canvas[data-column='student-1']").click(position={"x": 150, "y": 100})
        page.wait_for_timeout(1000)
        page.screenshot(path=out, full_page=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:2])
