"""The only home of sizes: frames of the form 4k+1, sides divisible by the patch, buckets and token counts.

A clip of ``frames`` x ``height`` x ``width`` pixels becomes ``(frames - 1) // 4 + 1`` latent frames of
``height // 8`` x ``width // 8``, and the transformer cuts each latent frame into patches of 2 x 2. Everything that
converts between the three worlds (pixels, latents, tokens) asks this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

TEMPORAL_FACTOR = 4
SPATIAL_FACTOR = 8
PATCH_SIZE = (1, 2, 2)
SEMANTIC_GRID = 8
NUM_SEMANTIC_TOKENS = SEMANTIC_GRID * SEMANTIC_GRID + 1


class Bucket(NamedTuple):
    """A size the model was trained on, in pixels. Both sides are divisible by 16."""

    width: int
    height: int


class LatentShape(NamedTuple):
    """Latent frames and sides, without batch and channels."""

    frames: int
    height: int
    width: int


class TokenCounts(NamedTuple):
    """Tokens of one sequence, in the order in which the transformer sees them."""

    source: int
    semantic: int
    target: int

    @property
    def total(self) -> int:
        return self.source + self.semantic + self.target


OFFICIAL_BUCKETS: tuple[Bucket, ...] = tuple(
    Bucket(*size)
    for size in (
        (896, 448), (832, 480), (768, 512), (736, 544), (704, 576), (672, 608), (640, 640), (608, 672),
        (576, 704), (544, 736), (512, 768), (512, 800), (480, 832), (448, 864), (448, 896),
    )
)  # fmt: skip
"""The 15 buckets of the released 14B model (480p pixel budget)."""


@dataclass(frozen=True)
class Canvas:
    """The input that a model sees at once: sizes in pixels, and `window` frames, neighbouring windows sharing
    `overlap`, see `windows`.

    Raises ValueError for an empty list of sizes, sides that are not multiples of 16, a window that is not 4k+1 frames
    and an overlap that is not shorter than the window.
    """

    buckets: tuple[Bucket, ...]
    window: int
    overlap: int = 5

    def __post_init__(self) -> None:
        if not self.buckets:
            raise ValueError("a model needs at least one size in `buckets`")
        for bucket in self.buckets:
            latent_shape(self.window, bucket.height, bucket.width)
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"an overlap of {self.overlap} does not fit a window of {self.window} frames")

    @staticmethod
    def of_settings(settings: Mapping[str, Any]) -> Canvas | None:
        """The canvas that a pipeline's own configuration names; None for one that was saved without it. Raises
        ValueError for values that cannot be."""
        buckets, window, overlap = (settings.get(name) for name in ("buckets", "window", "window_overlap"))
        if buckets is None or window is None:
            return None
        try:
            sizes = tuple(Bucket(*map(int, size)) for size in buckets)
            return Canvas(sizes, int(window)) if overlap is None else Canvas(sizes, int(window), int(overlap))
        except TypeError as error:
            raise ValueError(f"`buckets`, `window` and `window_overlap` cannot be used: {error}") from error

    def settings(self) -> dict[str, Any]:
        """This canvas as values of a pipeline's configuration."""
        return {
            "buckets": [list(bucket) for bucket in self.buckets],
            "window": self.window,
            "window_overlap": self.overlap,
        }


def is_valid_frame_count(frames: int) -> bool:
    """Whether ``frames`` has the form 4k+1 that the causal VAE encodes without dropping any."""
    return frames >= 1 and (frames - 1) % TEMPORAL_FACTOR == 0


def padded_frame_count(frames: int) -> int:
    """The smallest 4k+1 that is not below ``frames``. Raises ValueError below one frame."""
    if frames < 1:
        raise ValueError(f"a clip needs at least one frame, not {frames}")
    return math.ceil((frames - 1) / TEMPORAL_FACTOR) * TEMPORAL_FACTOR + 1


def latent_frame_count(frames: int) -> int:
    """Latent frames of a clip of ``frames`` = 4k+1 frames. Raises ValueError for any other count."""
    if not is_valid_frame_count(frames):
        raise ValueError(f"{frames} frames cannot be encoded whole: pad them to {padded_frame_count(frames)}")
    return (frames - 1) // TEMPORAL_FACTOR + 1


def latent_shape(frames: int, height: int, width: int, spatial_factor: int = SPATIAL_FACTOR) -> LatentShape:
    """Latents of a clip in pixels. Raises ValueError for sides that the VAE and the patches cannot divide."""
    step = spatial_factor * PATCH_SIZE[1]
    if height % step or width % step:
        raise ValueError(f"{width}x{height} is not divisible by {step}: resize the clip to a bucket first")
    return LatentShape(latent_frame_count(frames), height // spatial_factor, width // spatial_factor)


def token_counts(
    latents: LatentShape, with_source: bool = True, semantic_tokens: int = NUM_SEMANTIC_TOKENS
) -> TokenCounts:
    """Tokens of one sequence: f * (h / 2) * (w / 2) each for source and target, and 65 between them."""
    p_t, p_h, p_w = PATCH_SIZE
    video = (latents.frames // p_t) * (latents.height // p_h) * (latents.width // p_w)
    return TokenCounts(video if with_source else 0, semantic_tokens, video)


def nearest_bucket(width: int, height: int, buckets: Sequence[Bucket]) -> Bucket:
    """The bucket whose aspect ratio is nearest to ``width`` / ``height`` (compared as logarithms)."""
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width}x{height} has no aspect ratio")
    aspect = math.log(width / height)
    return min(buckets, key=lambda bucket: abs(math.log(bucket.width / bucket.height) - aspect))


def windows(frames: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """Consecutive ``[start, stop)`` ranges of at most ``window`` = 4k+1 frames that cover ``frames``.

    Neighbours share 4k+1 frames, which are whole latent frames of both: ``overlap`` rounded down to that form, and one
    for 0. The last range shares more, so that it is full but for up to three frames.
    """
    if not is_valid_frame_count(window):
        raise ValueError(f"a window of {window} frames cannot be encoded whole; {padded_frame_count(window)} can")
    if not 0 <= overlap < window:
        raise ValueError(f"an overlap of {overlap} does not fit a window of {window} frames")
    if frames <= window:
        return [(0, frames)]
    shared = max(0, overlap - 1) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1
    last = math.ceil((frames - window) / TEMPORAL_FACTOR) * TEMPORAL_FACTOR
    starts = [*range(0, frames - window, window - shared), last]
    return [(start, min(frames, start + window)) for start in starts]
