"""What the page takes in a headless browser with one thread of WebAssembly, beside PyTorch.

    python benchmarks/page.py runs/demo digits --clicks 30

For each run: seconds from the opening until the samples of one step are there; the time of one
sample of one step, the median over clicks and what nine of ten stay below; PyTorch's for a sample
with one thread, in turn with the clicks; and the largest difference of samples in shades of 255 (of
arrays, in their units).
Chromium has to be on the machine, or its path in BROWSER_PATH; it needs `fewstep[browser]`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Browser, sync_playwright

import fewstep as fs
from fewstep.page import files
from fewstep.page.model import model_of

NAMES = ("chromium", "chromium-browser", "google-chrome")


def measure(browser: Browser, run: str, clicks: int, half: bool) -> dict[str, Any]:
    generator = fs.load(run, device="cpu")
    model = model_of(generator, half=half)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "page.html")
        size = files.write(model, place)
        page = browser.new_page()
        page.goto(place.as_uri())
        page.wait_for_selector("html[data-all]", timeout=120_000)
        ready = facts(page)["ready"]
        page.wait_for_timeout(500)
        here, there = [], []
        for click in range(clicks):
            before = page.get_attribute("html", "data-count")
            at = 20 + 7 * (click % 30)
            page.locator("#pad").click(position={"x": at, "y": 200 - at // 2})
            page.wait_for_function(f"document.documentElement.dataset.count !== '{before}'")
            here.append(float(facts(page)["one"]))
            start = time.perf_counter()
            generator.sample(1, seed=click, steps=1)
            there.append(time.perf_counter() - start)
        difference = float(facts(page)["difference"])
        page.close()
    grey = model.facts["view"]["grey"]
    scale = 255 / (grey[1] - grey[0]) if grey else 1.0
    return {
        "run": run,
        "weights": model.facts["about"]["weights"],
        "file_mb": size / 1e6,
        "ready_s": float(ready),
        "sample_ms": 1e3 * float(np.median(here[3:])),
        "sample_ms_90": 1e3 * float(np.quantile(here[3:], 0.9)),
        "torch_ms": 1e3 * float(np.median(there[3:])),
        "difference": scale * difference,
    }


def facts(page: Any) -> dict[str, str]:
    """What the page notes of itself."""
    result: dict[str, str] = page.evaluate("({...document.documentElement.dataset})")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--clicks", type=int, default=30)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    place = os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=place, args=["--no-sandbox"])
        rows = [measure(browser, run, args.clicks, args.half) for run in args.runs]
        browser.close()
    if args.json:
        print(json.dumps(rows))
        return
    print(
        f"{'run':24}{'weights':>10}{'file, MB':>10}{'ready, s':>10}{'ms':>7}{'90 %':>7}"
        f"{'torch, ms':>11}{'difference':>12}"
    )
    for row in rows:
        print(
            f"{row['run'][-23:]:24}{row['weights']:>10}{row['file_mb']:>10.1f}{row['ready_s']:>10.2f}"
            f"{row['sample_ms']:>7.1f}{row['sample_ms_90']:>7.1f}{row['torch_ms']:>11.1f}"
            f"{row['difference']:>12.5f}"
        )


if __name__ == "__main__":
    main()
