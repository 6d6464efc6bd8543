"""Feature extractors `x [N, ...] -> [N, F]`: a callable or a file of yours, with all that its
numbers depend on.

Nothing is downloaded. A file is known by its SHA-256, and only known weights with their own
preprocessing may give a number a published name such as FID.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.analysis.metrics.preprocessing import Input
from fewstep.base.errors import UserError, unknown

Network = Callable[[Tensor], Tensor]

AS_IT_IS = Input()


@dataclass(frozen=True)
class Extractor:
    """`network` on `input(x)`; `sha256` of the file it is, `weights` of the file it was made from;
    None: not told.
    """

    name: str
    network: Network
    sha256: str | None = None
    input: Input = AS_IT_IS
    output: str | None = None  # the tensor's name, where there is more than one
    weights: str | None = None
    batch: int = 4096

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """`[N, F]` of samples `[N, ...]` in the data's range, in float32; UserError where they are
        no features.
        """
        parts = []
        for part in x.split(self.batch):
            seen = self.network(self.input(part))
            if seen.ndim != 2 or len(seen) != len(part):
                raise UserError(
                    f"extractor {self.name} gives {tuple(seen.shape)} for {len(part)} samples:"
                    " expected [N, F]"
                )
            parts.append(seen.detach().cpu())
        features = torch.cat(parts)
        if not bool(torch.isfinite(features).all()):
            raise UserError(
                f"extractor {self.name} gives NaN or infinity: look at the range of its input"
            )
        return features

    def facts(self) -> dict[str, Any]:
        """Its part of the protocol, in JSON's own types."""
        entry = json.loads(json.dumps(asdict(self.input)))  # lists, as it reads back
        return {
            "extractor": self.sha256,
            "weights": self.weights,
            "input": entry,
            "output": self.output,
        }

    def published(self) -> str | None:
        """The name of a Fréchet distance by this extractor, where weights and preprocessing are the
        published ones.
        """
        for known in KNOWN:
            if known.sha256 in (self.sha256, self.weights) and known.input == self.input:
                return known.name
        return None


@dataclass(frozen=True)
class Known:
    """Weights that a published number is defined by, and what they are fed."""

    name: str
    sha256: str
    input: Input
    torchscript: bool = False


# inception-2015-12-05.pt, the network of EDM's and StyleGAN's FID: resizes by itself, takes 0..255
# in 8 bits.
# dinov2_vitl14_pretrain.pth, fed as dgm-eval does (arXiv 2306.04675).
KNOWN = (
    Known(
        "FID",
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        Input(range=(0, 255), levels=256, channels=3),
        torchscript=True,
    ),
    Known(
        "FD-DINOv2",
        "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        Input((0, 1), 256, 3, 224, "pillow-bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file of any size."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def open_extractor(path: str | Path, *, weights: str | Path | None = None) -> Extractor:
    """An extractor from `FILE.onnx`, as `FILE.json` beside it declares, or from the known
    TorchScript Inception.

    The JSON object may hold the fields of `Input`, `output` (a tensor's name), `name` and `sha256`
    (refused where the file's is another). weights: the file that the ONNX file was exported from;
    its SHA-256 is recorded.
    """
    file = Path(path)
    digest = file_sha256(file)
    if file.suffix != ".onnx":
        return _torchscript(file, digest)
    told = _declared(file.with_suffix(".json"))
    wanted = told.pop("sha256", digest)
    if wanted != digest:
        raise UserError(
            f"{file} has SHA-256 {digest}, and {file.stem}.json declares {wanted}: it is another"
            " file"
        )
    name, output = told.pop("name", file.stem), told.pop("output", None)
    entry = Input.from_json(told, f"{file.stem}.json")
    source = None if weights is None else file_sha256(weights)
    network, output = _onnx(file, output)
    return Extractor(name, network, digest, entry, output, source, batch=64)


def _declared(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(told, Mapping):
        raise UserError(
            f"{path} holds no JSON object: expected fields such as range, size and resize"
        )
    return dict(told)


def _onnx(file: Path, output: str | None) -> tuple[Network, str]:
    """The network of an ONNX file on the CPU, and the name of the output tensor it gives."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "an ONNX extractor needs onnxruntime: pip install 'fewstep[metrics]'"
        ) from None
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise UserError(
            f"{file} is no model that onnxruntime runs: {str(error).splitlines()[0]}"
        ) from None
    names = [o.name for o in session.get_outputs()]
    if output is None and len(names) > 1:
        raise UserError(
            f"{file} has outputs {', '.join(names)}: name one as output in {file.stem}.json"
        )
    if output is not None and output not in names:
        raise unknown(f"output of {file}", output, names)
    given, *others = session.get_inputs()
    if others:
        raise UserError(f"{file} has {len(others) + 1} inputs: expected pictures or vectors alone")
    shape = given.shape[1:]

    def network(x: Tensor) -> Tensor:
        fits = len(shape) == x.ndim - 1 and all(
            not isinstance(want, int) or want == have
            for want, have in zip(shape, x.shape[1:], strict=True)
        )
        if not fits:
            raise UserError(
                f"samples of shape {tuple(x.shape[1:])}: {file.name} takes {shape}; declare size"
                " and resize"
            )
        fed = np.ascontiguousarray(x.numpy(), dtype=np.float32)
        return torch.from_numpy(session.run([output or names[0]], {given.name: fed})[0])

    return network, output or names[0]


def _torchscript(file: Path, digest: str) -> Extractor:
    """A known TorchScript network; another one is refused unopened, for it could be any program."""
    known = next((known for known in KNOWN if known.torchscript and known.sha256 == digest), None)
    if known is None:
        raise UserError(
            f"{file} has SHA-256 {digest}, which is no known network: expected a .onnx file or"
            " Inception's .pt"
        )
    loaded = torch.jit.load(str(file), map_location="cpu").eval()

    def network(x: Tensor) -> Tensor:
        return loaded(x.round().to(torch.uint8), return_features=True)

    return Extractor("inception", network, digest, known.input, batch=64)
