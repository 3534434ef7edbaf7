"""What a training step costs in floating-point operations, and which share of the hardware's peak a run reaches.

The blocks count by the formula of `sama.flops`, and the layers around them by their real sizes. Training is three
forward passes; what is computed again under gradient checkpointing is not counted. MFU (model FLOPs utilisation) =
model FLOPs / (seconds x GPUs x dense bfloat16 peak of the device).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sama.flops import Flops, block_flops
from sama.shapes import PATCH_SIZE, LatentShape, TokenCounts, token_counts
from training.core.batch import Batch


class ModelShape(NamedTuple):
    """The sizes of a SAMA transformer that decide its cost."""

    width: int
    ffn: int
    blocks: int
    channels_in: int
    channels_out: int
    text_dim: int
    freq_dim: int
    semantic_dim: int
    semantic_hidden: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape:
        """From the `config` of a `SamaTransformer3DModel`."""
        return cls(
            config["num_attention_heads"] * config["attention_head_dim"],
            config["ffn_dim"],
            config["num_layers"],
            config["in_channels"],
            config["out_channels"],
            config["text_dim"],
            config["freq_dim"],
            config["semantic_dim"],
            config["semantic_hidden_dim"],
        )


def forward_flops(shape: ModelShape, tokens: TokenCounts, text_tokens: int) -> Flops:
    """One forward pass of one sample. Norms, activations, modulation and rotary factors are not counted."""
    d, length = shape.width, tokens.total
    blocks = block_flops(length, text_tokens, d, shape.ffn, shape.blocks)
    patch = PATCH_SIZE[0] * PATCH_SIZE[1] * PATCH_SIZE[2]
    around = 2 * (tokens.source + tokens.target) * patch * shape.channels_in * d  # patch embedding
    around += 2 * tokens.target * d * patch * shape.channels_out  # output projection
    around += 2 * tokens.semantic * (shape.semantic_dim + d) * shape.semantic_hidden  # semantic projector
    around += 2 * tokens.semantic * d * shape.semantic_dim  # semantic head
    around += 2 * text_tokens * (shape.text_dim * d + d**2)  # text embedder
    around += 2 * (shape.freq_dim * d + 7 * d**2)  # time embedder and modulation
    return Flops(blocks.linear + around, blocks.attention)


def training_flops(forward: Flops, frozen: bool = False) -> int:
    """Forward and backward: three forward passes. frozen: the weights take no gradients of their own (LoRA, whose
    small matrices are not counted), so that layers cost two passes and attention three."""
    return (2 if frozen else 3) * forward.linear + 3 * forward.attention


class Cost(NamedTuple):
    """What a micro-step works through."""

    samples: int
    tokens: int
    flops: int


def batch_cost(config: Mapping[str, Any], batch: Batch, frozen: bool = False) -> Cost:
    """The cost of training on a batch, from its real sizes. config: the transformer's. frozen: see
    `training_flops`. In a sequence-parallel group it is the cost for the group together."""
    shape = LatentShape(*batch.target.shape[2:])
    semantic = 0 if batch.anchors is None else batch.anchors.shape[1]
    tokens = token_counts(shape, with_source=batch.source is not None, semantic_tokens=semantic)
    each = training_flops(forward_flops(ModelShape.of(config), tokens, batch.text.shape[1]), frozen)
    samples = len(batch.target)
    return Cost(samples, samples * tokens.total, samples * each)


def mfu(flops: float, seconds: float, devices: int, peak: float | None) -> float | None:
    """Share of the hardware's peak, 0 to 1. flops: of all devices together, in those seconds."""
    return None if peak is None or seconds <= 0 else flops / (seconds * devices * peak)
