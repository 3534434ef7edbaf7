"""Whole runs, as a person starts them: from files and a YAML through the command line to weights."""

import csv
import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend

from sama.model.pretext import EDIT_PREFIX, PRETEXT_TASKS
from sama.shapes import Bucket
from sama.video import read_clip, write_clip
from tests.media import barcode_frame
from tests.tiny import tiny_pipeline
from tests.unit.test_adapters import PUBLISHED
from tests.unit.test_manifest import write_tar
from tests.unit.test_procedural import pack  # noqa: F401 - a fixture
from training.config import load_config
from training.core.loop import Trainer
from training.core.tracking import read_metrics
from training.data import check
from training.data.encoders import Encoders
from training.data.files.feed import ManifestFeed
from training.parallel.processes import DataRank
from training.stages.model import build_transformer
from training.synth.material.pack import Pack
from training.tiny.vae import WEIGHTS_FILE
from training.train import build_stage
from training.train import main as train

MODEL = {
    "num_attention_heads": 2, "attention_head_dim": 24, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2,
    "semantic_hidden_dim": 32, "semantic_positions": "grid",
}  # fmt: skip
WIDTH, HEIGHT, FRAMES = 96, 48, 9


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """One size that a random VAE encodes in no time; a run's signal handlers are taken away again."""
    monkeypatch.setattr("training.data.files.buckets.tiny_buckets", lambda: (Bucket(WIDTH, HEIGHT),))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_pipeline().save_pretrained(folder)
    return folder


def picture(path: Path, number: int, turned: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = barcode_frame(number, WIDTH, HEIGHT)
    if path.suffix == ".mp4":
        clip = np.stack([barcode_frame(number + later, WIDTH, HEIGHT) for later in range(FRAMES)])
        write_clip(path, 255 - clip if turned else clip, 24)
    else:
        Image.fromarray(255 - frame if turned else frame).save(path)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Three image pairs, three pairs of clips and three clips with captions."""
    folder = tmp_path_factory.mktemp("media")
    for kind in ("png", "mp4"):
        for number in range(3):
            picture(folder / f"s{number}.{kind}", 20 * number)
            picture(folder / f"t{number}.{kind}", 20 * number, turned=True)
        rows = [
            {"source": f"s{number}.{kind}", "target": f"t{number}.{kind}", "prompt": "make it red"}
            for number in range(3)
        ]
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"video": f"s{number}.mp4", "caption": f"a swan {number}"} for number in range(3)]
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def configured(folder: Path, base: Path, *sets, **settings) -> Path:
    """A run of two steps, as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"sets": list(sets), "buckets": "tiny", "frames": [1, 5], "image_batch": 1, "image_share": 0.5}
    values = {
        "base": str(base), "output": str(folder / "run"), "precision": "float32", "max_steps": 2,
        "data": {"source": "manifest", "workers": 0, "text_dropout": 0.0, "manifest": manifest},
        "optimiser": {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 1},
        "watch": {"log_every": 1, "trackers": []},
    }  # fmt: skip
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values | settings))
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What a run wrote."""
    return load_file(run / "transformer" / WEIGHTS_FILE)


def initial(path: Path) -> dict[str, torch.Tensor]:
    """What a configuration starts from."""
    config = load_config(path)
    encoders = Encoders(config.base, config.tower, torch.device("cpu"), config.precision)
    return build_transformer(config, encoders).state_dict()


def losses(run: Path, steps: int) -> list[float]:
    """The losses of every step, which must all be finite."""
    log = read_metrics(run)
    assert [line["step"] for line in log] == list(range(1, steps + 1))
    assert all(line["skipped_steps"] == 0 and math.isfinite(line["loss"]) for line in log)
    return [line["loss"] for line in log]


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference between the weights of two runs."""
    assert one.keys() == other.keys() and all(value.isfinite().all() for value in (*one.values(), *other.values()))
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)


def strayed(run: Path, other: Path, start: dict[str, torch.Tensor]) -> float:
    """How far two runs ended from each other, relative to how far the second one came from its start."""
    mine, theirs = weights(run), weights(other)

    def norm(difference: list[torch.Tensor]) -> float:
        return torch.stack([part.float().norm() for part in difference]).norm().item()

    moved = norm([theirs[name] - start[name] for name in start])
    assert moved > 0.01
    return norm([mine[name] - theirs[name] for name in start]) / moved


def test_stage_1_goes_on_from_what_stage_0_wrote(tmp_path, base, media):
    images, clips = {"manifest": str(media / "png.jsonl")}, {"manifest": str(media / "clips.jsonl"), "adapter": "clips"}
    zero = configured(tmp_path / "zero", base, images, clips, stage="pretrain", model=MODEL, max_steps=4)
    assert train(["--config", str(zero)]) == 0
    losses(tmp_path / "zero" / "run", 4)
    pairs = {"manifest": str(media / "mp4.jsonl")}
    one = configured(
        tmp_path / "one", base, pairs, images, stage="sft", start_from=str(tmp_path / "zero" / "run"), seed=1
    )
    assert train(["--config", str(one)]) == 0
    losses(tmp_path / "one" / "run", 2)
    before, after = weights(tmp_path / "zero" / "run"), weights(tmp_path / "one" / "run")
    # AdamW moves a weight by about its rate in a step; random weights of another seed lie a hundred times as far apart.
    assert 1e-5 < furthest(before, after) < 4e-3


def test_a_compiled_run_is_the_same_run(tmp_path, base, media):
    """Graphs, their joint backward and recompilation for a second shape are real; only their code is not generated,
    which takes a minute on a CPU. `tests/gpu` generates it."""
    sets = [{"manifest": str(media / f"{kind}.jsonl")} for kind in ("mp4", "png")]
    plain = configured(tmp_path / "plain", base, *sets, stage="sft", model=MODEL, max_steps=4)
    compiled = configured(tmp_path / "compiled", base, *sets, stage="sft", model=MODEL, max_steps=4, compile=True)
    start = initial(plain)
    assert train(["--config", str(plain)]) == 0
    backend = CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()
    with torch.compiler.set_stance("default", force_backend=backend):
        assert train(["--config", str(compiled)]) == 0
    torch.compiler.reset()
    assert backend.frame_count > 0 and backend.op_count > 50, "nothing was compiled"
    found, expected = (losses(tmp_path / name / "run", 4) for name in ("compiled", "plain"))
    assert found == pytest.approx(expected, rel=1e-4)
    assert strayed(tmp_path / "compiled" / "run", tmp_path / "plain" / "run", start) < 0.01


# The published sets, each in the form that it comes in


def as_json_list(path, row):
    path.write_text(json.dumps([row]))


def as_json_lines(path, row):
    path.write_text(json.dumps(row) + "\n")


def as_csv(path, row):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)


FORMS = {
    "nhr_edit": ("train/metadata.jsonl", as_json_lines),
    "gpt_image_edit": ("hqedit_gpt_edit.json", as_json_list),
    "pico_banana": ("sft.jsonl", as_json_lines),
    "koala": ("Koala_36M.csv", as_csv),
    "motion_bench": ("train.jsonl", as_json_lines),
    "ditto_style": ("global_style.json", as_json_list),
    "openve": ("local_change.csv", as_csv),
    "reco": ("replace_data_configs.json", as_json_list),
}


def published(name: str, folder: Path) -> tuple[dict, Path | None, Path, str]:
    """A set of one row with its files: the entry of `data.manifest.sets`, source and target, and the instruction."""
    row, (source, target, words, _) = PUBLISHED[name]
    if name == "pico_banana":  # its sources have absolute paths
        source = str(folder / "openimages" / "1.jpg")
        row = row | {"local_input_image": source}
    files = [None if path is None else folder / "root" / path for path in (source, target)]
    for file, turned in zip(files, (False, True), strict=True):
        if file is not None:
            picture(file, 30, turned)
    form, write = FORMS[name]
    path = folder / form
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, row)
    return {"manifest": str(path), "adapter": name, "root": str(folder / "root")}, *files, words


def x2edit(folder: Path) -> tuple[dict, Path, Path, str]:
    """X2Edit is a shard, the others are rows."""
    for name, turned in (("s.jpg", False), ("t.jpg", True)):
        picture(folder / name, 30, turned)
    members = {"0.1.0.jpg": (folder / "s.jpg").read_bytes(), "0.2.jpg": (folder / "t.jpg").read_bytes()}
    write_tar(folder / "0.tar", members | {"0.json": json.dumps({"instruction": "Add rain", "task": "x"}).encode()})
    return {"manifest": str(folder / "*.tar"), "adapter": "x2edit"}, folder / "s.jpg", folder / "t.jpg", "Add rain"


def shown(path: Path, frames: int, offset: int) -> torch.Tensor:
    """(1, frames, H, W, 3) uint8: what is to be read of a file."""
    clip = read_clip(path)[offset:] if path.suffix == ".mp4" else np.asarray(Image.open(path).convert("RGB"))[None]
    return torch.from_numpy(clip[:frames].copy())[None]


@pytest.mark.parametrize("name", [*FORMS, "x2edit"])
def test_a_published_set_is_checked_read_and_trained_on(tmp_path, base, name, capsys):
    entry, source, target, words = x2edit(tmp_path) if name == "x2edit" else published(name, tmp_path)
    stage = "sft" if source is not None else "pretrain"
    path = configured(tmp_path, base, entry, stage=stage, model=MODEL, max_steps=1)
    assert check.main(["--config", str(path)]) == 0
    assert f"({name}): 1 of 1 rows used" in capsys.readouterr().out

    config, cpu = load_config(path), torch.device("cpu")
    encoders = Encoders(config.base, config.tower, cpu, config.precision)
    batch = next(ManifestFeed(config, encoders, DataRank(0, 1, cpu)).batches())
    frames, offset = (5 if target.suffix == ".mp4" else 1), (4 if name == "openve" else 0)
    torch.testing.assert_close(batch.target, encoders.latents(shown(target, frames, offset)))
    if source is not None:
        torch.testing.assert_close(batch.source, encoders.latents(shown(source, frames, offset)))
    prefixes = [EDIT_PREFIX] if source is not None else [EDIT_PREFIX, *(task.prefix for task in PRETEXT_TASKS.values())]
    known = [encoders.text_states([encoders.prompt(words, prefix)]) for prefix in prefixes]
    assert any(torch.allclose(batch.text, states, atol=1e-5) for states in known)

    start = initial(path)
    assert train(["--config", str(path)]) == 0
    losses(tmp_path / "run", 1)
    assert furthest(start, weights(tmp_path / "run")) > 1e-5


# Interrupted


def drawn(folder, base, media):
    """Scenes that are replaced while the run goes on."""
    rendered = {"frames": 1, "groups": 2, "capacity_groups": 5, "refresh_per_step": 0.4, "paraphrases": 2}
    data = {"source": "rendered", "workers": 0, "rendered": rendered | {"pack": str(base)}}
    return configured(folder, base, data=data, batch_size=2, stage="sft", model=MODEL, max_steps=6)


def of_files(folder, base, media):
    sets = {"manifest": str(media / "mp4.jsonl")}, {"manifest": str(media / "png.jsonl")}
    return configured(folder, base, *sets, stage="sft", model=MODEL, max_steps=6)


@pytest.mark.parametrize("kind", [drawn, of_files])
def test_a_resumed_run_sees_what_the_whole_run_would_have_seen(tmp_path, base, media, pack, monkeypatch, kind):  # noqa: F811
    monkeypatch.setattr(Pack, "load", lambda folder: pack)
    cpu = Accelerator(cpu=True)

    def trainer(folder):
        config = load_config(kind(tmp_path / folder, base, media))
        stage, groups = build_stage(config, cpu)
        return Trainer(config, stage, cpu, groups)

    whole = trainer("whole")
    start = {name: value.clone() for name, value in whole.stage.model.state_dict().items()}
    assert whole.run()
    first = trainer("cut")
    first.optimisers[0].register_step_post_hook(lambda *_: first.stop() if first.step + 1 == 3 else None)
    assert not first.run() and first.step == 3
    second = trainer("cut")
    assert second.resume() and second.step == 3 and second.run()

    expected = losses(tmp_path / "whole" / "run", 6)
    assert losses(tmp_path / "cut" / "run", 6) == expected and len(set(expected)) == 6
    written = weights(tmp_path / "whole" / "run")
    assert furthest(written, weights(tmp_path / "cut" / "run")) == 0
    assert furthest(start, written) > 1e-3
