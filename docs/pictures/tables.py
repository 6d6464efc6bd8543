"""Draws tables of pages, which commands named there have made: `python docs/pictures/tables.py`.

log: energy distances by method and steps. export: sizes and differences. room: what fills a card.
`python docs/pictures/tables.py NAME ...` draws some of them. Seconds on one core.
"""

import re
import sys

import numpy as np
from drawing import AMBER, BLUE, GREY, RED, panels, run, save, section, tables
from matplotlib.colors import LogNorm

from fewstep.export.writing import BOUND, HALF_BOUND

# Sections of log.md, and which of their tables hold one score by method and steps.
SCORES = {
    "ring, energy distance": [("2026-11-30: flow maps on three seeds", 0)],
    "digits, Fréchet distance": [("2026-11-30: flow maps on three seeds", 1)],
    "mixture of digits, energy distance": [
        ("2026-11-30: flow maps on the digits' mixture", 0),
        ("2026-11-30: flow maps on three seeds", 2),
    ],
}
STEPS = ("1", "2", "4", "8")
OTHER = re.compile(r"weight,? 1\b|own weight, 1$")  # a row of other settings than the recipe's


def means(parts):
    """Method -> the mean score by steps, nan where there is none."""
    result = {}
    for heading, number in parts:
        head, *rows = tables(section("log.md", heading))[number]
        assert tuple(head[1:]) == STEPS, heading
        for name, *cells in rows:
            if OTHER.search(name):
                continue
            numbers = [re.match(r"\**([\d.]+)", cell) for cell in cells]
            result[re.search(r"`(\w+)`", name)[1]] = [
                float(one[1]) if one else np.nan for one in numbers
            ]
    return result


def log():
    """How many times the least of its table each score is."""
    each = {title: means(parts) for title, parts in SCORES.items()}
    names = [*each["ring, energy distance"]]
    figure, axes = panels(1, len(each), 5.6, sharey=True)
    for one, (title, scores) in zip(axes, each.items(), strict=True):
        values = np.array([scores.get(name, [np.nan] * 4) for name in names])
        values /= np.nanmin(values)
        shown = one.imshow(values, cmap="viridis_r", norm=LogNorm(1, 300), aspect="auto")
        one.set_facecolor("0.9")
        one.set_title(title.replace(", ", ",\n"))
        one.set_xticks(range(4), STEPS)
        one.set_yticks(range(len(names)), names, family="monospace")
        one.tick_params(length=0)
        one.spines[:].set_visible(False)
    figure.supxlabel("steps; light grey: not made", fontsize=10)
    bar = figure.colorbar(shown, ax=axes, extend="max", aspect=35, pad=0.02)
    bar.set_label("times the least of its panel")
    bar.set_ticks([1, 3, 10, 30, 100, 300], labels=["1", "3", "10", "30", "100", "300"])
    save(figure, "log.png")


def export():
    """Of the shipped digits, by target: megabytes, and the largest difference from the run."""
    head, *rows = tables(section("export.md", "How near"))[0]
    rows = [row for row in rows if row[0].startswith(("`digits`", "with"))][:4]
    names = [f"{row[1]} step{'s' * (row[1] != '1')}" for row in rows]
    names[-1] += ", --half"
    figure, (sizes, differences) = panels(1, 2, 3.0, sharey=True)
    for place, (target, colour) in enumerate(zip(head[2:], (BLUE, AMBER, GREY), strict=True)):
        cells = [row[2 + place].split(", ") for row in rows]
        y = np.arange(len(rows)) + 0.26 * (place - 1)
        sizes.barh(y, [float(cell[0].split()[0]) for cell in cells], 0.24, color=colour)
        far = [max(float(cell[2]), 1e-8) for cell in cells]
        differences.plot(far, y, "o", color=colour, label=target.strip("`"))
    sizes.set_yticks(range(len(rows)), names)
    sizes.invert_yaxis()
    sizes.set_xlabel("file, MB")
    differences.set(xscale="log", xlim=(5e-9, 4e-3), xlabel="largest difference")
    differences.set_xticks([1e-8, 1e-6, 1e-4], ["0", "1e-6", "1e-4"])
    differences.minorticks_off()
    for low, high, bound in ((-0.5, 2.5, BOUND), (2.5, 3.5, HALF_BOUND)):
        label = "allowed" if bound == BOUND else None
        differences.vlines(bound, low, high, color=RED, lw=1.5, label=label)
    differences.legend(frameon=False, loc="upper right", handletextpad=0.3)
    save(figure, "export.png")


def room():
    """What fills each card in the answer of `fewstep plan` on the page."""
    text = section("room.md", "Which card")
    resident, learn = map(float, re.search(r"resident +([\d.]+) GB.* ([\d.]+) GB", text).groups())
    whole, again = map(float, re.search(r"a row +([\d.]+) GB.* ([\d.]+)$", text, re.M).groups())
    cards = re.findall(r"^ *(\d+)  (\w+) +([\d.]+) +(\d+) .*? h(?:  (.*))?$", text, re.M)
    figure, axes = panels(height=3.3)
    for y, (size, _, needs, rows, options) in enumerate(cards):
        row = again if "--recompute" in (options or "") else whole
        parts = [resident, learn, int(rows) * row]
        parts.append(float(needs) - sum(parts))
        axes.barh(y, float(size), 0.8, color="white", edgecolor="0.4", label="the card")
        names = ("weights", "what learns", "rows of the step", "CUDA's own")
        ends = np.cumsum([0, *parts])
        for name, start, part, colour in zip(
            names, ends, parts, (BLUE, AMBER, RED, GREY), strict=False
        ):
            axes.barh(y, part, 0.6, left=start, color=colour, label=name)
        said = f"{rows} rows" + ", recompute" * ("--recompute" in (options or ""))
        axes.text(float(size) + 1.5, y, said, va="center", fontsize=9)
    axes.set_yticks(range(len(cards)), [f"{name}, {size} GB" for size, name, *_ in cards])
    axes.invert_yaxis()
    axes.set(xlabel="GB", xlim=(0, 165))
    handles, labels = axes.get_legend_handles_labels()
    own = dict(zip(labels, handles, strict=True))
    axes.legend(own.values(), own.keys(), frameon=False, loc="upper right")
    save(figure, "room.png")


ALL = {one.__name__: one for one in (log, export, room)}

if __name__ == "__main__":
    run(ALL, sys.argv[1:])
