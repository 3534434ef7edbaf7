"""Pipelines by preset. Nothing is downloaded unless a preset whose weights live on the Hub is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sama.device.placement import fast_dtype, place, resolve_device, use_growing_segments, vae_dtype
from sama.errors import CheckpointError, EditError
from sama.presets import Preset, get_preset, missing_weights

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline


def load_pipeline(
    preset: str,
    device: str | None = None,
    lora: Sequence[str] = (),
    model: str | os.PathLike[str] | None = None,
    memory: str = "auto",
    compile: str = "auto",
    window: tuple[int, int, int] | None = None,
    forwards: int | None = None,
    texts: bool = True,
) -> SamaPipeline:
    """A preset's pipeline on a device, ready to edit.

    device: None takes the best there is, see `sama.device.placement.default_device`.
    lora: files, each optionally with `@scale`; one that is not here may be `owner/name/file.safetensors` on the Hub.
    model: folder of a saved pipeline in place of the preset's weights.
    memory, compile, window, forwards: how it runs there, see `sama.device.placement.place`.
    texts: whether it will encode prompts; without, its text encoder is not even read.
    Raises EditError for weights, LoRAs, devices or ways that are not there or do not fit.
    """
    from sama.edit.request import check_lora, check_preset, check_ways, check_weights, is_on_hub, parse_lora

    check_preset(preset)
    check_ways(memory, compile)
    check_weights(preset, model)
    loras = [parse_lora(spec) for spec in lora]
    for path, _ in loras:
        if not is_on_hub(path):
            check_lora(path)
    target = resolve_device(device, needs_gpu(preset, model))
    use_growing_segments()
    names = [f"lora_{index}" for index in range(len(loras))]
    try:
        pipeline = assemble(preset, target, model=model, texts=texts)
        for name, (path, _) in zip(names, loras, strict=True):
            pipeline.load_lora_weights(_fetched(path) if is_on_hub(path) else path, adapter_name=name)
    except CheckpointError as error:
        raise EditError(str(error)) from error
    except OSError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EditError(f"The weights could not be read or fetched: {reason}") from error
    if names:
        pipeline.set_adapters(names, [scale for _, scale in loras])
    place(pipeline, target, memory, compile, window, forwards)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def assemble(
    preset: str,
    device: str = "cpu",
    model: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    texts: bool = True,
) -> SamaPipeline:
    """A preset's pipeline in main memory, in the types that `device` computes with.

    model: folder of a saved pipeline in place of the preset's.
    weights: a SAMA transformer in place of the released one: a file, shards or a folder. The 1.3b preset, which has no
        released weights, needs it or `model`.
    texts: False leaves out the text encoder, and the tower for showing outcomes.
    Raises CheckpointError for weights that do not fit, ValueError for an unknown preset.
    """
    chosen = get_preset(preset)
    folder = model or chosen.folder
    absent = {} if texts else {"text_encoder": None, "semantic_tower": None}
    if folder:
        return _from_folder(chosen, Path(folder), device, weights, absent)
    return _from_hub(chosen, weights, absent)


def _fetched(path: Path) -> str:
    """A file of the Hub on this machine. Raises EditError where there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    owner, name, *rest = path.parts
    try:
        return hf_hub_download(f"{owner}/{name}", "/".join(rest))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EditError(f"The LoRA {path.as_posix()} is neither here nor on the Hub: {reason}") from error


def needs_gpu(preset: str, model: str | os.PathLike[str] | None) -> bool:
    """Whether an edit without a GPU would take so long that it must be asked for by name."""
    return model is None and get_preset(preset).folder is None


def _from_folder(
    preset: Preset, folder: Path, device: str, weights: str | os.PathLike[str] | None, absent: Mapping[str, None]
) -> SamaPipeline:
    import torch

    from sama.checkpoints import load_transformer
    from sama.pipeline import SamaPipeline

    if not (folder / "model_index.json").is_file():
        raise CheckpointError(missing_weights(preset))
    dtype = fast_dtype(device)
    types = {"transformer": dtype, "vae": vae_dtype(device), "default": torch.float32}
    pipeline = SamaPipeline.from_pretrained(folder, dtype=types, **absent)
    if weights is not None:
        pipeline.register_modules(transformer=load_transformer(weights, pipeline.transformer_arguments, dtype))
    return pipeline


def _from_hub(preset: Preset, weights: str | os.PathLike[str] | None, absent: Mapping[str, None]) -> SamaPipeline:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from sama.checkpoints import load_transformer
    from sama.pipeline import SamaPipeline

    if weights is None:
        if preset.weights_repo is None or preset.weights_file is None:
            raise CheckpointError(f"No weights are released for {preset.name}: give those that you trained.")
        from huggingface_hub import hf_hub_download

        weights = hf_hub_download(preset.weights_repo, preset.weights_file, revision=preset.weights_revision)
    dtype = torch.bfloat16
    return SamaPipeline.from_pretrained(
        preset.base_repo,
        transformer=load_transformer(weights, preset.transformer, dtype),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **(preset.canvas.settings() if preset.canvas else {}),
        dtype={"text_encoder": dtype, "default": torch.float32},
        **absent,
    )
