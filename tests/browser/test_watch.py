"""The page of a run in a browser: it looks again by itself, and stays where one reads."""

from __future__ import annotations

import json
import threading

import pytest

from fewstep.cli import main
from fewstep.serve.limits import Limits
from fewstep.serve.server import address, bind, server
from fewstep.watch.app import app
from fewstep.watch.reading import Runs
from tests.browser.conftest import serious_faults
from tests.support.toys import TINY


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "toy"
    assert main(["train", "toy", *TINY, "--iterations", "60", "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def place(run):
    one, ready = bind("127.0.0.1", 0), threading.Event()
    running = server(app(Runs([str(run)])), Limits(), ready.set)
    thread = threading.Thread(target=running.run, args=([one],))
    thread.start()
    assert ready.wait(10)
    yield address(one)
    running.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_shows_new_rows_where_one_reads(browser, run, place, theme):
    context = browser.new_context(viewport={"width": 400, "height": 700}, color_scheme=theme)
    page, errors = context.new_page(), []
    page.on("console", lambda line: errors.append(line.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{place}/run/0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 17, 17)"
    assert dark == (theme == "dark")
    page.evaluate("document.querySelector('details').open = true")
    assert serious_faults(page) == []
    page.evaluate("scrollTo(0, 1500)")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**last, "step": 61, "loss": 0.1234}) + "\n")
    page.get_by_text("loss 0.1234").wait_for(timeout=20_000)
    assert page.evaluate("scrollY") == 1500
    assert page.evaluate("document.querySelector('#settings details').open")
    page.goto(place)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert serious_faults(page) == []
    assert errors == []
    context.close()
