"""What a distillation takes, counted; blocks that are computed again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.core.conventions import as_denoiser
from fewstep.networks.blocks import blocks_of
from fewstep.networks.roles import LowRank
from fewstep.pipelines.folder import open_folder
from fewstep.pipelines.network import PipelineNetwork
from fewstep.pipelines.prompts import Prompts


def kept_by(call) -> int:
    """Bytes that autograd keeps for a backward pass, of each storage once."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        call()
    return sum(kept.values())


def prompts(folder) -> Prompts:
    """Two rows of random embeddings for a folder's network."""
    source = torch.Generator().manual_seed(0)
    config = folder.config
    width = config.get("joint_attention_dim") or config["cross_attention_dim"]
    shapes = {"tokens": (5, width)}
    if folder.family.name == "sdxl":
        shapes["pooled"] = (8,)
    elif folder.family.name != "sd":
        shapes["pooled"] = (config["pooled_projection_dim"],)
    parts = {name: torch.randn(2, *shape, generator=source) for name, shape in shapes.items()}
    return Prompts(parts, {name: part[0] * 0 for name, part in parts.items()}, ["a", "b"])


def student(folder) -> LowRank:
    network = folder.load(folder.family.network)
    whole = PipelineNetwork(folder.family, network, prompts(folder))
    return LowRank(whole, 2, folder.family.targets)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_blocks_of_a_role_are_computed_again_with_the_same_bits_and_keep_less(name, tiny):
    folder = open_folder(tiny(name))
    source = torch.Generator().manual_seed(1)
    side = folder.size // folder.factor
    if name == "flux":
        side = 8
    micro = torch.tensor([[16, 16, 0, 0, 16, 16]]).expand(8, 6)
    x0 = torch.randn(8, folder.channels, side, side, generator=source)
    data = {"x0": x0, "cond": {"label": torch.arange(8) % 2, "micro": micro.clone()}}
    run = fs.recipes.toy(
        method="ct", iterations=2, batch=2, block=1, warmup=0.0, units="as-is", lr=1e-2
    )
    results, kept = [], []
    for recompute in (False, True):
        role = student(folder)
        layers = [n for n, m in role.base.named_modules() if isinstance(m, nn.Linear)]
        assert len(blocks_of(role)) > 1
        assert layers

        def train(role=role, recompute=recompute):
            network = as_denoiser(role, folder.convention)
            options = {"progress": False, "device": "cpu", "recompute": recompute}
            results.append(fs.train(run, data, network=network, **options).fingerprint)

        kept.append(kept_by(train))
    assert results[0] == results[1]
    assert kept[1] < 0.75 * kept[0]
