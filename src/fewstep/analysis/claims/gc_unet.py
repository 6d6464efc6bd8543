"""The convergence of iCT by coupling once more, by a U-Net on pictures: hours of a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from fewstep.analysis import report
from fewstep.analysis.claims.arms import HANZI, Arm, ideal
from fewstep.analysis.claims.claim import (
    COST,
    PICTURES,
    Claim,
    Results,
    Statement,
    column,
    excess,
    pm,
)
from fewstep.analysis.claims.gc import COMPARED, ICT, gain, last_distance, least_lead, updates_saved
from fewstep.analysis.claims.plots import as_figure, by_step, line
from fewstep.analysis.claims.snapshots import look_pictures
from fewstep.analysis.report import Figure
from fewstep.core.denoiser import Denoiser
from fewstep.core.process import Process

UPDATES: int = HANZI["iterations"]
MARKS = tuple(range(UPDATES // 10, UPDATES + 1, UPDATES // 10))


def look(folder: Path, denoiser: Denoiser, process: Process) -> dict[str, float]:
    """Scores of one-step characters, without labels."""
    return look_pictures("hanzi16", denoiser, process)


def characters(method: str, **options: object) -> Arm:
    return Arm(law="hanzi16", method=method, options=options, marks=MARKS, look=look)


ARMS = {
    "iCT": characters("ict", **ICT),
    "minibatch OT": characters("ict", **ICT, pairs="ot"),
    "GC share 0.5": characters("gc", base={"method": "ict", **ICT}, share=0.5, share_end=0.5),
}


def statements(results: Results) -> Sequence[Statement]:
    alone, transport, half = (results[name] for name in ARMS)
    end = "feature Fréchet distance at the end"
    return [
        Statement(f"{end}, iCT minus GC", gain(alone, half, last_distance)),
        Statement("at each of ten looks: least lead of GC over iCT", least_lead(alone, half)),
        Statement(f"{end}, minibatch OT minus GC", gain(transport, half, last_distance)),
        Statement(
            "share of the updates that GC saves to reach iCT's end",
            updates_saved(alone, half),
            main=False,
        ),
        Statement(
            f"{end} of samples stretched to the data's variance, iCT minus GC",
            excess(alone, half, "stretched_frechet"),
            main=False,
        ),
    ]


def comments(results: Results) -> Sequence[str]:
    ends = "; ".join(f"{name} {pm(column(results[name], COMPARED))}" for name in ARMS)
    return [f"Feature Fréchet distances after {UPDATES} updates: {ends}."]


def lesson(results: Results) -> str:
    alone, _, half = (results[name] for name in ARMS)
    plain = fmean(gain(alone, half, last_distance))
    alike = fmean(excess(alone, half, "stretched_frechet"))
    return (
        f"With a network as the paper's, GC's lead is {plain:.2f}, and {alike:.2f} once all samples"
        " have the data's variance."
    )


def figure(results: Results) -> Figure:
    drawing, (ax,) = report.axes(1, width=5.6)
    for name in ARMS:
        line(ax, *by_step(results[name], COMPARED), name)
    ax.set(xlabel="updates", ylabel="feature Fréchet distance", yscale="log")
    ax.legend()
    return as_figure(
        drawing,
        "Quality of one-step characters against updates, by coupling",
        "Chinese characters, one evaluation from pure noise by the average of the weights.",
    )


CLAIM = Claim(
    title="GC with a U-Net: generated pairs converge faster",
    says=(
        "With data points that the model itself generates in a share of the pairs, consistency"
        " training converges faster and ends better than with independent pairs, and than with"
        " minibatch optimal transport (GC, arXiv 2406.09570)."
    ),
    setting=(
        "Chinese characters at 16x16, no labels, no dropout: iCT with at most 160 intervals, a"
        f" small DDPM++ (0.8 M), {UPDATES} updates of batch 64, learning rate 1e-3 with a cosine,"
        " an average of decay 0.995 that is also GC's predictor; 4096 one-step samples against the"
        " training split."
    ),
    fair=(
        "The paper's networks are of this kind, and its pictures, as these, cannot be learned by"
        " heart. All arms have the same updates, seeds and noise, and the paper's share."
    ),
    rows={
        **{name: arm.row(950.0) for name, arm in ARMS.items()},
        "held-out characters": ideal("hanzi16"),
    },
    measures={**PICTURES, **COST},
    statements=statements,
    comments=comments,
    lesson=lesson,
    figure=figure,
    long=True,
)
