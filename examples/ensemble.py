"""An ensemble of series for conditions never seen: `python examples/ensemble.py [ITERATIONS]`

Three sensors record a damped oscillation, whose start is not known and whose noise has a memory.
What is known are four parameters, and they are the condition. ensemble.png shows one.
"""

import torch
from side_by_side import iterations, side_by_side

import fewstep as fs

MEMBERS = 40
LOW = torch.tensor(
    [1.0, 0.5, 1.0, 0.05]
)  # amplitude [mm], damping [1/s], frequency [Hz], noise [mm]
HIGH = torch.tensor([3.0, 3.0, 3.0, 0.3])


def parameters(n: int, source: torch.Generator) -> torch.Tensor:
    return LOW + (HIGH - LOW) * torch.rand(n, 4, generator=source)


def record(theta: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """[N, 3, 64] of a second, in mm: the sensors are a third of a turn apart."""
    amplitude, damping, frequency, noise = theta[:, :, None, None].unbind(1)
    time = torch.linspace(0, 1, 64)
    start = 0.5 * torch.randn(len(theta), 1, 1, generator=source)
    angle = 2 * torch.pi * (frequency * time + torch.arange(3)[:, None] / 3) + start
    errors = [torch.randn(len(theta), 3, generator=source)]
    for _ in time[1:]:  # correlated by 0.8 from one place to the next
        errors.append(0.8 * errors[-1] + 0.6 * torch.randn(len(theta), 3, generator=source))
    return amplitude * (-damping * time).exp() * angle.sin() + noise * torch.stack(errors, 2)


def main(rows: int = 2000, held_out: int = 200, **settings):
    source = torch.Generator().manual_seed(0)
    theta = parameters(rows, source)
    data = {"x0": record(theta, source), "cond": theta}
    teacher = fs.train(fs.recipes.auto(method="diffusion", **settings), data)
    student = fs.train(fs.recipes.auto(**settings), data)
    new = parameters(held_out, source)
    truth, cond = record(new, source), new.repeat_interleave(MEMBERS, 0)
    shape = (held_out, MEMBERS, 3, 64)
    perfect = record(cond, source)

    def draw(model: fs.Generator, steps: int) -> torch.Tensor:
        return model.sample(len(cond), steps=steps, cond=cond)

    def judge(samples: torch.Tensor) -> dict[str, str]:
        members = samples.reshape(shape)
        return {
            "CRPS [mm]": f"{fs.metrics.crps(members, truth).mean():.4f}",
            "in 80 % interval": f"{fs.metrics.coverage(members, truth, level=0.8).mean():.1%}",
            "spread / skill": f"{fs.metrics.spread_skill(members, truth).mean():.2f}",
        }

    samples = side_by_side(teacher, student, draw, judge, perfect)
    ensemble, perfect = samples[2].reshape(shape), perfect.reshape(shape)
    one = {"x0": truth[:1], "cond": new[:1]}
    student.write("ensemble.png", ensemble[0], cond=new[0], data=one)
    return new, truth, ensemble, perfect


if __name__ == "__main__":
    main(iterations=iterations(__doc__))
