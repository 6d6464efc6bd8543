"""What users of tabular, medical, climate and picture tools have run into, one kind after another.

docs/log.md lists the situations with their sources.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import fewstep as fs
from fewstep.cli import main
from tests.support.users import SHORT, everything, refusal, small_run

pyarrow = pytest.importorskip("pyarrow", reason="the tables extra is not installed")
from pyarrow import parquet  # noqa: E402

N = 60
RANDOM = np.random.default_rng(0)
ROWS = [(20 + RANDOM.normal(), 1000 + RANDOM.normal()) for _ in range(N)]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, lines, encoding="utf-8"):
    with open(name, "w", encoding=encoding) as file:
        file.write("\n".join([*lines, ""]))
    return name


def columns(name):
    """The columns that are samples, and the mean of each."""
    dataset = fs.data.load(name)
    return [column.name for column in dataset.names.columns], everything(dataset).mean(0)


def comma(line):
    return line.replace(".", ",")


TABLES = {
    "semicolons and decimal commas": ("t;p", lambda t, p: comma(f"{t};{p}"), "t"),
    "tabs and decimal commas": ("t\tp", lambda t, p: comma(f"{t}\t{p}"), "t"),
    "a comma in a quoted name": ('"t, K";p', lambda t, p: f"{t};{p}", "t, K"),
    "a comma in a bare name": ("t, K;p", lambda t, p: f"{t};{p}", "t, K"),
    "bars": ("t|p", lambda t, p: f"{t}|{p}", "t"),
    "spaces after commas": ("t, p", lambda t, p: f"{t}, {p}", "t"),
    "a line break in a name": ('"t\n(K)",p', lambda t, p: f"{t},{p}", "t (K)"),
    "one comma more": ("t,p,", lambda t, p: f"{t},{p},", "t"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_spreadsheets_of_any_country_are_the_same_numbers(kind):
    header, line, name = TABLES[kind]
    write("t.csv", [header, *(line(round(t, 3), round(p, 3)) for t, p in ROWS)])
    names, mean = columns("t.csv")
    assert names == [name, "p"]
    np.testing.assert_allclose(mean, np.mean(ROWS, 0), atol=1e-3)


def test_a_quoted_break_in_a_cell_is_text_and_no_row():
    write("t.csv", ["t,note", *(f'{t},"one\ntwo; {place}"' for place, (t, _) in enumerate(ROWS))])
    dataset = fs.data.load("t.csv")
    assert len(dataset.order) == N
    assert "note: text" in dataset.left_out[0]


@pytest.mark.parametrize(
    ("cell", "count"), [("?", 1), ("-", 1), ("n.a.", 1), ("1,234.5", N), ("5 %", N), ("1 234", N)]
)
def test_a_column_of_numbers_is_not_dropped_for_a_cell_that_is_none(cell, count, capsys):
    lines = [f'"{cell if place < count else t}",{p}' for place, (t, p) in enumerate(ROWS)]
    write("t.csv", ["t,p", *lines])
    line = refusal(capsys, "train", "toy", "--data", "t.csv", *SHORT)
    assert f"column t holds {cell!r} ({count} of {N} cells)" in line
    line = refusal(capsys, "scan", "t.csv", "--condition-columns", "t")
    assert f"column t holds {cell!r}" in line
    assert main(["scan", "t.csv", "--columns", "p"]) == 0  # who says so leaves it out


def test_texts_with_digits_are_texts():
    lines = [f"{t},R{place},2020.01.{place % 28 + 1:02}" for place, (t, _) in enumerate(ROWS)]
    write("t.csv", ["t,room,day", *lines])
    assert columns("t.csv")[0] == ["t"]


def test_what_is_wrong_with_a_csv_names_its_first_line(capsys):
    body = [f"{t},{p}" for t, p in ROWS]
    for lines in (
        ["# station 4", "t,p", *body],
        ["sep=;", "t,p", *body],
        ["t,p", *body, "# end"],
        ["t,p", *body, "1,2,3"],
    ):
        line = refusal(capsys, "scan", write("t.csv", lines))
        assert f"the names of the columns in the first line, which is {lines[0]!r}" in line
    assert "no rows" in refusal(capsys, "scan", write("t.csv", ["t,p"]))
    long = "x" * 5000
    assert "at most 1000 characters" in refusal(capsys, "scan", write("t.csv", [long, "1", "2"]))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-16-le"])
def test_a_text_in_another_encoding_is_refused(encoding, capsys):
    write("t.csv", ["température,p", *(f"{t},{p}" for t, p in ROWS)], encoding)
    assert "no text in UTF-8: save it as CSV in UTF-8" in refusal(capsys, "scan", "t.csv")
    write("t.csv", ["t,p", *(f"{t},{p}" for t, p in ROWS)], "utf-8-sig")
    assert columns("t.csv")[0] == ["t", "p"]


def test_ids_that_floats_would_merge_are_refused(capsys):
    ids = 1234567824702058496 + np.arange(N)
    parquet.write_table(pyarrow.table({"id": ids, "v": RANDOM.normal(size=N)}), "t.parquet")
    assert "row 1 is 1234567824702058497, which no float" in refusal(capsys, "scan", "t.parquet")
    np.save("t.npy", np.stack([ids, ids[::-1]], 1))
    assert "data holds 1234567824702058555" in refusal(capsys, "scan", "t.npy")
    dataset = fs.data.load("t.parquet", columns=("v",), label_column="id")
    assert dataset.classes == N
    parquet.write_table(pyarrow.table({"id": ids - ids[0], "v": ids * 1.0}), "t.parquet")
    assert main(["scan", "t.parquet"]) == 0


def test_times_are_told_their_way(capsys):
    days = np.datetime64("2020-01-01", "ns") + np.arange(N) * np.timedelta64(1, "D")
    parquet.write_table(pyarrow.table({"day": days, "v": RANDOM.normal(size=N)}), "t.parquet")
    line = refusal(capsys, "scan", "t.parquet", "--columns", "day")
    assert "day holds values of type timestamp[ns]: expected numbers: give them as numbers" in line


def test_a_null_in_a_row_of_arrays_is_named(capsys):
    rows = [[1.0, 2.0]] * 5 + [[1.0, None]] + [[3.0, 2.0]] * 20
    parquet.write_table(pyarrow.table({"x": rows}), "t.parquet")
    assert "column x: row 5 holds null" in refusal(capsys, "scan", "t.parquet")


def test_labels_of_any_type_are_the_same_labels(capsys):
    x, labels = RANDOM.normal(size=(N, 2)), np.array([0, 5, 9] * (N // 3))
    for kind in "uint8", "uint16", "uint32", "uint64", "int16", "float32":
        np.savez("t.npz", x=x, y=labels.astype(kind))
        assert fs.data.load("t.npz").names.occurring == (0, 5, 9)
    save_file({"x": torch.from_numpy(x), "y": torch.from_numpy(labels)}, "t.safetensors")
    dataset = fs.data.load("t.safetensors")
    assert (dataset.classes, dataset.names.occurring, dataset.names.classes) == (10, (0, 5, 9), ())
    np.savez("t.npz", x=x, y=labels - 5)
    assert "has label -5: expected integers from 0" in refusal(capsys, "scan", "t.npz")
    np.savez("t.npz", x=x, y=np.where(labels == 5, "", "a"))
    assert "y: row 1 is empty" in refusal(capsys, "scan", "t.npz")


def test_words_for_missing_values_are_suspicious_classes(capsys):
    for words, options in (
        (["a", "b", "NA"], []),
        (["a", "null"], ["--condition-columns", "label"]),
    ):
        rows = [f"{t},{words[place % len(words)]}" for place, (t, _) in enumerate(ROWS)]
        write("t.csv", ["t,label", *rows])
        assert main(["scan", "t.csv", *options]) == 0
        mark = f"looks wrong: {words[-1]} among the classes: a missing value?"
        assert mark in capsys.readouterr().out
    assert main(["scan", "t.csv", *options, "--strict"]) == 2


def test_conditions_far_outside_of_the_data_are_named(caplog):
    known = np.stack([np.linspace(0, 10, N), np.full(N, 7.0)], 1)
    generator = fs.train(
        small_run(iterations=4),
        {"x0": RANDOM.normal(size=(N, 2)), "cond": known},
        progress=False,
        device="cpu",
    )
    caplog.clear()
    generator.sample(2, cond=torch.tensor([[0.0, 7.0], [12.0, 7.0]]))
    assert not caplog.messages
    generator.sample(2, cond=torch.tensor([[0.0, 0.0], [40.0, 7.0]]))
    assert [line.split(":")[1] for line in caplog.messages] == [
        " condition 0 = 40",
        " condition 1 = 0",
    ]


def test_samples_along_another_axis_than_time_are_said(caplog):
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset("t.nc", "w") as file:
        for axis, size in (("member", 3), ("time", None), ("lat", 4)):
            file.createDimension(axis, size)
        for name, axes in (("right", ("time", "lat")), ("wrong", ("member", "time", "lat"))):
            values = RANDOM.normal(size=[{"member": 3, "time": N, "lat": 4}[a] for a in axes])
            file.createVariable(name, "f4", axes)[:] = values
    fs.data.load("t.nc:right")
    assert not caplog.messages
    fs.data.load("t.nc:wrong")
    assert "each of 3 member is a sample: if a time should be one" in caplog.text


def test_arrays_of_other_libraries_are_numbers_or_told_why():
    run = small_run(iterations=4)
    x = RANDOM.normal(size=(N, 2)).astype(np.float32).astype(np.float64)
    plain = fs.train(run, x, progress=False, device="cpu").fingerprint
    for same in (x.astype(np.longdouble), torch.from_numpy(x).to_sparse(), x.tolist()):
        assert fs.train(run, same, progress=False, device="cpu").fingerprint == plain
    with pytest.raises(fs.errors.UserError, match="expected sequence of length 2"):
        fs.train(run, [[1.0, 2.0], [3.0]], progress=False, device="cpu")
    with pytest.raises(fs.errors.UserError, match="expected whole numbers below 2"):
        fs.train(run, np.full((N, 2), 2**63, np.uint64), progress=False, device="cpu")


def test_commands_that_are_printed_can_be_run(capsys):
    np.save("my data.npy", RANDOM.normal(size=(N, 2)))
    assert main(["train", "toy", "--data", "my data.npy", "--out", "my run ü", *SHORT]) == 0
    assert "next: fewstep sample 'my run ü'   fewstep eval 'my run ü'" in capsys.readouterr().out


def test_where_nothing_is_held_out_no_score_is_proposed(capsys):
    np.save("t.npy", RANDOM.normal(size=(N, 2)))
    np.save("new.npy", np.load("t.npy")[::-1])
    words = ["train", "toy", "--data", "t.npy", "--holdout", "0", "--out", "run", *SHORT]
    assert main(words) == 0
    assert "next: fewstep sample run\n" in capsys.readouterr().out
    asked = ["eval", "run", "--steps", "1", "--n", "40", "--metrics", "energy"]
    for more in ([], ["--data", "t.npy"]):
        assert "none are left to compare with" in refusal(capsys, *asked, *more)
    assert "is not what this run was trained on" in refusal(capsys, *asked, "--data", "new.npy")


def test_auto_says_which_data_it_takes_where_none_are_named(capsys, monkeypatch):
    monkeypatch.setattr("fewstep.cli.train.start", lambda *a, **b: 0)
    np.save("t.npy", RANDOM.normal(size=(N, 2)))
    line = "no --data: the digits that come with the package\n"
    for words, said in (([], line), (["--quiet"], ""), (["--data", "t.npy"], "")):
        assert main(["train", "auto", *words]) == 0
        assert capsys.readouterr().out == said


def test_a_run_whose_data_changed_says_what_to_do(capsys):
    words = ["train", "toy", "--data", "t.npy", "--out", "run", *SHORT]
    np.save("t.npy", RANDOM.normal(size=(N, 2)))
    assert main(words) == 0
    np.save("t.npy", RANDOM.normal(size=(N, 2)))
    assert "bring the old data back, or start" in refusal(capsys, *words, "--resume")


def test_pictures_with_channels_last_are_suspicious(capsys):
    np.save("t.npy", RANDOM.normal(size=(N, 16, 16, 3)))
    assert main(["scan", "t.npy"]) == 0
    assert "16x16x3 looks like pictures whose channels come last" in capsys.readouterr().out
    assert main(["scan", "t.npy", "--strict", "--channel-axis", "-1"]) == 0


def test_frames_beyond_the_first_are_said_to_be_left_out():
    (folder := Path("stacks")).mkdir()
    pages = [Image.fromarray(RANDOM.integers(0, 255, (8, 8), dtype=np.uint8)) for _ in range(3)]
    for place in range(20):
        kind = ("tif", "gif", "webp", "png")[place % 4]
        pages[0].save(folder / f"{place}.{kind}", save_all=place != 0, append_images=pages[1:])
    dataset = fs.data.load("stacks")
    assert dataset.left_out == ("all frames but the first of 19 pictures: give them as .npy",)


def test_a_constant_condition_is_suspicious(capsys):
    write("t.csv", ["v,c,d", *(f"{v},7,{d}" for v, d in ROWS)])
    assert main(["scan", "t.csv", "--condition-columns", "c,d"]) == 0
    assert "of which nothing can be learned: c (7)" in capsys.readouterr().out


def test_a_code_with_a_leading_zero_is_its_class():
    codes = ["0311", "0712"] * N
    write("t.csv", ["v,code", *(f"{v},{codes[place]}" for place, (v, _) in enumerate(ROWS))])
    words = ["train", "toy", "--data", "t.csv", "--label-column", "code", "--out", "run", *SHORT]
    assert main(words) == 0
    for name in ("0712", "712"):
        assert main(["sample", "run", "--label", name, "--n", "1", "--out", f"{name}.csv"]) == 0
        assert Path(f"{name}.csv").read_text().split()[1].endswith(',"712"')


def test_a_table_without_a_column_of_the_runs_conditions_is_told(capsys):
    write("t.csv", ["v,c", *(f"{v},{d}" for v, d in ROWS)])
    words = ["train", "toy", "--data", "t.csv", "--condition-columns", "c", "--out", "run", *SHORT]
    assert main(words) == 0
    write("ask.csv", ["C", "1", "2"])
    line = refusal(capsys, "sample", "run", "--cond", "ask.csv", "--n", "2", "--out", "s.csv")
    assert "ask.csv has no column c, which the run is conditioned on: it has C" in line


def test_samples_of_diverged_weights_are_no_samples(capsys, caplog):
    np.save("t.npy", RANDOM.normal(size=(N, 2)))
    generator = fs.train(
        small_run(iterations=4),
        np.load("t.npy"),
        progress=False,
        device="cpu",
    )
    with torch.no_grad():
        for weight in generator.denoiser.parameters():
            weight.fill_(torch.inf)
    assert not torch.isfinite(generator.sample(3)).any()
    assert "samples are not finite: the weights have diverged" in caplog.text
    generator.save("bad")
    capsys.readouterr()
    assert main(["sample", "bad", "--n", "3", "--out", "s.npy"]) == 3
    assert "3 of 3 samples are not finite, and none were written" in capsys.readouterr().err
    assert not Path("s.npy").exists()


def test_a_column_that_numbers_the_rows_is_suspicious(capsys):
    for first in (0, 1, 20_000_001):
        order = RANDOM.permutation(N) + first
        write("t.csv", ["id,v", *(f"{order[place]},{v}" for place, (v, _) in enumerate(ROWS))])
        assert main(["scan", "t.csv"]) == 0
        mark = f"looks wrong: id numbers the rows, {first}..{first + N - 1}: an index?"
        assert mark in capsys.readouterr().out
    write("t.csv", ["age,v", *(f"{place % 50},{v}" for place, (v, _) in enumerate(ROWS))])
    assert main(["scan", "t.csv", "--strict"]) == 0


def test_conditions_in_python_are_told_their_way():
    run = small_run(iterations=4)
    for cond, message in (
        (["a", "b"] * (N // 2), "texts become 0, 1, 2, ..."),
        ([True, False] * (N // 2), "such as 1 \\* cond"),
        (np.arange(N).astype("datetime64[D]"), "times become days by"),
    ):
        data = {"x0": RANDOM.normal(size=(N, 2)), "cond": cond}
        with pytest.raises(fs.errors.UserError, match=message):
            fs.train(run, data, progress=False, device="cpu")


def test_numbers_written_as_text_are_called_so():
    texts = {"v": [str(v) for v, _ in ROWS], "code": [f"0{v:.3f}" for v, _ in ROWS]}
    parquet.write_table(pyarrow.table({"w": RANDOM.normal(size=N), **texts}), "t.parquet")
    numbers, code = fs.data.load("t.parquet").left_out
    assert numbers.startswith("column v: numbers written as text; ")
    assert code.startswith("column code: text; ")
