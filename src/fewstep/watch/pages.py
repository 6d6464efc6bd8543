"""The pages as values: all runs in a table, one run, its examination, runs side by side."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from markupsafe import Markup

from fewstep.analysis.doctor import output
from fewstep.analysis.report import Figure, Section, Table, page
from fewstep.base.version import __version__
from fewstep.run.build import build_method
from fewstep.studies import scores
from fewstep.studies.comparison import Comparison, Subject, flat, word
from fewstep.training.curves import panels
from fewstep.training.pace import duration
from fewstep.training.schedule import schedule
from fewstep.watch.examination import Outcome
from fewstep.watch.reading import Look, attempt, settings_of

SCRIPT = "/refresh.js"
SECONDS = 4  # between two looks
COLOUR = {"training": "good", "done": "good", "stopped": "open", "incident": "bad"}
HEAD = ("run", "state", "progress", "step", "loss now", "samples/s", "left", "written", "trains")

REFRESH = f"""\
"use strict";
// Looks again every few seconds, and replaces the parts of the page that are new.
let before = document.body.cloneNode(true);
async function look() {{
  try {{
    if (!document.hidden) {{
      const answer = await fetch(location.pathname, {{ cache: "no-store" }});
      if (!answer.ok) throw new Error(answer.statusText);
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      const parts = [...next.body.children];
      const old = [...before.children];
      const now = [...document.body.children];
      before = next.body.cloneNode(true);
      if (parts.length !== old.length) document.body.replaceChildren(...parts);
      else
        parts.forEach((part, i) => {{
          if (!part.isEqualNode(old[i])) now[i].replaceWith(part);
        }});
      document.title = next.title;
    }}
    document.documentElement.classList.remove("lost");
  }} catch {{
    document.documentElement.classList.add("lost");
  }}
  setTimeout(look, {1000 * SECONDS});
}}
setTimeout(look, {1000 * SECONDS});
"""

STYLE = """\
:root { color-scheme: light dark }
a { color: #0b5cad }
a.button { display: inline-block; padding: .3rem .8rem; border: 1px solid; border-radius: .4rem;
  text-decoration: none }
progress { width: 7rem; max-width: 100% }
td:first-child { overflow-wrap: anywhere }
html.lost::before { content: "The server does not answer: what is here is old."; display: block;
  padding: .4rem 1.2rem; color: #fff; background: #b42318 }
#training, #schedule { display: flex; flex-wrap: wrap; column-gap: 1rem }
#training > :not(figure), #schedule > :not(figure) { flex-basis: 100% }
#training figure, #schedule figure { flex: 0 1 27rem; margin: .4rem 0 }
@media (max-width: 640px) {
  body { margin: 1rem auto; padding: 0 .8rem }
  #runs thead { display: none }
  #runs table, #runs tbody, #runs tr { display: block }
  #runs tr { border-bottom: 1px solid #ddd; padding: .5rem 0 }
  #runs td { display: inline-block; border: 0; padding: 0 .9rem 0 0 }
  #runs td:nth-child(5)::before { content: "loss " }
  #runs td:nth-child(6):not(:empty)::after { content: " samples/s" }
  #runs td:nth-child(7):not(:empty)::after { content: " left" }
  #runs td:nth-child(8)::before { content: "written " }
  #settings td { overflow-wrap: anywhere }
}
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #111 }
  a { color: #8ab4f8 }
  h2, th, td, #runs tr { border-color: #383838 }
  thead th { border-bottom-color: #999 }
  figcaption, .note, summary { color: #aaa }
  pre { background: #1e1e1e }
  .verdict.good { color: #56d364 }
  .verdict.open { color: #e3b341 }
  .verdict.bad { color: #ff7b72 }
  section:not(#pictures) > figure img { filter: invert(.93) hue-rotate(180deg) }
}
"""


class Drawings:
    """Curves of runs, drawn anew when they change, in a twentieth of the time at most."""

    def __init__(self) -> None:
        self.last: dict[Any, tuple[Any, float, dict[str, bytes]]] = {}

    def of(self, key: Any, state: Any, draw: Callable[[], dict[str, bytes]]) -> dict[str, bytes]:
        """The pictures for this key; `state` says what they depend on."""
        before = self.last.get(key)
        start = time.monotonic()
        if before is not None and (before[0] == state or start < before[1]):
            return before[2]
        pictures = draw()
        end = time.monotonic()
        self.last[key] = state, end + 19 * (end - start), pictures
        return pictures


def of_all(looks: Sequence[Look], problems: Sequence[str]) -> str:
    """The page of all runs."""
    rows = [row_of(look) for look in looks]
    notes = [*problems, *(f"{one.title}: {line}" for one in looks for line in one.problems)]
    section = Section(title="Runs", tables=[Table(HEAD, rows)] if rows else [], points=notes)
    lead: list[str] = [Markup('<a href="/compare">Side by side</a>: what differs, curves, scores.')]
    if not looks:
        lead = ["There is no run here yet. This page shows it when it is there."]
    return live(title_of_all(looks), lead, [section])


def title_of_all(looks: Sequence[Look]) -> str:
    count = sum(look.state == "training" for look in looks)
    runs = "1 run" if len(looks) == 1 else f"{len(looks)} runs"
    return f"{runs}, {count} in training"


def row_of(look: Look) -> list[str]:
    link = Markup('<a href="/run/{}">{}</a>').format(look.number, look.title)
    state = Markup('<span class="verdict {}">{}</span>').format(COLOUR[look.state], look.state)
    run = look.run
    return [
        link,
        state,
        bar(look),
        f"{look.step} of {look.steps}" if look.steps else f"{look.step}",
        word(look.loss),
        "" if look.speed is None else f"{look.speed:.0f}",
        "" if look.seconds_left is None else duration(look.seconds_left),
        ago(look.last_write),
        f"{run.method} on {run.data}" if run else "-",
    ]


def bar(look: Look) -> str:
    """How far it is; a run without a known end has none."""
    if not look.steps:
        return "-"
    text = '<progress max="{}" value="{}" aria-label="{} of {} steps"></progress>'
    step = min(look.step, look.steps)
    return Markup(text).format(look.steps, step, step, look.steps)


def ago(when: float | None) -> str:
    """How long ago, in words."""
    if when is None:
        return "-"
    seconds = max(0.0, time.time() - when)
    return "now" if seconds < 1.5 * SECONDS else f"{duration(seconds)} ago"


def of_run(look: Look, outcome: Outcome | None, is_asked: bool, drawings: Drawings) -> str:
    """The page of one run. What fails is a line among its problems."""
    problems = list(look.problems)
    sections = [
        *_training(look, drawings, problems),
        *_pictures(look),
        *_schedule(look, drawings, problems),
        *_incidents(look),
        _doctor(look, outcome, is_asked),
        *_settings(look, problems),
    ]
    where = f"step {look.step} of {look.steps}" if look.steps else f"step {look.step}"
    if look.run:
        where = f"{look.run.method} on {look.run.data}: {where}"
    facts = [where, f"loss {word(look.loss)}"]
    if look.speed is not None:
        facts.append(f"{look.speed:.0f} samples/s")
    if look.seconds_left is not None:
        facts.append(f"{duration(look.seconds_left)} left")
    facts.append(f"written {ago(look.last_write)}")
    state = Section(
        title="State",
        verdict=(COLOUR[look.state], look.state),
        text=[", ".join(facts), *([bar(look)] if look.steps else [])],
        points=[*dict.fromkeys(problems)],
    )
    return live(f"Run {look.title}", [back()], [state, *sections])


def _training(look: Look, drawings: Drawings, problems: list[str]) -> Iterator[Section]:
    run = look.run
    if run is None or not look.rows:
        return
    state = len(look.rows), look.rows[-1]["step"]
    pictures = attempt(
        problems,
        "curves",
        lambda: drawings.of((look.number, "curves"), state, lambda: panels(look.rows, run)),
    )
    if pictures:
        yield Section(title="Training", figures=figures(pictures))


def figures(pictures: dict[str, bytes]) -> list[Figure]:
    return [
        Figure(image, f"{title} against steps", kind="image/png")
        for title, image in pictures.items()
    ]


def _pictures(look: Look) -> Iterator[Section]:
    if look.picture is not None:
        path, image = look.picture
        figure = Figure(image, f"samples of {path.stem}", f"{path.stem}.", "image/png")
        yield Section(title="Pictures", figures=[figure])


def _schedule(look: Look, drawings: Drawings, problems: list[str]) -> Iterator[Section]:
    run, checkpoint = look.run, look.checkpoint
    if run is None or checkpoint is None:
        return

    def draw() -> dict[str, bytes]:
        return schedule(run, build_method(run, checkpoint.record.facts), look.step)

    pictures = attempt(
        problems, "schedule", lambda: drawings.of((look.number, "schedule"), look.step, draw)
    )
    if pictures:
        text = "What the settings plan from the first step to the last; the line is now."
        yield Section(title="Schedule", text=[text], figures=figures(pictures))


def _incidents(look: Look) -> Iterator[Section]:
    if not look.incidents:
        return
    count = len(look.incidents)
    yield Section(
        title="Incidents",
        verdict=("bad", f"{count} step{'s' * (count > 1)} with numbers that are not finite"),
        points=[one.error for one in look.incidents],
        commands=[f"fewstep replay {shlex.quote(str(one.path))}" for one in look.incidents],
    )


def _doctor(look: Look, outcome: Outcome | None, is_asked: bool) -> Section:
    text: list[str] = []
    verdict = None
    link = Markup('<a href="/run/{}/doctor">all measures</a>').format(look.number)
    if outcome is not None and outcome.examination is not None:
        severity = outcome.examination.severity
        verdict = output.COLOUR[severity], output.overall(outcome.examination)
        text.append(Markup("Of step {}: {}.").format(outcome.step, link))
    elif outcome is not None:
        text.append(f"Of step {outcome.step}: {outcome.fault}")
    if is_asked:
        text.append("The doctor examines this run now.")
    elif look.checkpoint is None:
        text.append("The doctor examines a checkpoint, and there is none yet.")
    elif outcome is None or outcome.fingerprint != look.checkpoint.record.fingerprint:
        text.append(ask(look))
    return Section(title="Doctor", verdict=verdict, text=text)


def ask(look: Look) -> str:
    step = look.checkpoint.record.step if look.checkpoint else 0
    return Markup(
        '<a class="button" rel="nofollow" href="/run/{}/doctor/start">Examine step {}</a> It'
        " evaluates the network, which takes this machine a minute or more."
    ).format(look.number, step)


def _settings(look: Look, problems: list[str]) -> Iterator[Section]:
    values = attempt(problems, "run.json", lambda: flat(settings_of(look))) or {}
    rows = [[name, _text(value)] for name, value in values.items()]
    place = shlex.quote(str(look.folder))
    commands = [f"fewstep {verb} {place}" for verb in ("sample", "eval", "doctor", "inspect")]
    if rows:
        yield Section(title="Settings", tables=[Table(["what", "value"], rows)], commands=commands)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def of_doctor(look: Look, outcome: Outcome | None, is_asked: bool) -> str:
    """The doctor's page of a run: what it says, that it is at work, or how to ask it."""
    lead = [back(), Markup('<a href="/run/{}">Run {}</a>').format(look.number, look.title)]
    sections = []
    if is_asked:
        lead.append("The doctor examines this run now; this page shows what it says.")
    elif outcome is not None and outcome.fault:
        lead += [f"Step {outcome.step} could not be examined: {outcome.fault}", ask(look)]
    elif outcome is None and look.checkpoint is not None:
        lead.append(ask(look))
    elif outcome is None:
        lead.append("The doctor examines a checkpoint, and there is none yet.")
    if outcome is not None and outcome.examination is not None and not is_asked:
        lead += [outcome.examination.about, output.overall(outcome.examination)]
        sections = [output.section(measure) for measure in outcome.examination.measures]
    return live(f"Examination of {look.title}", lead, sections)


def of_comparison(looks: Sequence[Look]) -> str:
    """The page of `fewstep compare`, of all runs that have a checkpoint."""
    problems: list[str] = []
    subjects = [attempt(problems, one.title, subject, one) for one in looks]
    there = [one for one in subjects if one is not None]
    left_out = [look.title for look, one in zip(looks, subjects, strict=True) if one is None]
    if not there:
        return live("Comparison", [back(), "No run has a checkpoint yet."], [])
    comparison = Comparison(there, left_out)
    sections = attempt(problems, "compare", comparison.sections) or []
    notes = attempt(problems, "compare", comparison.notes) or []
    # Nothing that changes while one reads it: this page is as it was asked for.
    return still(comparison.title, [back(), *notes, *problems], sections)


def subject(look: Look) -> Subject | None:
    """The run as `compare` takes it; None where it has no checkpoint."""
    if look.checkpoint is None:
        return None
    results = scores.read(look.folder, look.checkpoint.record.fingerprint)
    rows = [row for row in look.rows if row.get("loss") is not None]
    one = Subject(str(look.folder), look.checkpoint, rows, results)
    return one if one.settings and one.facts else None


def back() -> str:
    return Markup('<a href="/">All runs</a>')


def live(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """A page that looks again by itself."""
    return page(title, lead, sections, note=note(), style=STYLE, script=SCRIPT)


def still(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    return page(title, lead, sections, note=note(), style=STYLE)


def note() -> str:
    return f"fewstep {__version__}"
