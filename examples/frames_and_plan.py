"""Edits frames with the pipeline, as any pipeline of diffusers, and prints how its plan settles.

python examples/frames_and_plan.py assets/sama-tiny
"""

import sys
from typing import Any

import numpy as np
import torch

from sama import SamaPipeline


def strong_at_first(pipe: SamaPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
    """A callback: full guidance while the plan forms, less of it afterwards."""
    pipe._guidance_scale = 4.0 if step < 2 else 2.0
    return tensors


def main(model: str) -> None:
    """model: folder of a saved pipeline, or its name on the Hub."""
    pipe = SamaPipeline.from_pretrained(model)
    y, x = np.mgrid[:64, :96]
    frames = [np.stack([x * 2, y * 3, 0 * x + 20 * number], axis=-1).astype(np.uint8) for number in range(5)]
    out: Any = pipe(
        video=np.stack(frames),  # 4k+1 frames, sides divisible by 16
        prompt="Make it snowy",
        num_inference_steps=4,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
        callback_on_step_end=strong_at_first,
    )
    print(f"frames {out.frames.shape}, plan {tuple(out.semantic_tokens.shape)}")
    final = out.semantic_tokens[:, -1]
    for step, tokens in enumerate(out.semantic_tokens.unbind(1), 1):
        likeness = torch.nn.functional.cosine_similarity(tokens, final, dim=-1).mean()
        print(f"after step {step} the plan is {likeness:.2f} like the last one")


if __name__ == "__main__":
    main(*sys.argv[1:])
