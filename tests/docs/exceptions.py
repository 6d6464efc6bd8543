"""What is not run as it stands, each with its reason: a row that nothing matches is an error."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

# left: not looked at; parsed: its options exist; meta: the run is built without memory.
How = Literal["left", "parsed", "meta"]


class Exception_(NamedTuple):
    """Commands that match a pattern from their start."""

    pattern: str
    how: How
    reason: str

    def fits(self, command: str) -> bool:
        return re.match(self.pattern, command) is not None


PUBLISHED = r"(cifar10|imagenet32|imagenet64|imagenet128|celeba64|lsun64)-|glyphs"

EXCEPTIONS = [
    Exception_(r"make ", "left", "targets of make: tests/project/test_readme.py"),
    Exception_(r"pip install", "left", "installs packages"),
    Exception_(r"(export|test) ", "left", "of a cluster's job script"),
    Exception_(r"python (-m )?(benchmarks|docs)", "left", "minutes to hours; the script exists"),
    Exception_(r"python docs/", "left", "draws a picture; the script exists"),
    Exception_(r"fewstep import ", "left", "the page says that this verb does not exist yet"),
    Exception_(rf"fewstep train ({PUBLISHED})", "meta", "data, weights and a GPU that are not here"),
    Exception_(r"fewstep verify --claims", "parsed", "41 minutes on two cores"),
    Exception_(r"fewstep doctor TEACHER\.safetensors", "parsed", "weights of the reader's own"),
    Exception_(r"fewstep sample RUN --cond FILE", "parsed", "conditions of the reader's own"),
    Exception_(r"fewstep train digits .*distance lpips", "parsed", "the package lpips is not here"),
    Exception_(r"fewstep doctor my\.module", "parsed", "code of the reader's own"),
]
