"""The model card: what the hub shows, and what a person reads who finds the folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fewstep.analysis.metrics import Result
from fewstep.base.errors import UserError
from fewstep.export import words
from fewstep.export.contents import Contents
from fewstep.run.checkpoint.format import fingerprint

CARD = "README.md"


def card(
    contents: Contents,
    target: str,
    *,
    file: str = "",
    name: str = "",
    license: str | None = None,
    scores: Sequence[Result] = (),
) -> str:
    """The card of an export as Markdown.

    file: the name of a single file; name: of the model; scores: of these weights in these steps.
    """
    parts = [
        front_matter(contents, target, name, license, scores),
        f"# {name or 'Generator'}",
        f"{words.title(contents)}. The network has {contents.weights:,} weights"
        + (", stored in half precision." if contents.half else "."),
        *words.flow_map(contents),
        "## Sampling",
        f"```python\n{words.python_example(contents, target, file)}\n```",
        "\n".join(f"- {line}" for line in words.inputs_text(contents).splitlines()),
        *_seeds(contents),
        "## Settings",
        _table(["", ""], _settings(contents)),
        *_names(contents),
        "## Scores",
        _scores(contents, scores),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(
    contents: Contents, target: str, name: str, license: str | None, scores: Sequence[Result]
) -> str:
    """What the hub reads: YAML between two lines of dashes."""
    about = contents.to_json()
    task = _task(contents)
    tags = ["fewstep", "few-step-generation", about["method"], target]
    lines = ["library_name: fewstep"]
    if license:
        lines.append(f"license: {_quote(license)}")
    if task:
        lines.append(f"pipeline_tag: {task}")
    lines += ["tags:", *(f"- {_quote(tag)}" for tag in tags)]
    data = contents.generator.run.data
    if data.startswith("hf:"):
        lines += ["datasets:", f"- {_quote(data.removeprefix('hf:').partition(':')[0])}"]
    if scores:
        lines += _model_index(name or "generator", task or "other", about["data"], scores)
    return "\n".join(["---", *lines, "---"])


def check_scores(report: Any, contents: Contents) -> list[Result]:
    """The results of `fewstep eval --json` in these steps. Raises UserError for other weights'."""
    rows = report.get("results") if isinstance(report, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError("scores: expected the output of 'fewstep eval RUN --json'")
    results = [Result.from_json(row) for row in rows]
    default, _ = contents.generator.schedule(contents.steps)
    if contents.schedule()[0] != default:
        raise UserError("scores: 'fewstep eval' samples by the run's own sampler, not by another")
    own = fingerprint({"denoiser": contents.generator.denoiser.state_dict()})
    for result in results:
        other = result.protocol.get("generator")
        if other != own:
            raise UserError(
                f"scores of the weights {str(other)[:16]}: expected those of this run, {own[:16]}:"
                " measure them with 'fewstep eval RUN --json'"
            )
    steps = len(contents.scheme.times)
    fitting = [result for result in results if result.steps == steps]
    if not fitting:
        have = ", ".join(str(n) for n in sorted({result.steps for result in results}))
        raise UserError(f"scores of {have} steps: expected --steps {steps} in 'fewstep eval'")
    return fitting


def _task(contents: Contents) -> str:
    """The hub's name of what the generator does; "" where it has none."""
    facts = contents.generator.facts
    is_bare = facts.look.kind == "tiles" and facts.cond is None
    return "unconditional-image-generation" if is_bare else ""


def _model_index(name: str, task: str, data: str, scores: Sequence[Result]) -> list[str]:
    lines = [
        "model-index:",
        f"- name: {_quote(name)}",
        "  results:",
        f"  - task:\n      type: {task}",
        f"    dataset:\n      type: {_quote(data)}\n      name: {_quote(data)}",
        "    metrics:",
    ]
    for result in scores:
        label = f"{result.metric}, {words.count(result.steps, 'step')}"
        lines += [
            f"    - type: {_quote(result.metric)}",
            f"      name: {_quote(label)}",
            f"      value: {result.value!r}",
        ]
    return lines


def _seeds(contents: Contents) -> list[str]:
    """How the noise of a seed is drawn."""
    shape = contents.generator.facts.shape
    parts = [f'inputs["noise"] = unit_noise(seed, "prior", n, {shape})']
    if contents.scheme.noisy:
        streams = ", ".join(_quote(stream) for stream in contents.streams[1:])
        parts += [
            f"renoise = [unit_noise(seed, stream, n, {shape}) for stream in [{streams}]]",
            'inputs["renoise"] = torch.stack(renoise, 1)',
        ]
    text = "\n".join([words.DRAW, "", "n, seed = 16, 0", *parts])
    return [
        "Any unit normals make samples. Those of `fewstep sample RUN --seed SEED` are made so:",
        f"```python\n{text}\n```",
    ]


def _settings(contents: Contents) -> list[list[str]]:
    about = contents.to_json()
    sigmas = ["infinite" if s is None else f"{s:.6g}" for s in about["sigmas"]]
    return [
        ["method", f"{about['method']}, after {about['trained_steps']:,} training steps"],
        ["network", about["network"]],
        ["data", about["data"]],
        ["sampler", f"{about['sampler']}, {words.count(about['steps'], 'evaluation')}"],
        ["noise levels", ", ".join(sigmas)],
        ["fingerprint of the weights", f"`{about['fingerprint']}`"],
        ["fewstep", about["fewstep"]],
    ]


def _names(contents: Contents) -> list[str]:
    """Classes and variables with their units."""
    parts = []
    if classes := words.class_rows(contents):
        parts += ["## Classes", _table(["label", "name"], classes)]
    parts += [
        "## Units",
        f"Samples are {words.units_text(contents)}: shift + scale x what the network knows.",
        _table(["variable", "shift", "scale"], words.variable_rows(contents)),
    ]
    return parts


def _scores(contents: Contents, scores: Sequence[Result]) -> str:
    if not scores:
        return "Not measured."
    rows = []
    for result in scores:
        rows.append(
            [
                result.metric,
                f"{result.value:.4f}",
                _interval(result.interval),
                "-" if result.floor is None else f"{result.floor:.4f}",
                str(result.protocol["n"]),
                str(result.protocol["draws"]),
                str(result.protocol["split"]),
                str(result.protocol["candidates"]),
            ]
        )
    head = [
        "metric",
        "value",
        "95 % interval",
        "held-out data",
        "n",
        "draws",
        "split",
        "candidates",
    ]
    note = (
        "Each value is the mean over disjoint draws of n samples, by `fewstep eval`; beside it the"
        " same distance of held-out data. Candidates are the models scored on that split to choose"
        " this one."
    )
    if contents.half:
        note += " They were measured with the run's weights, before these were rounded."
    return f"{_table(head, rows)}\n\n{note}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} .. {interval[1]:.4f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _quote(text: str) -> str:
    """A text for YAML, which reads JSON's."""
    return json.dumps(text)
