"""fewstep reference: statistics of a data set's features, which eval compares with."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import fewstep as fs
from fewstep import data
from fewstep.analysis.metrics import moments, open_extractor, read_statistics
from fewstep.cli import main
from tests.analysis.test_metrics_extractors import export
from tests.data.test_stored import pictures, zip_of
from tests.support.toys import tiny_run


@pytest.fixture
def extractor(tmp_path):
    layer = torch.nn.Linear(64, 5).requires_grad_(False)
    export(layer, tmp_path / "tiny.onnx", ("n", 1, 8, 8))
    return str(tmp_path / "tiny.onnx")


def same(one, other):
    torch.testing.assert_close(one.mean, other.mean, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(one.cov, other.cov, rtol=1e-5, atol=1e-9)
    assert (one.n, one.extractor) == (other.n, other.extractor)


@pytest.mark.parametrize("flips", [False, True])
def test_all_pictures_count_in_memory_or_in_a_file(tmp_path, capsys, extractor, flips):
    path = zip_of(tmp_path / "x.zip", pictures(60, side=8, colour=False))
    own = open_extractor(extractor)
    x = data.load(path, holdout=0.0).train.x0
    x = torch.cat([x, x.flip(3)]) if flips else x
    truth = moments(own.features(x), own.sha256)
    for number, more in enumerate(([], ["--cache", str(tmp_path / "cache")])):
        out = tmp_path / f"{number}.npz"
        words = ["reference", str(path), str(out), "--extractor", extractor, "--quiet", *more]
        assert main([*words, *(["--flips"] if flips else [])]) == 0
        same(read_statistics(out), truth)
    assert not capsys.readouterr().out


def test_a_run_that_learned_all_pictures_is_scored_by_them(tmp_path, capsys, extractor):
    path = zip_of(tmp_path / "x.zip", pictures(60, side=8, colour=False))
    out = tmp_path / "x.npz"
    assert main(["reference", str(path), str(out), "--extractor", extractor, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["n"], facts["features"]) == (60, 5)
    run = replace(tiny_run(), data=str(path), holdout=0.0)
    fs.train(run, out=tmp_path / "run", progress=False)
    words = ["eval", str(tmp_path / "run"), "--n", "40", "--steps", "1", "--json", "--extractor"]
    assert main([*words, extractor, "--reference", str(out)]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["protocol"]["n"] == 40
    assert result["floor"] is None
    assert result["protocol"]["n_reference"] == 60
    assert main([*words, extractor]) == 2
    assert "the run learned all 60 rows" in capsys.readouterr().err


def test_what_is_no_picture_has_no_mirror_image(tmp_path, capsys, extractor):
    words = ["reference", "ring8", str(tmp_path / "x.npz"), "--extractor", extractor, "--flips"]
    assert main(words) == 2
    assert "flips = True: expected pictures, since ring8 holds" in capsys.readouterr().err


def test_a_name_that_is_no_npz_is_one_line(tmp_path, capsys, extractor):
    assert main(["reference", "digits", "x.npy", "--extractor", extractor]) == 2
    assert "x.npy: expected a name that ends in .npz" in capsys.readouterr().err
