"""An adapter is trained, written, and read back in every style with the same outputs."""

import pytest
import torch
from diffusers.loaders import WanLoraLoaderMixin
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sama.checkpoints import from_official, to_official
from sama.edit.request import check_lora
from tests.tiny import SEMANTIC_DIM, TEXT_DIM, tiny_pipeline, tiny_transformer
from training.config import LoraConfig
from training.stages.lora import ADAPTER, adapted_modules, add_adapter, export_lora
from training.stages.objective import add_noise

CONFIG = LoraConfig(rank=4, alpha=12.0, name="pattern", trigger="Make it red")
STEPS = 3


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    return {
        "clean": random(2, 16, 2, 4, 6),
        "plan": random(2, 65, SEMANTIC_DIM),
        "sigmas": torch.tensor([0.3, 0.8]),
        "noise": random(2, 16, 2, 4, 6),
        "plan_noise": random(2, 65, SEMANTIC_DIM),
        "text": random(2, 8, TEXT_DIM),
        "source": random(2, 16, 2, 4, 6),
    }


def velocities(transformer, given):
    return transformer(
        hidden_states=add_noise(given["clean"], given["sigmas"], given["noise"]).state,
        timestep=given["sigmas"] * 1000,
        encoder_hidden_states=given["text"],
        source_hidden_states=given["source"],
        semantic_hidden_states=add_noise(given["plan"], given["sigmas"], given["plan_noise"]).state,
        return_dict=False,
    )


def train(transformer, weights, steps=STEPS):
    """A few steps of the paper's objective; the losses before each."""
    optimiser = torch.optim.AdamW(weights, lr=0.02, weight_decay=0.0)
    history = []
    for _ in range(steps):
        given = batch()
        video, plan = velocities(transformer, given)
        flow = video - (given["noise"] - given["clean"])
        loss = flow.square().mean() + 0.1 * (plan - (given["plan_noise"] - given["plan"])).abs().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        history.append(loss.item())
    return history


def outputs(transformer):
    with torch.no_grad():
        return velocities(transformer, batch(seed=1))


@pytest.fixture(scope="module", params=[False, True], ids=["blocks", "added modules"])
def trained(request, tmp_path_factory):
    """The configuration, the outputs of the live model, of the model before, and the file."""
    config = LoraConfig(**(vars(CONFIG) | {"added_modules": request.param}))
    transformer = tiny_pipeline(tower=False).transformer
    before = outputs(transformer)
    history = train(transformer, add_adapter(transformer, config))
    assert history[-1] < history[0]
    path = export_lora(transformer, tmp_path_factory.mktemp("run") / "lora", config, {"base_model": "a tiny one"})
    return config, outputs(transformer), before, path, transformer


def same(pipe, expected):
    for one, other in zip(outputs(pipe.transformer), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_it_changes_both_streams(trained):
    _, live, before, _, _ = trained
    assert all((one - other).abs().max() > 1e-2 for one, other in zip(live, before, strict=True))


def test_this_project_reads_file_and_folder(trained):
    _, live, before, path, _ = trained
    for place in (path, path.parent):
        check_lora(place)
        pipe = tiny_pipeline(tower=False)
        pipe.load_lora_weights(place)
        same(pipe, live)
        pipe.unload_lora_weights()
        same(pipe, before)


def test_diffusers_own_loader_reads_it(trained):
    config, live, before, path, _ = trained
    pipe = tiny_pipeline(tower=False)
    if config.added_modules:  # modules that Wan does not have: it says so, and the model stays as it was
        with pytest.raises(ValueError, match="siglip_feat_mlp"):
            WanLoraLoaderMixin.load_lora_weights(pipe, str(path.parent), weight_name=path.name)
        same(pipe, before)
    else:
        WanLoraLoaderMixin.load_lora_weights(pipe, str(path.parent), weight_name=path.name)
        same(pipe, live)


def test_comfyui_s_way_of_patching_weights_gives_the_same_model(trained):
    """Official key names: `diffusion_model.<layer>.lora_A.weight` and `lora_B`, the update times alpha / rank with the
    `alpha` beside them."""
    _, live, _, path, _ = trained
    pipe, patches = tiny_pipeline(tower=False), load_file(path)
    weights = to_official(pipe.transformer.state_dict())
    used = set()
    for name in weights:
        key = f"diffusion_model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in patches:
            used |= {f"{key}.lora_A.weight", f"{key}.lora_B.weight", f"{key}.alpha"}
            down, up = patches[f"{key}.lora_A.weight"], patches[f"{key}.lora_B.weight"]
            weights[name] = weights[name] + float(patches[f"{key}.alpha"]) / len(down) * up @ down
    assert used == set(patches)
    pipe.transformer.load_state_dict(from_official(weights))
    same(pipe, live)


@pytest.mark.parametrize("style", ["down and up with alpha", "diffsynth", "peft"])
def test_other_styles_of_the_same_weights_give_the_same_model(trained, tmp_path, style):
    _, live, _, path, transformer = trained
    weights = load_file(path)
    if style == "peft":
        state = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
        weights = {f"base_model.model.{key}": tensor for key, tensor in state.items()}
        transformer.peft_config[ADAPTER].save_pretrained(tmp_path)
    elif style == "diffsynth":
        plain = {key.removeprefix("diffusion_model."): tensor for key, tensor in weights.items()}
        weights = {key.replace(".weight", ".default.weight"): tensor for key, tensor in plain.items()}
    else:
        layers = {key.split(".lora_")[0] for key in weights if ".lora_" in key}
        for layer in layers:
            weights[f"{layer}.lora_down.weight"] = weights.pop(f"{layer}.lora_A.weight")
            weights[f"{layer}.lora_up.weight"] = weights.pop(f"{layer}.lora_B.weight") / 2
            weights[f"{layer}.alpha"] = torch.tensor(2.0 * CONFIG.rank)
    save_file(weights, tmp_path / "adapter_model.safetensors")
    pipe = tiny_pipeline(tower=False)
    pipe.load_lora_weights(tmp_path)
    same(pipe, live)


def test_the_file_says_what_it_is(trained):
    config, _, _, path, _ = trained
    assert path.name == "pattern.safetensors" and [*path.parent.iterdir()] == [path]
    with safe_open(path, framework="pt") as opened:
        header, keys = opened.metadata(), list(opened.keys())
    assert header["modelspec.trigger_phrase"] == "Make it red" and header["base_model"] == "a tiny one"
    assert header["ss_network_dim"] == header["ss_network_alpha"] == "4"
    assert all(key.startswith("diffusion_model.") and ".default." not in key for key in keys)
    assert any("siglip_feat_mlp" in key for key in keys) is config.added_modules
    assert any("semantic_head" in key for key in keys) is config.added_modules


def test_only_the_adapter_is_trained_and_all_of_it():
    transformer = tiny_transformer()
    before = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    fresh = outputs(transformer)
    weights = add_adapter(transformer, CONFIG)
    assert all(torch.equal(one, other) for one, other in zip(outputs(transformer), fresh, strict=True))
    assert len(weights) == 2 * len(adapted_modules(transformer, CONFIG)) == 2 * 10 * 2
    start = [weight.detach().clone() for weight in weights]
    train(transformer, weights)
    assert not any(torch.equal(weight, old) for weight, old in zip(weights, start, strict=True))
    for name, tensor in transformer.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(tensor, before[name.replace(".base_layer", "")]), name


def test_a_seed_decides_the_adapter_and_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second, third = tiny_transformer(), tiny_transformer(), tiny_transformer()
    torch.manual_seed(7)
    adapters = [add_adapter(model, CONFIG, seed) for model, seed in ((first, 0), (second, 0), (third, 1))]
    assert torch.rand(1) == expected
    assert all(torch.equal(one, other) for one, other in zip(adapters[0], adapters[1], strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(adapters[0], adapters[2], strict=True))


def test_a_base_in_bfloat16_keeps_a_float32_adapter_and_the_file_may_be_bfloat16(tmp_path):
    transformer = tiny_transformer().to(torch.bfloat16)
    weights = add_adapter(transformer, CONFIG)
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert transformer.blocks[0].attn1.to_q.base_layer.weight.dtype == torch.bfloat16
    path = export_lora(transformer, tmp_path / "run" / "lora", LoraConfig(rank=4, stored="bfloat16"))
    assert path.name == "run.safetensors"
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.bfloat16}


def test_no_type_rounds_an_alpha(tmp_path):
    transformer = tiny_transformer(num_layers=1)
    config = LoraConfig(rank=301, name="wide", stored="bfloat16")
    add_adapter(transformer, config)
    weights = load_file(export_lora(transformer, tmp_path, config))
    assert {float(tensor) for key, tensor in weights.items() if key.endswith(".alpha")} == {301.0}
    assert {tensor.dtype for key, tensor in weights.items() if ".lora_" in key} == {torch.bfloat16}


def test_a_model_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(ValueError, match="add_adapter"):
        export_lora(tiny_transformer(), tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())
