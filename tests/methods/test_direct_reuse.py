"""Direct CM's cheap pairs: shared and cached trajectories, and the count of teacher evaluations."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fewstep as fs
from fewstep.base.errors import UserError
from fewstep.base.randomness import generator
from fewstep.cli import main
from fewstep.core import couplings, solvers
from fewstep.core.process import as_time
from fewstep.core.times import Levels, Shared
from fewstep.data import Arrays
from fewstep.run import checkpoint
from fewstep.run.checkpoint import read, write
from fewstep.run.checkpoint.format import MANIFEST
from fewstep.run.facts import facts_of
from fewstep.run.prepare import Prepared
from fewstep.run.sources import Model
from fewstep.run.stages import Stage
from fewstep.training.batches import draw_batch, on_path
from fewstep.training.state import RowCounter, new_state
from fewstep.training.step import gradients
from tests.support.toys import Gaussian, small_student, tiny_run

CPU = torch.device("cpu")
GRIDS = {n: tuple(fs.sampling.solver_grid(fs.process.edm(), n, ())) for n in (1, 2, 5, 12, 32)}

LABELLED = fs.exact.Mixture(
    weights=[1, 1, 1], means=torch.eye(3, 2), std=0.3, labels=torch.arange(3)
)


def direct(**options):
    settings = {"n": 6, **options}
    return tiny_run(method="direct_cm", method_options=settings, batch=16, block=8)


def train(run, *parts, **options):
    return fs.train(run, *parts, progress=False, device="cpu", **options)


def solve(run, n=40, teacher="exact:ring8", **options):
    return fs.trajectories(
        replace(run, data="exact:ring8"), n, teacher, progress=False, device="cpu", **options
    )


def even(rows: int, size: int) -> torch.Tensor:
    """Uniforms whose first in every group is even in [0, 1); the others are never used."""
    u = torch.full((rows * size, 2), torch.nan, dtype=torch.float64)
    u[::size] = ((torch.arange(rows) + 0.5) / rows)[:, None].double()
    return u


@pytest.mark.parametrize("n", GRIDS)
@pytest.mark.parametrize("size", [1, 2, 3, 8, 40])
def test_the_law_of_shared_trajectories_is_the_count_of_their_levels(n, size):
    levels = Levels(grid=GRIDS[n])
    plain, even_out = (Shared(levels=levels, size=size, reweight=w) for w in (False, True))
    counts = Counter(s + (j * (n - s)) // size for s in range(n) for j in range(size))
    law = [counts[i] / (n * size) for i in range(n)]
    assert plain.law().tolist() == pytest.approx(law, rel=1e-15)
    times = even_out(even(7 * n, size), 0.0)
    shares = levels.place(times.t).bincount(minlength=n).double() / len(times.t)
    torch.testing.assert_close(shares, plain.law(), rtol=0, atol=1e-12)
    for i in range(n):  # each level weighs 1/n in the mean of w loss
        assert times.w[times.t == GRIDS[n][i]].sum() / len(times.t) == pytest.approx(1 / n)
    assert bool((times.w <= size + 1e-9).all())
    assert bool((plain(even(7 * n, size), 0.0).w == 1).all())
    assert torch.equal(even_out.at(times.t, 0.0).w, times.w)


def test_rows_go_down_the_trajectory_of_their_group_from_its_start():
    times = Shared(levels=Levels(grid=GRIDS[12]), size=4)(even(36, 4), 0.0)
    levels = Levels(grid=GRIDS[12]).place(times.t).reshape(-1, 4)
    assert torch.equal(levels[:, 0], (torch.arange(36) / 3).long())
    assert bool((levels.diff(dim=1) >= 0).all())
    whole = levels[levels[:, 0] == 0][0]
    assert whole.tolist() == [0, 3, 6, 9]
    assert bool((levels < 12).all())


@pytest.mark.parametrize(("n", "size"), [(12, 4), (12, 8), (5, 8), (2, 3)])
def test_points_of_whole_trajectories_are_uniform_without_weights(n, size):
    times = Shared(levels=Levels(grid=GRIDS[n], first=True), size=size)(even(40 * n, size), 0.0)
    counts = Levels(grid=GRIDS[n]).place(times.t).bincount(minlength=n) / len(times.t)
    torch.testing.assert_close(counts, torch.full((n,), 1 / n), rtol=0, atol=1 / (40 * n))
    assert bool((times.w == 1).all())


def test_alone_in_its_group_a_row_is_as_without_groups():
    levels = Levels(grid=GRIDS[12])
    u = torch.rand(30, 2, generator=generator(0, "u"), dtype=torch.float64)
    for ours, theirs in zip(Shared(levels=levels, size=1)(u, 0.3), levels(u, 0.3), strict=True):
        torch.testing.assert_close(ours, theirs)
    x0, z = (torch.randn(30, 2, generator=generator(i, "x"), dtype=torch.float64) for i in range(2))
    times = fs.times.AtAnchor(times=levels)(u, 0.3)
    models = fs.Models(Gaussian(), teacher=Gaussian())
    move = solvers.along(solvers.heun, GRIDS[12])
    alone = couplings.Trajectory(move, 1)(models, fs.process.edm(), x0, z, times, None)
    own = couplings.Teacher(move)(models, fs.process.edm(), x0, z, times, None)
    for ours, theirs in zip(alone, own, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("solver", "moves"), [("ddim", 1), ("heun", 2)])
def test_every_row_gets_its_point_of_the_one_trajectory_and_the_teacher_is_asked_once(
    solver, moves, first
):
    grid, teacher = GRIDS[12], LABELLED
    levels = Levels(grid=grid, first=first)
    times = fs.times.AtAnchor(times=Shared(levels=levels, size=4))(even(12, 4), 0.0)
    z = torch.randn(48, 2, generator=generator(0, "z"), dtype=torch.float64)
    x0, cond = 0.5 * z.flip(0), torch.arange(48) // 4 % 3
    x0, z = (x[::4].repeat_interleave(4, 0) for x in (x0, z))
    step, g = fs.solvers.by_name(solver), 0.5
    models = fs.Models(teacher, teacher=RowCounter(teacher))
    coupling = couplings.Trajectory(solvers.along(step, grid), 4, grid[0] if first else None, g)
    x_t, x_r = coupling(models, fs.process.edm(), x0, z, times, cond)
    evaluations = 0
    for row in range(0, 48, 4):
        start = 0 if first else int(levels.place(times.t[row]))
        # With and without the label; Heun's last move is Euler's.
        evaluations += 2 * ((12 - start) * moves - (solver == "heun"))
        x = fs.process.edm().mix(x0[row : row + 1], z[row : row + 1], grid[start])
        points = {}
        for i in range(start, 12):
            points[grid[i]] = x
            denoiser = fs.guidance.Guided(teacher, g)
            x = step(
                fs.process.edm(), denoiser, x, grid[i], as_time([grid[i + 1]]), cond[row : row + 1]
            )
        for i in range(row, row + 4):
            torch.testing.assert_close(
                x_t[i : i + 1], points[times.t[i].item()], rtol=1e-9, atol=1e-9
            )
            torch.testing.assert_close(x_r[i : i + 1], x, rtol=1e-9, atol=1e-9)
    assert models.teacher.rows == evaluations


@pytest.mark.parametrize("reuse", [1, 2, 4])
def test_rows_of_a_group_share_their_sample_and_nothing_depends_on_the_batch(reuse):
    run = replace(direct(reuse=reuse), label_drop=0.5, batch=32)
    method = fs.methods.direct_cm(n=6, reuse=reuse)
    x0 = torch.randn(80, 3, generator=generator(0, "x"))
    arrays = Arrays(x0, torch.arange(80))
    large = draw_batch(Stage(run, method), arrays, 0)
    for part in (large.rows, large.x0, large.z, large.cond):
        groups = part.reshape(32 // reuse, reuse, -1)
        assert bool((groups == groups[:, :1]).all())
        assert len(groups[:, 0].unique(dim=0)) > 2
    assert torch.equal(large.x0, x0[large.rows])
    assert 0 < int((large.cond == -1).sum()) < 32
    small = [draw_batch(Stage(replace(run, batch=8), method), arrays, step) for step in range(4)]
    for name in ("rows", "x0", "z", "cond"):
        assert torch.equal(
            torch.cat([getattr(one, name) for one in small]), getattr(large, name)
        ), name
    for i in range(4):
        assert torch.equal(torch.cat([one.times[i] for one in small]), large.times[i])
    next_one = draw_batch(Stage(run, method), arrays, 1)
    assert not set(next_one.rows.tolist()) & set(large.rows.tolist())  # an epoch goes through all


def test_accumulated_parts_hold_whole_groups():
    dataset = fs.data.load("ring8")
    grads = {}
    for accumulate in (1, 2):
        run = replace(direct(reuse=4), accumulate=accumulate)
        facts, method = facts_of(run, dataset), fs.methods.direct_cm(n=6, reuse=4)
        teacher = Model("ring8", fs.exact.named("ring8"), method.process)
        state = new_state(Prepared(run, facts, method, teacher=teacher))
        stage = Stage(run, method)
        losses = gradients(stage, state, draw_batch(stage, dataset.train, 0))
        grads[accumulate] = [losses, *(p.grad for p in state.student.parameters())]
    for one, two in zip(grads[1], grads[2], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)


def test_groups_that_blocks_would_part_are_refused():
    with pytest.raises(UserError, match="reuse = 3: expected a divisor of block=8"):
        train(replace(direct(reuse=3), data="exact:ring8"), teacher="exact:ring8")
    with pytest.raises(UserError, match="reuse = 0"):
        fs.methods.direct_cm(reuse=0)
    with pytest.raises(UserError, match="rows = 6: expected a multiple of the 4"):
        fs.methods.direct_cm(n=6, reuse=4).times(torch.zeros(6, 2), 0.0)
    x0, times = torch.zeros(6, 2), Levels(grid=GRIDS[12])(torch.zeros(6, 2), 0.0)
    coupling = couplings.Trajectory(solvers.along(solvers.ddim, GRIDS[12]), 4)
    models = fs.Models(Gaussian(), teacher=Gaussian())
    with pytest.raises(UserError, match="rows = 6: expected a multiple of reuse=4"):
        coupling(models, fs.process.edm(), x0, x0, times, None)
    with pytest.raises(UserError, match="expected a method with a target"):
        fs.methods.gc(base={"method": "direct_cm", "reuse": 4})


def rows(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("options", "per_update"),
    [
        ({"starts": "highest"}, 6),
        ({"starts": "highest", "solver": "heun"}, 11),
        ({"starts": "highest", "reuse": 4}, 6 / 4),
        ({"goal": "student"}, 1),
    ],
)
def test_teacher_evaluations_are_counted_in_batches(options, per_update, tmp_path):
    out = tmp_path / "run"
    train(replace(direct(**options), data="exact:ring8"), teacher="exact:ring8", out=out)
    counts = [row["teacher_evaluations"] for row in rows(out)]
    assert counts == pytest.approx([per_update * step for step in range(1, 7)])


def test_uniform_starts_cost_half_the_grid_and_shared_ones_that_over_the_group(tmp_path):
    """(n + 1) / 2 evaluations of the batch per update, within four standard errors."""
    cost = {}
    for reuse in (1, 4):
        run = replace(
            direct(n=12, reuse=reuse), data="exact:ring8", batch=256, iterations=10, log_every=10
        )
        train(run, teacher="exact:ring8", out=tmp_path / str(reuse))
        cost[reuse] = rows(tmp_path / str(reuse))[-1]["teacher_evaluations"] / 10
        error = (143 / 12 / (2560 / reuse)) ** 0.5 / reuse
        assert abs(cost[reuse] - 6.5 / reuse) < 4 * error
    assert 3 < cost[1] / cost[4] < 5


def test_the_count_goes_on_where_a_resumed_run_stood(tmp_path, caplog, capsys):
    run = replace(direct(), data="exact:ring8")
    train(run, teacher="exact:ring8", out=tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parted")
    shutil.rmtree(tmp_path / "parted" / "checkpoints" / "step-6")
    after = train(run, teacher="exact:ring8", out=tmp_path / "parted", resume=True)
    counts = [
        [row["teacher_evaluations"] for row in rows(tmp_path / name)]
        for name in ("whole", "parted")
    ]
    assert counts[0] == counts[1]
    assert after.fingerprint == fs.load(tmp_path / "whole").fingerprint
    assert main(["inspect", str(tmp_path / "whole")]) == 0
    assert f"{counts[0][-1]:g} teacher evaluations" in capsys.readouterr().out

    # As a version that counted nothing wrote it.
    folder = tmp_path / "parted" / "checkpoints" / "step-4"
    shutil.rmtree(tmp_path / "parted" / "checkpoints" / "step-6")
    state = read(folder)
    groups = {name: state.groups[name] for name in state.groups}
    shutil.rmtree(folder)
    assert state.state.pop("teacher_rows") == counts[0][3] * 16
    write(folder, groups, {k: v for k, v in state.state.items() if k != "format"})
    assert (folder / MANIFEST).exists()
    old = train(run, teacher="exact:ring8", out=tmp_path / "parted", resume=True)
    assert "counted no teacher evaluations" in caplog.text
    assert checkpoint.fingerprint({"ema": old.denoiser.state_dict()}) == checkpoint.fingerprint(
        {"ema": after.denoiser.state_dict()}
    )
    assert rows(tmp_path / "parted")[-1]["teacher_evaluations"] == pytest.approx(
        counts[0][-1] - counts[0][3]
    )


def test_runs_without_a_teacher_say_nothing_of_one(tmp_path):
    train(tiny_run(), out=tmp_path)
    assert "teacher_evaluations" not in rows(tmp_path)[-1]
    assert read(tmp_path / "checkpoints" / "step-6").state["teacher_rows"] == 0


@pytest.mark.parametrize("process", ["edm", "cosine"])
def test_a_cached_pair_is_a_point_of_its_trajectory_and_its_end(process):
    run = direct(process=process, solver="heun")
    data = solve(run)
    method = fs.methods.direct_cm(n=6, process=process, source="cache")
    truth, grid = fs.exact.named("ring8", method.process), method.coupling.grid
    assert data["levels"].tolist() == list(grid[:-1])
    x = data["path"][:, 0]
    for i in range(6):
        torch.testing.assert_close(data["path"][:, i], x, rtol=1e-4, atol=1e-5)
        x = solvers.heun(method.process, truth, x, grid[i], as_time([grid[i + 1]] * 40))
    torch.testing.assert_close(data["x0"], x, rtol=1e-4, atol=1e-5)

    index, level = torch.arange(40), torch.arange(40) % 6
    times = method.times.at(level, 0.0)
    end, path = data["x0"].double(), data["path"].double()
    x0, z = on_path(method, path, index, end, times)
    torch.testing.assert_close(
        method.process.mix(x0, z, times.t), path[index, level], rtol=1e-9, atol=1e-9
    )
    student = small_student((2,))
    student.process = method.process
    loss = method.loss(fs.Models(student), x0, z, times)
    goal = method.process.aim(path[index, level], end, times.t, times.a)
    torch.testing.assert_close(
        loss,
        (student(path[index, level], times.t) - goal).square().mean(1),
        rtol=1e-7,
        atol=1e-10,
    )


def test_trajectories_start_at_the_prior_or_at_noised_data_and_depend_on_their_row_alone():
    run = direct()
    whole, small, few = solve(run), solve(run, batch=7), solve(run, 10)
    torch.testing.assert_close(whole["path"], small["path"])
    torch.testing.assert_close(whole["path"][:10], few["path"])
    noise = whole["path"][:, 0] / 80
    assert abs(noise.std().item() - 1) < 0.3
    x_t = solve(run, start="data")["path"][:, 0]
    truth = fs.exact.named("ring8")
    x0 = x_t - 80 * noise  # the same noise: what is left is data
    assert bool((truth.log_density(x0, 0.01) > -3).all())
    other = solve(replace(run, seed=1))
    assert not torch.equal(other["path"], whole["path"])


def test_a_cache_is_data_from_the_command_line_with_held_out_rows(tmp_path):
    file = tmp_path / "traj.safetensors"
    data = solve(direct(), 200, out=file)
    assert {name: tuple(part.shape) for name, part in load_file(file).items()} == {
        "x0": (200, 2),
        "path": (200, 6, 2),
        "levels": (6,),
    }
    dataset = fs.data.load(str(file))
    sizes = [len(part.x0) for part in (dataset.train, dataset.validation, dataset.test)]
    assert sizes == [160, 20, 20]
    assert dataset.units == fs.data.Units()
    place = {tuple(x0): i for i, x0 in enumerate(data["x0"].tolist())}
    order = [place[tuple(x0)] for part in (dataset.train, dataset.test) for x0 in part.x0.tolist()]
    assert len(set(order)) == 180
    assert torch.equal(torch.cat([dataset.train.path, dataset.test.path]), data["path"][order])
    bent = replace(dataset, train=replace(dataset.train, path=dataset.train.path + 1))
    assert bent.fingerprint() != dataset.fingerprint()

    out = tmp_path / "run"
    words = "--iterations 4 --batch 16 --block 4 --network.width 16 --device cpu --log-every 1"
    words += " --method direct_cm --method.source cache --method.n 6"
    assert main(["train", "toy", *words.split(), "--data", str(file), "--out", str(out)]) == 0
    assert fs.load(out).sample(3).shape == (3, 2)
    assert "teacher_evaluations" not in rows(out)[-1]
    same = train(direct(source="cache"), data)
    assert same.facts.units == fs.data.Units()


def test_training_on_a_cache_learns_the_teachers_map():
    """The n-step solution is linear in the noise: the student's error falls far below its start."""
    run = direct(source="cache", n=8, solver="ddim", starts="highest")
    run = replace(run, iterations=150, batch=64, block=32, lr=5e-3, log_every=50)
    data = solve(replace(run, method_options={**run.method_options, "source": "teacher"}), 512)
    model = train(run, data)
    x0_hat = model.denoiser(data["path"][:, 0], 80.0)
    spread = (data["x0"] - data["x0"].mean(0)).square().mean()
    assert (x0_hat - data["x0"]).square().mean() < 0.3 * spread


def test_labels_come_along(tmp_path):
    run = replace(direct(n=3), data="exact:digits-mixture")
    data = fs.trajectories(
        run, 64, "exact:digits-mixture", out=tmp_path / "t.safetensors", progress=False
    )
    assert data["path"].shape == (64, 3, 1, 8, 8)
    dataset = fs.data.load(str(tmp_path / "t.safetensors"))
    assert sorted(
        dataset.train.cond.tolist() + dataset.validation.cond.tolist() + dataset.test.cond.tolist()
    ) == sorted(data["cond"].tolist())
    truth = fs.exact.named("digits-mixture")
    own = truth(data["path"][:, 2], 0.002, data["cond"])
    assert (data["x0"] - own).abs().max() < 1e-3  # ends are of the class they are labelled with


def test_caches_and_methods_that_do_not_fit_are_told_in_one_line(tmp_path):
    data = solve(direct())
    for run, source, words in (
        (
            direct(source="cache"),
            torch.randn(40, 2),
            "source = cache: expected solved trajectories",
        ),
        (tiny_run(), data, "only direct_cm with source = cache"),
        (direct(), data, "only direct_cm with source = cache"),
        (direct(source="cache", n=5), data, "n = 5 from t = 80.* has 6 levels from 80"),
        (
            direct(source="cache", process="cosine"),
            data,
            "n = 6 from t = 1: .* has 6 levels from 80",
        ),
        (
            direct(source="cache"),
            {**data, "levels": data["levels"].flip(0)},
            "levels = .*: expected decreasing",
        ),
        (
            direct(source="cache"),
            {**data, "path": data["path"][:, 1:]},
            r"path of shape = \(40, 5, 2\)",
        ),
        (direct(source="cache"), {**data, "path": data["path"] / 0}, "NaN or infinity"),
    ):
        with pytest.raises(UserError, match=words) as error:
            train(
                run, source, teacher="exact:ring8" if source is data and run == direct() else None
            )
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="learns from no teacher"):
        train(direct(source="cache"), data, teacher="exact:ring8")
    for options in ({"guidance": 1.0}, {"reuse": 2}, {"goal": "student"}):
        with pytest.raises(UserError, match=next(iter(options))):
            fs.methods.direct_cm(source="cache", **options)
    with pytest.raises(UserError, match="method 'cd' solves no trajectories"):
        solve(tiny_run(method="cd"))
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        solve(direct(), out=tmp_path / "x.npz")
    save_file({**data, "other": data["x0"].clone()}, tmp_path / "more.safetensors")
    with pytest.raises(UserError, match="other"):
        fs.data.load(str(tmp_path / "more.safetensors"))


def test_guidance_needs_labels_and_a_teacher_that_can_do_without(tmp_path):
    x0, cond = torch.randn(60, 2, generator=generator(0, "x")), torch.arange(60) % 3
    run, data = direct(guidance=1.0, n=4), {"x0": x0, "cond": cond}
    with pytest.raises(
        UserError, match=r"guidance = 1.0: expected 0, since data 'tensor' has no labels"
    ):
        train(run, x0, teacher=Gaussian())
    plain = train(tiny_run(method="diffusion"), data)
    with pytest.raises(
        UserError, match=r"guidance = 1\.0: expected 0, or a teacher trained with label_drop"
    ):
        train(run, data, teacher=plain)
    train(direct(n=4), data, teacher=plain)
    dropping = train(tiny_run(method="diffusion", label_drop=0.3), data)
    train(run, data, teacher=dropping, out=tmp_path / "guided")
    train(direct(n=4), data, teacher=dropping, out=tmp_path / "single")
    by_guide, single = (rows(tmp_path / name) for name in ("guided", "single"))
    assert by_guide[-1]["teacher_evaluations"] == 2 * single[-1]["teacher_evaluations"]
    assert by_guide[0]["loss"] != single[0]["loss"]
    train(run, data, teacher=LABELLED)


def test_conditions_of_a_cache_are_in_the_units_of_the_data(tmp_path):
    """Solved with features of 288 +- 10, a student takes features of 288 +- 10."""
    z = torch.randn(200, 2, generator=generator(0, "x"), dtype=torch.float64).numpy()
    features = 288 + 10 * z[:, :1]
    np.savez(tmp_path / "x.npz", x=z, features=features)
    run = replace(direct(), data=str(tmp_path / "x.npz"))
    solved = fs.trajectories(run, 40, lambda x_t, t, cond: 0.5 * x_t, progress=False, device="cpu")
    assert np.abs(solved["cond"].numpy() - features.T).min(1).max() < 1e-3
    student = train(direct(source="cache"), solved)
    scale = student.conditions(40, solved["cond"])
    assert abs(scale.mean().item()) < 1e-5
    assert scale.std(correction=0).item() == pytest.approx(1)
