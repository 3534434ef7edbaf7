"""Buckets of aspect ratio and frames: which samples can share a batch, and how many of them.

Source and target of a sample are cut to one size and one number of frames, so that a bucket's signature holds for
both. A batch of clips may cost what `video_batch` clips of the largest bucket cost; attention is quadratic in tokens,
so that the bound is on floating-point operations and not on tokens, and a second bound keeps the tokens of a batch, and
with them its memory, near those of the largest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sama.flops import block_flops
from sama.presets import PRESETS, saved_transformer
from sama.shapes import (
    OFFICIAL_BUCKETS,
    Bucket,
    latent_shape,
    token_counts,
)
from training.config import ManifestConfig, TrainConfig
from training.data.files.checks import Catalogue
from training.data.files.manifest import Dropped
from training.data.sizes import tiny_buckets
from training.errors import ConfigError

_USUAL_PRESET = {"tiny": "tiny", "official": "14b"}
"""For each choice of buckets, the preset whose sizes count for a transformer whose own are not known yet."""


class Signature(NamedTuple):
    """The size and frames of source and target of every sample of a batch, in pixels."""

    frames: int
    width: int
    height: int

    @property
    def is_image(self) -> bool:
        return self.frames == 1

    @property
    def bucket(self) -> Bucket:
        return Bucket(self.width, self.height)

    @property
    def tokens(self) -> int:
        """Tokens of one sample: source, anchors and target."""
        return token_counts(latent_shape(self.frames, self.height, self.width)).total

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}"


class ModelWidth(NamedTuple):
    """The width of a transformer and that of its feed-forward layers, which decide the cost of a token."""

    width: int
    ffn: int


def cost(tokens: int, model: ModelWidth) -> int:
    """Floating-point operations of a block for a sequence of `tokens`, the text's share left out."""
    return block_flops(tokens, 0, *model).total


def model_width(config: TrainConfig) -> ModelWidth:
    """The widths of the transformer that a configuration trains: from `model`, the base's folder, or the preset that
    its buckets belong to. Raises ConfigError where that preset is not here."""
    values: Mapping[str, Any] = config.model
    described = Path(config.base) / "transformer" / "config.json"
    if not values and described.is_file():
        values = json.loads(described.read_text(encoding="utf-8"))
    heads, dim, ffn = (values.get(name) for name in ("num_attention_heads", "attention_head_dim", "ffn_dim"))
    if heads and dim and ffn:
        return ModelWidth(heads * dim, ffn)
    preset = PRESETS[_USUAL_PRESET[config.data.manifest.buckets]]
    try:
        usual = saved_transformer(preset)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{preset.folder} does not say how wide its model is: set model.num_attention_heads, "
            "model.attention_head_dim and model.ffn_dim"
        ) from error
    width = usual["num_attention_heads"] * usual["attention_head_dim"]
    return ModelWidth(heads * dim if heads and dim else width, ffn or usual["ffn_dim"])


def signatures(config: ManifestConfig) -> list[Signature]:
    """Every signature that a configuration knows."""
    sizes = tiny_buckets() if config.buckets == "tiny" else OFFICIAL_BUCKETS
    return [Signature(frames, *size) for frames in sorted(set(config.frames)) for size in sizes]


def batch_sizes(known: Sequence[Signature], config: ManifestConfig, model: ModelWidth) -> dict[Signature, int]:
    """Samples of a batch for each signature, at least 1. The batch of the largest of `known`
    bounds the cost of the others."""
    clips = [signature for signature in known if not signature.is_image]
    sizes = {signature: config.image_batch for signature in known if signature.is_image}
    most = max((signature.tokens for signature in clips), default=0)
    for signature in clips:
        by_cost = config.video_batch * cost(most, model) // cost(signature.tokens, model)
        by_memory = int(config.video_batch * most * config.token_bound) // signature.tokens
        sizes[signature] = max(config.video_batch, min(by_cost, by_memory))
    return sizes


def assign(
    catalogue: Catalogue, config: ManifestConfig, known: Sequence[Signature]
) -> tuple[np.ndarray, list[Dropped]]:
    """The number in `known` of each sample's signature, (N,) int, -1 for samples that fit none; and those, with why.

    A clip goes to the largest frame count that it fills at the rate it is seen at, and to the nearest aspect ratio."""
    aspects = np.log([signature.width / signature.height for signature in known])
    counts = np.array([signature.frames for signature in known])
    wanted = np.log(catalogue.sizes[:, 0] / catalogue.sizes[:, 1])
    available = _seen_frames(catalogue, config)
    chosen = np.full(len(catalogue), -1, dtype=np.int32)
    frames = np.zeros(len(catalogue), dtype=np.int64)
    for count in sorted(set(counts.tolist())):
        fits = catalogue.pictures if count == 1 else ~catalogue.pictures & (available >= count)
        frames[fits] = count
    for count in set(frames.tolist()) - {0}:
        of_count = np.flatnonzero(counts == count)
        samples = np.flatnonzero(frames == count)
        nearest = np.abs(wanted[samples, None] - aspects[None, of_count]).argmin(axis=1)
        chosen[samples] = of_count[nearest]
    drops = [_drop(catalogue, int(index), int(available[index]), counts) for index in np.flatnonzero(chosen < 0)]
    return chosen, drops


def bucket_table(
    counts: Mapping[Signature, int], sizes: Mapping[Signature, int], places: int, model: ModelWidth
) -> list[str]:
    """The buckets as lines: samples an epoch, tokens, batch, micro-steps an epoch and relative cost of a micro-step."""
    if not sizes:
        return ["no bucket"]
    most = max(size * cost(signature.tokens, model) for signature, size in sizes.items())
    lines = [f"{'bucket':>14} {'samples':>9} {'tokens':>8} {'batch':>6} {'steps':>8} {'cost':>6}"]
    for signature in sorted(sizes):
        size, count = sizes[signature], counts.get(signature, 0)
        share = size * cost(signature.tokens, model) / most
        steps = count / (size * places)
        shown = f"{steps:.0f}" if steps >= 10 or steps == math.floor(steps) else f"{steps:.1f}"
        lines.append(f"{signature!s:>14} {count:>9} {signature.tokens:>8} {size:>6} {shown:>8} {share:>6.2f}")
    return lines


def _seen_frames(catalogue: Catalogue, config: ManifestConfig) -> np.ndarray:
    """Frames of each clip at the rate that it is seen at."""
    if not config.fps or config.extract == "uniform":
        return catalogue.frames
    at_rate = np.floor((catalogue.frames - 1) * catalogue.gaps * config.fps + 1e-6).astype(np.int64) + 1
    return np.where(catalogue.gaps > 0, at_rate, catalogue.frames)


def _drop(catalogue: Catalogue, index: int, available: int, counts: np.ndarray) -> Dropped:
    record = catalogue[index].record
    longer = [int(count) for count in counts if count > 1]
    if catalogue.pictures[index]:
        reason, detail = "images are not trained on", "data.manifest.frames has no 1"
    elif not longer:
        reason, detail = "clips are not trained on", "data.manifest.frames has nothing above 1"
    else:
        reason, detail = "too short", f"{available} frames in common, at least {min(longer)} are needed"
    return Dropped(record.number, record.origin, reason, detail)
