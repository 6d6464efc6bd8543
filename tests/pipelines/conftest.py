"""Text to image, on tiny pipelines; left out where the extra t2i is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from fewstep.pipelines.libraries import NEEDS

collect_ignore_glob = ["test_*.py"] if any(find_spec(name) is None for name in NEEDS) else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """diffusers' schedulers hand tensors to numpy by an old way."""
    here = Path(__file__).parent
    old = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(old)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers of a few numbers take many times as long where threads wait for each other."""
    import torch

    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny pipeline by its name, made once; flux-dev takes guidance as an input."""
    from tests.support import tiny_pipelines

    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            path = tmp_path_factory.mktemp(name) / "pipeline"
            options = {"distilled": True} if name == "flux-dev" else {}
            folders[name] = tiny_pipelines.build(name.removesuffix("-dev"), path, **options)
        return folders[name]

    return folder


@pytest.fixture(scope="session")
def opened(tiny):
    """By name: the folder, its denoiser and diffusers' own pipeline."""
    from tests.pipelines.cases import denoiser_in

    return cache(lambda name: denoiser_in(tiny(name)))


@pytest.fixture
def libraries_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What diffusers and transformers say."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    for library in libraries:
        library.enable_propagation()
    yield caplog
    for library in libraries:
        library.disable_propagation()


@pytest.fixture(scope="session")
def distilled(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run of `fewstep distill`: a LoRA of the tiny pipeline sd."""
    from fewstep.pipelines.distill import distill
    from fewstep.pipelines.task import Task
    from fewstep.run.config import Run

    folder = tmp_path_factory.mktemp("distilled")
    prompts = folder / "prompts.txt"
    prompts.write_text("a cat\na dog\nthe sea\na tree\n")
    run = Run(
        recipe="lora",
        method="direct_cm",
        method_options={"n": 4, "process": "discrete"},
        network="own",
        data="own",
        iterations=2,
        batch=2,
        block=1,
        picture_every=0,
        lr=1e-2,
        ema=0.0,
    )
    task = Task(
        folder=str(tiny("sd")),
        prompts=str(prompts),
        rank=2,
        weights="fp32",
        size=16,
        guidance=2.0,
        teacher_steps=2,
    )
    distill(run, task, out=folder / "run", device="cpu", progress=False)
    return folder / "run"
