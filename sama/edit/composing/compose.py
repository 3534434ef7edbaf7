"""Keep the source where an edit leaves it alone.

A latent model repaints every pixel, also where it changes nothing, and its autoencoder loses detail there. The edit is
what differs between the decoded result and the *decoded source*: both went through the same autoencoder, so its error
cancels. That difference becomes a soft mask, and outside it the viewer gets the source's own pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]  # (T, H, W, 3) RGB
Mask = NDArray[np.float32]  # (T, H, W) in [0, 1]: 1 shows the result, 0 the source

MOSTLY_CHANGED = 0.5
"""Above this share of the picture an edit counts as global: its result is shown whole."""

FAINT = 0.03
"""A copy by the model differs from the decoded source by less, but for one pixel in a hundred."""

_SMOOTHING = 0.010
"""Standard deviation of the blur of a difference, as a share of the picture's shorter side: single pixels of decoder
noise must not pass for an edit."""


@dataclass(frozen=True)
class MaskSettings:
    """How a difference in [0, 1] becomes a mask. Lengths are shares of the picture's shorter side.

    low, seed: hysteresis thresholds. A region of at least `low` counts when it reaches `seed` somewhere, so that faint
        rims of a change belong to it and faint noise alone does not.
    full: a difference that the mask shows whole. Between `low` and `full` its weight rises evenly: at the rim, where
        the edit hardly differs, the source's own pixels are the better ones.
    close: gaps in a region up to twice this wide belong to it. rim: what lies deeper inside a region is shown whole,
        however little it differs, so that the source does not shine through a new object.
    grow: how far the mask reaches beyond the change, so that the outline of a removed object does not stay behind.
    feather: standard deviation of the blur of the mask.
    """

    low: float = 0.08
    seed: float = 0.14
    full: float = 0.20
    close: float = 0.020
    rim: float = 0.030
    grow: float = 0.007
    feather: float = 0.005


def edit_mask(apart: Mask, settings: MaskSettings | None = None) -> Mask:
    """Where a result differs from the decoded source latents, with soft edges.

    apart: (T, h, w), their `differences`. Returns (T, h, w) in [0, 1]; exactly 0 away from every change.
    """
    settings = settings or MaskSettings()
    # A moving edit may dip under the upper threshold for a frame: its neighbours in time vouch for it.
    seeds = _neighbours_in_time(apart >= settings.seed)
    return _snap(smooth_in_time(np.stack([_weights(*frame, settings) for frame in zip(apart, seeds, strict=True)])))


def changes_everything(apart: Mask) -> bool:
    """Whether an edit is global: most of the picture differs from the decoded source, be it ever so faintly.

    apart: (T, h, w), the `differences` of result and decoded source.
    """
    return float((apart >= FAINT).mean()) > MOSTLY_CHANGED


def compose(source: NDArray[np.uint8], result: NDArray[np.uint8], mask: NDArray[np.float32]) -> NDArray[np.uint8]:
    """One full-size frame: the result where the mask is 1, the source's own pixels where it is 0.

    source: (H, W, 3); result: (h, w, 3) or at the source's size already; mask: (h, w). Both are enlarged.
    Only the mask's bounding box is touched, so that a small edit of a large picture costs little.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return source
    height, width = source.shape[:2]
    full = _resize(mask, width, height, cv2.INTER_LINEAR)
    box = (_enlarged(rows, mask.shape[0], height), _enlarged(columns, mask.shape[1], width))
    weight = full[box][..., None]
    painted = enlarge(result, width, height)[box]
    out = source.copy()
    out[box] = np.rint(source[box] + weight * (painted.astype(np.float32) - source[box])).astype(np.uint8)
    return out


def enlarge(frame: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """A frame (h, w, 3) at `width` x `height`."""
    smaller = width * height < frame.shape[0] * frame.shape[1]
    return _resize(frame, width, height, cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def crossfade(earlier: NDArray, later: NDArray) -> NDArray:
    """Blend the overlap of two windows, (T, ...) each and of one shape: all `earlier` before it, all `later` after it.

    Keeps the dtype; integers are rounded.
    """
    steps = len(earlier)
    weight = (np.arange(1, steps + 1, dtype=np.float32) / (steps + 1)).reshape(-1, *[1] * (earlier.ndim - 1))
    blended = earlier * (1 - weight) + later * weight
    return (np.rint(blended) if np.issubdtype(earlier.dtype, np.integer) else blended).astype(earlier.dtype)


def differences(result: Frames, reference: Frames) -> Mask:
    """How far two clips (T, h, w, 3) are apart at each pixel: (T, h, w) in [0, 1], a little blurred.

    Raises ValueError for different shapes.
    """
    if result.shape != reference.shape:
        raise ValueError(f"result {result.shape} and reference {reference.shape} must have one shape")
    sigma = max(0.5, _SMOOTHING * min(result.shape[1:3]))
    # Signed differences are blurred before they are measured: noise cancels, a change of colour does not.
    signed = (_blur(a.astype(np.float32) - b, sigma) for a, b in zip(result, reference, strict=True))
    return np.stack([np.abs(frame).max(axis=-1) / np.float32(255) for frame in signed])


def _weights(difference: NDArray[np.float32], seeds: NDArray[np.bool_], settings: MaskSettings) -> NDArray[np.float32]:
    """One frame's mask (h, w): whole inside a changed region, and at its rim by how much it differs."""
    shorter = min(difference.shape)
    region = _touched(difference >= settings.low, seeds)
    rising = region * np.clip((difference - settings.low) / (settings.full - settings.low), 0, 1)
    radius = _pixels(settings.close, shorter)
    # Closing would take what lies beyond the frame for unchanged, and open the region there.
    padded = cv2.copyMakeBorder(region.astype(np.uint8), radius, radius, radius, radius, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disc(radius))[radius:-radius, radius:-radius]
    inside = cv2.erode(closed, _disc(_pixels(settings.rim, shorter)))
    weights = np.maximum(rising, inside).astype(np.float32)
    grown = cv2.dilate(weights, _disc(_pixels(settings.grow, shorter)))
    return _blur(np.asarray(grown), max(0.5, settings.feather * shorter))


def _pixels(share: float, side: int) -> int:
    return max(1, round(share * side))


def _disc(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)


def _touched(low: NDArray[np.bool_], seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    count, labels = cv2.connectedComponents(low.astype(np.uint8), connectivity=8)
    wanted = np.zeros(count, dtype=bool)
    wanted[labels[seeds & low]] = True
    return wanted[labels] & low


def _neighbours_in_time(frames: NDArray[np.bool_]) -> NDArray[np.bool_]:
    out = frames.copy()
    out[1:] |= frames[:-1]
    out[:-1] |= frames[1:]
    return out


def smooth_in_time(mask: Mask) -> Mask:
    """A mask (T, h, w) averaged with its neighbours in time: a decision that flips for one frame is not seen."""
    padded = np.concatenate([mask[:1], mask, mask[-1:]])
    return np.float32(0.25) * (padded[:-2] + 2 * padded[1:-1] + padded[2:])


def _snap(mask: Mask) -> Mask:
    # The tails of the blur would mix a little of the result into places that are meant to stay exactly as they were.
    return np.clip((mask - 0.02) / 0.96, 0, 1).astype(np.float32)


def _blur(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), dtype=np.float32)


def _resize(image: NDArray, width: int, height: int, method: int) -> NDArray:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=method))


def _enlarged(indices: NDArray[np.intp], small: int, large: int) -> slice:
    # One pixel of margin on the small grid: linear interpolation reaches that far.
    return slice(
        max(0, (int(indices[0]) - 1) * large // small), min(large, -(-(int(indices[-1]) + 2) * large // small))
    )
