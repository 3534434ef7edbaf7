"""What a step costs in floating-point operations, and which share of the hardware's peak a run reaches.

With width d, feed-forward width f, n blocks, L tokens (source, semantic and target), T text tokens, and a multiply-add
counted as two, one forward pass of the blocks is

    n L (12 d^2 + 4 d f) + 4 n L^2 d + 4 n L T d + 4 n T d^2

for the linear layers, self-attention, cross-attention and the text's keys and values. The layers around the blocks are
added from their real sizes. Training is three forward passes; what is computed again under gradient checkpointing is
not counted. MFU (model FLOPs utilisation) = model FLOPs / (seconds x GPUs x dense bfloat16 peak of the device).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

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


class Flops(NamedTuple):
    """Floating-point operations of layers with weights, and of attention, which has none."""

    linear: int
    attention: int

    @property
    def total(self) -> int:
        return self.linear + self.attention


def forward_flops(shape: ModelShape, tokens: TokenCounts, text_tokens: int) -> Flops:
    """One forward pass of one sample. Norms, activations, modulation and rotary factors are not counted."""
    d, length = shape.width, tokens.total
    blocks = length * (12 * d**2 + 4 * d * shape.ffn) + 4 * text_tokens * d**2
    attention = 4 * length**2 * d + 4 * length * text_tokens * d
    patch = PATCH_SIZE[0] * PATCH_SIZE[1] * PATCH_SIZE[2]
    around = 2 * (tokens.source + tokens.target) * patch * shape.channels_in * d  # patch embedding
    around += 2 * tokens.target * d * patch * shape.channels_out  # output projection
    around += 2 * tokens.semantic * (shape.semantic_dim + d) * shape.semantic_hidden  # semantic projector
    around += 2 * tokens.semantic * d * shape.semantic_dim  # semantic head
    around += 2 * text_tokens * (shape.text_dim * d + d**2)  # text embedder
    around += 2 * (shape.freq_dim * d + 7 * d**2)  # time embedder and modulation
    return Flops(shape.blocks * blocks + around, shape.blocks * attention)


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


_PEAKS: tuple[tuple[str, float], ...] = (
    # The first pattern that is found counts. Dense bfloat16 with float32 accumulation, TFLOP/s, from data sheets.
    (r"GB200|GB300", 2500.0),
    (r"B200", 2250.0),
    (r"B100", 1750.0),
    (r"H200 NVL|H100 NVL", 835.5),
    (r"H100 PCIe", 756.0),
    (r"GH200|H200|H100|H800", 989.4),
    (r"H20", 148.0),
    (r"A100|A800", 312.0),
    (r"A40", 149.7),
    (r"A30", 165.0),
    (r"A10", 125.0),
    (r"RTX A6000", 154.8),
    (r"L40S", 362.0),
    (r"L40", 181.0),
    (r"L4", 121.0),
    (r"RTX 3090", 71.2),
    (r"RTX 4090", 165.2),
    (r"RTX 5090", 209.5),
    (r"RTX 6000 Ada", 364.2),
    (r"MI355X", 2500.0),
    (r"MI325X|MI300X", 1307.4),
    (r"MI250X", 191.5),  # of one of its two dies, which is one device
)


def peak_flops(device_name: str) -> float | None:
    """The dense (not 2:4 sparse) bfloat16 peak of a device as `torch.cuda.get_device_name` names it, in FLOP/s. None
    for one that is not in the table, and for a slice of one: there is then no MFU, rather than a wrong one."""
    if re.search(r"\bMIG\b|Laptop|Max-Q", device_name):
        return None
    for pattern, peak in _PEAKS:
        if re.search(rf"\b(?:{pattern})\b", device_name):
            return peak * 1e12
    return None


def mfu(flops: float, seconds: float, devices: int, peak: float | None) -> float | None:
    """Share of the hardware's peak, 0 to 1. flops: of all devices together, in those seconds."""
    return None if peak is None or seconds <= 0 else flops / (seconds * devices * peak)
