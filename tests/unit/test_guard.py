"""What is not finite is named, never kept and never trained on; a run that skips too much ends with status 2."""

import json
import logging
import signal

import pytest
import torch
import yaml
from accelerate import Accelerator
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors.torch import load_file, save_file

from sama.shapes import Bucket
from tests.comparing import assert_trained
from tests.media import barcode_frame
from tests.tiny import tiny_pipeline
from tests.unit.test_training_loop import ToyStage, assert_same, configuration
from training import train
from training.config import GuardConfig, OptimiserConfig, SaveConfig
from training.core.batch import EncodedBatch, without_broken_rows
from training.core.checkpoint import run_tensors
from training.core.loop import Trainer
from training.core.tracking import read_metrics
from training.data.check import main as check
from training.data.files.cache import ContentCache
from training.data.whole_clip_vae import OnePassVAE
from training.errors import NotFiniteError, RunStoppedError

PAIRS = 8
STEPS = 10
BAD = 3
"""The pair whose target is white, which the tests' VAE cannot encode."""


def trainer(config, broken=()):
    return Trainer(config, ToyStage(broken=broken), Accelerator(cpu=True))


def everything(run):
    tensors = run_tensors(run.stage.model, run.ema, run.optimisers)
    return {name: value.detach().clone() for name, value in tensors.items()}


# The loop


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_skipped_step_leaves_weights_momenta_and_averages_as_they_were(tmp_path, name):
    optimiser = OptimiserConfig(name=name, warmup_steps=1, weight_decay=0.5, ema_decay=0.9)
    config = configuration(tmp_path, max_steps=10, optimiser=optimiser)
    run = trainer(config, broken={2})
    batches = run.stage.batches()
    for _ in range(2):
        run._optimise(batches, 0.0)
    before, updates = everything(run), run.ema.updates
    run._optimise(batches, 0.0)
    assert int(run.skipped) == 1 and run.step == 3
    assert_same(before, everything(run))
    assert run.ema.updates == updates == 2
    run._optimise(batches, 0.0)
    after = everything(run)
    assert all(value.isfinite().all() for value in after.values())
    assert all(not torch.equal(value, before[name]) for name, value in after.items()), "the next step is taken"


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_skipped_first_step_leaves_a_fresh_run(tmp_path, name):
    config = configuration(tmp_path, optimiser=OptimiserConfig(name=name))
    run, fresh = trainer(config, broken={0}), trainer(config)
    run._optimise(run.stage.batches(), 0.0)
    assert int(run.skipped) == 1
    assert_same(everything(run), everything(fresh))


def test_a_run_that_breaks_stops_and_keeps_its_last_good_checkpoints(tmp_path):
    config = configuration(
        tmp_path, max_steps=50, save=SaveConfig(steps=2, keep=2), guard=GuardConfig(window=12, max_skipped_share=0.5)
    )
    run = trainer(config, broken=range(6, 100))
    with pytest.raises(RunStoppedError, match=r"7 of the last 12 steps .* were skipped.*step-00000006, is kept"):
        run.run()
    assert run.step == 13, "six good ones and one more than half of the window"
    left = sorted(path.name for path in (tmp_path / "checkpoints").glob("*step-*"))
    assert left == ["step-00000004", "step-00000006"]
    assert not (tmp_path / "exported.pt").exists()
    logs = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [log["step"] for log in logs if "loss" in log] == [1, 2, 3, 4, 5, 6]
    assert logs[-1]["skipped_steps"] == 7 and None not in logs[-1].values()

    again = trainer(config)
    assert again.resume() and again.step == 6
    again.run()
    assert again.step == 50 and (tmp_path / "exported.pt").exists()


class BrokenBackwards(ToyStage):
    """In the second step the loss is finite and its gradient is not."""

    def loss(self, model, batch, random):
        loss, parts = super().loss(model, batch, random)
        return (loss + (model.proj_out.bias * 0).sqrt().sum() if self.number == 2 else loss), parts


def test_finite_figures_of_a_skipped_step_are_left_out_too(tmp_path):
    run = Trainer(configuration(tmp_path, max_steps=4), BrokenBackwards(), Accelerator(cpu=True))
    run.run()
    figures = {"loss", "part", "grad_norm"}
    assert [len(figures & line.keys()) for line in read_metrics(tmp_path)] == [3, 0, 3, 3]
    assert int(run.skipped) == 1


def test_a_short_run_is_judged_by_the_steps_that_there_were(tmp_path):
    with pytest.raises(RunStoppedError, match="5 of the last 5 steps"):
        trainer(configuration(tmp_path / "a", max_steps=5), broken=range(5)).run()
    assert not list((tmp_path / "a").glob("**/step-*")) and not (tmp_path / "a" / "exported.pt").exists()
    trainer(configuration(tmp_path / "b", max_steps=5), broken={4}).run()
    assert (tmp_path / "b" / "exported.pt").exists()


def test_skipped_steps_are_remembered_over_a_resumption(tmp_path):
    guard = GuardConfig(window=8, max_skipped_share=0.5)
    config = configuration(tmp_path, max_steps=50, guard=guard)
    first = trainer(config, broken=range(1, 4))
    batches = first.stage.batches()
    for _ in range(4):
        first._optimise(batches, 0.0)
    first.save()
    second = trainer(config, broken=range(4, 50))
    second.resume()
    with pytest.raises(RunStoppedError, match="5 of the last"):
        second.run()
    assert second.step == 6


def test_weights_that_are_not_finite_are_neither_saved_nor_exported(tmp_path):
    run = trainer(configuration(tmp_path, max_steps=4, guard=GuardConfig(max_skipped_share=1.0)))
    with torch.no_grad():
        run.ema.shadow["matrix.weight"][0, 0] = torch.inf
    with pytest.raises(RunStoppedError, match="the weights are not finite"):
        run.run()
    assert not list(tmp_path.glob("**/step-*")) and not (tmp_path / "exported.pt").exists()


# The data


def test_a_broken_row_is_replaced_by_the_first_whole_one():
    tensors = [torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    batch = EncodedBatch(*(tensor.clone() for tensor in tensors))
    batch.source[0, 1, 1], batch.text[2, 0, 0], batch.anchors[3, 1, 2] = torch.nan, torch.inf, -torch.inf
    mended, finite = without_broken_rows(batch)
    assert finite.tolist() == [False, True, False, False]
    for name, tensor in zip(("source", "target", "text", "anchors"), tensors, strict=True):
        assert torch.equal(getattr(mended, name), tensor[[1, 1, 1, 1]])
    whole, finite = without_broken_rows(EncodedBatch(None, tensors[1], tensors[2], None))
    assert finite.all() and whole.source is None and torch.equal(whole.target, tensors[1])


def test_a_cache_neither_takes_nor_gives_what_is_not_finite(tmp_path, caplog):
    cache = ContentCache(tmp_path, "encoders")
    with pytest.raises(NotFiniteError, match="latents: not kept"):
        cache.store(cache.key("a"), {"latents": torch.tensor([1.0, torch.nan])})
    assert not list(tmp_path.rglob("*.*"))
    cache.store(cache.key("a"), {"latents": torch.ones(2)})
    (path,) = tmp_path.rglob("*.safetensors")
    assert cache.load(cache.key("a"))["latents"].tolist() == [1.0, 1.0]
    save_file({"latents": torch.tensor([1.0, torch.inf])}, path)  # as runs have left them that did not look
    assert cache.load(cache.key("a")) is None and "not finite" in caplog.text


# A run from the command line


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """Small sizes for a random VAE; and what a run changes of the process comes back."""
    monkeypatch.setattr("training.data.files.buckets.tiny_buckets", lambda: (Bucket(64, 64),))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    level = logging.getLogger().level
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.getLogger().setLevel(level)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    lines = ["source,target,prompt"]
    for number in range(PAIRS):
        frame = barcode_frame(number, 64, 64)
        Image.fromarray(frame).save(folder / f"s{number}.png")
        Image.fromarray(255 - frame if number != BAD else frame * 0 + 255).save(folder / f"t{number}.png")
        lines.append(f"s{number}.png,t{number}.png,make it red {number}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def cannot_encode_white(monkeypatch):
    """A fault like that of a convolution's kernel: one clip in a batch comes out as NaN."""
    encode = OnePassVAE.encode

    def broken(self, frames):
        mean, deviation = encode(self, frames)
        white = frames.flatten(1).amin(1) > 0.99
        return mean.masked_fill(white[:, None, None, None, None], torch.nan), deviation

    monkeypatch.setattr(OnePassVAE, "encode", broken)


def run_lora(folder, base, images, *overrides, **changes):
    """The status and the log of a bfloat16 LoRA on image pairs, its configuration written and read as a user would."""
    manifest = {"buckets": "tiny", "frames": [1], "sets": [{"manifest": str(images / "images.csv")}], "image_batch": 1}
    settings = {
        "stage": "lora", "base": str(base), "output": str(folder / "run"), "start_from_base": True, "max_steps": STEPS,
        "precision": "bfloat16", "data": {"source": "manifest", "workers": 0, "manifest": manifest},
        "lora": {"rank": 4, "name": "red"}, "save": {"steps": 3}, "watch": {"log_every": 1, "trackers": []},
        "optimiser": {"name": "adamw", "learning_rate": 1e-2, "warmup_steps": 1, "ema_decay": 0.5},
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(settings | changes))
    status = train.main(["--config", str(folder / "run.yaml"), *overrides])
    path = folder / "run" / "metrics.jsonl"
    return status, [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def cached(folder):
    return [load_file(path) for path in folder.rglob("*.safetensors")]


def test_a_lora_on_images_in_bfloat16_is_finite_and_learns(tmp_path, base, images):
    status, log = run_lora(tmp_path, base, images, "--set", f"data.manifest.cache={tmp_path / 'cache'}")
    assert status == 0
    adapter = load_file(tmp_path / "run" / "lora" / "red.safetensors")
    ups = {name: value for name, value in adapter.items() if "lora_B" in name or "lora_up" in name}
    assert_trained(log, {name: torch.zeros_like(value) for name, value in ups.items()}, adapter)
    entries = cached(tmp_path / "cache")
    assert sum("latents" in entry for entry in entries) >= PAIRS
    assert all(value.isfinite().all() for entry in entries for value in entry.values())


@pytest.mark.parametrize(("batch", "kept"), [(1, True), (4, False)], ids=["alone, cached", "in a batch"])
def test_one_bad_clip_is_named_and_left_out(tmp_path, base, images, cannot_encode_white, caplog, batch, kept):
    cache = tmp_path / "cache"
    overrides = [f"data.manifest.image_batch={batch}", *([f"data.manifest.cache={cache}"] if kept else [])]
    given = [word for override in overrides for word in ("--set", override)]
    status, log = run_lora(tmp_path, base, images, *given, max_steps=STEPS // batch + 1)
    assert status == 0
    drops = [json.loads(line) for line in (tmp_path / "run" / "data" / "unreadable-0.jsonl").read_text().splitlines()]
    assert {(drop["origin"], drop["reason"]) for drop in drops} == {
        (f"{images / 'images.csv'}:{BAD + 2}", "not finite in training")
    }
    assert f"images.csv:{BAD + 2} is not trained on" in caplog.text
    skipped = log[-1]["skipped_steps"]
    assert skipped == (len(drops) if batch == 1 else 0), "others of its batch make up for it"
    assert [line["step"] for line in log] == list(range(1, STEPS // batch + 2))
    assert sum("loss" in line for line in log) == len(log) - skipped
    assert all(value is not None for line in log for value in line.values())
    adapter = load_file(tmp_path / "run" / "lora" / "red.safetensors")
    assert all(value.isfinite().all() for value in adapter.values())
    if kept:
        entries = cached(cache)
        assert sum("latents" in entry for entry in entries) == 2 * PAIRS - 1
        assert all(value.isfinite().all() for entry in entries for value in entry.values())


def test_what_fills_a_cache_names_what_is_not_finite(tmp_path, base, images, cannot_encode_white, caplog, capsys):
    run_lora(tmp_path, base, images, "--dry-run")
    overrides = ["--set", f"data.manifest.cache={tmp_path / 'cache'}", "--encode"]
    assert check(["--config", str(tmp_path / "run.yaml"), *overrides]) == 0
    assert "1 not finite" in capsys.readouterr().out
    assert f"t{BAD}.png: its latents are not finite" in caplog.text
    assert all(value.isfinite().all() for entry in cached(tmp_path / "cache") for value in entry.values())


@pytest.mark.parametrize(("steps", "taken"), [(4, 4), (30, 5)], ids=["at its end", "on the way"])
def test_a_run_on_nothing_but_bad_clips_ends_with_status_2(tmp_path, base, images, capsys, steps, taken):
    broken = tmp_path / "broken"
    broken.mkdir()
    for part in base.iterdir():
        (broken / part.name).symlink_to(part)
    (broken / "vae").unlink()
    vae = AutoencoderKLWan.from_pretrained(base / "vae")
    with torch.no_grad():
        vae.encoder.conv_in.weight[0] = torch.nan
    vae.save_pretrained(broken / "vae")
    overrides = ["--set", f"data.manifest.cache={tmp_path / 'cache'}", "--set", "guard.window=20"]
    status, log = run_lora(tmp_path, broken, images, *overrides, max_steps=steps)
    assert status == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not finite" in told and "Traceback" not in told
    assert ("4 of the last 4 steps" if steps == taken else "6 of the last 6 samples") in told
    assert len(log) == taken and all("loss" not in line for line in log)
    assert not list((tmp_path / "run").glob("checkpoints/step-*")) and not (tmp_path / "run" / "lora").exists()
    assert not any("latents" in entry for entry in cached(tmp_path / "cache"))
