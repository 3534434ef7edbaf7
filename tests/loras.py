"""LoRAs for tests: random updates of the tiny model, as the tools of others write them."""

import torch

from sama.model.lora import LoraPair
from sama.model.names import to_official_name
from tests.tiny import SEMANTIC_DIM, TEXT_DIM, tiny_pipeline

MODULES = {
    "blocks.0.attn1.to_q": 4,
    "blocks.0.attn1.to_out.0": 4,
    "blocks.1.attn2.to_v": 4,
    "blocks.1.ffn.net.0.proj": 2,
    "blocks.1.ffn.net.2": 4,
}


def pairs(pipe, seed=0, modules=MODULES):
    """Random updates, of two different ranks, large enough to see."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for module, rank in modules.items():
        out, inner = pipe.transformer.get_submodule(module).weight.shape
        down = torch.randn(rank, inner, generator=generator) * 0.3
        made[module] = LoraPair(down, torch.randn(out, rank, generator=generator) * 0.3)
    return made


@torch.no_grad()
def velocity(pipe, scale=None):
    generator = torch.Generator().manual_seed(0)
    return pipe.transformer(
        hidden_states=torch.randn(1, 16, 2, 4, 6, generator=generator),
        timestep=torch.tensor([600.0]),
        encoder_hidden_states=torch.randn(1, 8, TEXT_DIM, generator=generator),
        source_hidden_states=torch.randn(1, 16, 2, 4, 6, generator=generator),
        semantic_hidden_states=torch.randn(1, 65, SEMANTIC_DIM, generator=generator),
        attention_kwargs=None if scale is None else {"scale": scale},
    ).sample


def updated(made, scale=1.0):
    """The velocity of a pipeline whose weights hold the updates themselves."""
    pipe = tiny_pipeline(tower=False)
    for module, pair in made.items():
        pipe.transformer.get_submodule(module).weight.data += scale * pair.up @ pair.down
    return velocity(pipe)


def official(module):
    return to_official_name(f"{module}.weight").removesuffix(".weight")


def in_style(style, made):
    """The updates as other tools write them: keys and tensors."""
    out = {}
    for module, pair in made.items():
        if style == "diffusers":
            out[f"transformer.{module}.lora_A.weight"] = pair.down
            out[f"transformer.{module}.lora_B.weight"] = pair.up
        elif style == "peft":
            out[f"base_model.model.{module}.lora_A.weight"] = pair.down
            out[f"base_model.model.{module}.lora_B.weight"] = pair.up
        elif style == "comfyui":
            out[f"diffusion_model.{official(module)}.lora_A.weight"] = pair.down
            out[f"diffusion_model.{official(module)}.lora_B.weight"] = pair.up
        elif style == "comfyui with alpha":
            out[f"diffusion_model.{official(module)}.lora_down.weight"] = pair.down
            out[f"diffusion_model.{official(module)}.lora_up.weight"] = pair.up * 2
            out[f"diffusion_model.{official(module)}.alpha"] = torch.tensor(pair.rank / 2)
        elif style == "diffsynth":
            out[f"{official(module)}.lora_A.default.weight"] = pair.down
            out[f"{official(module)}.lora_B.default.weight"] = pair.up
        elif style == "diffsynth pipeline":
            out[f"pipe.dit.{official(module)}.lora_A.default.weight"] = pair.down
            out[f"pipe.dit.{official(module)}.lora_B.default.weight"] = pair.up
        elif style == "diffusers before 2024":
            out[f"transformer.{module}.lora.down.weight"] = pair.down
            out[f"transformer.{module}.lora.up.weight"] = pair.up
        elif style == "diffusers, linear layers":
            out[f"transformer.{module}.lora_linear_layer.down.weight"] = pair.down
            out[f"transformer.{module}.lora_linear_layer.up.weight"] = pair.up
        elif style == "diffusers, processors":
            block, _, projection = module.replace(".to_out.0", ".to_out").rpartition(".")
            name = f"{block}.processor.{projection}_lora" if "attn" in module else f"{module}.lora"
            out[f"transformer.{name}.down.weight"] = pair.down
            out[f"transformer.{name}.up.weight"] = pair.up
        elif style in ("kohya", "kohya, names of diffusers"):
            flat = (official(module) if style == "kohya" else module).replace(".", "_")
            name = f"lora_unet_{flat}" if style == "kohya" else f"lora_transformer_{flat}"
            out[f"{name}.lora_down.weight"] = pair.down
            out[f"{name}.lora_up.weight"] = pair.up * 4
            out[f"{name}.alpha"] = torch.tensor(pair.rank / 4)
    return {name: tensor.contiguous() for name, tensor in out.items()}


STYLES = [
    "diffusers", "peft", "comfyui", "comfyui with alpha", "diffsynth", "diffsynth pipeline", "kohya",
    "kohya, names of diffusers", "diffusers before 2024", "diffusers, linear layers", "diffusers, processors",
]  # fmt: skip
