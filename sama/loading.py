"""Pipelines by preset. Nothing is downloaded unless a preset whose weights live on the Hub is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sama.checkpoints import load_transformer
from sama.errors import CheckpointError
from sama.presets import Preset, get_preset, missing_weights

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline


def load_pipeline(
    preset: str,
    device: torch.device | str | None = None,
    lora: Sequence[str | os.PathLike[str]] = (),
    weights: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
) -> SamaPipeline:
    """A ready pipeline.

    preset: "tiny", "14b" or "1.3b".
    device: moved there; None keeps it on the CPU, for the caller to place or to offload.
    lora: LoRA files or folders, all active at full strength.
    weights: a SAMA transformer in place of the released one: a file, shards or a folder. The 1.3b preset, which has no
        released weights, needs it.
    dtype: of transformer and text encoder; bfloat16 for the Wan presets, float32 for the tiny one if None. The Wan VAE
        stays in float32.
    Raises CheckpointError for weights that do not fit, ValueError for an unknown preset.
    """
    chosen = get_preset(preset)
    pipeline = _from_folder(chosen, weights, dtype) if chosen.folder else _from_hub(chosen, weights, dtype)
    names = []
    for index, path in enumerate(lora):
        names.append(f"lora_{index}")
        pipeline.load_lora_weights(path, adapter_name=names[-1])
    if names:
        pipeline.set_adapters(names)
    return pipeline.to(device) if device is not None else pipeline


def _from_folder(preset: Preset, weights: str | os.PathLike[str] | None, dtype: torch.dtype | None) -> SamaPipeline:
    from sama.pipeline import SamaPipeline

    folder = Path(preset.folder or "")
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(missing_weights(preset))
    dtype = dtype or torch.float32
    pipeline = SamaPipeline.from_pretrained(folder, dtype=dtype)
    if weights is not None:
        pipeline.register_modules(transformer=load_transformer(weights, pipeline.transformer_arguments, dtype))
    return pipeline


def _from_hub(preset: Preset, weights: str | os.PathLike[str] | None, dtype: torch.dtype | None) -> SamaPipeline:
    from diffusers import FlowMatchEulerDiscreteScheduler

    from sama.pipeline import SamaPipeline

    if weights is None:
        if preset.weights_repo is None or preset.weights_file is None:
            raise CheckpointError(f"No weights are released for {preset.name}: give those that you trained.")
        from huggingface_hub import hf_hub_download

        weights = hf_hub_download(preset.weights_repo, preset.weights_file, revision=preset.weights_revision)
    dtype = dtype or torch.bfloat16
    return SamaPipeline.from_pretrained(
        preset.base_repo,
        transformer=load_transformer(weights, preset.transformer, dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **(preset.canvas.settings() if preset.canvas else {}),
        dtype={"text_encoder": dtype, "default": torch.float32},
    )
