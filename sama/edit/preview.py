"""Previews without the autoencoder: a linear map from latents to pixels, fitted anew for every job.

Decoding a preview brings the autoencoder to the device. Where a device holds one model at a time, that sends the
transformer away and back, which takes longer than a step. Each latent says nearly linearly what its square of pixels
and their neighbours look like, so a least-squares fit shows colours, shapes and coarse detail.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

_NEIGHBOURHOOD = 3
_RIDGE = 1e-2
_CHARTS, _CHART_SIDE, _SHAPES = 4, 192, 150


class LinearPreview:
    """Pictures from normalised latents, on the CPU.

    weights: (9C + 1, 3 * scale**2); a latent's 3 x 3 neighbourhood and a constant give its `scale` x `scale` pixels.
    """

    def __init__(self, weights: Tensor, scale: int) -> None:
        self._weights = weights
        self._scale = scale

    @classmethod
    def fit(cls, pipeline: SamaPipeline, frame: NDArray[np.uint8], latents: Tensor) -> LinearPreview:
        """The map that fits the first frame of a clip and a few pictures of every colour.

        frame: (H, W, 3), the first one. latents: (1, C, F, h, w), of the clip. The clip alone would not do: a map that
        was fitted to a green picture cannot show that it becomes red.
        """
        charts = _charts()
        encoded = pipeline.encode_video(charts.unsqueeze(1))
        scale = frame.shape[0] // latents.shape[-2]
        first = torch.from_numpy(frame).unsqueeze(0).float() / 255
        square, product = torch.zeros(()), torch.zeros(())
        for given, pictures in ((encoded, charts), (latents, first)):
            inputs, targets = _neighbourhoods(given), _blocks(pictures, scale)
            square = square + inputs.T @ inputs / len(inputs)
            product = product + inputs.T @ targets / len(inputs)
        return cls(torch.linalg.solve(square + _RIDGE * torch.eye(len(square)), product), scale)

    def __call__(self, latents: Tensor) -> NDArray[np.uint8]:
        """The first frame of latents (1, C, F, h, w) as (H, W, 3) uint8."""
        height, width = latents.shape[-2:]
        blocks = (_neighbourhoods(latents[:1]) @ self._weights).view(height, width, 3, self._scale, self._scale)
        picture = blocks.permute(0, 3, 1, 4, 2).reshape(height * self._scale, width * self._scale, 3)
        return np.asarray((picture.clamp(0, 1) * 255).round().byte().numpy())


class ClipPreview:
    """Pictures of all latent frames, on the CPU: of the first frame of a clip, and of every four frames after it.

    It is fitted to one clip alone, so it serves where the colours stay, as in a restoration.
    """

    def __init__(self, first: LinearPreview, later: LinearPreview) -> None:
        self._first, self._later = first, later

    @classmethod
    def fit(cls, frames: NDArray[np.uint8], latents: Tensor) -> ClipPreview:
        """The maps that fit a clip. frames: (T, H, W, 3), T = 4k+1. latents: (1, C, F, h, w), of the clip."""
        scale = frames.shape[1] // latents.shape[-2]
        pictures = torch.from_numpy(frames).float() / 255
        # Of four frames the third stands for all: the middle ones are nearest to the others.
        shown = torch.cat([pictures[:1], pictures[3::4]])
        maps = []
        for part in (slice(0, 1), slice(1, None) if len(shown) > 1 else slice(0, 1)):
            each = latents[0, :, part].movedim(1, 0).unsqueeze(2)  # every latent frame as a clip of its own
            inputs, targets = _neighbourhoods(each), _blocks(shown[part], scale)
            square = inputs.T @ inputs / len(inputs) + _RIDGE * torch.eye(inputs.shape[1])
            maps.append(LinearPreview(torch.linalg.solve(square, inputs.T @ targets / len(inputs)), scale))
        return cls(*maps)

    def __call__(self, latents: Tensor) -> NDArray[np.uint8]:
        """Latents (1, C, F, h, w) as one picture below the other, (F * H, W, 3) uint8."""
        maps = [self._first, *[self._later] * (latents.shape[2] - 1)]
        return np.concatenate([show(latents[:, :, at : at + 1]) for at, show in enumerate(maps)])


def _neighbourhoods(latents: Tensor) -> Tensor:
    """(B, C, F, h, w) as (B * h * w, 9C + 1): the first frame's latents with those around them, and a constant 1."""
    first = latents[:, :, 0].float().cpu()
    padded = F.pad(first, (_NEIGHBOURHOOD // 2,) * 4, mode="replicate")
    rows = F.unfold(padded, _NEIGHBOURHOOD).transpose(1, 2).flatten(0, 1)
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def _blocks(pictures: Tensor, scale: int) -> Tensor:
    """(B, H, W, 3) as (B * h * w, 3 * scale**2): the pixels of each latent."""
    return F.pixel_unshuffle(pictures.movedim(-1, 1), scale).flatten(2).transpose(1, 2).flatten(0, 1)


@lru_cache(maxsize=1)
def _charts() -> Tensor:
    """Pictures (B, H, W, 3) in [0, 1] of overlapping discs and bars of every colour and size, the same every time."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:_CHART_SIDE, :_CHART_SIDE]
    charts = np.empty((_CHARTS, _CHART_SIDE, _CHART_SIDE, 3), np.float32)
    for chart in charts:
        chart[:] = random.random(3)
        for _ in range(_SHAPES):
            radius, y, x = 3 + _CHART_SIDE / 2 * random.random() ** 2, *(_CHART_SIDE * random.random(2))
            if random.random() < 0.5:
                inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            else:
                inside = (abs(rows - y) < radius) & (abs(columns - x) < radius * random.random())
            slope = 0.3 * random.random(3) * ((columns[inside] - x) / _CHART_SIDE)[:, None]
            chart[inside] = random.random(3) + slope
    return torch.from_numpy(charts.clip(0, 1))
