"""LoRA: a low-rank adapter on the transformer, and the one file that every tool reads.

The file has the official key names under `diffusion_model.`: ComfyUI takes them as they are, diffusers knows how to
translate them, and so does `--lora`. Its scale, alpha / rank, is multiplied into the weights, and the alpha beside each
pair equals its rank, so that readers with and without a sense of alpha take it at the same strength.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import sama
from sama.files import whole_file
from sama.model.lora import read_lora, write_official_lora
from sama.model.transformer import SamaTransformer3DModel
from training.config import LoraConfig

ADAPTER = "default"
_ATTENTION = (*(f"attn{number}.to_{part}" for number in (1, 2) for part in ("q", "k", "v", "out.0")),)
_FEED_FORWARD = ("ffn.net.0.proj", "ffn.net.2")
_ADDED = ("semantic_projector.fc1", "semantic_projector.fc2", "semantic_head.proj")


def adapted_modules(transformer: SamaTransformer3DModel, config: LoraConfig) -> list[str]:
    """Full names of the linear layers that the adapter is put on: attention and feed-forward of every block, and the
    semantic projector and head with `added_modules`."""
    blocks = range(transformer.config["num_layers"])
    names = [f"blocks.{index}.{part}" for index in blocks for part in (*_ATTENTION, *_FEED_FORWARD)]
    return [*names, *(_ADDED if config.added_modules else ())]


def add_adapter(transformer: SamaTransformer3DModel, config: LoraConfig, seed: int = 0) -> list[nn.Parameter]:
    """Freeze the model and put a new adapter on it, whose effect is zero; returns its weights, the only trainable ones.

    They are float32 whatever the type of the model's own weights, which stay as they are. The same seed gives the same
    adapter; the global generator is left alone.
    """
    from peft import LoraConfig as PeftConfig

    transformer.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(
            PeftConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=adapted_modules(transformer, config),
            ),
            ADAPTER,
        )
    weights = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
    return weights


def lora_weights(transformer: SamaTransformer3DModel) -> dict[str, Tensor]:
    """The adapter under official key names, ready to be saved; the scale is multiplied into `lora_B`, and
    each `alpha` equals the rank.

    Raises ValueError for a model without an adapter.
    """
    from peft import get_peft_model_state_dict

    if ADAPTER not in getattr(transformer, "peft_config", {}):
        raise ValueError("the model has no adapter to save: call add_adapter before training")
    scaling = {"lora_alpha": transformer.peft_config[ADAPTER].lora_alpha}
    state = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
    return write_official_lora(read_lora(state, scaling))


def export_lora(
    transformer: SamaTransformer3DModel, folder: Path, config: LoraConfig, about: Mapping[str, str] | None = None
) -> Path:
    """Write the adapter's file into `folder`, whole or not at all, and return its path.

    config: names the file after its `name` (the parent folder's if it has none) and says how it is stored.
    about: further words for the file's header, such as the base model and the configuration of the run.
    """
    name = config.name or folder.resolve().parent.name
    dtype = getattr(torch, config.stored)
    tensors = {key: _converted(tensor.detach().cpu(), dtype) for key, tensor in lora_weights(transformer).items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    with whole_file(path) as part:
        save_file(tensors, part, metadata=_metadata(name, config) | dict(about or {}))
        part.chmod(0o644)  # the writer's temporary files are private
    return path


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another type; an alpha that the type would round stays as it is."""
    converted = tensor.to(dtype).contiguous()
    return tensor if tensor.ndim == 0 and not torch.equal(converted.to(tensor.dtype), tensor) else converted


def _metadata(name: str, config: LoraConfig) -> dict[str, str]:
    """The header in the field's common words: Stability's ModelSpec, and the `ss_` keys that LoRA tools show."""
    header = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "sama/lora",
        "modelspec.implementation": f"sama {sama.__version__}",
        "modelspec.title": name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.rank),
        "ss_network_alpha": str(config.rank),  # what a reader shall use: the scale is in the weights
        "sama.lora": json.dumps({"rank": config.rank, "alpha": config.alpha, "added_modules": config.added_modules}),
    }
    return header | ({"modelspec.trigger_phrase": config.trigger} if config.trigger else {})
