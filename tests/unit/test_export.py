"""A checkpoint becomes weights: the very files that its run writes at its end."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from sama.pipeline import SamaPipeline
from tests.tiny import tiny_clip
from tests.unit.test_procedural import pack  # noqa: F401 - a fixture
from tests.unit.test_training_loop import MODEL, base, editor, stage_config  # noqa: F401 - fixtures
from training import export
from training.config import LoraConfig, ObjectiveConfig, OptimiserConfig
from training.core.checkpoint import read_weights
from training.core.loop import Trainer
from training.errors import ConfigError
from training.train import build_stage

CPU = Accelerator(cpu=True)
ADAMW = OptimiserConfig(name="adamw", learning_rate=1e-2, warmup_steps=1, decay_share=0.0, ema_decay=0.5)


def run(config):
    stage, groups = build_stage(config, CPU)
    assert Trainer(config, stage, CPU, groups).run()
    return config.output


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors"))


def same(one, other):
    left, right = load_file(one), load_file(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def config(stage_config, tmp_path):  # noqa: F811
    return replace(stage_config, output=str(tmp_path / "run"), max_steps=2, optimiser=ADAMW)


def test_what_is_exported_is_what_the_run_has_written(config, tmp_path, capsys):
    run(config)
    assert export.main([config.output, str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    written = files(tmp_path / "out")
    assert {"transformer", "vae", "text_encoder", "semantic_tower"} <= {name.partition("/")[0] for name in written}
    for name in written:
        assert same(tmp_path / "out" / name, tmp_path / "run" / name), name
    pipelines = [SamaPipeline.from_pretrained(tmp_path / name) for name in ("out", "run")]
    edited = [
        torch.as_tensor(
            pipeline(
                tiny_clip()[None],
                "make it snowy",
                num_inference_steps=1,
                generator=torch.Generator().manual_seed(0),
                output_type="pt",
            ).frames
        )
        for pipeline in pipelines
    ]
    assert edited[0].isfinite().all() and torch.equal(*edited)
    assert pipelines[0].config.max_sequence_length == 64 and pipelines[0].config.shift == config.objective.sigma_shift


def test_raw_weights_are_the_checkpoints_own(config, tmp_path):
    (path,) = (tmp_path / "run" / "checkpoints").glob("*") if run(config) else ()
    assert export.main([str(path), str(tmp_path / "raw"), "--raw"]) == 0
    assert export.main([str(path), str(tmp_path / "averaged"), "--averaged"]) == 0
    raw, averaged = (
        load_file(tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors")
        for name in ("raw", "averaged")
    )
    stored, _ = read_weights(path, averaged=False)
    assert (tmp_path / "raw" / "sama_raw.safetensors").is_file()
    assert raw.keys() == stored.keys() and all(torch.equal(raw[name], stored[name]) for name in raw)
    assert any(not torch.equal(raw[name], averaged[name]) for name in raw)


def test_an_adapter_is_exported_as_its_file_without_the_model_below_it(config, tmp_path, base):  # noqa: F811
    config = replace(config, stage="lora", lora=LoraConfig(rank=2))
    run(config)
    for file in (base / "transformer").glob("*.safetensors"):
        file.unlink()
    assert export.main([config.output, str(tmp_path / "out")]) == 0
    assert files(tmp_path / "out") == ["lora/run.safetensors"]
    assert same(tmp_path / "out" / "lora" / "run.safetensors", tmp_path / "run" / "lora" / "run.safetensors")
    assert any(value.any() for name, value in load_file(tmp_path / "out/lora/run.safetensors").items() if "B" in name)


def test_layers_that_rest_come_from_where_the_run_started(config, tmp_path, base):  # noqa: F811
    tower = str(base / "semantic_tower")
    model = MODEL | {"source_positions": "shifted"}
    run(replace(config, objective=ObjectiveConfig(semantic_weight=0.0), tower=tower, model=model))
    assert export.main([config.output, str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out/transformer/config.json").read_text())
    assert (written["num_semantic_tokens"], written["source_positions"]) == (0, "shifted")
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert same(tmp_path / "out" / name, tmp_path / "run" / name)
    assert same(tmp_path / "out" / "semantic_tower" / "model.safetensors", f"{tower}/model.safetensors")


def test_a_run_starts_from_the_averages_of_an_interrupted_one(config, tmp_path):
    whole = Trainer(config, editor(config), CPU)
    assert whole.run()
    for path in (tmp_path / "run").iterdir():  # as if it had been killed before it wrote its result
        if path.name == "transformer":
            path.rename(tmp_path / "gone")
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*")
    for start, model in ((config.output, MODEL), (str(checkpoint), {})):
        again = editor(replace(config, start_from_base=False, start_from=start, model=model)).model.state_dict()
        assert whole.ema.shadow.keys() <= again.keys()
        assert all(torch.equal(again[name], value) for name, value in whole.ema.shadow.items())


def test_what_cannot_be_exported_is_told_in_one_sentence(config, tmp_path, capsys):
    def told(*arguments):
        assert export.main([str(argument) for argument in arguments]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        return line

    run(replace(config, stage="lora", lora=LoraConfig(rank=2)))
    before = sorted(tmp_path.iterdir())
    assert "is no checkpoint" in told(tmp_path / "nowhere", tmp_path / "out")
    assert "exists already" in told(config.output, tmp_path / "run")
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("*")
    with pytest.raises(ConfigError, match=r"start_from: .* holds an adapter, not a model"):
        editor(replace(config, start_from_base=False, start_from=config.output))
    for file in (checkpoint / "tensors").glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:100])
    assert "cannot be read as a checkpoint" in told(config.output, tmp_path / "out")
    (checkpoint / "config.yaml").write_text("stage: vae\noutput: runs/x\n")
    assert "whose weights only its run can write" in told(checkpoint, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
