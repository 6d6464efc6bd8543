"""A table from a file, and more rows like it: `python examples/table.py [ITERATIONS]`

Age, income, children, region and work of people. Numbers and categories go together: who is old is
retired, has children and less income.
"""

import csv
import tempfile
from pathlib import Path

import torch
from side_by_side import iterations, side_by_side

import fewstep as fs

REGIONS, WORK = ("north", "south", "west"), ("employed", "own firm", "retired")
NUMBERS = 3  # the first columns


def write_people(path: Path, n: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)

    def unit() -> torch.Tensor:
        return torch.rand(n, generator=source)

    age = (18 + 72 * (0.5 * unit() + 0.5 * unit())).floor()  # a triangle of 18 .. 89 years
    pension, own = unit() < torch.sigmoid((age - 66) / 2), unit() < 0.15
    work = torch.where(pension, 2, own.long())
    region = (unit() * 4).long().clamp(max=2)  # the west has half of the people
    noise = torch.randn(n, generator=source) * torch.tensor([0.4, 0.9, 0.3])[work]
    level = 10 + 0.01 * (age - 40) + torch.tensor([0.3, 0.4, -0.5])[work] + 0.2 * (region == 1)
    children = torch.poisson(((age - 18) / 25).clamp(max=1.4), source)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["age", "income", "children", "region", "work"])
        for row in zip(age, (level + noise).exp(), children, region, work, strict=True):
            years, income, count, place, kind = (each.item() for each in row)
            place, kind = REGIONS[int(place)], WORK[int(kind)]
            table.writerow([int(years), round(income, 2), int(count), place, kind])


def apart(x: torch.Tensor, y: torch.Tensor) -> float:
    """Kolmogorov's distance of two laws of a number, by samples."""
    grid = torch.cat([x, y]).sort().values
    shares = [
        torch.searchsorted(each.sort().values, grid, right=True) / len(each) for each in (x, y)
    ]
    return float((shares[0] - shares[1]).abs().max())


def whole(x: torch.Tensor) -> torch.Tensor:
    """The rows as a file has them: whole numbers, and of a category the largest number counts."""
    kinds = [torch.eye(3)[part.argmax(1)] for part in x[:, NUMBERS:].split(3, 1)]
    return torch.cat([x[:, :NUMBERS].round(), *kinds], 1)


def judge(real: torch.Tensor, ours: torch.Tensor) -> dict[str, str]:
    """The worst of the numbers, of the categories' shares, and of all pairs of columns."""
    pairs = list(zip(real.T, ours.T, strict=True))  # a category is a column for each of its texts
    number = max(apart(x, y) for x, y in pairs[:NUMBERS])
    share = max(float((x.mean() - y.mean()).abs()) for x, y in pairs[NUMBERS:])
    together = float((torch.corrcoef(real.T) - torch.corrcoef(ours.T)).abs().max())
    names = ("Kolmogorov distance", "share off by", "correlation off by")
    return {k: f"{value:.3f}" for k, value in zip(names, (number, share, together), strict=True)}


def main(rows: int = 5000, draws: int = 20000, **settings):
    with tempfile.TemporaryDirectory() as name:
        people, others, more, samples = (Path(name, f"{k}.csv") for k in "abcd")
        write_people(people, rows, seed=0)
        write_people(others, draws, seed=1)
        write_people(more, draws, seed=2)
        teacher = fs.train(fs.recipes.auto(method="diffusion", data=people, **settings))
        student = fs.train(fs.recipes.auto(data=people, **settings))
        real, again = (whole(torch.as_tensor(fs.data.read(path)["x0"])) for path in (others, more))

        def draw(model: fs.Generator, steps: int) -> torch.Tensor:
            return model.sample(draws, steps=steps)

        samples_of = side_by_side(teacher, student, draw, lambda x: judge(real, whole(x)), again)
        student.write(samples, samples_of[2][:5])
        print("", *samples.read_text().splitlines(), sep="\n")
    return real, whole(samples_of[2])


if __name__ == "__main__":
    main(iterations=iterations(__doc__))
