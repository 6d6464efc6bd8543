"""Draws what commands do while they run: `python docs/pictures/running.py [NAME ...]`, 5 minutes.

sweeps: the first sweep of sweeps.md. reliability: a run that is killed three times beside one that
is not. serve: requests of more and more clients at once.
"""

import asyncio
import json
import os
import re
import runpy
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from drawing import AMBER, BLUE, DOCS, GREEN, GREY, RED, panels, run, said, save

from fewstep.analysis.report import line
from fewstep.cli import main as fewstep
from fewstep.statistics.intervals import interval
from fewstep.studies import history

ROOT = DOCS.parent
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
ROUNDS, SECONDS = 4, 4.0  # of each number of clients
TRAIN = "train toy --iterations 600 --checkpoint-every 100 --log-every 5 --seed 0 --quiet"
KILLED = (165, 230, 480)  # at these steps


def sweeps():
    """Learning curves and scores of the page's first sweep, by its own command."""
    command = re.search(r"^fewstep (sweep .*) --out", (DOCS / "sweeps.md").read_text(), re.M)[1]
    with tempfile.TemporaryDirectory() as name:
        assert fewstep([*shlex.split(command), "--out", name]) == 0
        table = json.loads(Path(name, "table.json").read_text())
        curves = {
            row["settings"]["lr"]: [
                history.curve(history.rows_of(Path(name, r))) for r in row["runs"]
            ]
            for row in table["rows"]
        }
    figure, (losses, scores) = panels(1, 2, 3.0, width_ratios=[2, 1])
    for place, (row, colour) in enumerate(zip(table["rows"], (BLUE, RED), strict=True)):
        (column,), rate = table["columns"], row["settings"]["lr"]
        steps = curves[rate][0][0]
        columns = [*zip(*(loss for _, loss in curves[rate]), strict=True)]
        line(losses, steps, columns, f"lr {rate}", color=colour, marker="")
        mean, low, high = interval(row["scores"][column]["values"])
        scores.plot([place] * 2, [low, high], color=colour, lw=2)
        scores.plot(place, mean, "o", color=colour)
        values = row["scores"][column]["values"]
        scores.plot([place + 0.2] * len(values), values, ".", color=GREY)
    losses.set(xlabel="step", ylabel="loss")
    losses.legend(frameon=False)
    scores.set_xticks(range(len(table["rows"])), [f"lr {row}" for row in curves])
    scores.set(xlim=(-0.6, 1.6), ylim=(0, None), ylabel=column.replace("@1", " distance, 1 step"))
    save(figure, "sweeps.png")


def last_step(folder):
    """The last step in the log of a run."""
    try:
        return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, ValueError, IndexError, KeyError):
        return None


def start(folder, kill, more=()):
    """(seconds, step) while a training runs; it is killed at that step, or ends."""
    words = [sys.executable, "-m", "fewstep", *shlex.split(TRAIN), "--out", str(folder), *more]
    running, seen = subprocess.Popen(words), []
    before = last_step(folder)
    while running.poll() is None:
        step = last_step(folder)
        if step is not None and step != before:
            before = None
            seen.append((time.monotonic(), step))
            if kill is not None and step >= kill:
                os.kill(running.pid, signal.SIGKILL)
                running.wait()
        time.sleep(0.02)
    return seen


def reliability():
    """Where a run is that is killed three times, and its losses on those of one that is not."""
    with tempfile.TemporaryDirectory() as name:
        whole, cut = Path(name, "whole"), Path(name, "cut")
        begin = time.monotonic()
        starts = [
            start(cut, kill, ["--resume"] if place else [])
            for place, kill in enumerate((*KILLED, None))
        ]
        start(whole, None)
        marks = {said("inspect", str(folder))["fingerprint"] for folder in (whole, cut)}
        rows = [history.rows_of(folder) for folder in (whole, cut)]
    assert len(marks) == 1, marks
    figure, (steps, losses) = panels(2, 1, 4.4)
    for place, (seen, colour) in enumerate(zip(starts, (BLUE, AMBER, RED, GREEN), strict=True)):
        seconds, values = zip(*((when - begin, step) for when, step in seen), strict=True)
        steps.plot(seconds, values, color=colour, lw=2.5)
        if place < len(KILLED):
            steps.plot(seconds[-1], values[-1], "X", color="black", ms=9)
    steps.plot([], [], "X", color="black", ms=9, label="killed")
    for step in range(100, 601, 100):
        steps.axhline(step, color="0.85", lw=1, zorder=0)
    steps.plot([], [], color="0.85", label="checkpoints")
    steps.set(xlabel="seconds", ylabel="step", ylim=(0, 630), xlim=(0, None))
    steps.legend(frameon=False, loc="upper left")
    names = ("never killed", "killed three times")
    styles = ({"color": "0.75", "lw": 5}, {"color": BLUE, "lw": 1.3})
    for own, label, style in zip(rows, names, styles, strict=True):
        losses.plot([r["step"] for r in own], [r["loss"] for r in own], label=label, **style)
    losses.set(xlabel="step", ylabel="loss")
    losses.legend(frameon=False, title=f"fingerprint of both {marks.pop()[:8]}...")
    save(figure, "reliability.png")


def serve():
    """Samples a second and latencies of the network of benchmarks/serve.py, by clients at once."""
    bench = runpy.run_path(str(ROOT / "benchmarks/serve.py"))
    with tempfile.TemporaryDirectory() as name:
        path = bench["make_generator"](Path(name))
        words = [sys.executable, "-m", "fewstep", "serve", str(path), "--no-page", "--port", "0"]
        server = subprocess.Popen([*words, "--device", "cpu"], stdout=subprocess.PIPE, text=True)
        port = int(re.search(r"http://[^ ]*:(\d+)", server.stdout.readline())[1])
        asyncio.run(bench["crowd"](port, CLIENTS[-1], 4, 1.0))  # warms up
        rates, times = [[] for _ in CLIENTS], [[] for _ in CLIENTS]
        for _, (place, clients) in product(range(ROUNDS), enumerate(CLIENTS)):
            begin = time.perf_counter()
            tally = asyncio.run(bench["crowd"](port, clients, 4, SECONDS))
            assert not tally.failures
            rates[place].append(tally.samples / (time.perf_counter() - begin))  # to the last answer
            times[place] = sorted([*times[place], *tally.latencies])
        server.terminate()
        assert server.wait() == 0
    figure, (speed, wait) = panels(1, 2, 2.9)
    for clients, each in zip(CLIENTS, rates, strict=True):
        speed.plot([clients] * len(each), each, ".", color=GREY)
    speed.plot(CLIENTS, [statistics.median(each) for each in rates], "o-", color=BLUE)
    speed.set(ylabel="samples a second", ylim=(0, None))
    middle = [statistics.median(one) for one in times]
    late = [one[int(0.99 * (len(one) - 1))] for one in times]
    wait.plot(CLIENTS, late, "v--", color=AMBER, label="99 % are there")
    wait.plot(CLIENTS, middle, "o-", color=BLUE, label="half are there")
    wait.set(ylabel="seconds of a request", yscale="log")
    wait.set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
    wait.legend(frameon=False)
    for axes in (speed, wait):
        axes.set_xscale("log", base=2)
        axes.set_xticks(CLIENTS, CLIENTS)
        axes.minorticks_off()
        axes.set_xlabel("clients at once")
    save(figure, "serve.png")


ALL = {one.__name__: one for one in (sweeps, reliability, serve)}

if __name__ == "__main__":
    run(ALL, sys.argv[1:])
