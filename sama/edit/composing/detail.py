"""The source's detail, given back to an edit.

An edit is made at the model's size: the clip is shrunk, goes through the autoencoder, and the result is enlarged again.
What is lost on that way is known exactly, because the source made the same way. Where the result follows the source,
locally a change of colour and contrast, the lost detail is given back, changed in the same manner; where the result
shows something new, it is left out.

    r    the decoded source latents, at the model's size
    e    the decoded result, at the model's size
    S    the source at its own size

    e = A r + b               in the window around each pixel: ridge regression, A is 3 x 3 (colours)
    up(e) + up(A) (S - up(r)) the result at the size of S

r and e went through the same autoencoder: its error cancels in the fit, and the detail that it lost is in S - up(r).
Where an edit follows the source as a whole (a change of light or of colours), the little of e that the fit leaves over
is grain of the model's, and is taken out of e first.
This is the guided filter with a colour guide (He, Sun and Tang, 2010) and its fast form (He and Sun, 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Field = NDArray[np.float32]  # (h, w) or (h, w, ...)

_BAND_PIXELS = 1 << 19
"""Pixels of the full-size picture that are worked on at a time, so that 4K needs little more memory than 720p."""

_FLAT = 3e-4
"""Variance of the result, summed over the colours, below which nothing can be said of where its structure is from."""


@dataclass(frozen=True)
class DetailSettings:
    """How the fit is made and what it decides.

    radius: half the side of the fit's window, in pixels of the model's size.
    ridge: added to the source's variance (values in [0, 1]): windows that are flatter get little detail.
    new, same: shares of the result's variance that the fit explains. A region with less than `new` shows something
        that is not in the source and gets no detail; one with more than `same` gets all of it.
    grade: shares of a whole frame's variance. Below the first the edit draws something of its own (flakes, strokes) and
        its grain stays; above the second it changes light and colours alone, and its grain is taken out.
    followed: the same for single pixels. grain: what the fit leaves over there, in [0, 1]: up to the first it is grain,
        from the second on it is drawn. spread: standard deviation, in pixels, over which its size is averaged.
    """

    radius: int = 8
    ridge: float = 3e-4
    new: float = 0.35
    same: float = 0.60
    grade: tuple[float, float] = (0.77, 0.87)
    followed: tuple[float, float] = (0.60, 0.95)
    grain: tuple[float, float] = (0.03, 0.08)
    spread: float = 2.5


@dataclass(frozen=True)
class DetailFit:
    """How the result follows the source around each pixel of one frame.

    gain: (h, w, 3, 3); [..., i, j] is how far a difference in colour i of the source moves colour j of the result.
    variance: (h, w), of the result, summed over colours. explained: (h, w), the part of it that the source explains.
    """

    gain: Field
    variance: Field
    explained: Field

    @property
    def share(self) -> Field:
        """The part of the result's variance around each pixel that the source explains, (h, w); low on flat ground."""
        return self.explained / (self.variance + np.float32(_FLAT))

    def share_within(self, part: NDArray[np.bool_] | slice = slice(None)) -> float:
        """The part of the variance that the source explains in a part of the frame, or in all of it."""
        return float(self.explained[part].sum() / max(self.variance[part].sum(), 1e-9))


def fit_detail(result: Picture, reference: Picture, settings: DetailSettings | None = None) -> DetailFit:
    """Fits `result` (the decoded result) to `reference` (the decoded source): one frame, (h, w, 3) uint8 each."""
    settings = settings or DetailSettings()
    if result.shape != reference.shape:
        raise ValueError(f"result {result.shape} and reference {reference.shape} must have one shape")
    r, e = (picture.astype(np.float32) / np.float32(255) for picture in (reference, result))
    mean_r, mean_e = _mean(r, settings), _mean(e, settings)
    spread = _mean(_products(r, r), settings) - _products(mean_r, mean_r)
    shared = _mean(_products(r, e), settings) - _products(mean_r, mean_e)
    gain = np.matmul(_inverse(_matrices(spread), settings.ridge), _matrices(shared))
    return DetailFit(
        gain=_matrices(_mean(gain.reshape(*spread.shape), settings)),
        variance=(_mean(e * e, settings) - mean_e * mean_e).sum(axis=-1),
        explained=(gain.reshape(*spread.shape) * shared).sum(axis=-1),
    )


def shared_structure(fit: DetailFit, mask: Field, settings: DetailSettings | None = None) -> Field:
    """How much of the source's detail belongs into a local edit, (h, w) in [0, 1]; 1 outside the edit.

    A recoloured object is still the source's: its structure is explained by the fit. A removed, added or replaced one
    is not, and detail of the source would come back as a ghost. That is decided for each region of the mask as a whole,
    by its inner part: at a region's rim half of every window follows the source in any case. Then for each pixel.

    mask: (h, w) in [0, 1], where the result is shown.
    """
    settings = settings or DetailSettings()
    count, labels = cv2.connectedComponents((mask > 0.02).astype(np.uint8))
    core = (mask > 0.5).astype(np.uint8)
    side = 2 * settings.radius + 1
    inner = cv2.erode(core, np.ones((side, side), np.uint8)) > 0
    weights = np.ones(mask.shape, np.float32)
    for label in range(1, count):
        region = labels == label
        # The innermost part that is large enough to say something.
        parts = (region & inner, region & (core > 0), region)
        part = next((part for part in parts if part.sum() >= side * side // 4), region)
        weights[region] = _step(np.float32(fit.share_within(part)), settings.new, settings.same)
    pixels = _step(fit.share, settings.new - 0.15, settings.same - 0.10)
    return np.where(labels > 0, weights * pixels, np.float32(1)).astype(np.float32)


def without_grain(
    result: Picture, reference: Picture, fit: DetailFit, settings: DetailSettings | None = None
) -> Picture:
    """The result of an edit of the whole picture without the model's own grain.

    Grain is what the fit leaves over, where it is faint and most of the rest follows the source. An edit that as a
    whole does not follow the source is returned as it is: what the fit leaves over there may be what was asked for.
    """
    settings = settings or DetailSettings()
    grade = _step(np.float32(fit.share_within()), *settings.grade)
    if not grade:
        return result
    r, e = (picture.astype(np.float32) / np.float32(255) for picture in (reference, result))
    left = e - np.matmul(r[..., None, :], fit.gain)[..., 0, :]
    left -= _mean(left, settings)
    size = cv2.GaussianBlur(np.abs(left).max(axis=-1), (0, 0), settings.spread)
    weight = grade * _step(fit.share, *settings.followed) * (1 - _step(np.asarray(size, np.float32), *settings.grain))
    return np.asarray(np.clip(np.rint((e - left * weight[..., None]) * 255), 0, 255), np.uint8)


def with_detail(source: Picture, result: Picture, reference: Picture, gain: Field) -> Picture:
    """The result at the size of `source`, with the source's detail as far as `gain` lets it through.

    source: (H, W, 3) uint8, the full-size frame. result, reference: (h, w, 3) uint8. gain: (h, w, 3, 3).
    """
    height, width = source.shape[:2]
    painted, lossy = (
        cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC) for picture in (result, reference)
    )
    out = np.empty_like(source)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = slice(top, min(height, top + rows))
        lost = source[band].astype(np.float32) - lossy[band]
        moved = painted[band].astype(np.float32)
        for colour in range(3):
            moved += lost[..., colour, None] * _enlarged_rows(gain[:, :, colour], band, width, height)
        out[band] = np.clip(np.rint(moved), 0, 255)
    return out


def _enlarged_rows(field: Field, rows: slice, width: int, height: int) -> Field:
    """Rows of a field (h, w, 3) enlarged to `width` x `height`, without making the others."""
    across, down = field.shape[1] / width, field.shape[0] / height
    matrix = np.array(
        [[across, 0, 0.5 * across - 0.5], [0, down, (rows.start + 0.5) * down - 0.5]], np.float32
    )  # centres of pixels onto centres of pixels
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (width, rows.stop - rows.start)
    enlarged = cv2.warpAffine(np.ascontiguousarray(field), matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(enlarged, np.float32)


def _mean(field: Field, settings: DetailSettings) -> Field:
    side = 2 * settings.radius + 1
    return np.asarray(cv2.blur(field, (side, side), borderType=cv2.BORDER_REFLECT))


def _products(a: Field, b: Field) -> Field:
    """All products of two colours' values, (h, w, 9)."""
    return (a[..., :, None] * b[..., None, :]).reshape(*a.shape[:2], 9)


def _matrices(field: Field) -> Field:
    return field.reshape(*field.shape[:2], 3, 3)


def _inverse(matrices: Field, ridge: float) -> Field:
    """(M + ridge I)^-1 of symmetric 3 x 3 matrices (..., 3, 3), by cofactors; float64 inside, which colours that move
    together need."""
    m = matrices.astype(np.float64) + ridge * np.eye(3)
    a, b, c, d, e, f = m[..., 0, 0], m[..., 0, 1], m[..., 0, 2], m[..., 1, 1], m[..., 1, 2], m[..., 2, 2]
    cofactors = np.stack(
        [d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b], axis=-1
    )
    determinant = a * cofactors[..., 0] + b * cofactors[..., 1] + c * cofactors[..., 2]
    inverse = (cofactors / determinant[..., None])[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]]
    return inverse.reshape(matrices.shape).astype(np.float32)


def _step(values: Field | np.float32, low: float, high: float) -> Field:
    """Smooth step from 0 at `low` to 1 at `high`."""
    rising = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(rising * rising * (3 - 2 * rising), np.float32)
