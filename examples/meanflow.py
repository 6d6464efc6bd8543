"""A method from elsewhere: MeanFlow (arXiv 2505.13447). `python examples/meanflow.py [ITERATIONS]`

A student of two times: u(x_t, a, t) is the mean velocity on the way from t to a, D = x_t - t u. The
network gets a as a condition, "to"; without one the way leads to the data, a = 0.
"""

import sys

import torch

import fewstep as fs


def to(a, cond):
    """The data's condition, and the time that the student leads to."""
    return {"to": a, **(cond if isinstance(cond, dict) else {"label": cond})}


class TwoTimes(torch.nn.Module):
    def __init__(self, shape, classes=0, *, width: int = 128, depth: int = 2):
        super().__init__()
        self.inner = fs.networks.mlp(shape, classes, features=1, width=width, depth=depth)

    def forward(self, x, noise_label, cond=None):
        parts = to(torch.zeros_like(noise_label), cond)
        a = parts.pop("to").to(x)
        return self.inner(x, noise_label, {**parts, "features": a[:, None]})


class Ways(fs.times.Limit):
    """t >= a, two draws of the law; in three of four rows a = t (section 4.3)."""

    def __call__(self, u, progress, ordinal=None):
        t, a = self.law.quantile(u).sort(1, descending=True).values.unbind(1)
        i = torch.arange(len(u)) if ordinal is None else ordinal
        return fs.Times(t, t, torch.where(i % 4 == 0, a, t), torch.ones_like(t))


class Mean(fs.targets.Student):
    def goal(self, process, models, x_t, v, times, cond, run):
        """u = v - (t - a) du/dt, derived along the trajectory without gradient (eq. 11)."""
        drift, line = fs.tangents.Drift(models.student, process), (v, torch.ones_like(times.t))
        slope = torch.func.jvp(lambda x, t: run(drift, x, t, cond), (x_t, times.t), line)[1]
        u = v - fs.process.expand(times.t - times.a, v) * slope
        return x_t - fs.process.expand(times.t, v) * u


class MeanFlow(fs.Method):
    def loss(self, models, x0, z, times, cond=None, seed=None):
        return super().loss(models, x0, z, times, to(times.a, cond), seed)


def jump(process, denoiser, x, t, s, cond=None):
    """x_s = x_t - (t - s) u(x_t, s, t) (eq. 12)."""
    return process.jump(x, denoiser(x, t, to(fs.process.per_row(s, x), cond)), t, s)


def meanflow(*, p: float = 1.0, c: float = 1e-3) -> fs.Method:
    """||u - sg u_goal||^2 / (sg ||u - u_goal||^2 + c)^p (section 4.3)."""
    linear = fs.process.linear()
    law = fs.times.AtLevel(fs.times.LogNormal(mean=-0.4, std=1.0), linear)  # logit-normal
    return MeanFlow(
        times=Ways(law=law),
        process=linear,
        coupling=fs.couplings.Velocity(),
        target=Mean(),
        space=fs.spaces.Velocity(),
        distance=fs.distances.sse,
        balance=lambda loss, times, models: loss / (loss.detach() + c) ** p,
        scaling=fs.scalings.Flow(),
        sampler=fs.sampling.Sampler(step=jump, default=1),
    )


if __name__ == "__main__":
    iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    generator = fs.train(fs.recipes.toy(iterations=iterations), None, TwoTimes, method=meanflow)
    distance = fs.metrics.energy(generator.sample(2000), fs.data.load("ring8").test.x0)
    print(f"energy distance to the ring: {distance:.4f}")
