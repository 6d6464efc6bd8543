"""The command line: `fewstep VERB ...`. Only the verb in use is imported."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module

VERBS = {
    "train": "train a generator from a recipe",
    "sweep": "train a run for each combination of settings, and rank them in one table",
    "plan": "say what a run will take, before it is started",
    "distill": "make a few-step LoRA of a text-to-image pipeline",
    "import": "store a network that others trained, as a generator",
    "sample": "draw samples from a trained generator",
    "edit": "fill in, colour or sharpen what is there, by a trained generator",
    "serve": "show a generator in the browser, and answer requests",
    "watch": "show runs as pages while they train",
    "eval": "score a generator against held-out data",
    "reference": "measure the statistics of a data set that eval compares with",
    "variance": "measure the variance that the sampler addim takes",
    "compare": "show runs side by side: what differs, sizes, curves, scores",
    "export": "write a generator as ONNX, torch.export or plain Python",
    "frontier": "what each further step buys: quality against evaluations and latency",
    "doctor": "say what is wrong with a run or a teacher, and what to do",
    "scan": "check the pictures of a folder or zip, and list the bad ones",
    "replay": "repeat a step whose numbers were not finite, from its incident",
    "inspect": "show what a run or checkpoint holds",
    "verify": "check every method's equations, or a method of your own",
    "bench": "time training steps and samples beside the bare network",
    "recipes": "list the recipes, methods and networks with their options",
}

FILES = {"import": "import_file"}  # of verbs that no module can be called

HELP = """\
fewstep: consistency models, from training to one-step samples

usage: fewstep VERB [--help] ...

{verbs}

examples:
  fewstep sample digits --out digits.png
  fewstep train digits --out runs/digits
  fewstep eval runs/digits --steps 1,2

lists are written 1,2; train, sample and other long verbs take --quiet
"""


def main(argv: list[str] | None = None) -> int:
    """Runs a verb; returns its exit code.

    0 done, 1 a check failed, 2 your mistake, 3 non-finite, 4 storage, 5 a rank lost, 75 stopped and
    resumable.
    """
    try:
        try:
            return run_verb(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # here, since the interpreter's own flush would end in a traceback
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter must not try to flush it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run_verb(args: list[str]) -> int:
    """The exit code of the verb; an error that a user meets becomes its line and code."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may be no text
    if not args or args[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {name:<9} {text}" for name, text in VERBS.items())
        print(HELP.format(verbs=verbs), end="")
        return 0 if args else 2
    if args[0] == "--version":
        from fewstep.base.version import __version__

        print(__version__)
        return 0
    from fewstep.base.errors import FewstepError, unknown

    try:
        if args[0] not in VERBS:
            raise unknown("verb", args[0], VERBS)
        module = FILES.get(args[0], args[0])
        code: int = import_module(f"fewstep.cli.{module}").main(args[1:])
        return code
    except FewstepError as error:
        print(f"fewstep: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("fewstep: interrupted", file=sys.stderr)
        return 130
