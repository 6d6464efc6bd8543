"""The page in a browser: samples are PyTorch's, and everything on it does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

import fewstep as fs
from fewstep.data import Units
from fewstep.data.columns import Column, Names
from fewstep.page import files, model
from fewstep.page.model import middle, model_of
from fewstep.serve.app import app
from fewstep.serve.limits import Limits
from fewstep.serve.pages import pages
from fewstep.serve.server import address, bind, server
from tests.browser.conftest import host, serious_faults
from tests.export.generators import small


@pytest.fixture(scope="module")
def digits():
    return fs.load("digits", device="cpu")


@pytest.fixture(scope="module")
def page_file(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "digits.html"
    files.write(model_of(digits), out)
    return out


def test_one_file_opens_from_disk_with_pytorch_s_pixels(digits, page_file, open_tab):
    assert page_file.stat().st_size < 13e6
    tab = open_tab(page_file)
    assert float(tab.facts()["difference"]) < 1e-5
    truth = (digits.sample(1, seed=0)[0, 0] + 1) / 2 * 255
    own = torch.tensor(tab.shades("#one", 8))
    assert (own - truth.clamp(0, 255)).abs().max() <= 2


def test_a_seed_is_that_of_fewstep_sample_in_any_number_of_steps(digits, page_file, open_tab):
    tab = open_tab(page_file)
    tab.page.fill("#seed", "1234567890123")
    tab.page.locator("canvas[data-column='student-1']").click(position={"x": 150, "y": 100})
    tab.settle()
    place = int(tab.page.input_value("#chosen")) - 1
    assert place > 0
    for steps in (2, 8):
        tab.page.select_option("#steps", str(steps))
        tab.settle()
        truth = (digits.sample(16, seed=1234567890123, steps=steps)[place, 0] + 1) / 2 * 255
        own = torch.tensor(tab.shades("#one", 8))
        assert (own - truth.clamp(0, 255)).abs().max() <= 2


def test_what_is_touched_changes_the_pictures(page_file, open_tab):
    tab = open_tab(page_file)
    seen = {tab.picture("#one")}

    def changed() -> bool:
        tab.settle()
        count = len(seen)
        seen.add(tab.picture("#one"))
        return len(seen) > count

    tab.page.locator("canvas[data-column='student-1']").click(position={"x": 100, "y": 100})
    assert changed()
    assert tab.page.input_value("#chosen") != "1"
    tab.page.fill("#chosen", "11")
    assert changed()
    tab.page.fill("#chosen", "17")  # of 16
    assert not changed()
    tab.page.locator("#pad").click(position={"x": 20, "y": 20})
    assert changed()
    tab.page.focus("#pad")
    tab.page.keyboard.press("ArrowRight")
    assert changed()
    tab.page.click("#again")
    assert changed()
    tab.page.focus("#theme")
    tab.page.keyboard.press("n")
    assert changed()
    tab.page.select_option("#label", "7")
    assert changed()
    for wrong in ("-3", "1.5", ""):  # no seed: nothing is drawn as if it were another
        tab.page.fill("#seed", wrong)
        assert not changed()
    tab.page.fill("#seed", "5")
    assert changed()
    tab.page.select_option("#steps", "4")
    assert changed()
    assert len(tab.page.query_selector_all("#film canvas")) == 5
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.page.click("#theme")
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") != ground


WORK = Column("work", "category", ("employed", "own firm", "retired"))
NAMES = Names(columns=(Column("height"), Column("age", "int"), WORK))
RATIOS = {"fields": 9 / 16, "volumes": 9 / 8}  # of height and width, of samples that are not square
KINDS = {
    "plane": lambda: small(shape=(2,)),
    "table": lambda: small(
        shape=(5,),
        names=NAMES,
        cond=["float32", [2]],
        cond_units={"": Units((1.0, 2.0), (3.0, 0.5), axis=0)},
    ),
    "series": lambda: small("unet", (2, 24), {"width": 8}),
    "channels last": lambda: small(shape=(24, 4), units=Units((0.0,) * 4, (1.0,) * 4, axis=1)),
    "fields": lambda: small("unet", (2, 9, 16), {"width": 8}, classes=2),
    "volumes": lambda: small("unet", (2, 4, 9, 8), {"width": 8}),
    "square": lambda: small(shape=(9, 9)),
    "sets": lambda: of_sets(),
    "colours": lambda: small("unet", (3, 8, 8), {"width": 8}, units=Units(127.5, 127.5, clip=True)),
    "one number": lambda: small(shape=(1,)),
    "a map": lambda: small(method="meanflow", shape=(2,), classes=3),
}


class Middle(nn.Module):
    """Draws all points to their middle, and away by their number; it hides none by the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.ones(()))

    def forward(self, x, noise_label, cond=None):
        count = cond["mask"].sum(1)[:, None, None] / 20
        return self.share * (x + 4 * x.mean(1, keepdim=True)) + count


def of_sets(**network):
    """Sets of 20 points whose mask says which are there."""
    options = {"width": 16, "depth": 1, "heads": 2}
    return small("set_transformer", (20, 2), options, cond={"mask": ["bool", [20]]}, **network)


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_every_kind_are_drawn(kind, tmp_path, open_tab):
    generator = KINDS[kind]()
    teacher = small(method="diffusion", shape=(2,)) if kind == "plane" else None
    files.write(model_of(generator, teacher), tmp_path / "page.html")
    tab = open_tab(tmp_path / "page.html", width=400, theme="dark")
    scale = float(generator.sample(4, cond=middle(generator)).double().abs().max())
    assert float(tab.facts()["difference"]) < 2e-5 * max(scale, 1)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 400
    before = tab.picture("#one")
    tab.page.click("#again")
    tab.settle()
    assert tab.picture("#one") != before
    if kind == "table":
        before = tab.picture("canvas[data-column='student-1']")
        tab.page.fill("fieldset input >> nth=0", "9")
        tab.settle()
        assert tab.picture("canvas[data-column='student-1']") != before
        assert tab.page.locator("#across option").all_inner_texts() == ["height", "age", "work"]
        before = tab.picture("#one")
        tab.page.select_option("#up", label="work")
        tab.settle()
        assert tab.picture("#one") != before
    if kind in ("plane", "fields"):  # a field's scale ends where its colours do
        is_cut = "Numbers beyond the axes: " in tab.page.inner_text("#side-hint")
        assert is_cut == (kind == "plane")
    if kind in RATIOS:
        ratio = tab.page.eval_on_selector("#one", "(one) => one.height / one.width")
        assert ratio == pytest.approx(RATIOS[kind], abs=0.02)
    if teacher is not None:
        assert "Teacher, 35 steps" in tab.page.inner_text("#columns")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_a_checker_of_accessibility_finds_no_serious_fault(page_file, open_tab, theme, width):
    tab = open_tab(page_file, width, theme)
    assert serious_faults(tab.page) == []
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width


def test_latents_are_called_so(tmp_path, open_tab):
    generator = small("unet", (4, 8, 8), {"width": 8})
    made = replace(generator, run=replace(generator.run, latents="mean-std"))
    files.write(model_of(made), tmp_path / "page.html")
    assert "These are latents" in open_tab(tmp_path / "page.html").page.inner_text("main")


def test_a_folder_works_on_any_host(digits, tmp_path, open_tab):
    files.write(model_of(digits, half=True), tmp_path / "site")
    with host(tmp_path / "site") as place:
        assert float(open_tab(place).facts()["difference"]) < 4e-3


def test_the_command_serves_it(open_tab):
    command = [sys.executable, "-m", "fewstep", "serve", "digits", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://[\d.]+:\d+", process.stdout.readline())
            assert found
            tab = open_tab(f"{found[0]}/")
            assert float(tab.facts()["difference"]) < 1e-5
        finally:
            process.terminate()
    assert process.returncode == 0


@contextmanager
def served(generator):
    """Its address, on a server in another thread."""
    with bind("127.0.0.1", 0) as one:
        routes = pages(model_of(generator))
        ready = threading.Event()
        own = server(app(generator, pages=routes), Limits(), ready.set)
        thread = threading.Thread(target=own.run, args=([one],))
        thread.start()
        try:
            assert ready.wait(30)
            yield address(one)
        finally:
            own.should_exit = True
            thread.join()


def test_the_server_samples_what_is_too_large_for_a_tab(digits, open_tab, monkeypatch):
    monkeypatch.setattr(model, "MOST", 1000)
    with served(digits) as url:
        tab = open_tab(url)
        assert "The server makes the samples, since" in tab.page.inner_text("#status")
        before = tab.picture("canvas[data-column='student-4']")
        tab.page.click("#again")
        tab.settle()
        assert tab.picture("canvas[data-column='student-4']") != before


def test_only_elements_that_are_there_are_drawn(tmp_path, open_tab, monkeypatch):
    """By the tab as by the server, whose PyTorch knows masks."""
    generator = of_sets(own=Middle(), std=2.0)
    files.write(model_of(generator), tmp_path / "page.html")
    monkeypatch.setattr(model, "MOST", 0)
    ink = {}
    with served(generator) as url:
        for place in (tmp_path / "page.html", url):
            tab = open_tab(place)
            assert tab.page.inner_text("#elements-of") == "of 20"
            for count in (1, 20):
                tab.page.fill("#elements", str(count))
                tab.settle()
                # Dots are blue, other than the lines; the first sample has a frame.
                shades = tab.shades("canvas[data-column='student-4']", 240)[:, 82:]
                ink[place, count] = (shades > 60) & (shades < 115)
    page, server = tmp_path / "page.html", url
    assert 0 < 5 * ink[page, 1].sum() < ink[page, 20].sum()
    for count in (1, 20):
        assert (ink[page, count] != ink[server, count]).sum() <= 4


def test_what_hinders_the_page_is_said(browser, page_file):
    page = browser.new_page()
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(page_file.as_uri())
    page.wait_for_selector("#status.error")
    assert "it needs WebAssembly" in page.inner_text("#status")
    page.close()
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(page_file.as_uri())
    assert not page.is_visible("#slow")
    page.wait_for_selector("#slow", state="visible", timeout=20_000)
    page.context.close()


def test_a_server_that_stopped_is_said(browser, digits, monkeypatch):
    monkeypatch.setattr(model, "MOST", 1000)
    page = browser.new_page()
    with served(digits) as url:
        page.goto(url)
        page.wait_for_selector("html[data-all]")
        assert not page.is_visible("#slow")
    page.click("#again")
    page.wait_for_selector("#status.error")
    assert "The server does not answer" in page.inner_text("#status")
    page.route("**/v1/samples", lambda route: route.fulfill(json={"samples": [0.0] * 64 * 16}))
    page.click("#again")
    page.wait_for_selector("#status:not(.error)")
    assert "The server makes the samples" in page.inner_text("#status")
    page.close()
