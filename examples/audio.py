"""Plucked strings, a note for each label: `python examples/audio.py [ITERATIONS]`

A string's end returns what runs along it, a little weaker and softer: Karplus and Strong's sound.
The pluck is random, its place and its damping too; the label is one of eight notes of a scale.
Four minutes on one core. --out is the folder of the picture and of the .wav files.
"""

import argparse
import wave
from pathlib import Path

import torch
from matplotlib import pyplot
from side_by_side import side_by_side

import fewstep as fs

RATE, LENGTH = 4000, 512  # samples of a second, and of a sound: an eighth of one
PERIODS = (30, 27, 24, 22, 20, 18, 16, 15)  # samples of a period: a scale from C3, about
OPTIONS = {"width": 64, "mult": (1, 1), "patch": 16}
NETWORK = {"network": "unet", "network_options": OPTIONS, "batch": 64, "lr": 2e-3}


def pluck(note: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """Waves [N, 1, 512] of the notes with those numbers [N]."""
    sounds = torch.zeros(len(note), 1, LENGTH)
    left = 0.995 - 0.03 * torch.rand(len(note), 1, generator=source)  # of the wave, each round
    place = 0.1 + 0.4 * torch.rand(len(note), 1, generator=source)  # where it is plucked
    for k, period in enumerate(PERIODS):
        rows = note == k
        at, by = torch.arange(period) / period, place[rows]
        line = torch.minimum(at / by, (1 - at) / (1 - by))  # a triangle, and the nail's noise
        line = line + 0.5 * torch.rand(line.shape, generator=source)
        rounds = [line - line.mean(1, keepdim=True)]
        for _ in range(LENGTH // period):
            rounds.append(left[rows] * (rounds[-1] + rounds[-1].roll(1, 1)) / 2)
        sounds[rows, 0] = torch.cat(rounds, 1)[:, :LENGTH]
    return sounds


def off(sounds: torch.Tensor, note: torch.Tensor) -> torch.Tensor:
    """The share [N] of the power that no string of that note, whatever its damping, explains."""
    shares = torch.zeros(len(note))
    for k, period in enumerate(PERIODS):
        x = sounds[note == k, 0, : LENGTH // period * period].unflatten(1, (-1, period))
        soft = (x + x.roll(1, 2))[:, :-1].flatten(1) / 2
        new = x[:, 1:].flatten(1)
        left = (soft * new).sum(1) / soft.square().sum(1)
        shares[note == k] = (new - left[:, None] * soft).square().sum(1) / new.square().sum(1)
    return shares


def hear(sounds: torch.Tensor) -> torch.Tensor:
    """The note [N] whose string explains most of each sound."""
    every = [off(sounds, torch.full((len(sounds),), k)) for k in range(len(PERIODS))]
    return torch.stack(every).argmin(0)


def write_wave(file: Path, sounds: torch.Tensor) -> None:
    """Sounds one after the other, as 16 bits."""
    values = (sounds.flatten().clamp(-1, 1) * 32767).short()
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, RATE, len(values), "NONE", ""))
        out.writeframes(values.numpy().tobytes())


def draw_sounds(file: Path, sounds: dict[str, torch.Tensor]) -> None:
    """The lowest and the highest note of each: wave above spectrogram."""
    figure, panels = pyplot.subplots(4, len(sounds), figsize=(11, 6), layout="constrained")
    moments = torch.arange(LENGTH) / RATE
    for column, (name, x) in zip(panels.T, sounds.items(), strict=True):
        column[0].set_title(name)
        for place, note in ((0, 0), (2, 7)):
            column[place].plot(moments, x[note, 0], lw=0.5, color="#2471a3")
            column[place].set(ylim=(-0.8, 0.8), xticks=[], ylabel=f"note {note + 1}")
            grid = {"NFFT": 128, "Fs": RATE, "noverlap": 112, "vmin": -110, "vmax": -30}
            column[place + 1].specgram(x[note, 0], **grid)
            column[place + 1].set(ylabel="Hz")
        column[3].set_xlabel("time [s]")
    for panel in panels.flat:
        panel.label_outer()
    figure.savefig(file, dpi=90)
    pyplot.close(figure)


def main(iterations=1000, seed=0, out=".", rows=8000, held_out=2000, **settings):
    source = torch.Generator().manual_seed(seed)
    sizes = (rows, held_out, held_out)
    note, request, other = (torch.randint(8, (n,), generator=source) for n in sizes)
    request[:8] = torch.arange(8)  # the scale, for the picture
    data = {"x0": pluck(note, source), "cond": note}
    truth, others = pluck(request, source), pluck(other, source)
    settings = {**NETWORK, "iterations": iterations, "seed": seed, **settings}
    teacher = fs.train(fs.recipes.auto(method="diffusion", **settings), data)
    student = fs.train(fs.recipes.auto(**settings), data, init=teacher)

    def draw(model: fs.Generator, steps: int) -> torch.Tensor:
        return model.sample(held_out, steps=steps, cond=request)

    def judge(sounds: torch.Tensor) -> dict[str, str]:
        parts = torch.tensor([fs.metrics.energy(x, others) for x in sounds.chunk(4)])
        return {
            "energy distance": f"{parts.mean():.4f} ± {parts.std() / 2:.4f}",
            "not a string": f"{off(sounds, request).mean():.2%}",
            "right note": f"{(hear(sounds) == request).float().mean():.1%}",
        }

    samples = side_by_side(teacher, student, draw, judge, truth)
    names = {steps: f"{steps} evaluation{'s' * (steps > 1)}" for steps in samples}
    views = {"data": truth, **{names[steps]: x for steps, x in samples.items()}}
    draw_sounds(Path(out) / "audio.png", views)
    for name, x in views.items():
        write_wave(Path(out) / f"{name.replace(' ', '-')}.wav", x[:8])
    return views


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("iterations", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=".", help="folder of the picture and the .wav files")
    main(**vars(parser.parse_args()))
