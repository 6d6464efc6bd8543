"""The generator as a program of torch.export."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from fewstep.base import disk
from fewstep.export.contents import Contents, Inputs
from fewstep.export.graph import quiet_tracing

NAME = "generator.pt2"
ABOUT = "generator.json"  # inside the file


class TorchFile:
    """A file by `torch.export.load`: `inputs -> samples`."""

    def __init__(self, path: Path) -> None:
        with quiet_tracing():
            self.module = torch.export.load(str(path)).module()

    def __call__(self, inputs: Inputs) -> Tensor:
        with torch.no_grad():
            return self.module(**inputs)


def write(contents: Contents, folder: Path) -> TorchFile:
    """Writes `NAME`, and opens it again."""
    path = folder / NAME
    about = json.dumps(contents.to_json(), indent=1)
    with quiet_tracing():
        torch.export.save(contents.program, str(path), extra_files={ABOUT: about})
    disk.sync(path)
    return TorchFile(path)
