"""Held-out losses and grids: the same at every look, harmless to the run, within their time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch._dynamo.testing import CompileCounter

from tests.media import make_clip, read_barcode
from tests.tiny import tiny_pipeline
from tests.unit.test_procedural import pack  # noqa: F401 - a fixture
from training.config import DataConfig, ManifestConfig, ObjectiveConfig, RenderedConfig, TrainConfig, WatchConfig
from training.core.ema import Ema
from training.core.randomness import generator
from training.core.tracking import Tracker, read_metrics
from training.data.drawn.feed import RenderedFeed
from training.data.encoders import Encoders
from training.errors import ConfigError
from training.parallel.processes import DataRank
from training.stages.editor import EditStage
from training.synth.material.pack import Pack
from training.watch.grids import GridRow, draw_grid, shown_frames
from training.watch.held_out import held_out_samples
from training.watch.validation import SIGMAS, Validator

MODEL = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "semantic_hidden_dim": 32,
    "semantic_positions": "grid",
}
CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path, pack, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Pack, "load", lambda folder: pack)
    pipeline = tiny_pipeline()
    for part in ("vae", "semantic_tower", "text_encoder", "tokenizer", "transformer"):
        getattr(pipeline, part).save_pretrained(tmp_path / "base" / part)
    return TrainConfig(
        "sft",
        str(tmp_path / "run"),
        model=MODEL,
        base=str(tmp_path / "base"),
        precision="float32",
        start_from_base=True,
        data=DataConfig(workers=0, rendered=RenderedConfig(frames=5)),
        watch=WatchConfig(validation_samples=2, sample_count=2, sample_steps=2, sample_seconds=60, trackers=()),
    )


def build(config):
    place = DataRank(0, 1, CPU)
    encoders = Encoders(config.base, config.tower, CPU, config.precision)
    stage = EditStage(config, Accelerator(cpu=True), RenderedFeed(config, encoders, place), encoders, place)
    tracker = Tracker(config.output, config.watch.trackers, {})
    return stage, Validator(config, stage, encoders, tracker, place)


def moved(model):
    """Averages that differ from the model's present weights."""
    ema = Ema(model, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02)
    return ema


def test_losses_are_a_function_of_the_weights(config):
    stage, validator = build(config)
    first = validator.losses(stage.model, 100)
    names = [f"validation/raw/{part}{level}" for part in ("flow", "semantic") for level in ("", "_0.1", "_0.9")]
    assert set(names) < set(first) and len(first) == 2 * (1 + len(SIGMAS))
    assert first["validation/raw/flow"] == pytest.approx(
        np.mean([first[f"validation/raw/flow_{sigma}"] for sigma in SIGMAS])
    )
    torch.randn(7)
    assert validator.losses(stage.model, 900) == first
    assert read_metrics(config.output) == [{"step": step, **first} for step in (100, 900)]
    assert build(config)[1].losses(stage.model, 100) == first
    with torch.no_grad():
        stage.transformer.proj_out.weight.mul_(1.1)
    assert validator.losses(stage.model, 100) != first


def test_losses_are_those_of_training(config):
    stage, validator = build(replace(config, watch=replace(config.watch, validation_samples=1)))
    record = validator.losses(stage.model, 0)
    sample = held_out_samples(config, stage.encoders, 1)[0].batch
    for level, sigma in enumerate(SIGMAS):
        random = generator("cpu", "validation", 0, level)  # of the first sample: the same at every look
        with torch.no_grad():
            flow, semantic = stage.errors(stage.model.eval(), sample, torch.tensor([sigma]), random)
        assert record[f"validation/raw/flow_{sigma:g}"] == pytest.approx(float(flow), rel=1e-5)
        assert record[f"validation/raw/semantic_{sigma:g}"] == pytest.approx(float(semantic), rel=1e-5)


def test_both_kinds_of_weights_are_measured_and_the_run_is_left_as_it_was(config):
    stage, validator = build(config)
    of_start = validator.losses(stage.model, 0)
    ema = moved(stage.model)
    stage.model.train()
    stage.model.blocks[0].eval()
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)

    record = validator.losses(stage.model, 1, ema)
    path = validator.grid(1, ema)

    assert torch.equal(torch.randn(3), expected)
    of_ema = {name.replace("/ema/", "/raw/"): value for name, value in record.items() if "/ema/" in name}
    assert of_ema == of_start
    assert record["validation/raw/flow"] != record["validation/ema/flow"]
    assert all(torch.equal(value, before[name]) for name, value in stage.model.state_dict().items())
    assert stage.model.training and not stage.model.blocks[0].training and stage.model.blocks[1].training
    assert all(parameter.grad is None for parameter in stage.model.parameters())
    assert path.name == "step-00000001.jpg"


def test_drop_out_is_off(config):
    stage, validator = build(config)
    expected = validator.losses(stage.model, 0)
    stage.transformer.blocks[0].ffn = nn.Sequential(stage.transformer.blocks[0].ffn, nn.Dropout(0.5))
    stage.model.train()
    assert validator.losses(stage.model, 0) == expected


def test_compiled_blocks_are_not_compiled_again(config):
    stage, validator = build(config)
    expected = validator.losses(stage.model, 0)
    counter = CompileCounter()
    for block in stage.transformer.blocks:
        block.compile(backend=counter, dynamic=False)
    assert validator.losses(stage.model, 0) == expected and counter.frame_count == 0
    stage.errors(
        stage.model, held_out_samples(config, stage.encoders, 1)[0].batch, torch.tensor([0.5]), torch.Generator()
    )
    assert counter.frame_count > 0


def test_a_model_without_anchors_has_no_semantic_loss(config):
    stage, validator = build(replace(config, objective=ObjectiveConfig(semantic_weight=0.0)))
    record = validator.losses(stage.model, 0)
    assert "validation/raw/flow" in record and not any("semantic" in name for name in record)


def test_held_out_pairs_are_of_several_tasks_and_sizes(config):
    stage, _ = build(config)
    samples = held_out_samples(config, stage.encoders, 3)
    assert len({sample.words for sample in samples}) == len({sample.batch.target.shape for sample in samples}) == 3
    for sample in samples:
        assert sample.batch.source.shape == sample.batch.target.shape and len(sample.batch.target) == 1
        assert not torch.equal(sample.batch.source, sample.batch.target)
        assert sample.numbers == (0, 2, 4) and len(sample.source) == len(sample.target) == 3
    again = held_out_samples(config, stage.encoders, 1)[0]
    assert again.words == samples[0].words and torch.equal(again.batch.target, samples[0].batch.target)


def test_a_grid_shows_source_target_and_both_samples(config, monkeypatch):
    drawn = {}
    monkeypatch.setattr("training.watch.validation.draw_grid", lambda rows, path, **_: drawn.update(rows=rows) or path)
    config = replace(config, watch=replace(config.watch, trackers=()))
    stage, validator = build(config)
    assert validator.grid(7, moved(stage.model)).name == "step-00000007.jpg"
    rows = drawn["rows"]
    assert len(rows) == 2
    for row in rows:
        kinds = [np.stack(kind) for kind in (row.source, row.target, row.raw, row.averaged)]
        assert len({kind.shape for kind in kinds}) == 1 and all(kind.dtype == np.uint8 for kind in kinds)
        assert not np.array_equal(kinds[2], kinds[3])
    validator.grid(8)
    assert all(row.averaged is None for row in drawn["rows"])


def test_samples_are_those_of_the_pipeline(config, monkeypatch):
    drawn = {}
    monkeypatch.setattr("training.watch.validation.draw_grid", lambda rows, path, **_: drawn.update(rows=rows) or path)
    stage, validator = build(config)
    validator.grid(0)
    first = {**drawn}
    validator.grid(50)
    for one, other in zip(first["rows"], drawn["rows"], strict=True):
        assert np.array_equal(one.raw, other.raw)  # noise does not depend on the step
    sample = held_out_samples(config, stage.encoders, 1)[0]
    out = stage.pipeline()(
        prompt=sample.words,
        source_latents=sample.batch.source,
        num_inference_steps=2,
        generator=generator("cpu", "samples", 0),
    )
    expected = (out.frames[0][[0, 2, 4]] * 255).round().astype(np.uint8)
    assert np.abs(expected.astype(int) - np.stack(first["rows"][0].raw)).max() <= 1


def test_a_grid_keeps_to_its_time_and_shows_what_it_has(config, monkeypatch):
    drawn, now = {}, [0.0]
    monkeypatch.setattr("training.watch.validation.draw_grid", lambda rows, path, **_: drawn.update(rows=rows) or path)
    monkeypatch.setattr("training.watch.validation.time.monotonic", lambda: now[0])
    stage, validator = build(config)
    forward = stage.transformer.forward
    monkeypatch.setattr(
        stage.transformer, "forward", lambda *a, **k: (now.__setitem__(0, now[0] + 10.0), forward(*a, **k))[1]
    )
    # A sample takes 4 passes (2 steps, guided) of 10 s: one of each kind fits.
    validator.config = replace(config, watch=replace(config.watch, sample_seconds=110.0))
    validator.grid(0, moved(stage.model))
    assert [(row.raw is not None, row.averaged is not None) for row in drawn["rows"]] == [(True, True)]
    validator.config = replace(config, watch=replace(config.watch, sample_seconds=30.0))
    start = now[0]
    validator.grid(0, moved(stage.model))
    assert now[0] - start <= 60.0
    assert [(row.raw, row.averaged) for row in drawn["rows"]] == [(None, None)]


def test_pictures_reach_the_tracker(config):
    config = replace(config, watch=replace(config.watch, trackers=("tensorboard",), sample_count=1))
    _, validator = build(config)
    path = validator.grid(20)
    validator.tracker.close()
    events = EventAccumulator(f"{config.output}/tensorboard").Reload()
    with Image.open(path) as picture:
        shown = events.Images("samples")[0]
        assert (shown.step, shown.width, shown.height) == (20, *picture.size)


def test_a_grid_has_a_line_for_each_frame(tmp_path):
    assert shown_frames(1) == (0,) and shown_frames(17) == (0, 8, 16)
    clip = [np.full((32, 48, 3), shade, np.uint8) for shade in (40, 90, 140)]
    rows = [
        GridRow("make it snowy", (0, 8, 16), clip, clip, clip, clip),
        GridRow("add a cat", (0,), clip[:1], clip[:1]),
    ]
    with Image.open(draw_grid(rows, tmp_path / "grid.png", "step 7", height=32)) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[0] > 4 * 32 and pixels.shape[1] > 4 * 48
    assert (pixels == 90).all(-1).sum() == 4 * 32 * 48  # the middle frame, four times


def on_files(config, folder):
    """The configuration of a run on files, with a manifest of three held-out pairs, one of which is none."""
    for name, frames in (("one", 12), ("two", 12), ("short", 3)):
        make_clip(folder / f"{name}.mp4", frames, 208, 112, constant=name == "two")
    rows = ("one.mp4,one.mp4,keep it", "one.mp4,two.mp4,make it snowy", "two.mp4,short.mp4,cut it")
    (folder / "held_out.csv").write_text("source_video,target_video,prompt\n" + "".join(f"{row}\n" for row in rows))
    return replace(
        config,
        data=replace(config.data, source="manifest", manifest=ManifestConfig(buckets="tiny", frames=(1, 5, 9))),
        watch=replace(config.watch, validation_manifest=str(folder / "held_out.csv")),
    )


def test_a_run_on_files_validates_on_the_pairs_of_its_manifest(config, tmp_path, caplog):
    config = on_files(config, tmp_path)
    stage, validator = build(config)
    samples = held_out_samples(config, stage.encoders, 8)
    assert [sample.words for sample in samples] == ["make it snowy"]
    assert samples[0].batch.target.shape[2:] == (3, 18, 32) and samples[0].numbers == (0, 4, 8)
    assert [read_barcode(frame) for frame in samples[0].source] == [0, 4, 8]
    assert "source equals target" in caplog.text and "lengths differ" in caplog.text
    assert validator.losses(stage.model, 0).keys() >= {"validation/raw/flow", "validation/raw/semantic"}


def test_a_run_on_files_says_what_it_needs(config):
    config = replace(config, data=replace(config.data, source="manifest"))
    with pytest.raises(ConfigError, match=r"watch\.validation_manifest"):
        build(config)
