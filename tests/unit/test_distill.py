"""Few steps without guidance, learned from many with it."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from sama.pipeline.schedule import run_scheduler
from tests.comparing import assert_trained
from tests.unit.test_procedural import pack  # noqa: F401 - a fixture
from tests.unit.test_training_loop import base, stage_config, stop_after  # noqa: F401 - fixtures
from training.config import DistillConfig, LoraConfig, OptimiserConfig
from training.core.batch import EncodedBatch
from training.core.loop import Trainer
from training.core.tracking import read_metrics
from training.errors import ConfigError
from training.stages.distill import Streams
from training.train import build_stage

CPU = Accelerator(cpu=True)
DISTILL = DistillConfig(steps=3, substeps=2, guidance=2.5)


@pytest.fixture
def config(stage_config):  # noqa: F811
    """Scenes are drawn once for all runs of a test."""
    rendered = replace(stage_config.data.rendered, groups=1, refresh_per_step=0.0, cache=stage_config.output + "/cache")
    return replace(
        stage_config, stage="lora", lora=LoraConfig(rank=4), distill=DISTILL, max_steps=2, batch_size=2,
        data=replace(stage_config.data, rendered=rendered),
        optimiser=OptimiserConfig(name="adamw", learning_rate=1e-2, warmup_steps=1, ema_decay=0.5),
    )  # fmt: skip


def stage_of(config):
    return build_stage(config, CPU)[0]


def sample(stage, seed=0):
    """A batch of two, and the generator whose noise it meets."""
    random = torch.Generator().manual_seed(seed)
    clips = [torch.randn(2, 16, 2, 4, 6, generator=random) for _ in range(2)]
    text, anchors = (torch.randn(2, count, 32, generator=random) for count in (64, 65))
    return EncodedBatch(*clips, text, anchors, torch.tensor([True, False]))


def noise_of(batch, seed):
    random = torch.Generator().manual_seed(seed)
    return Streams(*(torch.randn(part.shape, generator=random) for part in (batch.target, batch.anchors)))


def trajectory(stage, batch, seed):
    states = [noise_of(batch, seed)]
    for number in range(stage.steps):
        states.append(stage._after(batch, states[-1], number))
    return states


def test_the_teacher_is_the_guided_pipeline_at_the_noise_levels_of_inference(config):
    """The same noise through `SamaPipeline`, with guidance and K x m steps, ends where the teacher does; the student's
    levels are those of K steps."""
    stage = stage_of(config)
    pipeline, batch = stage.pipeline(), sample(stage)
    levels = run_scheduler(pipeline.scheduler, stage.steps, pipeline.config["shift"]).sigmas.tolist()
    assert [stage._level(number) for number in range(stage.steps + 1)] == pytest.approx(levels)
    assert (pipeline.config["default_steps"], pipeline.config["default_guidance"]) == (3, 1.0)

    with torch.no_grad():
        for name, weight in stage.transformer.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight)  # the student has moved: its teacher must not have
        noise, states = noise_of(batch, 1), trajectory(stage, batch, 1)
        assert stage.transformer.peft_config and all(weight.requires_grad for weight in lora_of(stage))
        stage.transformer.disable_adapters()
        out = pipeline(
            source_latents=batch.source, prompt_embeds=batch.text, negative_prompt_embeds=stage._bare.expand(2, -1, -1),
            latents=noise.video, semantic_latents=noise.plan, num_inference_steps=6, guidance_scale=2.5,
            output_type="latent",
        )  # fmt: skip
    torch.testing.assert_close(states[-1].video, out.frames, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(states[-1].plan, out.semantic_tokens[:, -1], atol=1e-4, rtol=1e-4)


def lora_of(stage):
    return [weight for name, weight in stage.transformer.named_parameters() if "lora_" in name]


def test_a_student_that_is_right_has_no_loss_and_the_truth_moves_exact_pairs_alone(config):
    stage, batch = stage_of(config), sample(stage_of(config))
    states = trajectory(stage, batch, 1)

    def told(distill, wanted):
        """The loss by steps of a student that answers `wanted(step)`."""
        stage.config = replace(config, distill=distill)
        answers = [wanted(number) for number in range(stage.steps)]

        def student(**inputs):
            assert inputs["timestep"].tolist() == pytest.approx(
                [1000 * stage._level(number) for number in range(3) for _ in range(2)]
            )
            return tuple(torch.cat([answer[stream] for answer in answers]) for stream in range(2))

        loss, parts = stage.loss(lambda **inputs: student(**inputs), batch, torch.Generator().manual_seed(1))
        return float(loss), {name: float(value) for name, value in parts.items()}

    def mean(number):
        length = stage._level(number) - stage._level(number + 1)
        return [(now - then) / length for now, then in zip(states[number], states[number + 1], strict=True)]

    def true(number, share):
        clean = (batch.target, batch.anchors)
        shares = torch.tensor([share, 0.0]).view(2, 1, 1)
        mixed = []
        for one, now, truth in zip(mean(number), states[number], clean, strict=True):
            rows = shares.view(2, *[1] * (one.ndim - 1))
            mixed.append(one + rows * ((now - truth) / stage._level(number) - one))
        return mixed

    right, parts = told(DISTILL, mean)
    assert right < 1e-6 and {"flow", "semantic", "flow_step_1", "flow_step_3"} == parts.keys() - {"flow_step_2"}
    wrong, parts = told(DISTILL, lambda number: [1 + part for part in mean(number)] if number == 2 else mean(number))
    lengths = [stage._level(number) - stage._level(number + 1) for number in range(3)]
    assert parts["flow_step_3"] == pytest.approx(1) and parts["flow_step_1"] < 1e-6
    assert wrong == pytest.approx((1 + 0.1) * lengths[2] / sum(lengths))  # an error counts as far as it leads
    truthful = replace(DISTILL, truth_weight=0.5)
    assert told(truthful, lambda number: true(number, 0.5))[0] < 1e-6
    assert told(truthful, mean)[0] > 1e-3


def test_the_student_learns_and_a_resumed_run_is_an_untouched_one(config, tmp_path):
    def trainer(config):
        stage, groups = build_stage(config, CPU)
        return Trainer(config, stage, CPU, groups)

    whole = trainer(replace(config, output=str(tmp_path / "whole")))
    frozen = {name: weight.clone() for name, weight in whole.stage.model.named_parameters() if not weight.requires_grad}
    batch = sample(whole.stage)

    def loss():
        with torch.no_grad():
            return float(whole.stage.loss(whole.stage.model, batch, torch.Generator().manual_seed(2))[0])

    def watched():
        """The loss at a noised target, which a watched run tells of its held-out pairs."""
        with torch.no_grad():
            given = (batch, torch.full((2,), 0.5), torch.Generator().manual_seed(2))
            return float(whole.stage.errors(whole.stage.model, *given)[0].mean())

    first, held_out = loss(), [watched()]
    assert whole.run()
    assert frozen and all(torch.equal(whole.stage.model.get_parameter(name), weight) for name, weight in frozen.items())
    half = trainer(replace(config, output=str(tmp_path / "run")))
    stop_after(half, 1)
    again = trainer(replace(config, output=str(tmp_path / "run")))
    assert again.resume() and again.run()
    left, right = (load_file(next((tmp_path / name / "lora").glob("*.safetensors"))) for name in ("run", "whole"))
    zeros = {name: torch.zeros_like(value) for name, value in right.items() if "lora_B" in name}
    assert_trained(read_metrics(tmp_path / "whole"), zeros, right)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    for _ in range(20):  # on one batch: it can only learn it by heart
        whole._optimise(iter([batch]), 0.5)
    assert loss() < 0.8 * first
    held_out.append(watched())
    assert held_out[1] < held_out[0]


def test_all_weights_have_a_frozen_copy_for_their_teacher(config):
    stage = stage_of(replace(config, stage="sft"))
    batch = sample(stage)
    before = trajectory(stage, batch, 1)[-1].video
    with torch.no_grad():
        for weight in stage.transformer.parameters():
            weight.mul_(1.1)
    assert torch.equal(trajectory(stage, batch, 1)[-1].video, before)
    loss, _ = stage.loss(stage.model, batch, torch.Generator().manual_seed(1))
    loss.backward()
    assert all(weight.grad is not None for weight in stage.transformer.parameters())


def test_what_cannot_be_distilled_is_refused(config):
    with pytest.raises(ConfigError, match="there is no teacher"):
        stage_of(replace(config, stage="sft", start_from_base=False))
    with pytest.raises(ConfigError, match=r"distill.truth_tasks: there is no task 'styl'"):
        stage_of(replace(config, distill=replace(DISTILL, truth_tasks=("styl",))))
