"""A page as values: sections of text, tables and figures, in HTML that loads nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewstep.base import disk
from fewstep.base.errors import UserError
from fewstep.base.table import column_kinds

VERDICTS = {"good": "#1a7f37", "open": "#9a6700", "bad": "#b42318"}
"""The colour of a verdict; its words say what it is."""


@dataclass(frozen=True)
class Figure:
    """An image: `alt` describes it to people who cannot see it, `caption` is printed below it."""

    image: bytes
    alt: str
    caption: str = ""
    kind: str = "image/svg+xml"

    @property
    def source(self) -> str:
        return f"data:{self.kind};base64,{base64.b64encode(self.image).decode()}"


@dataclass(frozen=True)
class Table:
    """Rows of words; the first cell of a row is its name, `strong` rows are bold."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    strong: frozenset[int] = frozenset()

    @property
    def columns(self) -> list[str]:
        """The kind of each column: "number" where all its cells are numbers, else "words"."""
        return column_kinds(self.head, self.rows)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page, in this order; the commands are behind a fold."""

    title: str
    verdict: tuple[str, str] | None = None  # one of VERDICTS, and words
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    points: Sequence[str] = ()
    commands: Sequence[str] = ()

    @property
    def anchor(self) -> str:
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def pictures(path: Path, alt: str, caption: str = "") -> Figure:
    """A PNG file as a figure."""
    return Figure(path.read_bytes(), alt, caption, "image/png")


def page(
    title: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    *,
    note: str = "",
    style: str = "",
    script: str = "",
) -> str:
    """The whole page: title, opening paragraphs, sections, and a note on how it was made.

    style: more rules of CSS. script: the path of a script. All else is text and is escaped, but for
    what is markupsafe's Markup. Raises UserError without jinja2.
    """
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ImportError:
        raise UserError("reports need jinja2: pip install 'fewstep[report]'") from None
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        _TEMPLATE
    )
    own = Markup(style)
    words = {"title": title, "lead": lead, "sections": sections, "note": note}
    return template.render(**words, verdicts=VERDICTS, style=own, script=script)


def write(path: Path, html: str) -> Path:
    """Writes the page whole or not at all, and returns its path."""
    disk.make_folder(path.parent)
    disk.replace(path, html.encode())
    return path


_TEMPLATE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 58rem;
  margin: 2rem auto; padding: 0 1.2rem }
h1 { font-size: 1.7rem; line-height: 1.2 }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; padding-top: .8rem; border-top: 1px solid #ddd }
p { max-width: 44rem }
figure { margin: 1rem 0 }
figure img { max-width: 100%; height: auto }
figcaption, .note { color: #555; font-size: .85rem; text-align: left; max-width: 52rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem;
  font-variant-numeric: tabular-nums }
th, td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e5e5e5; text-align: left;
  vertical-align: top }
.number { text-align: right }
td.number { white-space: nowrap }
thead th { border-bottom: 1.5px solid #555 }
tr.strong td { font-weight: 600 }
.verdict { font-weight: 600 }
{% for name, colour in verdicts.items() %}
.verdict.{{ name }} { color: {{ colour }} }
{% endfor %}
pre { background: #f6f6f6; padding: .6rem .8rem; overflow-x: auto; font-size: .8rem }
summary { cursor: pointer; color: #555; font-size: .9rem }
@media print { body { margin: 0; max-width: none } details { display: none }
  h2 { break-after: avoid } .scroll { overflow: visible } td.number { white-space: normal }
  figure, table { break-inside: avoid } }
{{ style }}</style>
{% if script %}
<script src="{{ script }}" defer></script>
{% endif %}
<h1>{{ title }}</h1>
{% for part in lead %}
<p>{{ part }}</p>
{% endfor %}
{% for section in sections %}
<section id="{{ section.anchor }}">
<h2>{{ section.title }}</h2>
{% if section.verdict %}
<p class="verdict {{ section.verdict[0] }}">{{ section.verdict[1] }}</p>
{% endif %}
{% for part in section.text %}
<p>{{ part }}</p>
{% endfor %}
{% for figure in section.figures %}
<figure><img src="{{ figure.source }}" alt="{{ figure.alt }}">
{% if figure.caption %}
<figcaption>{{ figure.caption }}</figcaption>
{% endif %}
</figure>
{% endfor %}
{% for table in section.tables %}
<div class="scroll" tabindex="0"><table>
<thead><tr>
{%- for cell in table.head %}
<th class="{{ table.columns[loop.index0] }}">{{ cell }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr{% if loop.index0 in table.strong %} class="strong"{% endif %}>
{%- for cell in row %}<td class="{{ table.columns[loop.index0] }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if table.caption %}
<p class="note">{{ table.caption }}</p>
{% endif %}
{% endfor %}
{% if section.points %}
<ul>
{% for point in section.points %}
<li>{{ point }}</li>
{% endfor %}
</ul>
{% endif %}
{% if section.commands %}
<details><summary>Commands</summary>
<pre tabindex="0">{{ section.commands | join("\n") }}</pre></details>
{% endif %}
</section>
{% endfor %}
{% if note %}
<p class="note">{{ note }}</p>
{% endif %}
</html>
"""
