"""Feature extractors `x [N, ...] -> [N, F]`: a callable or a file of yours.

Nothing is downloaded. A file is identified by its SHA-256. A number has a published name such as
FID only with the published weights and their own preprocessing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.analysis.metrics.preprocessing import Input
from fewstep.base.errors import UserError, unknown
from fewstep.base.memory import Room

Network = Callable[[Tensor], Tensor]

AS_IT_IS = Input()


@dataclass(frozen=True)
class Extractor:
    """`network` on `input(x)`; if known, SHA-256 of its file and of the `weights` it came from.

    classes: gives class probabilities `[N, K]` of `input(x)`, where there are classes.
    """

    name: str
    network: Network
    sha256: str | None = None
    input: Input = AS_IT_IS
    output: str | None = None  # the tensor's name, where there is more than one
    weights: str | None = None
    batch: int | None = None  # samples at once; None: what memory takes
    classes: Network | None = None
    room: Room = field(default_factory=Room, repr=False, compare=False)

    def features(self, x: Tensor) -> Tensor:
        """`[N, F]` in float32 of samples `[N, ...]`; UserError for another shape, NaN, infinity."""
        return self._of_all(x, self.network)

    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities `[N, K]`, likewise; UserError without `classes`."""
        if self.classes is None:
            raise UserError(f"extractor {self.name} has no classes: name their output, classes")
        return self._of_all(x, self.classes)

    def _of_all(self, x: Tensor, network: Network) -> Tensor:
        def work(rows: range) -> Tensor:
            return self._of_part(x[rows.start : rows.stop], network)

        features = torch.cat(list(self.room.parts(len(x), work, self.batch)))
        if not bool(torch.isfinite(features).all()):
            raise UserError(
                f"extractor {self.name} gives NaN or infinity: look at the range of its input"
            )
        return features

    @torch.no_grad()
    def _of_part(self, x: Tensor, network: Network) -> Tensor:
        output = network(self.input(x))
        if output.ndim != 2 or len(output) != len(x):
            raise UserError(
                f"extractor {self.name} gives {tuple(output.shape)} for {len(x)} samples:"
                " expected [N, F]"
            )
        return output.detach().cpu()

    def facts(self) -> dict[str, Any]:
        """Its part of the protocol, in JSON's own types."""
        return {
            "extractor": self.sha256,
            "weights": self.weights,
            "input": json.loads(json.dumps(asdict(self.input))),  # lists, as JSON reads back
            "output": self.output,
        }

    def published(self, statistic: str = "frechet") -> str | None:
        """The statistic's published name, where weights and preprocessing are those."""
        for entry in KNOWN:
            if entry.sha256 in (self.sha256, self.weights) and entry.input == self.input:
                return {"frechet": entry.name, "classifier_score": entry.score}.get(statistic)
        return None


@dataclass(frozen=True)
class Known:
    """Weights that define a published number, and their preprocessing."""

    name: str
    sha256: str
    input: Input
    torchscript: bool = False
    score: str | None = None  # the classifier score's name


KNOWN = (
    # inception-2015-12-05.pt, the network of EDM's and StyleGAN's FID: takes 0..255 in 8 bits and
    # resizes by itself.
    Known(
        "FID",
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        Input(range=(0, 255), levels=256, channels=3),
        torchscript=True,
        score="IS",
    ),
    # dinov2_vitl14_pretrain.pth, with the input of dgm-eval (arXiv 2306.04675).
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
    """An extractor from `FILE.onnx` and the `FILE.json` beside it, or from TorchScript Inception.

    The JSON object may hold the fields of `Input`, `output` and `classes` (the tensors of features
    and of class probabilities), `name` and `sha256` (an error where the file's is another).
    weights: the file that the ONNX file was exported from; its SHA-256 is recorded.
    """
    file = Path(path)
    digest = file_sha256(file)
    if file.suffix != ".onnx":
        return _torchscript(file, digest)
    declaration = _read_declaration(file.with_suffix(".json"))
    expected_digest = declaration.pop("sha256", digest)
    if expected_digest != digest:
        raise UserError(
            f"{file} has SHA-256 {digest}, and {file.stem}.json declares {expected_digest}: it is"
            " another file"
        )
    name = declaration.pop("name", file.stem)
    output, classes = declaration.pop("output", None), declaration.pop("classes", None)
    preprocessing = Input.from_json(declaration, f"{file.stem}.json")
    source = None if weights is None else file_sha256(weights)
    network, output = _onnx(file, output)
    probabilities = None if classes is None else _onnx(file, classes)[0]
    return Extractor(
        name, network, digest, preprocessing, output, source, batch=64, classes=probabilities
    )


def _read_declaration(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        declaration = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(declaration, Mapping):
        raise UserError(
            f"{path} holds no JSON object: expected fields such as range, size and resize"
        )
    return dict(declaration)


def _onnx(file: Path, output: str | None) -> tuple[Network, str]:
    """The network of an ONNX file on the CPU, and the name of its output tensor."""
    session = _session(file)
    names = [o.name for o in session.get_outputs()]
    if output is None and len(names) > 1:
        raise UserError(
            f"{file} has outputs {', '.join(names)}: name one as output in {file.stem}.json"
        )
    if output is not None and output not in names:
        raise unknown(f"output of {file}", output, names)
    entry, *others = session.get_inputs()
    if others:
        raise UserError(f"{file} has {len(others) + 1} inputs: expected pictures or vectors alone")
    if entry.type not in _TYPES:
        raise UserError(
            f"{file} takes {entry.type}: expected one of {', '.join(_TYPES)}, for pictures or"
            " vectors"
        )
    name = output or names[0]
    rows, *shape = entry.shape or [None]

    def network(x: Tensor) -> Tensor:
        if not _fits(x, shape):
            raise UserError(
                f"samples of shape {tuple(x.shape[1:])}: {file.name} takes {shape}; declare size"
                " and resize"
            )
        batch = rows if isinstance(rows, int) else len(x)
        parts = []
        for part in _as_type(x, entry.type, file).split(batch):
            # The last row again and again, where the file takes a number of rows of its own.
            full = torch.cat([part, part[-1:].expand(batch - len(part), *part.shape[1:])])
            result = _run(session, file, name, {entry.name: full.numpy()}, batch)
            parts.append(result[: len(part)])
        return torch.cat(parts)

    return network, name


def _session(file: Path) -> Any:
    """The file in onnxruntime. Raises UserError."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "an ONNX extractor needs onnxruntime: pip install 'fewstep[metrics]'"
        ) from None
    try:
        return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise UserError(
            f"{file} is no model that onnxruntime runs: {str(error).splitlines()[0]}"
        ) from None


def _run(session: Any, file: Path, output: str, values: dict[str, np.ndarray], rows: int) -> Tensor:
    """The output for so many rows, in float32. Raises UserError where the file fails."""
    try:
        result = session.run([output], values)[0]
    except Exception as error:  # as above
        raise UserError(f"{file} fails for {rows} samples: {str(error).splitlines()[0]}") from None
    is_array = isinstance(result, np.ndarray) and result.dtype.kind in "fiu"
    shape = result.shape if is_array else ()
    if not shape or shape[0] != rows:
        raise UserError(f"output {output} of {file} has shape {shape}: expected [{rows}, F]")
    return torch.from_numpy(result).float()


# What an ONNX file may take for samples.
_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(uint8)": torch.uint8,
}


def _as_type(x: Tensor, name: str, file: Path) -> Tensor:
    """The samples in the type that a file takes; half precision rounds. Raises UserError."""
    if name == "tensor(uint8)":
        # The mapping to the range [0, 255] has float errors.
        near = x.round()
        if bool(((x - near).abs() > 1e-3).any()) or bool(((near < 0) | (near > 255)).any()):
            raise UserError(
                f"{file.name} takes bytes, and the samples are {x.min():.3g} .. {x.max():.3g} or"
                f" no whole numbers: declare range [0, 255] and levels 256 in {file.stem}.json"
            )
        x = near
    return x.to(_TYPES[name]).contiguous()


def _fits(x: Tensor, shape: Sequence[Any]) -> bool:
    """Whether samples have an ONNX shape, in which a name stands for any number."""
    if len(shape) != x.ndim - 1:
        return False
    pairs = zip(shape, x.shape[1:], strict=True)
    return all(size == actual for size, actual in pairs if isinstance(size, int))


def _torchscript(file: Path, digest: str) -> Extractor:
    """Inception's TorchScript file; another one could be any program, so it is not opened."""
    entries = [entry for entry in KNOWN if entry.torchscript and entry.sha256 == digest]
    if not entries:
        raise UserError(
            f"{file} has SHA-256 {digest}, which is no known network: expected a .onnx file or"
            " Inception's .pt"
        )
    inception = torch.jit.load(str(file), map_location="cpu").eval()

    def network(x: Tensor) -> Tensor:
        return inception(x.round().to(torch.uint8), return_features=True)

    def classes(x: Tensor) -> Tensor:
        # Without the last layer's bias: so the Inception Score's own code has it, and StyleGAN's.
        return inception(x.round().to(torch.uint8), no_output_bias=True)

    return Extractor("inception", network, digest, entries[0].input, batch=64, classes=classes)
