"""What the transformer's blocks cost in floating-point operations, and how fast known GPUs are.

With width d, feed-forward width f, n blocks, L tokens (source, semantic and target), T text tokens, and a multiply-add
counted as two, one forward pass of the blocks is

    n L (12 d^2 + 4 d f) + 4 n L^2 d + 4 n L T d + 4 n T d^2

for the linear layers, self-attention, cross-attention and the text's keys and values.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Flops(NamedTuple):
    """Floating-point operations of layers with weights, and of attention, which has none."""

    linear: int
    attention: int

    @property
    def total(self) -> int:
        return self.linear + self.attention


def block_flops(tokens: int, text_tokens: int, width: int, ffn: int, blocks: int = 1) -> Flops:
    """One forward pass of the transformer's blocks on one sample. Norms, activations, modulation and rotary factors are
    not counted."""
    linear = tokens * (12 * width**2 + 4 * width * ffn) + 4 * text_tokens * width**2
    attention = 4 * tokens * width * (tokens + text_tokens)
    return Flops(blocks * linear, blocks * attention)


def unread_flops(source: int, tokens: int, text_tokens: int, width: int, ffn: int) -> Flops:
    """What the last block leaves out without gradients (see `sama.model.blocks`): the queries, cross-attention and
    feed-forward of `source` of its tokens."""
    linear = source * (8 * width**2 + 4 * width * ffn)
    return Flops(linear, 4 * source * width * (tokens + text_tokens))


def shared_flops(tokens: int, width: int) -> Flops:
    """What an evaluation leaves out that takes the first block's self-attention from another one of the same step."""
    return Flops(8 * tokens * width**2, 4 * tokens**2 * width)


class Rates(NamedTuple):
    """FLOP per second that a GPU reaches in bfloat16 on long sequences, measured or published."""

    linear: float
    attention: float
    convolution: float


class Gpu(NamedTuple):
    """A known GPU.

    name: the part of the device's name by which it was known.
    peak: dense (not 2:4 sparse) bfloat16 peak with float32 accumulation in FLOP/s, from its data sheet.
    rates: what an edit reaches on it, None where that is not known.
    """

    name: str
    peak: float
    rates: Rates | None


_H100 = Rates(730e12, 566e12, 250e12)
_GPUS: tuple[tuple[str, float, Rates | None], ...] = (
    # Pattern, peak in TFLOP/s, rates. The first pattern that is found counts.
    (r"GB200|GB300", 2500.0, None),
    (r"B200", 2250.0, None),
    (r"B100", 1750.0, None),
    (r"H200 NVL|H100 NVL", 835.5, _H100),
    (r"H100 PCIe", 756.0, _H100),
    (r"GH200|H200|H100", 989.4, _H100),
    (r"H800", 989.4, None),
    (r"H20", 148.0, None),
    (r"A100", 312.0, Rates(250e12, 195e12, 100e12)),
    (r"A800", 312.0, None),
    (r"A40", 149.7, None),
    (r"A30", 165.0, None),
    (r"A10", 125.0, None),
    (r"RTX A6000", 154.8, None),
    (r"L40S", 362.0, Rates(200e12, 150e12, 80e12)),
    (r"L40", 181.0, None),
    (r"L4", 121.0, None),
    (r"RTX 3090", 71.2, Rates(65e12, 55e12, 30e12)),
    (r"RTX 4090", 165.2, Rates(160e12, 150e12, 70e12)),
    (r"RTX 5090", 209.5, None),
    (r"RTX 6000 Ada", 364.2, None),
    (r"MI355X", 2500.0, None),
    (r"MI325X|MI300X", 1307.4, None),
    (r"MI250X", 191.5, None),  # of one of its two dies, which is one device
)


def known_gpu(device_name: str) -> Gpu | None:
    """A GPU as `torch.cuda.get_device_name` names it; None for one that is not in the table, and for a slice of one or
    its laptop edition, whose figures are others."""
    if re.search(r"\bMIG\b|Laptop|Max-Q", device_name):
        return None
    for pattern, peak, rates in _GPUS:
        if found := re.search(rf"\b(?:{pattern})\b", device_name):
            return Gpu(found.group(), peak * 1e12, rates)
    return None


def peak_flops(device_name: str) -> float | None:
    """The dense bfloat16 peak of a GPU in FLOP/s; None where it is not known: there is then no MFU, rather than a wrong
    one."""
    gpu = known_gpu(device_name)
    return None if gpu is None else gpu.peak
