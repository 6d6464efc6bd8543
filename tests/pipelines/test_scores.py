"""The papers' numbers of a distilled pipeline, against what is computed by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from fewstep import methods
from fewstep.analysis.metrics import Extractor, Input, frechet
from fewstep.base.errors import FewstepError, UserError
from fewstep.base.randomness import generator
from fewstep.cli import eval_pipeline, main
from fewstep.pipelines.both import STREAM, Rows, open_both
from fewstep.pipelines.clip import open_clip
from fewstep.pipelines.folder import open_folder
from fewstep.pipelines.libraries import classes_out, quiet
from fewstep.pipelines.out import LORA, scheduler_of
from fewstep.pipelines.sampling import Student, open_student, stock_pipeline
from fewstep.pipelines.scores import groups_of, prompts_of, score
from fewstep.pipelines.tally import Measures, angle, drift_of, pairwise, root_mean_square
from fewstep.pipelines.task import Task

PROMPTS = ["a cat", "a dog", "the sea", "a tree"]


@pytest.fixture(scope="module")
def student(distilled):
    return open_student(distilled, device="cpu")


def by(folder, method, **task):
    """A student whose weights are the teacher's own."""
    opened = open_folder(folder)
    pipeline = stock_pipeline(opened, torch.float32)
    getattr(pipeline, opened.family.network).requires_grad_(False)
    settings = scheduler_of(opened, method)
    pipeline.scheduler = classes_out()[settings["_class_name"]].from_config(settings)
    own = Task(folder=str(folder), prompts="none.txt", weights="fp32", **task)
    return Student(own, opened, method, pipeline)


def noise(numbers=range(4), seed=0):
    return torch.stack(
        [torch.randn(4, 8, 8, generator=generator(seed, STREAM, n)) for n in numbers]
    )


def one_step(unet, student, z):
    """x0 = (x - sigma eps) / alpha of the last step of Stable Diffusion's table, for PROMPTS."""
    with quiet():
        pipeline = stock_pipeline(student.folder, torch.float32)
    tokens = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)[0]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    square = (1 - betas).prod()
    with torch.no_grad():
        eps = unet(z, 999, encoder_hidden_states=tokens).sample
    return (z.double() - (1 - square).sqrt() * eps) / square.sqrt()


def changed(student, *files, scale=1.0):
    """The pipeline's own network with the changes of LoRA files in its weights."""
    unet = student.folder.load("unet")
    for file, factor in zip(files, (1.0, scale), strict=False):
        tensors = load_file(file)
        for name, a in tensors.items():
            if ".lora_A." in name:
                layer = unet.get_submodule(name.removeprefix("unet.").partition(".lora_A")[0])
                change = tensors[name.replace("lora_A", "lora_B")].flatten(1) @ a.flatten(1)
                layer.weight.add_(factor * change.reshape(layer.weight.shape))
    return unet


def mean_square(x, y):
    return (x.double() - y.double()).square().mean().item()


@pytest.fixture(scope="module")
def style(distilled, tmp_path_factory):
    """A second LoRA, of the same layers."""
    source = torch.Generator().manual_seed(7)
    tensors = load_file(distilled / "pipeline" / LORA)
    path = tmp_path_factory.mktemp("style") / "style.safetensors"
    draws = {n: 0.05 * torch.randn(t.shape, generator=source) for n, t in tensors.items()}
    save_file(draws, path)
    return path


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from tests.support.tiny_pipelines import CLIP_TOKENS, _clip_tokenizer

    tokenizer = _clip_tokenizer()
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "projection_dim": 6}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**sizes, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": CLIP_TOKENS}
    vision = {**sizes, "image_size": 8, "patch_size": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6))
    side = {"height": 8, "width": 8}
    images = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=side)
    path = tmp_path_factory.mktemp("clip") / "clip"
    model.save_pretrained(path)
    CLIPProcessor(images, tokenizer).save_pretrained(path)
    return path


# ODE error


def test_a_student_that_is_the_teachers_solver_has_no_ode_error(tiny):
    student = by(tiny("sd"), methods.mcm(K=4, process="discrete"), size=16)
    own = score(student, PROMPTS, teacher_steps=4)
    assert own.of("ode_latents", 4).value < 1e-8
    assert own.of("ode_pixels", 4).value < 1e-10
    assert score(student, PROMPTS, teacher_steps=8).of("ode_latents", 4).value > 1e-3


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-dev"])
def test_so_it_is_with_the_other_classes(tiny, name):
    process = "discrete" if name == "sdxl" else "linear"
    student = by(tiny(name), methods.direct_cm(process=process), size=16)
    own = score(student, PROMPTS[:2], steps=(1,), teacher_steps=1)
    assert own.of("ode_latents", 1).value < 1e-8
    guided = replace(student, task=replace(student.task, guidance=3.0))
    assert score(guided, PROMPTS[:2], steps=(1,), teacher_steps=1).of("ode_latents", 1).value > 1e-6
    if name == "sd3":  # whose scheduler draws from the global generator
        twice = [score(student, PROMPTS[:1], steps=(2,), teacher_steps=2) for _ in range(2)]
        assert twice[0].scores == twice[1].scores
    if name == "flux-dev":
        task = replace(student.task, embedded_guidance=9.0)
        other = score(replace(student, task=task), PROMPTS[:2], steps=(1,), teacher_steps=1)
        assert other.of("ode_latents", 1).value > 1e-6


def test_the_ode_error_is_that_to_diffusers_own_ddim(student, distilled):
    from diffusers import DDIMScheduler

    pipeline = stock_pipeline(student.folder, torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        steps_offset=0,
    )
    z = noise()
    # Guidance g = 2 is w = 3.
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 16, "width": 16}
    ends = pipeline(PROMPTS, latents=z, output_type="latent", **options).images
    x = one_step(changed(student, distilled / "pipeline" / LORA), student, z)
    own = score(student, PROMPTS, steps=(1,), teacher_steps=4)
    errors = (x - ends).square().flatten(1).mean(1)
    result = own.of("ode_latents", 1)
    assert result.value == pytest.approx(errors.mean().item(), rel=1e-4)
    assert result.error == pytest.approx(errors.std().item() / 2, rel=1e-4)
    low, high = result.interval
    assert low < result.value < high

    def decode(latents):
        return pipeline.vae.decode(latents.float() / 0.18215).sample.clamp(-1, 1)

    with torch.no_grad():
        expected = mean_square(decode(x), decode(ends))
    assert own.of("ode_pixels", 1).value == pytest.approx(expected, rel=1e-3)


def test_scores_depend_on_seeds_and_not_on_the_batch(student):
    options = {"steps": (2,), "teacher_steps": 2}
    first = score(student, PROMPTS, seeds=(0, 1), batch=8, **options)
    assert first.scores == score(student, PROMPTS, seeds=(0, 1), batch=8, **options).scores
    for one, other in zip(
        first.scores,
        score(student, PROMPTS, seeds=(0, 1), batch=1, **options).scores,
        strict=True,
    ):
        assert one.value == pytest.approx(other.value, rel=1e-4)
    other = score(student, PROMPTS, seeds=(2, 3), batch=8, **options)
    assert other.of("ode_latents", 2).value != first.of("ode_latents", 2).value


# Pictures


def test_the_clip_score_is_clips_own(student, clip_folder):
    from transformers import CLIPModel, CLIPProcessor

    clip = open_clip(clip_folder)
    own = score(student, PROMPTS, Measures(clip=clip), steps=(1,), teacher_steps=1, examples=4)
    model, processor = (
        kind.from_pretrained(clip_folder, local_files_only=True)
        for kind in (CLIPModel, CLIPProcessor)
    )
    for kind, row in (
        ("student", own.pictures["student", 1]),
        ("teacher", own.pictures["teacher", 1]),
    ):
        images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in row]
        inputs = processor(text=PROMPTS, images=images, return_tensors="pt", padding=True)
        with torch.no_grad():
            out = model(**inputs)
        cosines = (normalize(out.image_embeds) * normalize(out.text_embeds)).sum(1)
        (result,) = (one for one in own.scores if (one.model, one.metric) == (kind, "clip"))
        assert result.value == pytest.approx(cosines.mean().item(), abs=1e-5)
    assert clip.texts(["a cat " * 40]).shape == (1, 6)


def test_equal_seeds_have_no_diversity(student):
    before = [one.tobytes() for _, _, one in student.pictures(["a cat"])]
    with open_both(student, teacher_steps=1) as both:
        same = both.pictures(both.of_student(Rows(["a cat"] * 2, [0, 0], [5, 5]), steps=2))
        other = both.pictures(both.of_student(Rows(["a cat"] * 2, [0, 0], [5, 6]), steps=2))
        both.of_teacher(Rows(["a cat"], [0], [5]))
    assert [one.tobytes() for _, _, one in student.pictures(["a cat"])] == before
    assert pairwise(same[None], root_mean_square).item() < 1e-6
    expected = (other[0].double() - other[1].double()).square().mean().sqrt().item()
    assert pairwise(other[None], root_mean_square).item() == pytest.approx(expected)
    assert expected > 0.1
    result = score(student, PROMPTS, steps=(2,), seeds=(5, 6), teacher_steps=1, examples=3)
    means = result.of("diversity_pixels", 2)
    assert means.value == pytest.approx(expected, rel=0.5)
    assert result.pictures["student", 2].shape == (3, 3, 16, 16)
    alone = score(student, PROMPTS[:1], steps=(2,), seeds=(5, 6), teacher_steps=1, examples=3)
    assert alone.of("diversity_pixels", 2).value == pytest.approx(expected, rel=1e-4)
    first = score(student, PROMPTS, steps=(2,), seeds=(5,), teacher_steps=1, examples=3)
    pictures = [one.pictures["student", 2].double() for one in (result, first)]
    assert (pictures[0] - pictures[1]).abs().max() <= 1


def test_pairwise_is_the_mean_over_pairs():
    x = torch.tensor([[[0.0], [3.0], [6.0]]])
    assert pairwise(x, root_mean_square).tolist() == [4.0]
    unit = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    assert pairwise(unit, angle).item() == pytest.approx(2 / 3)


def test_frechet_distances_are_to_the_teachers_pictures_or_to_a_folders(student, tmp_path):
    def network(x):
        return torch.stack([x.mean((1, 2, 3)), x[:, 0].amax((1, 2)), x[:, 2, 3, 4]], 1)

    extractor = Extractor("mine", network, input=Input(levels=256))
    measures = Measures(extractors=[extractor])
    options = {"steps": (1,), "teacher_steps": 1, "batch": 3}
    own = score(student, PROMPTS, measures, examples=4, **options)
    features = {
        key: extractor.features(part.float().div(127.5).sub(1))
        for key, part in own.pictures.items()
    }
    expected = frechet(features["student", 1], features["teacher", 1])
    assert own.of("frechet_mine", 1).value == pytest.approx(expected, rel=1e-3)
    assert not any(one.model == "teacher" for one in own.scores)
    for number, one in enumerate(own.pictures["teacher", 1]):
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    beside = score(student, PROMPTS, replace(measures, reference=str(tmp_path)), **options)
    assert beside.of("frechet_mine", 1).value == pytest.approx(expected, rel=1e-3)
    (floor,) = (one for one in beside.scores if one.model == "teacher")
    assert floor.value == pytest.approx(0, abs=1e-6)


def test_an_aesthetic_score_is_the_users_function(student, clip_folder):
    seen = []

    def brightness(pictures):
        seen.append(pictures)
        return pictures.double().mean((1, 2, 3))

    def by_clip(pictures, embeddings):
        return embeddings[:, 0]

    options = {"steps": (1,), "teacher_steps": 1, "examples": 4}
    own = score(student, PROMPTS, Measures(aesthetic=brightness), **options)
    expected = own.pictures["student", 1].double().mean().item()
    assert own.of("aesthetic", 1).value == pytest.approx(expected)
    assert seen[0].dtype == torch.uint8
    clip = open_clip(clip_folder)
    own = score(student, PROMPTS, Measures(aesthetic=by_clip, clip=clip), **options)
    expected = clip.pictures(own.pictures["student", 1])[:, 0].mean().item()
    assert own.of("aesthetic", 1).value == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match="embeddings: name a CLIP"):
        Measures(aesthetic=by_clip)
    bad = Measures(aesthetic=lambda pictures: pictures.float())
    with pytest.raises(UserError, match="expected 4 finite numbers"):
        score(student, PROMPTS, bad, **options)


# A second LoRA


def test_drift_is_that_of_changed_weights(student, distilled, style):
    plain = replace(student, task=replace(student.task, guidance=0.0))
    z, own = noise(), distilled / "pipeline" / LORA
    before = [one.tobytes() for _, _, one in student.pictures(["a cat"])]
    measures = Measures(stack=style, stack_scale=0.5)
    result = score(plain, PROMPTS, measures, steps=(1,), teacher_steps=1).of("drift", 1)
    s, t = (one_step(changed(student, *files), student, z) for files in ([own], []))
    s_too = one_step(changed(student, own, style, scale=0.5), student, z)
    unet = changed(student)
    half = {n: (0.5 if ".lora_B." in n else 1) * tensor for n, tensor in load_file(style).items()}
    file = style.with_name("half.st")
    save_file(half, file)
    t_too = one_step(changed(student, file), student, z)
    assert mean_square(one_step(unet, student, z), t) == 0
    expected = {"after": (s_too, t_too), "before": (s, t), "style": (t_too, t)}
    for name, pair in expected.items():
        assert result.parts[name] == pytest.approx(mean_square(*pair), rel=1e-3), name
    value = mean_square(s_too, t_too) / mean_square(s, t) - 1
    assert result.value == pytest.approx(value, rel=1e-2)
    assert abs(value) > 1e-3
    # The student is as it was.
    assert [one.tobytes() for _, _, one in student.pictures(["a cat"])] == before


def test_a_second_lora_of_zeros_makes_no_drift(student, style, tmp_path):
    zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(style).items()}
    save_file(zeros, tmp_path / "zeros.safetensors")
    own = score(student, PROMPTS, Measures(stack=tmp_path), steps=(1, 2), teacher_steps=2)
    for steps in (1, 2):
        result = own.of("drift", steps)
        assert result.value == pytest.approx(0, abs=1e-6)
        assert result.parts["style"] == pytest.approx(0, abs=1e-9)
        assert result.parts["before"] == own.of("ode_latents", steps).value


def test_a_student_of_all_weights_has_a_teacher_of_its_own(tiny, style):
    student = by(tiny("sd"), methods.direct_cm(process="discrete"), size=16)
    student.pipeline.unet.conv_in.weight.mul_(1.5)
    own = score(student, PROMPTS[:2], Measures(stack=style), steps=(1,), teacher_steps=1)
    s, t = student.pipeline.unet, student.folder.load("unet")
    z = noise()
    errors = one_step(s, student, z) - one_step(t, student, z)
    assert own.of("ode_latents", 1).value == pytest.approx(
        errors[:2].square().mean().item(), rel=1e-4
    )
    assert own.of("drift", 1).parts["style"] > 1e-4


def test_drift_is_a_ratio_with_its_error():
    before, after = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([2.0, 3.0, 4.0])
    result, parts = drift_of(after, before, torch.ones(3))
    assert result.value == pytest.approx(0.5)
    without = [7 / 5 - 1, 6 / 3 - 1, 5 / 4 - 1]
    spread = sum((one - sum(without) / 3) ** 2 for one in without)
    assert result.error == pytest.approx(math.sqrt(2 / 3 * spread))
    assert parts == {"after": 3.0, "before": 2.0, "style": 1.0}
    assert math.isnan(drift_of(after, 0 * before, before)[0].value)


# Prompts, the command, mistakes


def test_prompts_are_evenly_spaced_and_whole_in_a_group(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join("abcdefgh"))
    task = Task(folder="f", prompts=str(file))
    assert prompts_of(task, n=4) == ["a", "c", "e", "g"]
    assert prompts_of(task) == [*"abcdefgh"]
    (tmp_path / "one.png").write_bytes(b"")
    (tmp_path / "one.txt").write_text("of a picture")
    assert prompts_of(Task(folder="f", images=str(tmp_path))) == ["of a picture"]
    rows = [*groups_of(["a", "b", "c"], (4, 5), 5)]
    assert [one.texts for one in rows] == [["a", "a", "b", "b"], ["c", "c"]]
    assert [one.numbers for one in rows] == [[0, 0, 1, 1], [2, 2]]
    assert rows[0].seeds == [4, 5, 4, 5]


def test_eval_and_frontier_know_such_runs(distilled, style, tmp_path, capsys):
    words = [
        str(distilled),
        "--steps",
        "1,2",
        "--n",
        "2",
        "--teacher-steps",
        "2",
        "--device",
        "cpu",
    ]
    assert main(["eval", *words, "--stack", str(style), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    names = {(one["model"], one["steps"], one["metric"]) for one in facts["scores"]}
    metrics = ("ode_latents", "ode_pixels", "drift")
    assert names == {("student", steps, name) for steps in (1, 2) for name in metrics}
    assert facts["protocol"]["teacher"] == {"solver": "ddim", "steps": 2, "guidance": 2.0}
    out = tmp_path / "page"
    assert main(["frontier", *words, "--seeds", "0,1", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "diversity_pixels" in text.splitlines()[0]
    assert "2 prompts, seeds 0, 1, teacher: 2 steps of DDIM with guidance 2" in text
    assert "data:image/png" in (out / "report.html").read_text()
    own = json.loads((out / "frontier.json").read_text())
    assert len(own["scores"]) == 7
    with Image.open(out / "frontier.png") as picture:
        assert picture.width > picture.height


def test_the_teachers_steps_are_those_of_the_method(distilled):
    args = eval_pipeline.Args(run=str(distilled))
    assert eval_pipeline.steps_of_teacher(args) == 4
    assert eval_pipeline.steps_of_teacher(replace(args, teacher_steps=7)) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": "nowhere"}, "clip nowhere: no config.json there"),
        ({"stack": "nowhere"}, "stack nowhere: no such file or folder"),
        ({"stack": "prompts.txt"}, "stack = .*: expected a .safetensors file"),
        ({"stack": "other.safetensors"}, "other.safetensors: .*LoRA"),
        ({"stack_scale": 2.0}, "name --stack"),
        ({"steps": (0,)}, "steps = 0: expected at least 1"),
        ({"steps": (1001,)}, "steps = 1001: expected at most 1000"),
        ({"seeds": (1, 1)}, "seeds = .*: expected different ones"),
        ({"n": 0}, "n = 0"),
        ({"batch": 0}, "batch = 0"),
        ({"teacher_steps": 0}, "teacher_steps = 0: expected at least 1"),
        ({"prompts": "nowhere.txt"}, "nowhere.txt"),
        ({"reference": "nowhere"}, "reference nowhere: it is for Fréchet distances"),
        ({"extractor": ("nowhere.onnx",)}, "cannot read nowhere.onnx"),
        ({"extractor": (), "weights": ("w.pth",)}, "a file for each of the 0"),
        ({"aesthetic": "nowhere:f"}, "aesthetic 'nowhere:f': ModuleNotFoundError"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line(student, distilled, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a cat")
    save_file({"unet.nothing.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    args = replace(eval_pipeline.Args(run=str(distilled)), **options)
    with pytest.raises(FewstepError, match=message) as caught:
        eval_pipeline.measure(args, student, args.steps or ())
    assert "\n" not in str(caught.value)


def test_extractors_have_names_of_their_own_and_enough_pictures(student, tmp_path):
    one = Extractor("same", lambda x: x.flatten(1))
    with pytest.raises(UserError, match="different names"):
        Measures(extractors=[one, one])
    measures = Measures(extractors=[one])
    with pytest.raises(UserError, match="at least 2 for a Fréchet distance"):
        score(student, ["a cat"], measures, teacher_steps=1)
    with pytest.raises(UserError, match="reference = 'nowhere'"):
        score(student, PROMPTS, replace(measures, reference="nowhere"), teacher_steps=1)


def test_a_clip_without_weights_is_refused(clip_folder, tmp_path):
    for file in clip_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FewstepError, match="cannot be read as a CLIPModel"):
        open_clip(tmp_path)
    tensors = load_file(clip_folder / "model.safetensors")
    del tensors["logit_scale"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(FewstepError, match="1 weights are missing, as logit_scale"):
        open_clip(tmp_path)


def test_latents_that_are_no_numbers_are_refused(tiny):
    student = by(tiny("sd"), methods.direct_cm(process="discrete"), size=16)
    student.pipeline.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="latents of the student in 1 steps hold NaN"):
        score(student, PROMPTS, steps=(1,), teacher_steps=1)
