"""A method of your own: MeanFlow (arXiv 2505.13447). `python examples/meanflow.py [ITERATIONS]`"""

import argparse

import torch

import fewstep as fs


class Ways:
    """t and a, the larger and the smaller of two draws; three of four rows are flow matching."""

    ends = 1  # the student is told one number more, the time that it leads to

    def __call__(self, u, progress, ordinal):
        t, a = u.sort(1, descending=True).values.unbind(1)
        is_flow = ordinal % 4 > 0
        return fs.Times(t, t, a.masked_fill(is_flow, 0), 1 + 0 * t, to=t.where(is_flow, a))

    def at(self, t, progress):
        return fs.Times(t, t, 0 * t, 1 + 0 * t, to=0 * t)


class MeanVelocity(fs.targets.Student):
    def goal(self, process, models, x_t, v, times, cond, run):
        """The x0_hat of the velocity v - (t - a) du/dt, u derived along v (eq. 11)."""
        drift, t = fs.tangents.Drift(models.student, process), times.t
        u = lambda x, t: run(drift, x, t, cond, times.to)  # noqa: E731
        _, slope = fs.derivatives.jvp(u, x_t, t, v, torch.ones_like(t))
        return process.guess_of(x_t, v - fs.process.expand(t - times.a, v) * slope, t)


def meanflow(*, p: float = 1.0, c: float = 1e-2) -> fs.Method:
    """||u - sg u_goal||^2 / (sg ||u - u_goal||^2 + c)^p (section 4.3)."""
    parts = {"coupling": fs.couplings.Velocity(), "target": MeanVelocity(), "sampler": "jumps"}
    loss = {"space": fs.spaces.Velocity(), "distance": fs.distances.sse}
    loss["balance"] = lambda loss, times, models: loss / (loss.detach() + c) ** p
    network = {"process": fs.process.linear(), "scaling": fs.scalings.Trig()}
    return fs.Method(times=Ways(), **parts, **loss, **network)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("iterations", type=int, nargs="?", default=1500)
    iterations = parser.parse_args().iterations
    generator = fs.train(fs.recipes.toy(iterations=iterations), method=meanflow)
    distance = fs.metrics.energy(generator.sample(2000), fs.data.load("ring8").test.x0)
    print(f"energy distance to the ring: {distance:.4f}")
