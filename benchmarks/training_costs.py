"""Prints the Markdown table of docs/training.md: what one sample of 480 x 832 costs in training, by formula.

python -m benchmarks.training_costs
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

FRAMES = (1, 17, 33, 49, 81)
HEIGHT, WIDTH, TEXT_TOKENS = 480, 832, 512
COLUMNS = ("frames", "tokens", "activations 14B", "activations 1.3B", "training 14B", "LoRA 14B", "training 1.3B")


def costs() -> str:
    """The table: tokens, what activation checkpointing keeps (an activation a block, bfloat16), and PFLOP of a step."""
    from sama.presets import transformer_config
    from sama.shapes import latent_shape, token_counts
    from training.core.meter import forward_flops, training_flops
    from training.stages.model import empty_transformer

    configs = {}
    for name in ("14b", "1.3b"):
        arguments = {"in_channels": 16, "out_channels": 16, "semantic_dim": 1152} | transformer_config(name)
        configs[name] = empty_transformer(arguments).config
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for frames in FRAMES:
        counts = token_counts(latent_shape(frames, HEIGHT, WIDTH))
        kept = {name: 2 * _width(one) * one["num_layers"] * counts.total / 2**30 for name, one in configs.items()}
        forward = {name: forward_flops(one, counts, TEXT_TOKENS) for name, one in configs.items()}
        steps = [(forward["14b"], False), (forward["14b"], True), (forward["1.3b"], False)]
        flops = [f"{training_flops(one, frozen=frozen) / 1e15:.2f} PFLOP" for one, frozen in steps]
        rows.append((str(frames), f"{counts.total:,}", f"{kept['14b']:.1f} GiB", f"{kept['1.3b']:.1f} GiB", *flops))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _width(config: Mapping[str, Any]) -> int:
    return int(config["num_attention_heads"] * config["attention_head_dim"])


if __name__ == "__main__":
    sys.stdout.write(costs())
