"""Clips as they come from callers, as one tensor, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

OUTPUT_TYPES = ("np", "pt", "pil", "latent")


def as_frames(video: Any) -> Tensor:
    """A clip, or several of one size, as (B, T, H, W, 3) float32 in [0, 1].

    Takes arrays and tensors (T, H, W, 3) or (B, T, H, W, 3), tensors with the colours first (T, 3, H, W) or
    (B, T, 3, H, W), lists of pictures (PIL, or arrays (H, W, 3)) and lists of clips. Integers are 0 to 255, floats
    0 to 1. Raises ValueError, with one sentence, for anything else.
    """
    frames = _to_tensor(video)
    if frames.ndim == 4:
        frames = frames.unsqueeze(0)
    if frames.ndim != 5 or 3 not in (frames.shape[-1], frames.shape[-3]):
        raise ValueError(
            f"a clip must be frames of RGB pixels, (T, H, W, 3), or a batch of them, not {tuple(frames.shape)}"
        )
    if frames.shape[-1] != 3:
        frames = frames.movedim(-3, -1)
    if not frames.is_floating_point():
        return frames.float() / 255
    frames = frames.float()
    low, high = (float(bound) for bound in frames.aminmax()) if frames.numel() else (0.0, 0.0)
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"frames of floats must lie in [0, 1], but these span {low:g} to {high:g}")
    return frames.clamp(0, 1)


def as_output(frames: Tensor, output_type: str) -> Tensor | np.ndarray | list[list[Image.Image]]:
    """Frames (B, T, H, W, 3) in [0, 1] as float32: `"np"`, an array of the same shape; `"pt"`, a tensor (B, T, 3, H, W)
    as diffusers' video pipelines give; or `"pil"`, lists of pictures per clip."""
    frames = frames.float().cpu()
    if output_type == "pt":
        return frames.movedim(-1, 2).contiguous()
    if output_type == "np":
        return frames.numpy()
    pixels = (frames * 255).round().to(torch.uint8).numpy()
    return [[Image.fromarray(picture) for picture in clip] for clip in pixels]


def _to_tensor(video: Any) -> Tensor:
    if isinstance(video, Tensor):
        return video.detach()
    if isinstance(video, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(video))
    if isinstance(video, Image.Image):
        return torch.from_numpy(np.array(video.convert("RGB")))
    if isinstance(video, Sequence) and not isinstance(video, str) and len(video):
        parts = [_to_tensor(part) for part in video]
        if len({(part.shape, part.dtype) for part in parts}) > 1:
            raise ValueError("all frames of a clip, and all clips of a batch, must have one size and one type")
        return torch.stack(parts)
    raise ValueError(f"a clip must be an array, a tensor or a list of pictures, not {type(video).__name__}")
