"""A transformer of random weights and a feed of random latents: what `benchmarks.training_speed` trains."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.training_settings import Setting

if TYPE_CHECKING:
    import torch

    from sama.model.transformer import SamaTransformer3DModel
    from training.config import TrainConfig

OPTIONAL_PACKAGES = ("cv2", "av", "ftfy")
"""Needed to read and draw clips and to clean prompts, which is not measured: a machine without them will do."""


def stand_in_for_missing_packages() -> None:
    """Let `training` be imported without the packages that are not used here."""
    import diffusers  # noqa: F401 - the libraries look for these packages themselves, and shall not find stand-ins
    import transformers  # noqa: F401

    for name in OPTIONAL_PACKAGES:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)


def setting_arguments(setting: Setting, toy: bool) -> dict[str, Any]:
    """Arguments of the transformer; `toy`: the same kind of model, small enough for a test."""
    from sama.presets import TINY_FOLDER, transformer_config

    if setting.model == "tiny":
        stored = json.loads((TINY_FOLDER / "transformer/config.json").read_text(encoding="utf-8"))
        arguments = {name: value for name, value in stored.items() if not name.startswith("_") and value is not None}
    else:
        arguments = {"in_channels": 16, "out_channels": 16, "semantic_dim": 1152} | transformer_config(setting.model)
    small = {"num_attention_heads": 4, "attention_head_dim": 12, "ffn_dim": 64, "num_layers": 2, "text_dim": 32}
    return arguments | small | {"semantic_dim": 16, "semantic_hidden_dim": 32} if toy else arguments


def random_transformer(arguments: dict[str, Any], frozen: bool, device: torch.device) -> SamaTransformer3DModel:
    """A transformer of random weights made on its device: float32 or, to go under an adapter, bfloat16 but for what
    diffusers keeps in float32."""
    import torch

    from sama.model.transformer import SamaTransformer3DModel
    from training.stages.model import empty_transformer

    model = empty_transformer(arguments)
    random = torch.Generator(device).manual_seed(0)
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            island = any(part in f"{path}.{name}" for part in SamaTransformer3DModel._keep_in_fp32_modules)
            dtype = torch.bfloat16 if frozen and not island else torch.float32
            values = torch.empty(parameter.shape, device=device, dtype=dtype)
            if name == "scale_shift_table":
                values.normal_(std=values.shape[-1] ** -0.5, generator=random)
            elif parameter.ndim > 1:
                values.normal_(std=0.02, generator=random)
            else:
                values.fill_(1.0 if name == "weight" else 0.0)  # norms; biases
            setattr(module, name, torch.nn.Parameter(values))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return model.train()


class RandomFeed:
    """The same random batch again and again."""

    def __init__(self, setting: Setting, arguments: dict[str, Any], device: torch.device) -> None:
        import torch

        from sama.shapes import NUM_SEMANTIC_TOKENS, latent_shape
        from training.core.batch import Batch

        random = torch.Generator(device).manual_seed(1)

        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(setting.batch, *shape, generator=random, device=device)

        shape = (arguments["in_channels"], *latent_shape(setting.frames, setting.height, setting.width))
        text = noise(128 if setting.model == "tiny" else 512, arguments["text_dim"])
        semantic = noise(NUM_SEMANTIC_TOKENS, arguments["semantic_dim"])
        self.batch = Batch(noise(*shape), noise(*shape), text, semantic)

    def batches(self) -> Iterator[Any]:
        """The batch, without end."""
        while True:
            yield self.batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""

    def summary(self) -> str:
        """What it is."""
        return "random latents"


def setting_config(setting: Setting, arguments: dict[str, Any], out: Path) -> TrainConfig:
    """The configuration that a YAML file with this setting would give."""
    from training.config import LoraConfig, OptimiserConfig, ParallelConfig, TrainConfig

    known = "none" if setting.checkpointing.startswith("attention") else setting.checkpointing
    return TrainConfig(
        stage=setting.stage,  # type: ignore[arg-type]
        output=str(out / "run"),
        model=arguments,
        batch_size=setting.batch,
        compile=setting.compile,
        optimiser=OptimiserConfig() if setting.model == "tiny" else OptimiserConfig("adamw", 2e-5),
        parallel=ParallelConfig(setting.weights, setting.sequence, known, setting.every),  # type: ignore[arg-type]
        lora=LoraConfig(setting.rank, setting.rank),
    )
