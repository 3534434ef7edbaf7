"""The loop, the averages and the editor's stage, on networks small enough for a CPU."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from sama.pipeline.conditioning import PADDING
from tests.comparing import assert_trained
from tests.tiny import tiny_pipeline
from tests.unit.test_procedural import pack  # noqa: F401 - a fixture
from training.config import (
    DataConfig,
    ObjectiveConfig,
    OptimiserConfig,
    RenderedConfig,
    SaveConfig,
    TrainConfig,
    WatchConfig,
)
from training.core.ema import Ema
from training.core.float8 import RoundedWeights, float8_rounded
from training.core.loop import UNTIMED_STEPS, Trainer
from training.core.meter import Clock, Cost
from training.core.optim import build_optimisers, rate_factor
from training.core.tracking import read_metrics
from training.data.drawn.feed import RenderedFeed
from training.data.encoders import Encoders
from training.errors import ConfigError
from training.parallel.processes import DataRank, ProcessGroups, clip_gradients
from training.stages.editor import EditStage
from training.synth.material.pack import Pack
from training.tiny.vae import WEIGHTS_FILE


class Net(nn.Module):
    """A weight of each kind: an outer one (AdamW), a convolution and a matrix (Muon), biases."""

    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 1)
        self.inner = nn.Conv2d(8, 16, 3)
        self.matrix = nn.Linear(16 * 4, 64)
        self.proj_out = nn.Linear(64, 1)

    def forward(self, x):
        return self.proj_out(torch.relu(self.matrix(torch.relu(self.inner(self.conv_in(x))).flatten(1))))


class ToyStage:
    """EncodedBatch n is a function of n."""

    def __init__(self, broken=()):
        torch.manual_seed(0)
        self.model, self.number, self.broken = Net(), 0, broken

    def batches(self):
        while True:
            x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(self.number))
            x = x * torch.inf if self.number in self.broken else x
            self.number += 1
            yield x

    def cost(self, batch):
        return Cost(len(batch), 0, 0)

    def figures(self):
        return {}

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]

    def loss(self, model, batch, random):
        wanted = batch.mean((1, 2, 3), keepdim=True).flatten(1) + torch.randn(8, 1, generator=random)
        loss = (model(batch) - wanted).square().mean()
        return loss, {"part": loss.detach()}

    def export(self, folder):
        torch.save(self.model.state_dict(), folder / "exported.pt")


def configuration(output, **changes):
    optimiser = OptimiserConfig(warmup_steps=3, decay_share=0.5, ema_decay=0.9)
    settings = {"max_steps": 4, "precision": "float32", "watch": WatchConfig(log_every=1), "optimiser": optimiser}
    return TrainConfig("sft", str(output), **(settings | changes))


def trainer(config, **stage):
    return Trainer(config, ToyStage(**stage), Accelerator(cpu=True))


def weights_of(one):
    return {**one.stage.model.state_dict(), **{f"ema.{k}": v for k, v in one.ema.shadow.items()}}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name


def stop_after(one, steps):
    """Run a part of the schedule: the run is told to end in the middle of its last step, and saves."""
    one.optimisers[0].register_step_post_hook(lambda *_: one.stop() if one.step + 1 == steps else None)
    assert not one.run() and one.step == steps


@pytest.mark.parametrize("float8_share", [0.0, 0.75])
def test_two_steps_saved_and_two_more_are_four(tmp_path, float8_share):
    config = configuration(tmp_path / "run", float8_share=float8_share)
    whole = trainer(replace(config, output=str(tmp_path / "whole")))
    whole.run()
    half = trainer(config)
    stop_after(half, 2)

    resumed = trainer(config)
    assert resumed.resume() and resumed.step == 2
    assert_same(weights_of(resumed), weights_of(half))
    resumed.run()
    assert resumed.step == 4
    assert_trained(read_metrics(whole.folder), ToyStage().model.state_dict(), weights_of(whole))
    assert_same(weights_of(resumed), weights_of(whole))
    exported = [torch.load(tmp_path / folder / "exported.pt") for folder in ("run", "whole")]
    assert_same(*exported)


def test_resume_is_no_restart_and_knows_its_run(tmp_path):
    config = configuration(tmp_path)
    assert not trainer(config).resume()
    done = trainer(config)
    done.run()
    again = trainer(config)
    again.resume()
    before = {name: value.clone() for name, value in again.stage.model.state_dict().items()}
    again.run()  # nothing is left to do
    assert again.step == 4
    assert_same(again.stage.model.state_dict(), before)
    changed = replace(config, seed=1, optimiser=replace(config.optimiser, learning_rate=0.5))
    with pytest.raises(
        ConfigError, match=r"another configuration.*\n  optimiser.learning_rate: 0.002 -> 0.5\n  seed: 0 -> 1"
    ):
        trainer(changed).resume()
    assert trainer(replace(config, save=SaveConfig(keep=7), watch=WatchConfig(log_every=9))).resume()


def test_every_place_step_and_micro_step_has_noise_of_its_own(tmp_path):
    class Noted(ToyStage):
        def loss(self, model, batch, random):
            drawn.append(tuple(torch.randn(4, generator=torch.Generator().set_state(random.get_state())).tolist()))
            return super().loss(model, batch, random)

    noise = []
    for rank, folder in ((0, "first"), (1, "second"), (0, "shares the first one's place")):
        drawn: list[tuple[float, ...]] = []
        groups = ProcessGroups(DataRank(rank, 2, torch.device("cpu")))
        Trainer(configuration(tmp_path / folder, accumulate=2), Noted(), Accelerator(cpu=True), groups).run()
        noise.append(drawn)
    assert [len(drawn) for drawn in noise] == [8, 8, 8] and len({*noise[0], *noise[1]}) == 16
    assert noise[2] == noise[0]


def test_muon_has_the_matrices_and_moves_convolutions():
    model = Net()
    muon, adam = build_optimisers(model, OptimiserConfig())
    assert [tuple(weight.shape) for group in muon.param_groups for weight in group["params"]] == [(16, 72), (64, 64)]
    assert sum(len(group["params"]) for group in adam.param_groups) == 6
    before = model.inner.weight.detach().clone()
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    muon.step()
    assert not torch.equal(model.inner.weight, before)


def test_a_broken_batch_is_skipped_and_counted(tmp_path):
    run = trainer(configuration(tmp_path, max_steps=5), broken={1})
    run.run()
    assert all(value.isfinite().all() for value in run.stage.model.state_dict().values())
    logs = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [log["skipped_steps"] for log in logs] == [0, 1, 1, 1, 1] and run.step == 5
    assert [log["samples"] for log in logs] == [8, 16, 24, 32, 40]
    figures = {"loss", "part", "grad_norm"}
    assert [len(figures & log.keys()) for log in logs] == [3, 0, 3, 3, 3], "those of the skipped step are left out"


def test_gradients_are_clipped_to_the_norm_that_the_library_finds():
    one, other = ToyStage(), ToyStage()
    batch = next(one.batches()) * 1000
    for stage in (one, other):
        stage.loss(stage.model, batch, torch.Generator().manual_seed(0))[0].backward()
    norm, broken = clip_gradients(one.model.parameters(), 1.0)
    expected = nn.utils.clip_grad_norm_(other.model.parameters(), 1.0)
    assert norm > 1 and torch.equal(norm, expected) and not broken
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_time_does_not_count_before_the_clock_starts(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("training.core.meter.time.monotonic", lambda: now[0])
    clock = Clock(max_steps=100, max_minutes=1)
    now[0] = 500.0
    assert clock.progress(step=3) == 0.03
    clock.start()
    now[0] = 530.0
    assert clock.progress(3) == 0.5 and clock.progress(80) == 0.8
    clock.before = 15.0
    assert clock.progress(3) == 0.75

    class Slow(ToyStage):
        def loss(self, model, batch, random):
            now[0] += 20.0
            return super().loss(model, batch, random)

    run = Trainer(configuration(tmp_path, max_steps=1000, max_minutes=1.0), Slow(), Accelerator(cpu=True))
    run.run()
    assert run.step == UNTIMED_STEPS + 3


def test_the_rate_is_a_trapezoid():
    config = OptimiserConfig(warmup_steps=10, decay_share=0.4)
    assert rate_factor(0, 0.0, config) == pytest.approx(0.1)
    assert rate_factor(50, 0.3, config) == rate_factor(50, 0.6, config) == 1.0
    assert rate_factor(50, 0.8, config) == pytest.approx(0.5) and rate_factor(50, 1.0, config) == 0.0


# Averages and stored weights


def test_the_average_warms_up():
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    average = Ema(model, decay=0.999)
    nn.init.ones_(model.weight)
    average.update()  # decay min(0.999, 2 / 11)
    torch.testing.assert_close(average.shadow["weight"], torch.full((1, 2), 9 / 11))
    for _ in range(50):
        average.update()
    assert (average.shadow["weight"] > 0.9999).all()


def test_what_is_written_is_the_average_of_every_step_with_its_decay_capped(tmp_path):
    seen = []

    class Seen(ToyStage):
        def loss(self, model, batch, random):
            seen.append({name: value.detach().clone() for name, value in model.named_parameters()})
            return super().loss(model, batch, random)

    optimiser = OptimiserConfig(warmup_steps=1, ema_decay=0.4)
    stage = Seen()
    config = configuration(tmp_path, max_steps=12, optimiser=optimiser)
    Trainer(config, stage, Accelerator(cpu=True)).run()
    steps = [*seen[1:], dict(stage.model.named_parameters())]  # after each of the twelve
    exported = torch.load(tmp_path / "exported.pt")
    for name, average in seen[0].items():
        for number, weights in enumerate(steps, 1):
            decay = min(0.4, (1 + number) / (10 + number))  # (1 + t) / (10 + t) passes 0.4 at the sixth
            average = decay * average + (1 - decay) * weights[name].detach()
        assert average.isfinite().all() and not torch.equal(average, seen[0][name])
        torch.testing.assert_close(exported[name], average, atol=1e-6, rtol=1e-5, msg=name)


def test_averages_are_swapped_in_and_out_again():
    model = nn.Linear(2, 1)
    start = model.weight.detach().clone()
    average = Ema(model, decay=0.5)
    with torch.no_grad():
        model.weight += 1
    own = model.weight.detach().clone()
    with pytest.raises(KeyError), average.swapped_in():
        assert torch.equal(model.weight, start)
        raise KeyError
    assert torch.equal(model.weight, own)


def test_rounded_weights_are_the_stored_ones_and_come_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    own = {name: value.clone() for name, value in model.state_dict().items()}
    rounded = RoundedWeights(model)
    with rounded:
        assert torch.equal(model[0].weight, float8_rounded(own["0.weight"]))
        assert not torch.equal(model[0].weight, own["0.weight"])
        assert torch.equal(model[1].weight, own["1.weight"])  # small: stored in more bits
    assert_same(model.state_dict(), own)


# The editor's stage

MODEL = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "semantic_hidden_dim": 32,
    "semantic_positions": "grid",
}


@pytest.fixture
def base(tmp_path):
    pipeline = tiny_pipeline()
    for part in ("vae", "semantic_tower", "text_encoder", "tokenizer", "transformer"):
        getattr(pipeline, part).save_pretrained(tmp_path / "base" / part)
    return tmp_path / "base"


@pytest.fixture
def stage_config(base, pack, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Pack, "load", lambda folder: pack)
    rendered = RenderedConfig(
        frames=5, groups=2, capacity_groups=5, refresh_per_step=0.5, paraphrases=2, pretext_share=0.25
    )
    return configuration(
        base.parent / "run",
        model=MODEL,
        base=str(base),
        data=DataConfig(workers=0, rendered=rendered),
        objective=ObjectiveConfig(edit_weight=3.0),
        batch_size=4,
        start_from_base=True,
    )


def editor(config):
    place = DataRank(0, 1, torch.device("cpu"))
    encoders = Encoders(config.base, config.tower, place.device, config.precision)
    return EditStage(config, Accelerator(cpu=True), RenderedFeed(config, encoders, place), encoders, place)


def test_the_editor_trains_from_the_stored_weights(stage_config, base):
    stage = editor(stage_config)
    stored = load_file(base / "transformer" / WEIGHTS_FILE)
    run = Trainer(stage_config, stage, Accelerator(cpu=True))
    for name, value in run.ema.shadow.items():
        assert torch.equal(value, stored[name])
    run.run()
    exported = load_file(base.parent / "run" / "transformer" / WEIGHTS_FILE)
    assert exported.keys() == stored.keys()
    assert any(not torch.equal(exported[name].float(), stored[name].float()) for name in stored)
    logs = [json.loads(line) for line in (base.parent / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"flow", "semantic", "flow_band_3", "semantic_band_3", "tokens_per_second", "data_share"} <= logs[
        -1
    ].keys() and logs[-1]["skipped_steps"] == 0


def test_new_groups_come_while_training_and_runs_repeat(stage_config, monkeypatch):
    stage = editor(stage_config)
    encoded = []
    encode = stage.encoders.latents
    monkeypatch.setattr(stage.encoders, "latents", lambda clips: encoded.append(len(clips)) or encode(clips))
    batches = stage.batches()
    first = next(batches)
    assert len(encoded) == 2  # 0.5 a step: none in the first
    others = [next(batches) for _ in range(4)]
    assert len(encoded) == 4 and all(count % 4 == 0 for count in encoded)
    again = editor(stage_config).batches()
    for batch in (first, *others):
        twin = next(again)
        assert torch.equal(batch.source, twin.source) and torch.equal(batch.target, twin.target)
        assert torch.equal(batch.text, twin.text) and torch.equal(batch.anchors, twin.anchors)
        assert not torch.equal(batch.source, batch.target)


def test_scenes_that_are_kept_are_not_encoded_again(stage_config, monkeypatch, tmp_path):
    def with_cache(**changes):
        rendered = replace(stage_config.data.rendered, cache=str(tmp_path / "scenes"), **changes)
        return replace(stage_config, data=replace(stage_config.data, rendered=rendered))

    def batches(config):
        stage = editor(config)
        encode = stage.encoders.latents
        monkeypatch.setattr(stage.encoders, "latents", lambda clips: encoded.append(len(clips)) or encode(clips))
        taken = stage.batches()
        return [next(taken) for _ in range(3)]

    encoded = []
    plain, first = batches(stage_config), batches(with_cache())
    assert len(encoded) == 2 * 3  # two before the first step, one while training
    encoded.clear()
    again = batches(with_cache())
    assert len(encoded) == 1  # what came while training is drawn anew
    for one, two, three in zip(plain, first, again, strict=True):
        for name in ("source", "target", "text", "anchors"):
            assert torch.equal(getattr(one, name), getattr(two, name))
            assert torch.equal(getattr(one, name), getattr(three, name))
    encoded.clear()
    batches(with_cache(groups=3))  # goes on behind what is kept
    assert len(encoded) == 2
    encoded.clear()
    batches(with_cache(paraphrases=3))
    batches(replace(with_cache(), seed=5))
    assert len(encoded) == 2 * 3  # other scenes


def test_latents_are_those_of_the_pipeline(stage_config, base):
    stage = editor(stage_config)
    clips = torch.randint(256, (3, 5, 32, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = torch.cat([tiny_pipeline().encode_video(clip[None].float() / 255) for clip in clips])
    torch.testing.assert_close(stage.encoders.latents(clips), expected.float(), atol=1e-4, rtol=1e-4)


def test_latents_in_bfloat16_are_those_of_autocast(stage_config):
    """Weights that were rounded once give what autocast gives by rounding them every time."""
    rounded, exact = (Encoders(stage_config.base, "", torch.device("cpu"), name) for name in ("bfloat16", "float32"))
    clips = torch.randint(256, (3, 5, 32, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    latents = rounded.latents(clips)
    exact.precision = "bfloat16"
    assert latents.dtype == torch.float32 and latents.isfinite().all()
    assert torch.equal(latents, exact.latents(clips))


def test_text_states_are_the_encoders_with_padding_at_zero(stage_config):
    encoders = editor(stage_config).encoders
    ids = encoders.bare_ids.repeat(2, 1)
    ids[1, 6:] = PADDING
    ids[1, 4] = encoders.tokenizer.pad_token_id  # written by hand: it is read
    mask = ids != PADDING
    with torch.no_grad():
        states = encoders.states_of(ids)
        padded = ids.masked_fill(~mask, encoders.tokenizer.pad_token_id)
        plain = encoders.text(input_ids=padded, attention_mask=mask.long()).last_hidden_state * mask.unsqueeze(-1)
    torch.testing.assert_close(states, plain)
    assert not states[~mask].any() and states[mask].any(-1).all()


def test_a_base_that_cannot_be_started_from_is_told(stage_config, base):
    with pytest.raises(ConfigError, match=r"cannot be trained as the section `model` says.*another size"):
        editor(replace(stage_config, model=MODEL | {"ffn_dim": 32}))
    (base / "transformer" / WEIGHTS_FILE).unlink()
    with pytest.raises(ConfigError, match=r"start_from_base: .*There is no checkpoint"):
        editor(stage_config)
    assert editor(replace(stage_config, start_from_base=False)).model is not None
