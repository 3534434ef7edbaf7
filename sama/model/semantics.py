"""Semantic anchors: how they are made from a frame, and how they are shown.

Training and the "outcome" view take anchors from a SigLIP vision tower: its patch features of one anchor frame,
average-pooled to 8 x 8 local tokens, plus the tower's pooled output as one global token (paper, section 3.2; the
released code does not contain the pooling, so this is our choice and part of the model's contract). Inference needs no
tower: the model denoises the 65 tokens from noise together with the video.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sama.shapes import NUM_SEMANTIC_TOKENS, SEMANTIC_GRID

if TYPE_CHECKING:
    from transformers import SiglipVisionModel

NUM_LOCAL_TOKENS = SEMANTIC_GRID * SEMANTIC_GRID


def anchor_frame_indices(num_frames: int, num_anchors: int = 1) -> list[int]:
    """Anchor frames, sampled uniformly from a clip. A single anchor is the first frame, which the causal VAE encodes
    alone, so that the plan of a clip does not depend on its length."""
    if num_anchors > num_frames:
        raise ValueError(f"{num_anchors} anchor frames cannot be taken from {num_frames} frames")
    return torch.linspace(0, num_frames - 1, num_anchors).round().int().tolist()


def anchor_tokens(tower: SiglipVisionModel, frames: Tensor) -> Tensor:
    """Anchors of single frames.

    frames: (B, 3, H, W) in [0, 1], any size; resized to the tower's square input without cropping, so that cell (r, c)
        of the grid is the same part of every frame.
    Returns (B, 65, hidden_size): 64 local tokens in rows of 8, then the global one.
    """
    size = tower.config.image_size
    pixels = F.interpolate(frames, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    out = tower(pixel_values=pixels * 2 - 1)  # SigLIP's normalisation: mean and standard deviation 0.5
    side = size // tower.config.patch_size
    patches = out.last_hidden_state.transpose(1, 2).unflatten(2, (side, side))  # (B, C, side, side)
    local = F.adaptive_avg_pool2d(patches, SEMANTIC_GRID).flatten(2).transpose(1, 2)  # (B, 64, C)
    return torch.cat([local, out.pooler_output.unsqueeze(1)], dim=1)


@torch.inference_mode()
def picture_tokens(tower: SiglipVisionModel, picture: NDArray[np.uint8]) -> Tensor:
    """Anchors (65, C) of one picture (H, W, 3) uint8, float32 on the CPU."""
    weight = next(tower.parameters())
    pixels = torch.from_numpy(np.array(picture)).to(weight).permute(2, 0, 1)[None] / 255
    return anchor_tokens(tower, pixels)[0].float().cpu()


class PcaBasis(NamedTuple):
    """Three directions and their range, fitted once and used for every step and every picture: colours mean the same
    everywhere on a page.

    mean: (C,); components: (C, 3), signs fixed; low, high: (3,), the 2nd and 98th percentiles.
    """

    mean: Tensor
    components: Tensor
    low: Tensor
    high: Tensor


def fit_pca(tokens: Tensor) -> PcaBasis:
    """A basis for showing tokens (..., C) as colours. Needs at least four tokens."""
    flat = tokens.detach().float().reshape(-1, tokens.shape[-1])
    if len(flat) < 4:
        raise ValueError(f"a colour basis needs at least four tokens, not {len(flat)}")
    mean = flat.mean(dim=0)
    _, _, rows = torch.linalg.svd(flat - mean, full_matrices=False)
    components = rows[:3].T  # (C, 3)
    # A singular vector's sign is arbitrary: its largest entry is made positive, so that a refit keeps the colours.
    strongest = components.gather(0, components.abs().argmax(dim=0, keepdim=True))
    components = components * strongest.sign()
    projected = (flat - mean) @ components
    return PcaBasis(mean, components, projected.quantile(0.02, dim=0), projected.quantile(0.98, dim=0))


def pca_colours(tokens: Tensor, basis: PcaBasis) -> Tensor:
    """Tokens (..., C) as RGB (..., 3) in [0, 1]."""
    projected = (tokens.detach().float() - basis.mean) @ basis.components
    return ((projected - basis.low) / (basis.high - basis.low).clamp_min(1e-6)).clamp(0, 1)


def similarity(tokens: Tensor, reference: Tensor) -> Tensor:
    """Cosine similarity in [-1, 1] of tokens (N, C) to one reference token (C,): (N,)."""
    return F.cosine_similarity(tokens.float(), reference.float().unsqueeze(0), dim=-1)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines in [-1, 1] of all pairs of tokens (N, C) and (M, C): (N, M)."""
    return F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T


def plan_region(source: Tensor, plan: Tensor) -> Tensor:
    """Where a plan means to change the picture: (8, 8), 1 - cosine of each planned token and the source's own there.

    0 for what stays, up to 2; known from the first step on. source: (65, C), the tower's tokens of the anchor frame.
    plan: (65, C), the planned ones at any step, of a model whose anchors lie on the grid.
    """
    here, there = split_tokens(source)[0].float(), split_tokens(plan)[0].float()
    return (1 - F.cosine_similarity(here, there, dim=-1)).view(SEMANTIC_GRID, SEMANTIC_GRID)


def token_scale(tokens: Tensor) -> float:
    """How far apart different places of one picture are for the tower: the 90th percentile of 1 - cosine over all pairs
    of its local tokens. tokens: (65, C). A distance says little without it: towers differ, and so do pictures."""
    local = split_tokens(tokens)[0]
    first, second = torch.triu_indices(len(local), len(local), 1)
    return float((1 - cosines(local, local))[first, second].quantile(0.9))


def match_to_grid(plan: Tensor, outcome: Tensor) -> list[int]:
    """Which planned token belongs to which cell, for a model whose anchors carry no position.

    Such a plan is an unordered set. Each of its 64 local tokens is given to one cell of the finished frame's tokens, by
    cosine, best pair first and one to one.

    plan, outcome: (64, C) local tokens. Returns, for every cell, the index of its planned token.
    """
    if plan.shape != outcome.shape:
        raise ValueError(f"plan {tuple(plan.shape)} and outcome {tuple(outcome.shape)} must have one shape")
    cosine = cosines(outcome, plan)  # (cells, tokens)
    cells = [-1] * len(cosine)
    for _ in range(len(cosine)):
        cell, token = divmod(int(cosine.argmax()), cosine.shape[1])
        cells[cell] = token
        cosine[cell, :] = -torch.inf
        cosine[:, token] = -torch.inf
    return cells


def split_tokens(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Local tokens (..., 64, C) and the global one (..., C) of anchors (..., 65, C)."""
    if tokens.shape[-2] != NUM_SEMANTIC_TOKENS:
        raise ValueError(f"expected {NUM_SEMANTIC_TOKENS} anchors, found {tokens.shape[-2]}")
    return tokens[..., :NUM_LOCAL_TOKENS, :], tokens[..., NUM_LOCAL_TOKENS, :]
