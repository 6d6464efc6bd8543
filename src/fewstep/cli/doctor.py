"""fewstep doctor: the faults of a run or a teacher, as measured numbers with a message for each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fewstep.cli.parse import parse

if TYPE_CHECKING:
    from fewstep.analysis.doctor import Examination, Subject
    from fewstep.data import Dataset

DESCRIPTION = (
    "Examine a run: loss by noise level, boundary, target drift, gradient noise, average, teacher"
    " gap, memorisation and the log; or a teacher with its data: its denoising loss against the"
    " bounds of theory, and the reading that fits its output if the prediction, range or sigma_data"
    " is declared wrongly. Only reads. The exit code is 0 whatever the verdicts, which --json"
    " prints.\n\nexamples: fewstep doctor digits\n          fewstep doctor TEACHER.safetensors"
    " --network song_unet --prediction eps --data PATH"
)


@dataclass(frozen=True)
class Args:
    subject: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|TEACHER")]
    """Run folder or shipped name; or a teacher: FILE.safetensors, module:factory or exact:NAME."""
    data: str | None = None
    """The data. Of a run: where it is now, if its path has changed. A teacher needs it."""
    teacher: str | None = None
    """Of a run: a teacher with the true trajectories (RUN, FILE, exact:NAME); default: its own."""
    network: str | None = None
    """A teacher file's network: one of ours, or module:factory, called as (shape, classes). Of a
    run: your own.
    """
    network_options: str = "{}"
    """Options of that network as JSON, such as '{"width": 128}'."""
    method: str | None = None
    """module:function of a method of your own."""
    prediction: str = "edm"
    """What a teacher's output is declared to be: edm, eps, v, x0, flow or score."""
    process: str = "edm"
    """The process of its times: edm, cosine, discrete (Stable Diffusion's table), ddpm, linear or
    trig.
    """
    range: str = "[-1, 1]"
    """The range of its data: [-1, 1], [0, 1], [0, 255] or standardised."""
    sigma_data: float | None = None
    """Of a teacher's preconditioning edm; default: the data's."""
    seed: int = 0
    """Seed of the rows, noise and samples of the examination."""
    batch: int | None = None
    """Rows that pass through a network at once; left out, what memory takes."""
    device: str = "auto"
    """cpu, cuda, mps or auto, the first there is."""
    full: bool = False
    """Print every table."""
    out: Path | None = None
    """Folder for doctor.html with pictures of samples, and its figures."""
    quiet: bool = False
    """Show no progress; results, warnings and errors still."""
    json: bool = False
    """Print one JSON object."""


def main(argv: list[str]) -> int:
    args = parse(Args, argv, verb="doctor", description=DESCRIPTION)
    from fewstep.analysis.doctor import output
    from fewstep.run.checkpoint import is_single

    if args.out is not None:
        from fewstep.analysis import report

        # Without jinja2 or matplotlib they raise before anything takes long.
        report.page("", [], [])
        report.axes()
    progress = not args.quiet
    path = Path(args.subject)
    is_teacher = ":" in args.subject and not path.exists()
    is_teacher = is_teacher or (path.suffix == ".safetensors" and not is_single(path))
    subject = None
    if is_teacher:
        examination = of_teacher(args, progress)
    else:
        examination, subject = of_run(args, progress)
    if args.out is not None:
        output.write_page(examination, args.out, subject)
    if args.json:
        print(json.dumps(output.as_json(examination)))
    else:
        print(output.text(examination, full=args.full))
    return 0


def of_run(args: Args, progress: bool) -> tuple[Examination, Subject]:
    """The examination of a run folder, checkpoint or shipped name, and what was examined."""
    from fewstep.analysis.doctor.entry import run_examination
    from fewstep.analysis.doctor.subject import subject_of
    from fewstep.base.errors import UserError
    from fewstep.cli.user_code import own_parts
    from fewstep.run.places import refuse_pickle

    refuse_pickle(args.subject)
    for name in ("prediction", "process", "range", "sigma_data"):
        value = getattr(args, name)
        if value != getattr(Args, name):
            flag = f"--{name.replace('_', '-')} {value}"
            raise UserError(f"{flag}: declares a teacher; {args.subject} is a run")
    options = {name: getattr(args, name) for name in ("data", "teacher", "device", "seed", "batch")}
    subject = subject_of(args.subject, **options, **own_parts(args))
    return run_examination(subject, progress=progress), subject


def of_teacher(args: Args, progress: bool) -> Examination:
    """The examination of a teacher's file, factory or closed form."""
    from fewstep.analysis.doctor.entry import teacher_examination, teacher_of
    from fewstep.base.errors import UserError
    from fewstep.run.datasets import dataset_of

    if args.data is None and not args.subject.startswith("exact:"):
        raise UserError(
            f"{args.subject}: a teacher is examined with its data: name it, --data digits or --data"
            " PATH"
        )
    dataset = dataset_of(args.data or args.subject).in_memory()
    names = ("prediction", "process", "range", "sigma_data", "device", "seed", "batch")
    options = {name: getattr(args, name) for name in names}
    teacher = teacher_of(source(args, dataset), dataset, name=args.subject, **options)
    return teacher_examination(teacher, progress=progress)


def source(args: Args, dataset: Dataset) -> Any:
    """The network or denoiser that the command line names. Raises UserError."""
    from fewstep import exact
    from fewstep.analysis.doctor.entry import build, from_file
    from fewstep.base.errors import UserError
    from fewstep.cli.user_code import import_function

    try:
        options = json.loads(args.network_options)
    except ValueError:
        raise UserError(
            f"--network-options {args.network_options}: expected JSON, such as '{{\"width\": 128}}'"
        ) from None
    if args.subject.startswith("exact:"):
        return exact.named(args.subject.removeprefix("exact:"))
    if Path(args.subject).suffix != ".safetensors":
        return build(args.subject, import_function("teacher", args.subject), dataset, options)
    if args.network is None:
        raise UserError(
            f"{args.subject} holds weights alone: name their network, --network mlp or"
            " module:factory"
        )
    factory = import_function("network", args.network) if ":" in args.network else args.network
    return from_file(args.subject, dataset, factory, options)
