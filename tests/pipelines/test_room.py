"""What a distillation takes, counted; blocks that are computed again."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.cli import main
from fewstep.core.conventions import as_denoiser
from fewstep.networks.blocks import blocks_of
from fewstep.networks.roles import LowRank
from fewstep.pipelines.families import FAMILIES
from fewstep.pipelines.folder import open_folder
from fewstep.pipelines.network import PipelineNetwork
from fewstep.pipelines.passes import Alive, Costs, OnCard, Pass, costs_of, network_of, student_of
from fewstep.pipelines.prompts import Prompts
from fewstep.pipelines.room import Evaluations, Room, fit_on, weights_of
from fewstep.run.machines import KINDS, REACHED
from fewstep.training.budget import SLACK, Passes
from tests.support.published import NETWORKS, VAE


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
    shapes = {"tokens": (77, width)}
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


@pytest.mark.parametrize(
    ("name", "method"), [("sd", "ct"), ("sdxl", "ct"), ("sd3", "ct"), ("flux", "ct"), ("sd", "sct")]
)
def test_blocks_of_a_role_are_computed_again_with_the_same_bits_and_keep_less(name, method, tiny):
    folder = open_folder(tiny(name))
    source = torch.Generator().manual_seed(1)
    side = folder.size // folder.factor
    if name == "flux":
        side = 8
    micro = torch.tensor([[16, 16, 0, 0, 16, 16]]).expand(8, 6)
    x0 = torch.randn(8, folder.channels, side, side, generator=source)
    data = {"x0": x0, "cond": {"label": torch.arange(8) % 2, "micro": micro.clone()}}
    run = fs.recipes.toy(
        method=method, iterations=2, batch=2, block=1, warmup=0.0, units="as-is", lr=1e-2
    )
    results, kept = [], []
    for recompute in (False, True):
        role = student(folder)
        assert len(blocks_of(role)) > 1

        def train(role=role, recompute=recompute):
            network = as_denoiser(role, folder.convention)
            options = {"progress": False, "device": "cpu", "recompute": recompute}
            results.append(fs.train(run, data, network=network, **options).fingerprint)

        kept.append(kept_by(train))
    assert results[0] == results[1]
    assert kept[1] < 0.75 * kept[0]


def test_a_pass_is_counted_without_memory_as_it_is_with(tiny):
    folder = open_folder(tiny("sd"))
    role = student(folder)
    shape = (folder.channels, 8, 8)
    real = costs_of(role, shape, None)
    assert all(p.grad is None for p in role.parameters())
    config = folder.config
    outline = student_of(folder.family, config, rank=2, dtype=torch.float32)
    count = costs_of(outline, shape, None)
    assert (real.weights, real.learning) == (count.weights, count.learning)
    for name in ("look", "learn", "again"):
        one, other = getattr(real, name), getattr(count, name)
        assert one.memory == pytest.approx(other.memory, rel=0.15), name
        # torch has no formula for attention on the CPU.
        assert 0.8 * other.flops < one.flops < other.flops, name
    assert count.look.memory < count.again.memory < 0.6 * count.learn.memory
    assert 2 * count.look.flops < count.learn.flops < count.again.flops < 4 * count.look.flops


def test_a_row_takes_as_much_in_either_half_precision(tiny):
    """Whatever the weights are kept in: they are not counted with a row."""
    folder = open_folder(tiny("sd"))
    shape = (folder.channels, 8, 8)

    def count(weights, passes):
        outline = student_of(folder.family, folder.config, rank=2, dtype=weights)
        return costs_of(outline, shape, passes)

    kinds = (torch.bfloat16, torch.float16)
    first, *others = (count(weights, passes) for weights in kinds for passes in kinds)
    assert all(one == first for one in others)


def test_bytes_alive_are_those_of_tensors():
    weight = torch.zeros(10, 10)
    with Alive([weight]) as alive:
        a = torch.zeros(100)
        b = a.view(10, 10) @ weight
        assert alive.now == alive.most == 800
        del a
        assert alive.now == 400
        weight.add_(b)
        del b
    assert (alive.now, alive.most) == (0, 800)
    assert alive.flops == 2 * 10**3


def test_autocast_is_played_on_meta():
    a, b = (torch.empty(4, 4, device="meta", dtype=torch.float32) for _ in range(2))
    with OnCard(torch.bfloat16):
        assert (a @ b).dtype == nn.functional.linear(a, b).dtype == torch.bfloat16
        assert nn.functional.layer_norm(a.bfloat16(), (4,)).dtype == torch.float32
        one = torch.empty(1, 1, 64, 8, device="meta", dtype=torch.bfloat16)
        with Alive() as alive:
            nn.functional.scaled_dot_product_attention(one, one, one)
        assert alive.most < 64 * 64  # no table of queries and keys


@pytest.mark.parametrize("name", NETWORKS)
def test_published_networks_have_their_numbers_of_weights(name):
    family, config, weights = NETWORKS[name]
    network = network_of(FAMILIES[family], config, torch.bfloat16)
    assert sum(p.numel() for p in network.parameters()) == weights


def test_parts_are_counted_by_their_configurations(tiny, tmp_path):
    for name in ("sd", "sd3"):
        folder = open_folder(tiny(name))
        for part in folder.family.parts:
            if part.startswith(("text_encoder", "vae")):
                loaded = folder.load(part)
                assert weights_of(folder, part) == sum(p.numel() for p in loaded.parameters())
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text(json.dumps(VAE))
    assert weights_of(replace(folder, path=tmp_path), "vae") == 83_653_863


RUN = fs.recipes.toy(batch=16, block=1, iterations=100, precision="bf16", optimizer="adamw")
ROOM = Room(
    costs=Costs(10**9, 10**8, Pass(1e12, 1e8), Pass(3e12, 8e9), Pass(4e12, 5e8)),
    evaluations=Evaluations(Passes(1, 1, 0), 10.0),
    guided=True,
    weights=2e9,
    learning=2e9,
    encoders=1e9,
    prompt=1e5,
    picture=1e5,
)


def test_a_row_that_needs_more_than_half_of_a_card_is_computed_again():
    fits = {kind: fit_on(ROOM, RUN, kind) for kind in KINDS}
    assert (fits["t4"].recompute, fits["t4"].rows, fits["t4"].accumulate) == (True, 16, 1)
    assert (fits["h200"].recompute, fits["h200"].rows, fits["h200"].accumulate) == (False, 8, 2)
    for fit in fits.values():
        assert fit.memory <= fit.card
        assert fit.rows * fit.accumulate == RUN.batch
    rate = KINDS["h200"][0]["bf16"] * REACHED
    update = 16 * (3e12 + 11 * 1e12)
    assert fits["h200"].hours == pytest.approx(100 * update / rate / 3600)
    two = fit_on(ROOM, RUN, "h200", gpus=2)
    assert (two.rows, two.accumulate) == (8, 1)
    assert two.hours == pytest.approx(fits["h200"].hours / 2)
    assert fits["t4"].hours > fits["rtx4090"].hours > fits["h100"].hours


def test_a_teacher_with_guidance_passes_twice_the_rows():
    room = replace(ROOM, costs=replace(ROOM.costs, look=Pass(1e12, 4e8)))
    assert room.row(True) == pytest.approx(SLACK * 8e8)
    assert replace(room, guided=False).row(True) == pytest.approx(SLACK * 5e8)
    assert room.row(False) == pytest.approx(SLACK * 8e9)


def test_what_has_no_room_is_said():
    none = fit_on(replace(ROOM, weights=30e9), RUN, "rtx4090")
    assert none.rows == 0
    assert none.memory > none.card


def test_the_plan_of_a_folder(tiny, capsys):
    folder = str(tiny("sd"))
    assert main(["plan", folder, "--json", "--kind", "h100", "--method", "cd", "--rank", "2"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["method"] == "cd"
    assert facts["evaluations"]["teacher"] == 2  # guidance 7
    [card] = facts["cards"]
    assert card["kind"] == "h100"
    assert facts["learning"] == 4 * facts["costs"]["learning"] * 6  # with two averages
    assert facts["weights"] == 2 * facts["costs"]["weights"]  # in bf16
    assert facts["prompt"] == 2 * 77 * 8
    assert facts["picture"] == 4 * 4 * 8 * 8
    eight = ["--optimizer", "adamw8bit", "--w", "5", "--gpus", "2", "--method", "direct_cm"]
    assert main(["plan", folder, "sdxl-cm", "--rank", "2", *eight]) == 0
    text = capsys.readouterr().out
    assert "estimated" in text
    assert re.search(r"the teacher's 2\n", text)
    assert all(kind in text for kind in KINDS)
    for words, message in (
        (["--kind", "h300"], "unknown kind of machine 'h300': did you mean 'h200'"),
        (["--gpus", "3"], "gpus = 3: expected a divisor of batch = 16"),
    ):
        assert main(["plan", folder, *words]) == 2
        assert message in capsys.readouterr().err


def test_a_flow_map_has_its_embedding_beside_the_changes(tiny):
    """Counted with what learns, and asked for where it leads."""
    folder = open_folder(tiny("sd"))
    shape = (folder.channels, 8, 8)

    def learning(ends):
        outline = student_of(folder.family, folder.config, rank=2, dtype=torch.float32, ends=ends)
        return costs_of(outline, shape, None).learning

    width = folder.load("unet").time_embedding.linear_2.out_features
    assert learning(1) - learning(0) == 10 * width + width + width * width + width
    for method in ("meanflow", "shortcut"):  # which asks no teacher
        assert main(["plan", str(folder.path), "--method", method]) == 0
