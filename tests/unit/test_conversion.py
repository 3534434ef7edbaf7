"""Checkpoints into diffusers' folder form: every weight arrives, in little memory, and nothing is written of what does
not fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sama import cli
from sama.checkpoints import load_transformer, save_official
from sama.conversion import to_folder
from sama.errors import CheckpointError
from sama.model.transformer import SamaTransformer3DModel
from sama.pipeline import SamaPipeline
from sama.presets import WAN_CANVAS
from tests.tiny import tiny_clip, tiny_pipeline, tiny_transformer

ROOT = Path(__file__).resolve().parents[2]


def arguments(model):
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


@pytest.fixture(scope="module")
def model():
    return tiny_transformer()


@pytest.fixture
def official(model, tmp_path):
    save_official(model, tmp_path / "sama.safetensors")
    return tmp_path / "sama.safetensors"


def test_shards_hold_what_the_loaded_model_would_save(model, official, tmp_path):
    to_folder(official, tmp_path / "new", arguments(model), torch.bfloat16, shard_size="50KB")
    files = sorted((tmp_path / "new").glob("*.safetensors"))
    assert len(files) > 2 and all(file.stat().st_size < 70_000 for file in files)
    loaded = SamaTransformer3DModel.from_pretrained(tmp_path / "new", torch_dtype=torch.bfloat16).state_dict()
    expected = load_transformer(official, arguments(model), torch.bfloat16).state_dict()
    assert loaded.keys() == expected.keys()
    stored = {name: tensor for file in files for name, tensor in load_file(file).items()}
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor) and stored[name].dtype == tensor.dtype, name
    pickled, again = tmp_path / "sama.pt", tmp_path / "again"
    torch.save({"state_dict": load_file(official)}, pickled)
    to_folder(pickled, again, arguments(model), torch.bfloat16)
    assert all(
        torch.equal(tensor, stored[name]) for name, tensor in load_file(next(again.glob("*.safetensors"))).items()
    )


def test_nothing_is_written_of_what_does_not_fit(model, official, tmp_path):
    weights, before = load_file(official), sorted(tmp_path.iterdir())
    for change, says in (
        (lambda w: w.pop("semantic_head.proj.bias"), "lacks semantic_head.proj.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "extra is foreign"),
        (lambda w: w.update({"head.head.bias": torch.zeros(3)}), r"proj_out.bias \[3\] instead of"),
    ):
        changed = dict(weights)
        change(changed)
        save_file(changed, official)
        with pytest.raises(CheckpointError, match=says):
            to_folder(official, tmp_path / "new", arguments(model))
    save_file(weights, official)
    with pytest.raises(CheckpointError, match=r"lacks model_index.json, vae"):
        to_folder(official, tmp_path / "new", arguments(model), base=ROOT / "docs")
    assert sorted(tmp_path.iterdir()) == before
    for asked in (["--shard-size", "much"], ["--base", "x"]):
        way = ["--to", "official" if "--base" in asked else "diffusers"]
        target = "new.safetensors" if "--base" in asked else "new"
        assert cli.main(["convert", str(official), str(tmp_path / target), *way, *asked]) == 2


def test_a_base_makes_it_a_pipeline(model, official, tmp_path):
    base = tmp_path / "base"
    own = tiny_pipeline(tower=False, max_sequence_length=512)
    own.save_pretrained(base)
    (tmp_path / "config.json").write_text(json.dumps(arguments(model)), encoding="utf-8")
    asked = ["--to", "diffusers", "--dtype", "float32", "--base", str(base)]
    assert cli.main(["convert", str(official), str(tmp_path / "new"), *asked]) == 0
    pipe = SamaPipeline.from_pretrained(tmp_path / "new")
    assert pipe.canvas == WAN_CANVAS and pipe.config["max_sequence_length"] == 512
    assert all(torch.equal(pipe.transformer.state_dict()[name], value) for name, value in model.state_dict().items())
    pipe.set_progress_bar_config(disable=True)
    assert pipe.encode_video(tiny_clip()[None] / 255).isfinite().all()
    assert torch.equal(
        pipe.text_encoder.embeddings.word_embeddings.weight, own.text_encoder.embeddings.word_embeddings.weight
    )


MEASURED = """
import sys, threading, torch
from sama.conversion import to_folder
folder, config = {folder!r}, {config}
to_folder(folder + "/small.safetensors", folder + "/warm", {small})  # imports

def own():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) * 1024

peak, done, before = [0], threading.Event(), own()
def watch():
    while not done.wait(0.001):
        peak[0] = max(peak[0], own())
thread = threading.Thread(target=watch)
thread.start()
to_folder(folder + "/large.safetensors", folder + "/new", config, torch.bfloat16, shard_size="8MB")
done.set()
thread.join()
print(peak[0] - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_memory_is_that_of_a_shard(model, tmp_path):
    """Of a file of 90 MB, in shards of 8: pages of the source file do not count, because the system takes them back."""
    large = tiny_transformer(num_attention_heads=16, attention_head_dim=32, ffn_dim=2048, num_layers=5)
    save_official(large, tmp_path / "large.safetensors")
    save_official(model, tmp_path / "small.safetensors")
    size = (tmp_path / "large.safetensors").stat().st_size
    assert size > 80e6
    code = MEASURED.format(folder=str(tmp_path), config=arguments(large), small=arguments(model))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert run.returncode == 0, run.stderr
    assert 4e6 < int(run.stdout) < 3 * 8e6, f"{int(run.stdout) / 1e6:.0f} MB for a file of {size / 1e6:.0f} MB"
