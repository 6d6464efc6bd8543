"""Draws the page of a run in training: `python docs/pictures/watch.py`, three minutes, a browser.

It trains the recipe `digits` with tcm, watches it half way in headless Chromium (playwright), and
writes watch.png. With a folder as argument: the pages of its runs as they are, in light, dark and
at 400 pixels, into that folder.
"""

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from fewstep.serve.limits import Limits
from fewstep.serve.server import address, bind, server
from fewstep.watch.app import app
from fewstep.watch.reading import Runs

HERE = Path(__file__).parent.resolve()
NAMES = ("chromium", "chromium-browser", "google-chrome")
TRAIN = "train digits --method tcm --iterations 3000 --log-every 20 --eval-every 250 --quiet"
EVERY = "--picture-every 250 --checkpoint-every 250"


def train(folder, *more):
    words = [*TRAIN.split(), *EVERY.split(), "--out", str(folder), *more]
    return subprocess.Popen([sys.executable, "-m", "fewstep", *words])


def shoot(folder, shots):
    """shots: (file, path, width, height, theme); height 0: the whole page."""
    one, ready = bind("127.0.0.1", 0), threading.Event()
    limits = Limits()
    running = server(app(Runs([str(folder)])), limits, ready.set)
    thread = threading.Thread(target=running.run, args=([one],))
    thread.start()
    ready.wait(30)
    place = next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as tools:
        # Root has no sandbox.
        browser = tools.chromium.launch(executable_path=place, args=["--no-sandbox"])
        for file, path, width, height, theme in shots:
            view = {"width": width, "height": height or 900}
            context = browser.new_context(viewport=view, color_scheme=theme)
            page = context.new_page()
            page.on("console", lambda line: print(line.type, line.text))
            page.goto(address(one) + path, timeout=60_000)
            page.screenshot(path=file, full_page=not height)
            context.close()
        browser.close()
    running.should_exit = True
    thread.join()


def shrink(file, colours=256):
    Image.open(file).convert("RGB").quantize(colours).save(file, optimize=True)


def main():
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        pages = {"all": "/", "run": "/run/0", "compare": "/compare"}
        shots = [
            (folder / f"{name}-{theme}-{width}.png", path, width, 0, theme)
            for name, path in pages.items()
            for theme, width in (("light", 1000), ("dark", 1000), ("light", 400))
        ]
        shoot(folder, shots)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = train(folder / "tcm")
        while not (folder / "tcm/checkpoints/step-1500").is_dir():
            time.sleep(0.5)
        shoot(folder, [(HERE / "watch.png", "/run/0", 960, 1500, "light")])
        running.terminate()
        running.wait()
    shrink(HERE / "watch.png")


if __name__ == "__main__":
    main()
