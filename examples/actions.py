"""A robot's next 16 actions, by what it sees: `python examples/actions.py [ITERATIONS]`

A point robot crosses a table to a goal, around a round obstacle, by the left or by the right. The
expert takes either side, so that the mean of its demonstrations leads into the obstacle. About four
minutes on one core. --out is the folder of the picture.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from matplotlib import pyplot
from side_by_side import side_by_side

import fewstep as fs

MOVES, DRAWS, NEAR = 16, 20, 0.05  # actions of a chunk, chunks for each scene, "at the goal"
OPTIONS = {"width": 256, "depth": 3, "features_at": "both"}
NETWORK = {"network": "mlp", "network_options": OPTIONS, "batch": 256, "lr": 1e-3}


def scenes(n: int, source: torch.Generator) -> torch.Tensor:
    """What the robot sees [N, 5]: its y, the goal's, the obstacle's x, y and radius."""
    low, high = torch.tensor([[-0.5, -0.5, -0.3, -0.2, 0.2], [0.5, 0.5, 0.3, 0.2, 0.4]])
    return low + (high - low) * torch.rand(n, 5, generator=source)


def ends(scene: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the robot is and where it goes, [N, 2] each."""
    places = ((-1, scene[:, 0]), (1, scene[:, 1]))
    return tuple(torch.stack([0 * y + side, y], 1) for side, y in places)


def expert(scene: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """Actions [N, 2, 16], the way from one moment to the next: by the shorter side more often."""
    (x, y, radius), (start, end) = scene[:, 2:].T, ends(scene)
    along = (end - start) / (end - start).norm(dim=1, keepdim=True)
    aside = torch.stack([-along[:, 1], along[:, 0]], 1)  # to the left
    middle = torch.stack([x, y], 1)
    offset = ((middle - start) * aside).sum(1)  # of the obstacle from the straight way
    left = torch.rand(len(scene), generator=source) < torch.sigmoid(-5 * offset)
    margin = radius + 0.1 + 0.1 * torch.rand(len(scene), generator=source)
    by = middle + aside * (torch.where(left, 1, -1) * margin)[:, None]
    u = ((x + 1) / 2)[:, None]  # the share of the way at which it is beside the obstacle
    bend = (by - (1 - u) ** 2 * start - u**2 * end) / (2 * u * (1 - u))
    moment = torch.linspace(0, 1, MOVES + 1)
    v = (0.5 * moment + 0.5 * moment**2 * (3 - 2 * moment))[:, None, None]  # slow at both ends
    path = (1 - v) ** 2 * start + 2 * v * (1 - v) * bend + v**2 * end
    actions = path.diff(dim=0).permute(1, 2, 0)
    return actions + 0.003 * torch.randn(actions.shape, generator=source)


def follow(scene: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The simulator: positions [N, 2, 65], whether all went well, and whether by the left."""
    start, goal = ends(scene)
    small = (actions / 4).repeat_interleave(4, 2)  # places between the moves
    path = start[:, :, None] + torch.cat([0 * small[:, :, :1], small.cumsum(2)], 2)
    away = path - scene[:, 2:4, None]
    free = (away.norm(dim=1) > scene[:, 4:]).all(1)
    aside, way = away[torch.arange(len(path)), :, away.norm(dim=1).argmin(1)], goal - start
    left = way[:, 0] * aside[:, 1] - way[:, 1] * aside[:, 0] > 0
    return path, free & ((path[:, :, -1] - goal).norm(dim=1) < NEAR), left


def demonstrations(n: int, source: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes and chunks of the expert; those that fail are not kept."""
    scene = scenes(2 * n, source)
    actions = expert(scene, source)
    fine = follow(scene, actions)[1]
    return scene[fine][:n], actions[fine][:n]


def draw_ways(file: Path, many: torch.Tensor, chunks: dict) -> None:
    """The ways in three scenes: a column for each of the demonstrations and models."""
    figure, panels = pyplot.subplots(3, len(chunks), figsize=(11, 4.6), layout="constrained")
    for column, (name, actions) in zip(panels.T, chunks.items(), strict=True):
        column[0].set_title(name)
        ways, well, _ = follow(many, actions)
        for k, panel in enumerate(column):
            rows = slice(DRAWS * k, DRAWS * (k + 1))
            own, goal, x, y, radius = many[DRAWS * k].tolist()
            panel.add_patch(pyplot.Circle((x, y), radius, color="0.8"))
            for way, fine in zip(ways[rows], well[rows], strict=True):
                panel.plot(*way, color="#2471a3" if fine else "#c0392b", lw=0.7)
            panel.scatter([-1, 1], [own, goal], color="black", s=8, zorder=3)
            panel.set(xlim=(-1.1, 1.1), ylim=(-0.9, 0.9), aspect="equal", xticks=[], yticks=[])
    figure.savefig(file, dpi=90)
    pyplot.close(figure)


def main(iterations=2000, seed=0, out=".", rows=20000, held_out=300, **settings):
    source = torch.Generator().manual_seed(seed)
    scene, actions = demonstrations(rows, source)
    data = {"x0": actions, "cond": scene}
    settings = {**NETWORK, "iterations": iterations, "seed": seed, **settings}
    teacher = fs.train(fs.recipes.auto(method="diffusion", **settings), data)
    student = fs.train(fs.recipes.auto(method="lmd", **settings), data, teacher=teacher)
    new, truth = demonstrations(held_out, source)
    many = new.repeat_interleave(DRAWS, 0)

    def judge(chunks: torch.Tensor) -> dict[str, str]:
        _, well, left = (part.unflatten(0, (-1, DRAWS)) for part in follow(many, chunks))
        both = (well & left).any(1) & (well & ~left).any(1)
        score = fs.metrics.energy_score(chunks.unflatten(0, (-1, DRAWS)), truth)
        shares = well.float().mean(1)
        return {
            "at the goal": f"{shares.mean():.1%} ± {shares.std() / len(shares) ** 0.5:.1%}",
            "both sides": f"{both.float().mean():.1%}",
            "energy score": f"{score.mean():.4f}",
        }

    def draw(model: fs.Generator, steps: int, scene: torch.Tensor = many) -> torch.Tensor:
        return model.sample(len(scene), steps=steps, cond=scene)

    one = partial(draw, scene=new[:1])
    samples = side_by_side(teacher, student, draw, judge, expert(many, source), one)
    views = {f"{steps} evaluation{'s' * (steps > 1)}": x for steps, x in samples.items()}
    views = {"demonstrations": expert(many, source), **views}
    draw_ways(Path(out) / "actions.png", many, views)
    return many, samples


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("iterations", type=int, nargs="?", default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=".", help="folder of the picture")
    main(**vars(parser.parse_args()))
