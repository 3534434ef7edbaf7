"""Describes what a run would do and need, without starting it: `python -m training.train --config run.yaml --dry-run`.

Nothing is downloaded and no weights are read. Memory is an estimate by formula:

- weights and gradients 4 bytes each, the average 4, AdamW 8 and Muon 4 for what it trains, divided between the
  processes where they are sharded, whatever `accumulate` is; frozen weights below an adapter 2;
- where they are sharded, the layers that are gathered for a moment (`gathered_bytes`);
- activations of a block without checkpointing: about 68 d + 4 f bytes a token (width d, feed-forward width f; measured
  by what autograd keeps under bfloat16, uncompiled), with checkpointing 2 d bytes a token for each block and one whole
  block at a time; doubled in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from torch import nn
from transformers import SiglipVisionConfig

from sama.shapes import LatentShape, latent_shape, token_counts
from training.config import TrainConfig
from training.core.float8 import is_large_matrix
from training.core.meter import forward_flops, training_flops
from training.core.optim import is_matrix
from training.data.encoders import FrozenSizes
from training.data.sizes import tiny_buckets
from training.parallel.processes import DataRank, require_fitting
from training.stages.model import build_transformer, require_arguments, told_by_section

GIB = 2**30
BYTES_A_WIDTH, BYTES_A_FFN = 68, 4
WAN_FROZEN_BYTES = 2 * (5_680_910_336 + 126_892_531) + 4 * 428_225_600
"""UMT5-XXL and the VAE in bfloat16, the vision half of SigLIP-so400m in float32."""


class Largest(NamedTuple):
    """The micro-step that needs most memory: how many samples of which latents."""

    samples: int
    latents: LatentShape


def preview(config: TrainConfig, processes: int = 1) -> str:
    """The description of a run with so many processes, as lines. Raises ConfigError where it cannot be run."""
    sizes = None if config.stage in ("vae", "tower") else FrozenSizes.read(config.base, config.tower, fetch=False)
    model = _model(config, sizes)
    counts = _counts(model)
    sharded = require_fitting(config, processes, counts["all"])
    lines = [f"stage {config.stage} to {config.output}, fingerprint {config.fingerprint()}", ""]
    lines += [f"model      {counts['all']:,} parameters, {counts['trained']:,} trained, {_start(config)}"]
    lines += _settings(config, processes, sharded)
    if sizes is not None and sizes.assumed:
        lines += [f"not here   {', '.join(sizes.assumed)}: sizes of Wan2.1 and SigLIP-so400m are assumed"]
    lines += ["", *_memory(config, model, processes if sharded else 1, sizes)]
    lines += ["", "data", *(f"  {line}" for line in _data(config, sizes, processes // config.parallel.sequence))]
    return "\n".join(lines) + "\n"


def _model(config: TrainConfig, sizes: FrozenSizes | None) -> nn.Module:
    """The model without memory for its weights."""
    if sizes is not None:
        return build_transformer(config, sizes, empty=True)
    with init_empty_weights(), told_by_section():
        if config.stage == "vae":
            require_arguments(config.model, AutoencoderKLWan, ("z_dim",))
            return AutoencoderKLWan(**config.model)
        from training.tiny.tower import NamedTower

        require_arguments(config.model, SiglipVisionConfig)
        return NamedTower(SiglipVisionConfig(**config.model), text_dim=384)


def _counts(model: nn.Module) -> dict[str, int]:
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    return {
        "all": sum(weight.numel() for weight in model.parameters()),
        "trained": sum(weight.numel() for _, weight in trained),
        "matrices": sum(weight.numel() for name, weight in trained if is_matrix(name, weight)),
        "large": sum(weight.numel() for name, weight in trained if is_large_matrix(name, weight)),
    }


def _start(config: TrainConfig) -> str:
    start = config.base if config.start_from_base else config.start_from
    return f"from {start or 'random weights'}"


def _settings(config: TrainConfig, processes: int, sharded: bool) -> list[str]:
    """The settings, as lines."""
    parallel, optimiser = config.parallel, config.optimiser
    weights = "one for itself" if processes == 1 else "weights sharded (FSDP2)" if sharded else "replicated (DDP)"
    weights += f", {parallel.sequence} share a sequence" if parallel.sequence > 1 else ""
    kept = "kept" if parallel.checkpointing == "none" else "computed again"
    kept += " but for the attention" if parallel.checkpointing.startswith("attention") else ""
    kept += ", inputs on the host" if parallel.checkpointing.endswith("offload") else ""
    kept += f" every {parallel.checkpoint_every} blocks" if parallel.checkpoint_every > 1 else ""
    rates = f"{optimiser.learning_rate:g}"
    rates += f" (AdamW {optimiser.adam_learning_rate:g})" if optimiser.name == "muon" else ""
    end = f"{config.max_steps} steps" + (f" or {config.max_minutes:g} minutes" if config.max_minutes else "")
    precision = config.precision + (", compiled" if config.compile else "")
    precision += f", float8 rounding over the last {config.float8_share:.0%}" if config.float8_share else ""
    return [
        f"processes  {processes}: {weights}, activations {kept}",
        f"optimiser  {optimiser.name}, learning rate {rates}, weight decay {optimiser.weight_decay:g}, "
        f"clipped at {optimiser.clip_norm:g}, average {optimiser.ema_decay:g}",
        f"schedule   {end} of {config.accumulate} micro-steps; {optimiser.warmup_steps} to warm up, "
        f"falling over the last {optimiser.decay_share:.0%}",
        f"precision  {precision}",
    ]


# --- Memory ----------------------------------------------------------------------------------------------------------


def _memory(config: TrainConfig, model: nn.Module, shards: int, sizes: FrozenSizes | None) -> list[str]:
    parts: dict[str, float] = state_bytes(config, model, shards)
    if shards > 1:
        parts["gathered layers"] = gathered_bytes(model)
    title = "memory of each process, estimated"
    if sizes is not None:
        largest, arguments = _largest(config), cast(Mapping[str, Any], model.config)
        tokens = token_counts(largest.latents).total
        parts["activations"] = _activations(config, arguments, largest.samples * tokens)
        parts["frozen parts"] = _frozen_bytes(config, sizes)
        if config.data.source == "rendered":
            parts["held scenes"] = _held_bytes(config, sizes, largest.latents)
        flops = training_flops(
            forward_flops(arguments, token_counts(largest.latents), sizes.text_length),
            frozen=config.stage == "lora",
        )
        title += (
            f"; largest micro-step: {largest.samples} x {tokens:,} tokens, {largest.samples * flops / 1e12:,.4g} TFLOP"
        )
    lines = [title] + [f"  {name:<34}{value / GIB:8.2f} GiB" for name, value in parts.items()]
    note = "" if sizes is not None else " and the activations"
    return [*lines, f"  {'together':<34}{sum(parts.values()) / GIB:8.2f} GiB{note}"]


def state_bytes(config: TrainConfig, model: nn.Module, shards: int) -> dict[str, float]:
    """Bytes by name of what a process holds between two micro-steps. shards: processes that the state is divided
    between; 1 where it is replicated.

    Gradients are divided as the weights are, in every micro-step (`training.parallel.processes.without_sync`); those of
    replicas are the memory of their exchange.
    """
    counts = _counts(model)
    trained = counts["trained"]
    matrices = counts["matrices"] if config.optimiser.name == "muon" else 0
    frozen_bytes = 2 if config.precision == "bfloat16" else 4
    parts = {
        "weights": (4 * trained + frozen_bytes * (counts["all"] - trained)) / shards,
        "gradients": 4 * trained / shards,
        "optimiser": (4 * matrices + 8 * (trained - matrices)) / shards,
        "average": 4 * trained / shards,
    }
    if config.float8_share:
        parts["own weights beside their rounding"] = 4 * counts["large"] / shards
    return parts


def gathered_bytes(model: nn.Module) -> float:
    """Bytes of the layers that are whole for a moment where weights are sharded, at most.

    For blocks: the weights of one and of the next, which is fetched ahead, the gradient of one, and its copy in the
    exchange. The layers outside the blocks are whole throughout a backward pass, and at its end their gradients, too.
    """
    blocks = [_size(block) for block in getattr(model, "blocks", [])]
    block, outside = max(blocks, default=0), _size(model) - sum(blocks)
    return 4.0 * max(outside + 4 * block, 3 * outside + 2 * block)


def _activations(config: TrainConfig, arguments: Mapping[str, Any], tokens: int) -> float:
    parallel = config.parallel
    width = arguments["num_attention_heads"] * arguments["attention_head_dim"]
    blocks, own = arguments["num_layers"], tokens / parallel.sequence
    whole = own * (BYTES_A_WIDTH * width + BYTES_A_FFN * arguments["ffn_dim"])
    again = 0 if parallel.checkpointing == "none" else -(-blocks // parallel.checkpoint_every)
    kept_widths = {"offload": 0, "full": 1, "attention": 2, "attention_offload": 1}.get(parallel.checkpointing, 0)
    kept = again * own * 2 * width * kept_widths
    factor = 1 if config.precision == "bfloat16" else 2
    return factor * (kept + (blocks - again) * whole + (whole if again else 0))


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _largest(config: TrainConfig) -> Largest:
    if config.data.source == "rendered":
        frames = config.data.rendered.frames
        shapes = [latent_shape(frames, bucket.height, bucket.width) for bucket in tiny_buckets()]
        return Largest(config.batch_size, max(shapes, key=lambda shape: shape.height * shape.width))
    from training.data.files.buckets import batch_sizes, model_width, signatures

    known = signatures(config.data.manifest)
    sizes = batch_sizes(known, config.data.manifest, model_width(config))
    most = max(sizes, key=lambda signature: sizes[signature] * signature.tokens)
    return Largest(sizes[most], latent_shape(most.frames, most.height, most.width))


def _frozen_bytes(config: TrainConfig, sizes: FrozenSizes) -> float:
    """Bytes of VAE, text encoder and tower in memory: by the size of their files, or Wan's where they are not here."""
    folders = [Path(config.base) / part for part in ("vae", "text_encoder")]
    folders.append(Path(config.tower) if config.tower else Path(config.base) / "semantic_tower")
    if sizes.assumed or not all(folder.is_dir() for folder in folders):
        return WAN_FROZEN_BYTES
    stored = sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))
    return 4.0 * stored if sizes.small else stored  # stored in a byte a weight, used in four


def _held_bytes(config: TrainConfig, sizes: FrozenSizes, latents: LatentShape) -> float:
    """Bytes of the store of drawn scenes: latents in bfloat16, and pictures of as many clips as a group may have."""
    from training.data.drawn.scenes import ANCHOR_SIZE, MAX_CLIPS

    clip = 2 * sizes.latent_channels * latents.frames * latents.height * latents.width + 3 * ANCHOR_SIZE**2
    return float(config.data.rendered.capacity_groups * MAX_CLIPS * clip)


# --- Data ------------------------------------------------------------------------------------------------------------


def _data(config: TrainConfig, sizes: FrozenSizes | None, places: int) -> list[str]:
    rendered = config.data.rendered
    if sizes is not None and config.data.source == "manifest":
        from training.data.files.feed import data_summary

        return data_summary(config, places).splitlines()
    lines = []
    if not Path(rendered.pack).is_dir():
        lines.append(f"{rendered.pack} is not here: python -m training.synth.ingredients --out {rendered.pack}")
    if sizes is None:
        return [*lines, f"rendered from {rendered.pack}: {rendered.frames} frames, batches of {config.batch_size}"]
    from training.data.drawn.feed import RenderedFeed

    data_rank = DataRank(0, places, torch.device("cpu"))
    return [*lines, *RenderedFeed(config, sizes, data_rank).summary().splitlines()]  # type: ignore[arg-type]
