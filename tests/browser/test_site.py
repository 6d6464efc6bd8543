"""The documentation site as readers see it: both themes, on a phone, with its search."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.conftest import host, serious_faults

SITE = Path(__file__).parents[2] / "site"
# One page of each kind: prose, wide tables, commands and what they print, reference, code.
PAGES = ("index", "results", "data", "methods/ect", "api/times", "files/examples/meanflow.py")

pytestmark = pytest.mark.skipif(not SITE.exists(), reason="no site: `make docs` builds it")


@pytest.fixture
def open_page(browser):
    contexts = []

    def open_one(url: str, **settings):
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [*PAGES, "claims"])
def test_a_page_has_no_serious_fault_and_fits_a_phone(open_page, name, theme):
    place = (SITE / f"{name}.html").as_uri()
    page = open_page(place, viewport={"width": 400, "height": 800}, color_scheme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert serious_faults(page) == []


def search(page) -> int:
    page.click(".md-search__input")
    page.keyboard.type("truncated", delay=30)
    page.wait_for_selector(".md-search-result__item", timeout=20_000)
    return page.locator(".md-search-result__item").count()


def test_the_search_finds_pages_from_disk_and_from_any_host(open_page):
    assert search(open_page((SITE / "index.html").as_uri())) > 3
    with host(SITE) as place:
        assert search(open_page(f"{place}index.html")) > 3
