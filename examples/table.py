"""A table from a file, and more rows like it: `python examples/table.py [ITERATIONS]`

Age, income, children, region and work of people. Numbers and categories go together: who is old is
retired, has children and less income.
"""

import csv
import sys
import tempfile
from pathlib import Path

import torch

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


def main(rows: int = 5000, draws: int = 20000, **settings):
    with tempfile.TemporaryDirectory() as name:
        people, others, samples = (Path(name, f"{k}.csv") for k in ("people", "others", "samples"))
        write_people(people, rows, seed=0)
        write_people(others, draws, seed=1)
        generator = fs.train(fs.recipes.auto(data=people, **settings))
        generator.write(samples, generator.sample(draws, steps=2))
        real, ours = (torch.as_tensor(fs.data.read(path)["x0"]) for path in (others, samples))
        print("\n".join(samples.read_text().splitlines()[:6]))
    pairs = list(zip(real.T, ours.T, strict=True))  # a category is a column for each of its texts
    number = max(apart(x, y) for x, y in pairs[:NUMBERS])
    share = max(float((x.mean() - y.mean()).abs()) for x, y in pairs[NUMBERS:])
    together = float((torch.corrcoef(real.T) - torch.corrcoef(ours.T)).abs().max())
    print(
        f"Kolmogorov distance {number:.3f}, share off by {share:.3f}, correlation by {together:.3f}"
    )
    return real, ours


if __name__ == "__main__":
    main(iterations=int(sys.argv[1]) if len(sys.argv) > 1 else 0)
