"""Feature extractors `x [N, ...] -> [N, F]`: a callable or a file of yours, with all that its numbers depend on.

Nothing is downloaded. A file is known by its SHA-256, and only known weights with their own preprocessing may
give a number a published name such as FID.
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
from torch.nn.functional import interpolate

from fewstep.errors import UserError, require, unknown

Network = Callable[[Tensor], Tensor]

_RESIZES = {  # interpolation and whether it smooths when it shrinks; pixels lie at half places
    "none": None,
    "bilinear": ("bilinear", False),
    "bilinear-antialias": ("bilinear", True),  # Pillow's bilinear
    "bicubic-antialias": ("bicubic", True),  # Pillow's bicubic
}


@dataclass(frozen=True)
class Input:
    """What becomes of samples, whose range is [-1, 1], before they enter; as given here where it is not None.

    Rounded to `levels` (256: as a picture file would), grey repeated to `channels`, resized to size x size,
    mapped to `range`, and normalised as (x - mean) / std for each channel.
    """

    range: tuple[float, float] | None = None
    levels: int | None = None
    channels: int | None = None
    size: int | None = None
    resize: str = "none"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.resize not in _RESIZES:
            raise unknown("resize", self.resize, _RESIZES)
        require(
            (self.resize == "none") == (self.size is None), "size", self.size, "a size and a resize rule, or neither"
        )
        require(self.range is None or self.range[0] < self.range[1], "range", self.range, "low < high")
        require((self.mean is None) == (self.std is None), "std", self.std, "both mean and std, or neither")

    def __call__(self, x: Tensor) -> Tensor:
        """What enters the network, of samples `[N, ...]`; raises UserError on samples that are no such pictures."""
        if self.range is not None or self.levels is not None:
            low, high = x.min().item(), x.max().item()
            if low < -1 or high > 1:
                raise UserError(f"samples between {low:.3g} and {high:.3g}: this extractor takes pictures in [-1, 1]")
        if self.channels is not None and x.ndim == 4 and x.shape[1] == 1:
            x = x.expand(-1, self.channels, -1, -1)
        if self.channels is not None and (x.ndim != 4 or x.shape[1] != self.channels):
            raise UserError(f"samples of shape {tuple(x.shape[1:])}: this extractor takes [{self.channels}, H, W]")
        x = self._resized(self._rounded(x.float()))
        if self.range is not None:
            low, high = self.range
            x = low + (x + 1) * ((high - low) / 2)
        if self.mean is not None and self.std is not None:
            mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
            x = (x - mean) / std
        return x

    def _rounded(self, x: Tensor) -> Tensor:
        if self.levels is None:
            return x
        half = (self.levels - 1) / 2
        return (x.clamp(-1, 1) + 1).mul(half).round() / half - 1

    def _resized(self, x: Tensor) -> Tensor:
        rule = _RESIZES[self.resize]
        if rule is None or self.size is None:
            return x
        square = (self.size, self.size)
        return self._rounded(interpolate(x, size=square, mode=rule[0], align_corners=False, antialias=rule[1]))

    @staticmethod
    def from_json(told: Mapping[str, Any], where: str) -> Input:
        """The `Input` of a JSON object's fields; a UserError names what does not fit."""
        kinds: dict[str, tuple[type, ...]] = {
            **dict.fromkeys(("levels", "channels", "size"), (int,)),
            **dict.fromkeys(("range", "mean", "std"), (list,)),
            "resize": (str,),
        }
        for key, value in told.items():
            if key not in kinds:
                raise unknown(f"key of {where}", key, [*kinds, "output", "name", "sha256"])
            numbers = all(isinstance(v, int | float) for v in value) if isinstance(value, list) else True
            pair = key != "range" or (isinstance(value, list) and len(value) == 2)
            fits = isinstance(value, kinds[key]) and not isinstance(value, bool) and numbers and pair
            require(fits, f"{where}: {key}", value, "[low, high]" if key == "range" else f"{kinds[key][0].__name__}")
        return Input(**{key: tuple(value) if isinstance(value, list) else value for key, value in told.items()})


@dataclass(frozen=True)
class Extractor:
    """`network` on `input(x)`; `sha256` of the file it is, `weights` of the file it was made from; None: not told."""

    name: str
    network: Network
    sha256: str | None = None
    input: Input = Input()
    output: str | None = None  # the tensor's name, where there is more than one
    weights: str | None = None
    batch: int = 4096

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """`[N, F]` of samples `[N, ...]` in the data's range, in float32; UserError where they are no features."""
        parts = []
        for part in x.split(self.batch):
            seen = self.network(self.input(part))
            if seen.ndim != 2 or len(seen) != len(part):
                raise UserError(
                    f"extractor {self.name} gives {tuple(seen.shape)} for {len(part)} samples: expected [N, F]"
                )
            parts.append(seen.detach().cpu())
        features = torch.cat(parts)
        if not bool(torch.isfinite(features).all()):
            raise UserError(f"extractor {self.name} gives NaN or infinity: look at the range of its input")
        return features

    def facts(self) -> dict[str, Any]:
        """Its part of the protocol, in JSON's own types."""
        entry = json.loads(json.dumps(asdict(self.input)))  # lists, as it reads back
        return {"extractor": self.sha256, "weights": self.weights, "input": entry, "output": self.output}

    def published(self) -> str | None:
        """The name of a Fréchet distance by this extractor, where weights and preprocessing are the published ones."""
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


# inception-2015-12-05.pt, the network of EDM's and StyleGAN's FID: resizes by itself, takes 0..255 in 8 bits.
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
        Input((0, 1), 256, 3, 224, "bicubic-antialias", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
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
    """An extractor from `FILE.onnx`, as `FILE.json` beside it declares, or from the known TorchScript Inception.

    The JSON object may hold the fields of `Input`, `output` (a tensor's name), `name` and `sha256` (refused where
    the file's is another). weights: the file that the ONNX file was exported from; its SHA-256 is recorded.
    """
    file = Path(path)
    digest = file_sha256(file)
    if file.suffix != ".onnx":
        return _torchscript(file, digest)
    told = _declared(file.with_suffix(".json"))
    wanted = told.pop("sha256", digest)
    if wanted != digest:
        raise UserError(f"{file} has SHA-256 {digest}, and {file.stem}.json declares {wanted}: it is another file")
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
        raise UserError(f"{path} holds no JSON object: expected fields such as range, size and resize")
    return dict(told)


def _onnx(file: Path, output: str | None) -> tuple[Network, str]:
    """The network of an ONNX file on the CPU, and the name of the output tensor it gives."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError("an ONNX extractor needs onnxruntime: pip install 'fewstep[metrics]'") from None
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise UserError(f"{file} is no model that onnxruntime runs: {str(error).splitlines()[0]}") from None
    names = [o.name for o in session.get_outputs()]
    if output is None and len(names) > 1:
        raise UserError(f"{file} has outputs {', '.join(names)}: name one as output in {file.stem}.json")
    if output is not None and output not in names:
        raise unknown(f"output of {file}", output, names)
    given, *others = session.get_inputs()
    if others:
        raise UserError(f"{file} has {len(others) + 1} inputs: expected pictures or vectors alone")
    shape = given.shape[1:]

    def network(x: Tensor) -> Tensor:
        fits = len(shape) == x.ndim - 1 and all(
            not isinstance(want, int) or want == have for want, have in zip(shape, x.shape[1:], strict=True)
        )
        if not fits:
            raise UserError(
                f"samples of shape {tuple(x.shape[1:])}: {file.name} takes {shape}; declare size and resize"
            )
        fed = np.ascontiguousarray(x.numpy(), dtype=np.float32)
        return torch.from_numpy(session.run([output or names[0]], {given.name: fed})[0])

    return network, output or names[0]


def _torchscript(file: Path, digest: str) -> Extractor:
    """A known TorchScript network; another one is refused unopened, for it could be any program."""
    known = next((known for known in KNOWN if known.torchscript and known.sha256 == digest), None)
    if known is None:
        raise UserError(
            f"{file} has SHA-256 {digest}, which is no known network: expected a .onnx file or Inception's .pt"
        )
    loaded = torch.jit.load(str(file), map_location="cpu").eval()

    def network(x: Tensor) -> Tensor:
        return loaded(x.round().to(torch.uint8), return_features=True)

    return Extractor("inception", network, digest, known.input, batch=64)
