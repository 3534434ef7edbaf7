"""The editor's stages: what they start from, what a batch becomes, and what they write."""

import copy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from sama.checkpoints import load_transformer, save_official
from tests.comparing import assert_trained
from tests.tiny import tiny_transformer
from tests.unit.test_procedural import pack  # noqa: F401 - a fixture
from tests.unit.test_training_loop import MODEL, base, editor, stage_config, stop_after  # noqa: F401 - fixtures
from training.config import LoraConfig, ObjectiveConfig, OptimiserConfig, ParallelConfig, WatchConfig
from training.core.batch import EncodedBatch
from training.core.loop import Trainer
from training.core.optim import build_optimisers, state_tensors
from training.core.precision import autocast
from training.core.randomness import generator
from training.core.tracking import read_metrics
from training.errors import ConfigError
from training.parallel.activations import checkpoint_activations
from training.train import build_stage, build_watcher

CPU = Accelerator(cpu=True)


def batch(size=4, frames=2, source=True):
    random = torch.Generator().manual_seed(0)
    clips = [torch.randn(size, 16, frames, 4, 6, generator=random) for _ in range(2)]
    text, anchors = (torch.randn(size, count, 32, generator=random) for count in (64, 65))
    return EncodedBatch(clips[0] if source else None, clips[1], text, anchors)


def gradients(stage, given, sigmas):
    """Loss and gradients at given noise levels; the noise is the same for a sample whatever stands beside it."""
    stage.model.zero_grad()
    losses = []
    for row in range(len(given.target)):
        one = EncodedBatch(*(None if part is None else part[row : row + 1] for part in vars(given).values()))
        flow, semantic = stage.errors(stage.model, one, sigmas[row : row + 1], torch.Generator().manual_seed(row))
        losses.append(flow + 0.1 * semantic)
    loss = torch.cat(losses).mean()
    loss.backward()
    return loss.detach(), [weight.grad.clone() for weight in stage.model.parameters()]


@pytest.mark.parametrize("checkpointing", ["full", "offload", "attention", "attention_offload"])
@pytest.mark.parametrize("every", [1, 2])
def test_what_is_computed_again_gives_the_same_gradients(stage_config, checkpointing, every):  # noqa: F811
    stage = editor(stage_config)
    sigmas = torch.tensor([0.2, 0.4, 0.6, 0.8])
    loss, expected = gradients(stage, batch(), sigmas)
    checkpoint_activations(stage.transformer, ParallelConfig(checkpointing=checkpointing, checkpoint_every=every))
    again, found = gradients(stage, batch(), sigmas)
    assert torch.equal(loss, again)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)


def test_less_is_kept_the_more_is_computed_again(stage_config):  # noqa: F811
    def kept(**parallel):
        stage, seen = editor(stage_config), {}
        checkpoint_activations(stage.transformer, ParallelConfig(**parallel))

        def keep(tensor):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            stage.errors(stage.model, batch(), torch.full((4,), 0.5), torch.Generator())
        return sum(size for size, _ in seen.values())

    none, half = kept(), kept(checkpointing="full", checkpoint_every=2)
    full = kept(checkpointing="full")
    assert none > 1.5 * half and half > 1.5 * full


def test_the_loss_is_flow_plus_a_tenth_of_the_anchors(stage_config):  # noqa: F811
    stage = editor(stage_config)
    loss, logs = stage.loss(stage.model, batch(), torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss, logs["flow"] + 0.1 * logs["semantic"])
    told = stage.figures()
    assert told["flow_band_3"] > 0 and "semantic_band_3" in told and not stage.figures()


def test_without_anchors_the_model_sees_none_and_their_layers_rest(stage_config):  # noqa: F811
    stage = editor(replace(stage_config, objective=ObjectiveConfig(semantic_weight=0.0)))
    seen = []
    stage.model.register_forward_pre_hook(lambda _, args, inputs: seen.append(inputs), with_kwargs=True)
    loss, logs = stage.loss(stage.model, batch(), torch.Generator().manual_seed(1))
    assert seen[0]["semantic_hidden_states"] is None and set(logs) == {"flow"}
    loss.backward()
    for name, weight in stage.model.named_parameters():
        assert (weight.grad is None) == name.startswith(("semantic_projector", "semantic_head")), name
    assert next(stage.batches()).anchors is None


def test_clips_without_a_source_are_trained_from_noise_alone(stage_config):  # noqa: F811
    stage = editor(stage_config)
    loss, _ = stage.loss(stage.model, batch(source=False), torch.Generator().manual_seed(1))
    assert loss.isfinite()


def test_stage_0_alternates_images_and_clips_to_restore(stage_config):  # noqa: F811
    stage = editor(replace(stage_config, stage="pretrain"))
    batches = stage.batches()
    frames = [next(batches).target.shape[2] for _ in range(10)]
    assert frames == [2, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    bare = editor(replace(stage_config, stage="pretrain", objective=ObjectiveConfig(pretext=False))).batches()
    assert {next(bare).target.shape[2] for _ in range(6)} == {1}


def test_images_may_come_in_larger_batches(stage_config):  # noqa: F811
    data = replace(stage_config.data, rendered=replace(stage_config.data.rendered, image_batch=5))
    batches = editor(replace(stage_config, stage="pretrain", data=data)).batches()
    sizes = {given.target.shape[2]: len(given.target) for given in (next(batches) for _ in range(3))}
    assert sizes == {2: stage_config.batch_size, 1: 5}


def test_a_watched_run_tells_held_out_losses_and_draws_samples(stage_config, tmp_path):  # noqa: F811
    watch = WatchConfig(1, (), validate_every=2, validation_samples=1, sample_every_minutes=1e-9, sample_count=1)
    config = replace(stage_config, output=str(tmp_path / "run"), max_steps=2, watch=watch)
    stage = editor(config)
    assert Trainer(config, stage, CPU, build_watcher=build_watcher(config, stage)).run()
    last = read_metrics(tmp_path / "run")[-1]
    assert last["step"] == 2 and last["validation/raw/flow"] > 0 and last["validation/ema/semantic"] > 0
    assert [path.name for path in (tmp_path / "run" / "samples").iterdir()]


def test_an_optimiser_saved_before_its_first_step_goes_on_as_a_new_one(stage_config):  # noqa: F811
    config = OptimiserConfig(name="adamw", learning_rate=1e-2)
    model = torch.nn.Linear(3, 2)
    twin = copy.deepcopy(model)
    (one,), (other,) = build_optimisers(model, config), build_optimisers(twin, config)
    state_tensors(one)  # what saving does
    for layer, optimiser in ((model, one), (twin, other)):
        layer(torch.ones(1, 3)).sum().backward()
        optimiser.step()
    assert torch.equal(model.weight, twin.weight)


@pytest.mark.parametrize("groups", [7, 0])
def test_a_feed_that_goes_on_from_a_position_gives_what_the_first_would_have_given(stage_config, groups):  # noqa: F811
    """With more groups than are held, replaced while it runs; and with as many as came in a given time."""
    rendered = replace(stage_config.data.rendered, groups=groups, encode_minutes=1e-6, refresh_per_step=0.5, frames=1)
    config = replace(stage_config, data=replace(stage_config.data, rendered=rendered))
    first, later = editor(config).feed, editor(config).feed
    batches = first.batches()
    for _ in range(5):
        next(batches)
    later.load_state_dict(first.state_dict())
    assert first.state_dict() == {"filled": groups or 5, "drawn": 5}
    for one, other, _ in zip(batches, later.batches(), range(5), strict=False):
        for left, right in zip(vars(one).values(), vars(other).values(), strict=True):
            assert left is right is None or torch.equal(left, right)


# Where it starts and ends


def test_it_starts_from_official_and_from_base_weights(stage_config, tmp_path):  # noqa: F811
    trained = tiny_transformer()
    save_official(trained, tmp_path / "official.safetensors")
    config = replace(stage_config, start_from_base=False, start_from=str(tmp_path / "official.safetensors"))
    for one, other in zip(editor(config).model.state_dict().values(), trained.state_dict().values(), strict=True):
        assert torch.equal(one, other)

    added = ("segment_embedding", "semantic_projector", "semantic_head")
    wan = {name: value for name, value in trained.state_dict().items() if not name.startswith(added)}
    torch.save(wan, tmp_path / "wan.pt")
    config = replace(config, start_from=str(tmp_path / "wan.pt"))
    one, other = editor(config).model, editor(config).model
    assert not one.segment_embedding.weight.any() and one.semantic_projector.fc1.weight.any()
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
        assert name.startswith(added) or torch.equal(value, wan[name])
    assert all(weight.requires_grad for weight in one.parameters()) and one.training
    with pytest.raises(ConfigError, match=r"start_from: .*nowhere.* is neither here nor on the Hub"):
        editor(replace(config, start_from="./nowhere"))


def test_what_it_writes_is_the_average_for_the_pipeline_and_under_official_names(stage_config, tmp_path):  # noqa: F811
    config = replace(stage_config, max_steps=2, output=str(tmp_path / "run"))
    stage = editor(config)
    run = Trainer(config, stage, CPU)
    assert run.run()
    ours = load_transformer(tmp_path / "run" / "transformer").state_dict()
    official = load_transformer(tmp_path / "run" / "sama_ema.safetensors", MODEL | {
        "text_dim": 32, "semantic_dim": 32}).state_dict()  # fmt: skip
    for name, value in run.ema.shadow.items():
        assert torch.equal(ours[name], value)
        assert torch.equal(official[name], value.bfloat16().float())
    half = replace(config, output=str(tmp_path / "half"), float8_share=0.5)
    Trainer(half, editor(half), CPU).run()
    stored = load_file(tmp_path / "half" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float8_e4m3fn, torch.bfloat16}


def test_its_pipeline_edits_with_the_weights_of_the_moment(stage_config):  # noqa: F811
    stage = editor(stage_config)
    clip = torch.randint(256, (1, 5, 32, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def edited():
        random = torch.Generator().manual_seed(0)
        return torch.as_tensor(stage.pipeline()(clip, "make it snowy", num_inference_steps=2, generator=random).frames)

    with torch.no_grad():
        before = edited()
        stage.transformer.proj_out.weight.mul_(2)
        assert before.shape == (1, 5, 32, 48, 3) and not torch.equal(before, edited())


def test_an_adapter_trains_on_frozen_weights_and_resumes(stage_config, tmp_path):  # noqa: F811
    adamw = OptimiserConfig(name="adamw", learning_rate=1e-2, warmup_steps=1, ema_decay=0.5)
    config = replace(
        stage_config, stage="lora", output=str(tmp_path / "run"), optimiser=adamw, lora=LoraConfig(rank=2, dropout=0.1)
    )

    def trainer(config):
        stage, groups = build_stage(config, CPU)
        return Trainer(config, stage, CPU, groups)

    whole = trainer(replace(config, output=str(tmp_path / "whole")))
    frozen = {name: weight.clone() for name, weight in whole.stage.model.named_parameters() if not weight.requires_grad}
    assert whole.run()
    for name, weight in frozen.items():
        assert torch.equal(whole.stage.model.get_parameter(name), weight)
    first = trainer(config)
    stop_after(first, 2)
    again = trainer(config)
    assert again.resume() and again.run()
    (one,), (other,) = ((tmp_path / name / "lora").glob("*.safetensors") for name in ("run", "whole"))
    left, right = load_file(one), load_file(other)
    zeros = {name: torch.zeros_like(value) for name, value in right.items() if "lora_B" in name}
    assert_trained(read_metrics(tmp_path / "whole"), zeros, right)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    with pytest.raises(ConfigError, match="an adapter needs a trained model"):
        trainer(replace(config, start_from_base=False))


def test_micro_steps_are_one_large_batch(stage_config):  # noqa: F811
    """The gradient of two micro-steps is the mean over their samples, of which the second has half as many."""

    class Two:
        def __init__(self, stage):
            self.stage, self.number = stage, 0

        def __getattr__(self, name):
            return getattr(self.stage, name)

        def batches(self):
            while True:
                self.number += 1
                yield batch(4 // self.number)

    config = replace(stage_config, accumulate=2, max_steps=1)
    stage = editor(config)
    twin = copy.deepcopy(stage.model)
    run = Trainer(config, Two(stage), CPU)
    seen = []
    run.optimisers[0].register_step_pre_hook(lambda *_: seen.append([w.grad.clone() for w in stage.model.parameters()]))
    assert run.run()
    for micro in range(2):
        random = generator("cpu", "loss", config.seed, 0, micro, 0)
        (stage.loss(twin, batch(4 // (micro + 1)), random)[0] * (2 / 3, 1 / 3)[micro]).backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), config.optimiser.clip_norm)
    assert run.stage.number == 2 and norm > 0
    for weight, gradient in zip(twin.parameters(), seen[0], strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_what_needs_float32_has_it_under_autocast(stage_config):  # noqa: F811
    stage = editor(replace(stage_config, precision="bfloat16"))
    model, types = stage.transformer, {}

    def note(name):
        return lambda _, inputs, output: types.update(
            {name: [part.dtype for part in (output if isinstance(output, tuple) else (output,))]}
        )

    block = model.blocks[0]
    watched = {"rope": model.rope, "norm1": block.norm1, "norm2": block.norm2, "norm3": block.norm3,
               "sinusoid": model.condition_embedder.timesteps_proj, "plain": block.ffn}  # fmt: skip
    for name, module in watched.items():
        module.register_forward_hook(note(name))
    with autocast("bfloat16", torch.device("cpu")):
        flow, semantic = stage.errors(model, batch(), torch.full((4,), 0.5), torch.Generator().manual_seed(0))
    assert flow.dtype == semantic.dtype == torch.float32
    assert types.pop("plain") == [torch.bfloat16]
    assert all(dtype == torch.float32 for found in types.values() for dtype in found), types
    (flow.mean() + semantic.mean()).backward()
    assert {weight.grad.dtype for weight in model.parameters()} == {torch.float32}
