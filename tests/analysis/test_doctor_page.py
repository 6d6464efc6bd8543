"""The doctor's page shows samples as the kind of data they are, beside rows of the data."""

from __future__ import annotations

import base64
import html
import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

import fewstep as fs
from fewstep.analysis.doctor import Examination, Subject, output
from fewstep.base.data_names import OWN_DATA
from fewstep.cli import main
from fewstep.data import Arrays, Dataset, Units
from fewstep.run.facts import Facts
from fewstep.run.teacher_ode import Closed


def normal(n: int, *shape: int) -> Tensor:
    return 0.5 * torch.randn(n, *shape, generator=torch.Generator().manual_seed(n))


def subject_of(generator: fs.Generator, held_out: int, cond: Tensor | None = None) -> Subject:
    """A run with so many held-out rows of 40, as it is examined."""
    shape, facts = generator.facts.shape, generator.facts
    rows = Arrays(normal(40, *shape), cond)
    parts = [rows.rows(part) for part in torch.arange(40).split([40 - held_out, held_out])]
    empty = rows.rows(torch.arange(0))
    dataset = Dataset("rows", *parts, empty, facts.classes, facts.units)
    about = generator.run, facts, generator.method
    return Subject("a run", *about, 1, 0, 1.0, dataset, ema=generator.denoiser, seed=3)


def normal_run(*shape: int) -> fs.Generator:
    """The denoiser of a normal law as a consistency model."""
    facts = Facts(shape, 0, 0.5, Units(), "")
    truth = Closed(fs.exact.Gaussian(mean=torch.zeros(shape), std=0.5), "normal")
    return fs.Generator(fs.recipes.toy(data="tensor"), facts, fs.methods.ect(), truth, 0)


def caption_of(subject: Subject, folder: Path) -> str:
    """The words below the picture on the page, which is the PNG beside it."""
    page = output.write_page(Examination("a run", "", ()), folder, subject).read_text()
    (image,) = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert base64.b64decode(image) == (folder / "samples.png").read_bytes()
    (caption,) = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.S)
    return html.unescape(caption)


def test_of_a_series_samples_in_one_and_two_steps_are_beside_held_out_data(tmp_path):
    caption = caption_of(subject_of(normal_run(2, 24), held_out=20), tmp_path)
    assert "1 step: 8 of 16; 2 steps: 8 of 16; held-out data: 8 of 20" in caption


def test_of_a_set_too_and_without_held_out_rows_it_says_so(tmp_path):
    caption = caption_of(subject_of(normal_run(20, 2), held_out=0), tmp_path)
    assert "1 step: all 10; 2 steps: all 10; training data (none are held out): 10 of" in caption
    assert "in the corners: points of the set" in caption


def test_of_digits_a_row_of_tiles_for_each(tmp_path):
    subject = subject_of(fs.load("digits", device="cpu"), 15, torch.arange(40) % 10)
    caption = caption_of(subject, tmp_path)
    assert "1 step: 12 of 15; 2 steps: 12 of 15; held-out data: 12 of 15" in caption


class Diverged(nn.Module):
    """Answers that are no numbers from the second step on."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_t, t, cond=None):
        return self.net(x_t, t, cond).masked_fill(torch.as_tensor(t).max() < 70, torch.nan)


def test_samples_that_cannot_be_drawn_are_told(tmp_path):
    subject = subject_of(normal_run(2), held_out=20)
    caption = caption_of(replace(subject, ema=Diverged(subject.ema)), tmp_path)
    assert "1 step: all 20; held-out data" in caption
    assert "2 steps: not drawn, samples hold NaN or infinity" in caption


def test_the_page_of_a_teacher_says_that_none_are_drawn(tmp_path):
    page = output.write_page(Examination("a teacher", "", ()), tmp_path).read_text()
    assert "Not drawn: a teacher is examined by its answers" in page
    assert "<img" not in page


def test_without_the_data_there_is_one_line_and_no_page(tmp_path, capsys):
    digits = fs.load("digits", device="cpu")
    replace(digits, run=replace(digits.run, data=OWN_DATA)).save(tmp_path / "run")
    assert main(["doctor", str(tmp_path / "run"), "--out", str(tmp_path / "page")]) == 2
    assert "stored nowhere: --data PATH names" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()
