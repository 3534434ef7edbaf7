import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sama.errors import CheckpointError
from sama.model.lora import LoraPair, read_lora, write_official_lora
from tests.loras import STYLES, in_style, pairs, updated, velocity
from tests.tiny import tiny_clip, tiny_pipeline


@pytest.fixture
def pipe():
    return tiny_pipeline(tower=False)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_has_the_effect_of_its_weights(pipe, tmp_path, style):
    made = pairs(pipe)
    before = velocity(pipe)
    save_file(in_style(style, made), tmp_path / "lora.safetensors")
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    expected = updated(made)
    assert (expected - before).abs().max() > 1e-2
    torch.testing.assert_close(velocity(pipe), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(velocity(pipe, scale=0.5), updated(made, 0.5), atol=1e-4, rtol=1e-4)
    pipe.unload_lora_weights()
    assert torch.equal(velocity(pipe), before)


def test_a_state_dict_and_a_folder_load_too(pipe, tmp_path):
    made = pairs(pipe)
    pipe.load_lora_weights(in_style("comfyui", made))
    from_dict = velocity(pipe)
    pipe.unload_lora_weights()
    save_file(in_style("comfyui", made), tmp_path / "lora.safetensors")
    pipe.load_lora_weights(tmp_path)
    assert torch.equal(velocity(pipe), from_dict)


def test_an_edit_changes_with_a_lora(pipe):
    def frames():
        return pipe(video=tiny_clip(), prompt="red", generator=torch.Generator().manual_seed(0)).frames

    before = frames()
    pipe.load_lora_weights(in_style("diffsynth", pairs(pipe)))
    assert np.abs(frames() - before).max() > 1e-4


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_s_configuration_scales_its_weights(pipe, tmp_path, rslora):
    made = pairs(pipe)
    save_file(in_style("peft", made), tmp_path / "adapter_model.safetensors")
    config = {"r": 4, "lora_alpha": 8, "use_rslora": rslora, "alpha_pattern": {"blocks.0.attn1.to_q": 2}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    pipe.load_lora_weights(tmp_path)
    for module, pair in made.items():
        alpha = 2 if module == "blocks.0.attn1.to_q" else 8
        pair.up = pair.up * alpha / (pair.rank**0.5 if rslora else pair.rank)
    torch.testing.assert_close(velocity(pipe), updated(made), atol=1e-4, rtol=1e-4)


def test_what_diffusers_saves_loads_again(pipe, tmp_path):
    from peft import LoraConfig

    pipe.transformer.add_adapter(LoraConfig(r=4, lora_alpha=12, target_modules=["attn1.to_q"]), "mine")
    for name, parameter in pipe.transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    expected = velocity(pipe)
    pipe.transformer.save_lora_adapter(tmp_path / "model", adapter_name="mine")
    other = tiny_pipeline(tower=False)
    other.load_lora_weights(tmp_path / "model")
    torch.testing.assert_close(velocity(other), expected, atol=1e-5, rtol=1e-5)


def test_an_export_in_official_names_loads_again(pipe):
    made = pairs(pipe)
    for prefix in ("diffusion_model.", "pipe.dit.", ""):
        exported = write_official_lora(made, prefix)
        assert f"{prefix}blocks.0.self_attn.q.lora_A.weight" in exported
        read = read_lora(exported)
        assert read.keys() == made.keys()
        assert all(torch.equal(read[module].up, made[module].up) for module in made)


def test_several_adapters_are_weighed_and_fused(pipe):
    first, second = pairs(pipe, seed=1), pairs(pipe, seed=2)
    pipe.load_lora_weights(in_style("comfyui", first), adapter_name="first")
    pipe.load_lora_weights(in_style("diffsynth", second), adapter_name="second")
    pipe.set_adapters(["first", "second"], [1.0, 0.5])
    both = {
        module: LoraPair(
            torch.cat([first[module].down, second[module].down]),
            torch.cat([first[module].up, 0.5 * second[module].up], dim=1),
        )
        for module in first
    }
    expected = updated(both)
    torch.testing.assert_close(velocity(pipe), expected, atol=1e-4, rtol=1e-4)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(velocity(pipe), expected, atol=1e-4, rtol=1e-4)


def test_biases_take_part(pipe):
    made = pairs(pipe)
    bias = torch.ones(48)
    weights = in_style("comfyui", made) | {"diffusion_model.blocks.0.self_attn.q.lora_B.bias": bias}
    pipe.load_lora_weights(weights)
    other = tiny_pipeline(tower=False)
    other.transformer.blocks[0].attn1.to_q.bias.data += bias
    for module, pair in made.items():
        other.transformer.get_submodule(module).weight.data += pair.up @ pair.down
    torch.testing.assert_close(velocity(pipe), velocity(other), atol=1e-4, rtol=1e-4)


def test_files_that_are_no_lora_leave_the_model_as_it_was(pipe, tmp_path):
    before = velocity(pipe)
    good = in_style("comfyui", pairs(pipe))
    first = next(iter(good))
    other_model = {name.replace("blocks.0", "blocks.7"): tensor for name, tensor in good.items()}
    other_size = {name: tensor.repeat(1, 2) if "lora_A" in name else tensor for name, tensor in good.items()}
    cases = [
        ({"blocks.0.self_attn.q.weight": torch.zeros(2, 2)}, "not a LoRA.*blocks.0.self_attn.q.weight"),
        ({}, "not a LoRA"),
        ({name: tensor for name, tensor in good.items() if name != first}, "incomplete: blocks.0.attn1.to_q"),
        (other_model, "another model: blocks.7.attn1.to_q"),
        (other_size, "another size: blocks.0.attn1.to_q"),
        ({**good, "diffusion_model.nonsense.lora_A.weight": torch.zeros(2)}, "incomplete: nonsense"),
    ]
    for weights, message in cases:
        with pytest.raises(CheckpointError, match=message):
            pipe.load_lora_weights(weights)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_text("hello")
    for name in ("other.safetensors", "broken.safetensors", "missing.safetensors"):
        with pytest.raises(CheckpointError):
            pipe.load_lora_weights(tmp_path / name)
    assert torch.equal(velocity(pipe), before)
    pipe.load_lora_weights(good)
    assert not torch.equal(velocity(pipe), before)


def test_full_weight_differences_are_left_out_with_a_word(pipe, caplog):
    made = pairs(pipe)
    weights = in_style("comfyui", made) | {"diffusion_model.blocks.0.norm3.diff": torch.ones(48)}
    assert read_lora(weights).keys() == made.keys()
    assert "left out" in caplog.text


def test_the_file_on_disk_is_not_changed(pipe, tmp_path):
    save_file(in_style("comfyui with alpha", pairs(pipe)), tmp_path / "lora.safetensors")
    before = load_file(tmp_path / "lora.safetensors")
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    after = load_file(tmp_path / "lora.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
