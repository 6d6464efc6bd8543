"""Networks from elsewhere as generators: the record that they are stored with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from fewstep.base import disk
from fewstep.base.data_names import OWN_DATA
from fewstep.base.errors import StorageError, UserError, require, storage
from fewstep.core.vocabulary import Range
from fewstep.data import LABELS, Units
from fewstep.data.units import BYTES, STD
from fewstep.foreign.diffusers_folder import is_diffusers, recognise_folder
from fewstep.foreign.reading import read_foreign
from fewstep.foreign.recognised import Recognised, Said
from fewstep.foreign.recognition import recognise
from fewstep.foreign.snapshots import reconstruct, snapshots_in
from fewstep.foreign.wrappers import MOST
from fewstep.run.averages import posthoc_coefficients
from fewstep.run.build import build_method, outline, top_level, with_defaults
from fewstep.run.checkpoint import (
    Checkpoint,
    fingerprint,
    is_single,
    state_fingerprint,
    write,
    write_single,
)
from fewstep.run.checkpoint.format import plain_tensors
from fewstep.run.checkpoint.schema import FORMAT, Position, Record, new_record
from fewstep.run.config import IMPORT, Run
from fewstep.run.facts import Facts
from fewstep.run.profiles import power_exponent
from fewstep.run.weights import check_weights, entries

INSIDE = "network."
FLOWS = ("linear", "edm", "trig", "cosine")  # processes that flow maps are sampled on
PICTURES = (1, 3)  # channels of what is taken for pictures of bytes
LOWEST, HIGHEST = 0.002, 80.0  # levels that EDM's samplers go over


def record_of(match: Recognised, source: Mapping[str, Any]) -> Record:
    """The record of a foreign network: all that is needed to build and to ask it.

    source: where it came from. Raises UserError where its weights are not those of its network.
    """
    run, facts = settings_of(match)
    weights = _weights_of(match)
    plan = outline(run, facts, build_method(run, facts), 2 * len(weights) + 100)
    try:
        check_weights(plan, entries(weights), match.kind)
    except StorageError as error:
        raise UserError(f"{error}: the settings of its network are others") from error
    about = {**source, "kind": match.kind, "notes": list(match.notes)}
    about["left_out"] = list(match.left_out)
    return new_record(run, facts, Position(step=0, stage=None), source=about)


def settings_of(match: Recognised, network: nn.Module | None = None) -> tuple[Run, Facts]:
    """The run and facts of a foreign network; network: one that is no name."""
    assert match.network is not None
    method, options = _method_of(match)
    run = Run(
        recipe=IMPORT,
        method=method,
        method_options=options,
        network=match.network,
        network_options=match.network_options,
        data=OWN_DATA,
        convention=match.convention.to_json(),
        label_drop=match.label_drop if match.classes else 0.0,
        iterations=1,
    )
    facts = Facts(
        shape=match.shape,
        classes=match.classes,
        sigma_data=match.convention.sigma_data or 0.5,
        units=_units_of(match),
        data="",
        cond=LABELS if match.classes else None,
    )
    return with_defaults(run, network=network), facts


def recognise_at(path: Path, words: Said, std: float | None = None) -> Recognised:
    """The network in a file, in a folder of diffusers, or in one of EDM2's snapshots.

    std: the deviation of the average that is made of snapshots. Raises UserError and StorageError.
    """
    if not path.exists():
        raise UserError(f"{path} is not there: expected a checkpoint file or a folder")
    if is_single(path) or (path / "manifest.json").is_file() or (path / "checkpoints").is_dir():
        raise UserError(
            f"{path} is a generator of this program already: every verb takes it as it is; in"
            " Python load(RUN).save('FILE.safetensors') makes one file of it"
        )
    if std is not None:
        return reconstruct(path, std, _shares, words)
    if path.is_file():
        return recognise(read_foreign(path), words)
    if is_diffusers(path):
        return recognise_folder(path, words)
    if snapshots_in(path):
        raise UserError(f"{path} holds snapshots of averages: say which one to make, --std 0.1")
    raise UserError(
        f"{path}: expected a folder that diffusers saved (model_index.json or config.json), or a"
        " file"
    )


def _shares(
    times: Sequence[float], deviations: Sequence[float], last: float, std: float
) -> Sequence[float]:
    """EDM2's coefficients of stored averages, see `averages.posthoc_coefficients`."""
    exponents = [power_exponent(one) for one in deviations]
    parts = posthoc_coefficients(
        torch.tensor(times, dtype=torch.float64),
        torch.tensor(exponents, dtype=torch.float64),
        torch.tensor([last], dtype=torch.float64),
        torch.tensor([power_exponent(std)], dtype=torch.float64),
    )
    shares: list[float] = parts[:, 0].tolist()
    return shares


def report_of(match: Recognised, source: Mapping[str, Any]) -> dict[str, Any]:
    """What was understood, for people and for `--json`."""
    weights = sum(tensor.numel() for tensor in match.weights.values())
    report: dict[str, Any] = {
        "kind": match.kind,
        "network": match.network,
        "weights": weights,
        "shape": list(match.shape),
        "classes": match.classes,
        "predicts": str(match.convention),
        "process": match.convention.process_name,
        "sigma_data": match.convention.sigma_data,
        "student": match.is_student,
        "sha256": source["sha256"],
    }
    if match.left_out:
        report["left_out"] = list(match.left_out)
    if match.notes:
        report["notes"] = list(match.notes)
    return report


def store(out: Path, match: Recognised, source: Mapping[str, Any]) -> str:
    """Writes the generator: one file where `out` ends in .safetensors, else a folder.

    Returns the fingerprint. Raises UserError and StorageError.
    """
    if match.network is None:
        return _store_weights(out, match, source)
    state = record_of(match, source).to_json()
    weights = _weights_of(match)
    if out.suffix == ".safetensors":
        return write_single(out, weights, state)
    return write(out, {"ema": weights}, state)


def _store_weights(out: Path, match: Recognised, source: Mapping[str, Any]) -> str:
    """Writes weights of a network that nobody knows, as one file that --init takes.

    Returns their fingerprint. Raises UserError and StorageError.
    """
    fine = out.suffix == ".safetensors"
    need = "a name that ends in .safetensors: nobody knows the network of these weights, or name it"
    require(fine, "OUT", str(out), f"{need}, --network NAME")
    about = json.dumps({**source, "kind": match.kind})
    with storage(f"cannot write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        weights = plain_tensors(match.weights)
        disk.replace(out, tensors_to_bytes(weights, metadata={"source": about}))
    return fingerprint({"network": match.weights})


def open_folder(path: Path) -> Checkpoint:
    """A folder that diffusers saved, as the checkpoint that its import would be.

    Raises UserError and StorageError.
    """
    match = recognise_folder(path)
    state = record_of(match, {"file": path.name}).to_json()
    groups = {"ema": _weights_of(match)}
    state |= {"format": FORMAT, "fingerprint": state_fingerprint(groups, state)}
    return Checkpoint(path, state, {}, groups)


def sha256(path: Path) -> str:
    """The SHA-256 of a file; of a folder that of the names and digests of its files."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = [f"{file.relative_to(path)} {sha256(file)}" for file in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    with storage(f"{path} cannot be read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights_of(match: Recognised) -> dict[str, Tensor]:
    return {INSIDE + name: tensor for name, tensor in match.weights.items()}


def _method_of(match: Recognised) -> tuple[str, dict[str, Any]]:
    """The method whose students are sampled like it, with its options."""
    if match.ends:
        own = match.convention
        options = {
            "process": own.process_name if own.process_name in FLOWS else "edm",
            "label": "log" if own.prediction == "edm" else "angle",
        }
        return ("meanflow", options) if match.ends == 1 else ("imf", {**options, "most": MOST})
    if not match.is_student:
        low, high = _levels(match)
        return "diffusion", {"t_min": low, "t_max": high}
    return ("ct", {"t_min": match.shift}) if match.shift else ("ect", {})


def _levels(match: Recognised) -> tuple[float, float]:
    """The levels of the data in [-1, 1] between which a denoiser is sampled, EDM's or narrower.

    One that predicts noise begins where its students do.
    """
    own = match.convention
    process, scale = own.process, own.range.scale
    first = float(process.level(1.0)) / scale if type(process.schedule).__name__ == "Table" else 0.0
    last = float(process.level(process.t_max)) / scale
    top = own.snap(top_level(match.shape, STD)) if own.multiplies else HIGHEST
    return max(LOWEST, first), min(top, last)


def _units_of(match: Recognised) -> Units:
    """Those of pictures of bytes, where the samples are pictures in [-1, 1]; else as they are."""
    shape = match.shape
    is_picture = len(shape) == 3 and shape[0] in PICTURES and "latents" not in match.kind
    if not is_picture or match.convention.range != Range():
        return Units()
    return replace(BYTES)
