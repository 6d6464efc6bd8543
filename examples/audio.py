"""Plucked strings, a note for each label: `python examples/audio.py [ITERATIONS]`

A string's end returns what runs along it, a little weaker and softer: Karplus and Strong's sound.
The pluck is random, its place and its damping too; the label is one of eight notes of a scale.
"""

import argparse
import wave
from pathlib import Path

import torch

import fewstep as fs

RATE, LENGTH = 4000, 512  # samples of a second, and of a sound: an eighth of one
PERIODS = (30, 27, 24, 22, 20, 18, 16, 15)  # samples of a period: a scale from C3, about


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
