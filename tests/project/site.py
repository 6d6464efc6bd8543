"""What the built site loads: `python -m tests.project.site [FOLDER]` fails for anything elsewhere.

Links for a reader to follow may lead anywhere. Styles, scripts, pictures, fonts and frames must be
files of the site.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

SITE = Path(__file__).parents[2] / "site"
# Elements that load something, by the attribute that names it.
LOADS = {
    **dict.fromkeys(("script", "img", "iframe", "source", "video", "audio", "embed"), "src"),
    **dict.fromkeys(("image", "use"), "href"),
    "object": "data",
}
RELATIONS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "modulepreload"}
IN_STYLES = re.compile(r"@import\s+[\"']([^\"']+)|url\(\s*[\"']?([^\"')]+)")


class Loads(HTMLParser):
    """What a page loads: the addresses, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in LOADS and LOADS[tag] in values:
            self.found.append(values[LOADS[tag]])
        if tag == "link" and RELATIONS & set(values.get("rel", "").split()):
            self.found.append(values.get("href", ""))
        self.found += addresses(values.get("style", ""))


def addresses(style: str) -> list[str]:
    """What a style sheet loads."""
    return [one or other for one, other in IN_STYLES.findall(style)]


def loads_of(file: Path) -> list[str]:
    text = file.read_text()
    if file.suffix == ".css":
        return addresses(text)
    page = Loads()
    page.feed(text)
    return page.found


def elsewhere(site: Path) -> list[str]:
    """Everything that the site would load from another place, or that it lacks."""
    problems = []
    for file in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for address in loads_of(file):
            path = re.sub(r"[?#].*", "", address)
            if address.startswith(("data:", "#")) or not path:
                continue
            is_here = "//" not in address and (file.parent / path).exists()
            if not is_here and not (file.name == "404.html" and path.startswith("/")):
                problems.append(f"{file.relative_to(site)}: {address}")
    return problems


def main() -> int:
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else SITE
    pages = len(list(site.rglob("*.html")))
    problems = elsewhere(site)
    print("\n".join([*problems, f"{pages} pages, {len(problems)} loads from elsewhere"]))
    return 1 if problems or not pages else 0


if __name__ == "__main__":
    raise SystemExit(main())
