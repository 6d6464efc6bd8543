"""What is not run as it stands, each with its reason; a row must be of use."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

# left: not looked at; parsed: its options exist; meta: the run is built without memory.
How = Literal["left", "parsed", "meta"]


class Special(NamedTuple):
    """Commands that match a pattern from their start."""

    pattern: str
    how: How
    reason: str

    def fits(self, command: str) -> bool:
        return re.match(self.pattern, command) is not None


PUBLISHED = r"(cifar10|imagenet32|imagenet64|imagenet128|imagenet256|celeba64|lsun64)-|glyphs|hanzi"

EXCEPTIONS = [
    Special(r"make ", "left", "targets of make: tests/project/test_readme.py"),
    Special(r"pip install", "left", "installs packages"),
    Special(r"fewstep serve digits", "parsed", "it listens until a signal: tests/serve"),
    Special(r"fewstep watch ", "parsed", "it listens until a signal: tests/watch"),
    Special(r"curl ", "left", "asks a server: tests/serve"),
    Special(
        r"fewstep (distill|frontier runs/sd|(sample|eval) runs/(sd|map)) ",
        "left",
        "pipelines: tests/pipelines",
    ),
    Special(r"docker ", "left", "Docker is not here"),
    Special(r"sbatch ", "left", "asks a cluster: tests/cli/test_ranks.py"),
    Special(r"python (-m )?(benchmarks|docs|examples|tests)", "left", "minutes or hours"),
    Special(r"fewstep import ", "parsed", "checkpoints of others: tests/foreign"),
    Special(r"fewstep train glyphs --method mine:", "parsed", "a teacher of the reader's own"),
    Special(r"fewstep sample --(steps|sampler)$", "parsed", "an option by its name"),
    Special(rf"fewstep train ({PUBLISHED})", "meta", "data, weights and a GPU that are not here"),
    Special(r"fewstep plan sdxl-base", "left", "a pipeline that is not here: test_room.py"),
    Special(r"fewstep export .*--push", "parsed", "an account on the hub"),
    Special(
        r"fewstep (sample|eval|inspect) (\S+\.safetensors|FOLDER)( |$)", "parsed", "foreign weights"
    ),
    Special(r"fewstep train auto .*--init teacher", "parsed", "tests/project/test_distill.py"),
    Special(r"fewstep export .*--to diffusers", "parsed", "tests/export/test_diffusers.py"),
    Special(r"fewstep (eval|reference) .*--extractor inception", "parsed", "weights elsewhere"),
    Special(r"fewstep bench( cifar10|$)", "left", "many minutes: tests/bench"),
    Special(r"fewstep sweep (toy|digits) --seed 1,2,3 --method ect,", "left", "54 runs"),
    Special(r"fewstep sweep digits-mixture --seed 1,2,3 --method ", "left", "45 runs"),
    Special(r"fewstep verify --claims", "parsed", "an hour on two cores"),
    Special(r"fewstep doctor TEACHER\.safetensors", "parsed", "weights of the reader's own"),
    Special(r"torchrun --max-restarts 3$", "left", "an option of the launcher alone"),
    Special(r"fewstep eval --reference$", "parsed", "statistics of the reader's own"),
    Special(r"fewstep sample RUN --guidance", "parsed", "a student that learned its guidance"),
    Special(r"fewstep train digits --method pcm ", "parsed", "a teacher: tests/methods"),
    Special(r"fewstep sample RUN --cond FILE", "parsed", "conditions of the reader's own"),
    Special(r"fewstep eval RUN --data FILE", "parsed", "rows of the reader's own"),
    Special(r"fewstep sample RUN --label cat", "parsed", "a run on class folders"),
    Special(r"fewstep sample RUN --label 水", "parsed", "a run on Chinese characters"),
    Special(r"fewstep sample RUN --out s\.csv", "parsed", "a run on a table"),
    Special(r"fewstep train digits .*distance lpips", "parsed", "the package lpips is not here"),
    Special(r"fewstep train digits --method (tcm|pd) .*RUN", "left", "test_method_commands.py"),
    Special(r"fewstep (frontier|eval) .*mine:", "parsed", "code of the reader's own"),
    Special(r"fewstep doctor my\.module", "parsed", "code of the reader's own"),
]
