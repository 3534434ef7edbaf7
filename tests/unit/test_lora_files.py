"""LoRA files that people have: read with the effect that they had elsewhere, or refused in one sentence."""

import json

import pytest
import torch
from diffusers.loaders import WanLoraLoaderMixin
from safetensors.torch import save_file

from sama.edit.request import check_lora
from sama.errors import CheckpointError, EditError
from sama.model.lora import read_lora, write_official_lora
from tests.loras import MODULES, in_style, official, pairs, updated, velocity
from tests.tiny import tiny_pipeline

TOP = {
    "condition_embedder.text_embedder.linear_1": 2,
    "condition_embedder.time_embedder.linear_2": 2,
    "condition_embedder.time_proj": 2,
    "proj_out": 2,
}
ADDED = {"semantic_projector.fc1": 2, "semantic_head.proj": 2}
Q = "diffusion_model.blocks.0.self_attn.q"


@pytest.fixture
def pipe():
    return tiny_pipeline(tower=False)


def same(one, other, tolerance=1e-4):
    assert torch.isfinite(one).all() and torch.isfinite(other).all()
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def changed(pipe, weights, tmp_path):
    """The velocity with a file of these weights, which is another than without."""
    before = velocity(pipe)
    path = tmp_path / "lora.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path)
    check_lora(path)
    pipe.load_lora_weights(path)
    after = velocity(pipe)
    assert (after - before).abs().max() > 1e-3
    return after


# --- Read with the right effect --------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["comfyui with alpha", "kohya", "kohya, names of diffusers"])
def test_layers_outside_the_blocks_are_known_in_every_style(pipe, tmp_path, style):
    made = pairs(pipe, modules=MODULES | TOP | ADDED)
    assert read_lora(in_style(style, made)).keys() == made.keys()
    same(changed(pipe, in_style(style, made), tmp_path), updated(made))


@pytest.mark.parametrize("style", ["comfyui", "comfyui with alpha", "kohya", "diffusers before 2024"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_computed_in_float32(pipe, tmp_path, style, dtype):
    weights = {key: tensor.to(dtype) for key, tensor in in_style(style, pairs(pipe)).items()}
    rounded = {key: tensor.float() for key, tensor in weights.items()}
    same(changed(pipe, weights, tmp_path), changed(tiny_pipeline(tower=False), rounded, tmp_path), 0)
    read = read_lora(weights)
    assert {pair.down.dtype for pair in read.values()} == {torch.float32} == {pair.up.dtype for pair in read.values()}


def test_an_alpha_may_be_a_whole_number_or_a_list_of_one(pipe):
    made = pairs(pipe)
    weights = in_style("comfyui", made)
    for layer, alpha in ((Q, torch.tensor(8)), ("diffusion_model.blocks.1.cross_attn.v", torch.tensor([8.0]))):
        weights[f"{layer}.alpha"] = alpha
    read = read_lora(weights)
    for module in ("blocks.0.attn1.to_q", "blocks.1.attn2.to_v"):
        assert torch.equal(read[module].up, made[module].up * 2)


@pytest.mark.parametrize("with_pair", [True, False])
def test_whole_differences_of_linear_layers_are_applied(pipe, tmp_path, with_pair):
    made = pairs(pipe)
    weights = in_style("comfyui with alpha", made) if with_pair else {}
    generator = torch.Generator().manual_seed(3)
    other = tiny_pipeline(tower=False)
    layers = ("blocks.0.attn1.to_q", "blocks.1.ffn.net.0.proj", "blocks.1.ffn.net.2", "proj_out")
    for module in layers:
        layer = other.transformer.get_submodule(module)
        difference, bias = (
            0.2 * torch.randn(tensor.shape, generator=generator) for tensor in (layer.weight, layer.bias)
        )
        weights |= {f"diffusion_model.{official(module)}.diff": difference}
        weights |= {f"diffusion_model.{official(module)}.diff_b": bias}
        layer.weight.data += difference
        layer.bias.data += bias
    for module, pair in made.items() if with_pair else ():
        other.transformer.get_submodule(module).weight.data += pair.up @ pair.down
    same(changed(pipe, weights, tmp_path), velocity(other))
    assert pipe.lora_notices == ()
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    same(velocity(pipe), velocity(other))


def test_a_difference_of_a_bias_alone_is_applied(pipe, tmp_path):
    bias = torch.linspace(-1, 1, 48)
    other = tiny_pipeline(tower=False)
    other.transformer.blocks[0].attn1.to_q.bias.data += bias
    same(changed(pipe, {f"{Q}.diff_b": bias}, tmp_path), velocity(other))
    assert write_official_lora(read_lora({f"{Q}.diff_b": bias})).keys() == {f"{Q}.diff_b"}


def test_an_alpha_scales_the_bias_of_a_pair_and_no_difference_of_the_bias(pipe):
    weights = in_style("comfyui", pairs(pipe)) | {f"{Q}.alpha": torch.tensor(8.0)}
    weights |= {f"{Q}.lora_B.bias": torch.ones(48), f"{Q}.diff_b": torch.full((48,), 10.0)}
    assert torch.equal(read_lora(weights)["blocks.0.attn1.to_q"].up_bias, torch.full((48,), 12.0))


@pytest.mark.parametrize("pattern", ["^blocks.0.attn1.to_q", "attn1.to_q", r"blocks\.\d+\.attn1\.to_q", "self_attn.q"])
def test_alphas_of_peft_are_found_by_pattern(pipe, pattern):
    made = pairs(pipe)
    style = "comfyui" if pattern == "self_attn.q" else "peft"
    read = read_lora(in_style(style, made), {"lora_alpha": 4, "alpha_pattern": {pattern: 12}})
    assert torch.equal(read["blocks.0.attn1.to_q"].up, made["blocks.0.attn1.to_q"].up * 3)
    assert torch.equal(read["blocks.1.attn2.to_v"].up, made["blocks.1.attn2.to_v"].up)


# --- Left out, and said ----------------------------------------------------------------------------------------------


def partly(pipe, value=1.0):
    """A LoRA with differences of layers that are not linear."""
    return in_style("comfyui", pairs(pipe)) | {
        "diffusion_model.blocks.0.norm3.diff": torch.full((48,), value),
        "diffusion_model.blocks.0.norm3.diff_b": torch.full((48,), value),
        "diffusion_model.blocks.1.self_attn.norm_q.diff": torch.full((48,), value),
        "diffusion_model.blocks.1.modulation.diff": torch.full((1, 6, 48), value),
        "diffusion_model.blocks.1.diff_m": torch.full((1, 6, 48), value),
        "diffusion_model.head.modulation.diff": torch.full((1, 2, 48), value),
        "diffusion_model.patch_embedding.diff": torch.full((48, 16, 1, 2, 2), value),
        "diffusion_model.patch_embedding.diff_b": torch.full((48,), value),
    }


def test_what_cannot_be_applied_is_said_while_it_would_act(pipe, tmp_path):
    same(changed(pipe, partly(pipe), tmp_path), updated(pairs(pipe)))
    (said,) = pipe.lora_notices
    assert said == (
        "lora.safetensors: 8 differences are left out, because only linear layers can be changed "
        "(diffusion_model.blocks.0.norm3.diff, diffusion_model.blocks.0.norm3.diff_b, "
        "diffusion_model.blocks.1.diff_m and 5 more)."
    )
    pipe.disable_lora()
    assert pipe.lora_notices == ()
    pipe.enable_lora()
    assert pipe.lora_notices == (said,)
    pipe.load_lora_weights(in_style("kohya", pairs(pipe)), adapter_name="whole")
    pipe.set_adapters("whole")
    assert pipe.lora_notices == ()
    pipe.unload_lora_weights()
    assert pipe.lora_notices == ()
    pipe.load_lora_weights(in_style("kohya", pairs(pipe)))
    assert pipe.lora_notices == ()


def test_differences_of_zero_are_said_to_be_no_loss(pipe):
    pipe.load_lora_weights(partly(pipe, 0.0))
    (said,) = pipe.lora_notices
    assert said.startswith("This LoRA: 8 differences") and said.endswith("; they are zero, so nothing is lost.")


# --- Refused ---------------------------------------------------------------------------------------------------------

OTHER_METHODS = {
    "lokr_w1": "LoKr",
    "lokr_w2_a": "LoKr",
    "hada_w1_a": "LoHa",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid.weight": "LoCon with a core matrix",
    "oft_blocks": "OFT",
}


def refused(pipe, weights, tmp_path, at_the_door=True):
    """The sentences at the door and of the loader, which leave the model as it was."""
    path = tmp_path / "mine.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path)
    before, said = velocity(pipe), []
    if at_the_door:
        with pytest.raises(EditError) as error:
            check_lora(path)
        said.append(str(error.value))
    for source in (path, weights):
        with pytest.raises(CheckpointError) as error:
            pipe.load_lora_weights(source)
        said.append(str(error.value))
    assert torch.equal(velocity(pipe), before) and not getattr(pipe.transformer, "peft_config", {})
    assert [words.startswith("This LoRA ") for words in said] == [False] * (len(said) - 1) + [True]
    assert all(words.startswith("mine.safetensors ") for words in said[:-1])
    assert all(words.endswith(".") and "\n" not in words and len(words) < 400 for words in said)
    return said


@pytest.mark.parametrize("style", [Q, "lora_unet_blocks_0_self_attn_q", "transformer.blocks.0.attn1.to_q"])
@pytest.mark.parametrize("mark", OTHER_METHODS)
def test_other_methods_are_named(pipe, tmp_path, mark, style):
    weights = {f"{style}.{mark}": torch.zeros(4, 4), f"{style}.alpha": torch.tensor(1.0)}
    if "dora" in mark or "magnitude" in mark or "mid" in mark:
        weights |= in_style("comfyui", pairs(pipe))
    for said in refused(pipe, weights, tmp_path):
        assert f"is a {OTHER_METHODS[mark]}," in said and f"{style}.{mark}" in said


BROKEN = {
    "NaN": ("lora_A.weight", torch.full((4, 48), float("nan")), "not finite", False),
    "infinite": ("lora_B.weight", torch.full((48, 4), float("inf")), "not finite", False),
    "float8 NaN": ("lora_A.weight", torch.full((4, 48), float("nan")).to(torch.float8_e4m3fn), "not finite", False),
    "alpha NaN": ("alpha", torch.tensor(float("nan")), "not finite", False),
    "int8": ("lora_B.weight", torch.ones(48, 4, dtype=torch.int8), "int8 numbers", True),
    "uint8": ("lora_A.weight", torch.ones(4, 48, dtype=torch.uint8), "uint8 numbers", True),
    "bool": ("lora_A.weight", torch.ones(4, 48, dtype=torch.bool), "bool numbers", True),
    "rank 0": ("lora_A.weight", torch.ones(0, 48), "rank 0", True),
    "alpha of two": ("alpha", torch.tensor([1.0, 2.0]), "alpha of 2 numbers", True),
    "alpha of none": ("alpha", torch.zeros(0), "alpha of 0 numbers", True),
    "convolution": ("lora_A.weight", torch.ones(4, 48, 1, 2, 2), "convolution", True),
    "empty bias": ("lora_B.bias", torch.zeros(0), "empty", True),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_numbers_that_are_no_weights_are_refused(pipe, tmp_path, fault):
    leaf, tensor, words, at_the_door = BROKEN[fault]
    weights = in_style("comfyui", pairs(pipe)) | {f"{Q}.{leaf}": tensor}
    for said in refused(pipe, weights, tmp_path, at_the_door):
        assert words in said and f"{Q}.{leaf}" in said


def test_what_does_not_fit_is_refused(pipe, tmp_path):
    good = in_style("comfyui", pairs(pipe))
    cases = [
        ({f"{Q}.lora_B.bias": torch.zeros(5)}, "another size: blocks.0.attn1.to_q, bias"),
        ({f"{Q}.diff": torch.zeros(48, 5)}, "does not fit itself: blocks.0.attn1.to_q"),
        ({f"{Q}.diff": torch.zeros(48)}, "does not fit itself: blocks.0.attn1.to_q"),
        (
            {"diffusion_model.blocks.7.norm3.diff": torch.zeros(48)},
            "another model: diffusion_model.blocks.7.norm3.diff",
        ),
        ({"diffusion_model.blocks.0.cross_attn.k_img.diff_b": torch.zeros(48)}, "another model: .*k_img"),
        ({"lora_unet_blocks_0_self_attn_q.lora_up.weight": torch.zeros(48, 4)}, "blocks.0.attn1.to_q twice"),
        ({f"{Q}.lora_A.bias": torch.zeros(4)}, "bias between the two matrices of blocks.0.attn1.to_q"),
        ({f"{Q}.set_weight": torch.zeros(4)}, "not a LoRA .*set_weight"),
        ({"lora_te_text_model_x.alpha": torch.tensor(1.0)}, "incomplete: lora_te_text_model_x has only none"),
    ]
    before = velocity(pipe)
    for more, message in cases:
        with pytest.raises(CheckpointError, match=message):
            pipe.load_lora_weights(good | more)
    only_norms = {key: tensor for key, tensor in partly(pipe).items() if "norm3" in key}
    with pytest.raises(CheckpointError, match=r"only layers that are not linear \(diffusion_model.blocks.0.norm3.diff"):
        pipe.load_lora_weights(only_norms)
    assert torch.equal(velocity(pipe), before)


@pytest.mark.parametrize(
    "config",
    ["{", "[1]", '{"lora_alpha": "much"}', '{"lora_alpha": NaN}', '{"lora_alpha": 1, "alpha_pattern": {"(": 2}}'],
)
def test_a_configuration_that_makes_no_sense_is_refused(pipe, tmp_path, config):
    for place in ("beside", "inside"):
        folder = tmp_path / place
        folder.mkdir()
        header = {"lora_adapter_metadata": config} if place == "inside" else None
        save_file(in_style("peft", pairs(pipe)), folder / "adapter_model.safetensors", metadata=header)
        if place == "beside":
            (folder / "adapter_config.json").write_text(config)
        with pytest.raises(CheckpointError, match=r"^adapter_model.safetensors has an adapter configuration"):
            pipe.load_lora_weights(folder / "adapter_model.safetensors")


def test_keys_are_shown_short_and_on_one_line(pipe, tmp_path):
    key = "\x1b[31m\n" + "x" * 5000
    said = refused(pipe, {key: torch.zeros(2)}, tmp_path)
    assert all("\x1b" not in words for words in said)


# --- Exports ---------------------------------------------------------------------------------------------------------


def test_diffusers_own_loader_takes_an_export_of_mixed_ranks_at_its_strength(pipe, tmp_path):
    ranks = {"blocks.0.attn1.to_q": 4, "blocks.0.attn1.to_k": 1, "blocks.0.attn2.to_v": 3, "blocks.1.ffn.net.2": 4,
             "blocks.1.attn1.to_out.0": 2, "proj_out": 5, "condition_embedder.time_proj": 2}  # fmt: skip
    made = pairs(pipe, modules=ranks)
    weights = write_official_lora(made)
    alphas = {key: float(tensor) for key, tensor in weights.items() if key.endswith(".alpha")}
    inner = {official(module): rank for module, rank in ranks.items() if module.startswith("blocks.")}
    assert alphas == {f"diffusion_model.{name}.alpha": rank for name, rank in inner.items()}
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, tmp_path / "mixed.safetensors")
    WanLoraLoaderMixin.load_lora_weights(pipe, str(tmp_path), weight_name="mixed.safetensors")
    same(velocity(pipe), updated(made))


def test_diffusers_own_loader_takes_the_biases_of_an_export(pipe, tmp_path):
    made = pairs(pipe)
    made["blocks.0.attn1.to_q"].up_bias = torch.linspace(-1, 1, 48)
    weights = {key: tensor.contiguous() for key, tensor in write_official_lora(made).items()}
    save_file(weights, tmp_path / "biased.safetensors")
    WanLoraLoaderMixin.load_lora_weights(pipe, str(tmp_path), weight_name="biased.safetensors")
    same(velocity(pipe), changed(tiny_pipeline(tower=False), weights, tmp_path))


def test_an_alpha_that_disagrees_is_seen_by_diffusers(pipe, tmp_path):
    """The check above can fail: an alpha of another value is another strength."""
    weights = write_official_lora(pairs(pipe))
    doubled = {key: tensor * 2 if key.endswith(".alpha") else tensor.contiguous() for key, tensor in weights.items()}
    save_file(doubled, tmp_path / "doubled.safetensors")
    WanLoraLoaderMixin.load_lora_weights(pipe, str(tmp_path), weight_name="doubled.safetensors")
    same(velocity(pipe), updated(pairs(pipe), 2.0))


def test_the_configuration_of_an_old_save_of_diffusers_is_read(pipe, tmp_path):
    made = pairs(pipe)
    header = {"transformer.lora_alpha": 8, "transformer.r": 4, "transformer.alpha_pattern": {"^blocks.0.attn1.to_q": 2}}
    path = tmp_path / "lora.safetensors"
    save_file(in_style("diffusers", made), path, metadata={"lora_adapter_metadata": json.dumps(header)})
    pipe.load_lora_weights(path)
    for module, pair in made.items():
        pair.up = pair.up * (2 if module == "blocks.0.attn1.to_q" else 8) / pair.rank
    same(velocity(pipe), updated(made))
