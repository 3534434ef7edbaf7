"""Measures on pixels: how close an edited clip comes to the truth, and whether it shows the colour asked for.

Clips are (T, H, W, 3) RGB, uint8 in 0..255 or float in [0, 1]; the two may be mixed. What is drawn and written in a
clip is judged by `retrieval` and `ocr`.
"""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np

MAXIMUM_PSNR = 100.0
"""dB reported for equal clips, so that averages stay finite."""

COLOUR_NAMES = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")

_PROTOTYPES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((220, 30, 36), (160, 16, 24), (110, 8, 14), (240, 80, 72), (205, 45, 60)),
    "orange": ((246, 130, 20), (255, 160, 50), (224, 104, 16), (255, 182, 100), (184, 84, 8)),
    "yellow": ((250, 214, 30), (255, 235, 110), (214, 174, 14), (255, 246, 176), (178, 144, 20)),
    "green": (
        (40, 166, 66), (16, 100, 40), (120, 216, 128), (110, 170, 40), (10, 58, 24), (180, 232, 180), (70, 96, 50),
    ),
    "blue": (
        (34, 98, 226), (14, 46, 140), (112, 168, 250), (60, 150, 220), (6, 24, 84), (178, 212, 250), (40, 190, 220),
    ),
    "purple": (
        (138, 58, 200), (78, 22, 122), (186, 134, 236), (110, 80, 190), (44, 10, 76), (214, 188, 244), (150, 40, 150),
    ),
    "pink": ((248, 122, 182), (255, 178, 212), (236, 70, 150), (255, 206, 214), (250, 150, 160), (200, 62, 128)),
    "brown": ((126, 78, 42), (76, 44, 22), (176, 130, 90), (100, 64, 44), (150, 100, 62), (204, 168, 130)),
    "black": ((12, 12, 14), (30, 30, 34), (50, 50, 56)),
    "white": ((252, 252, 252), (232, 232, 236), (214, 215, 220)),
    "gray": ((128, 128, 130), (92, 92, 98), (168, 168, 174)),
}  # fmt: skip
_ACHROMATIC = ("black", "white", "gray")
_LIGHTNESS_WEIGHT = 0.55


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB (higher is closer; at most `MAXIMUM_PSNR`).

    `mask` (T, H, W) bool restricts it; without a pixel in the mask the answer is NaN. Raises `ValueError` if the
    shapes differ.
    """
    x, y = _pair(a, b)
    error = (x - y) ** 2
    if mask is not None:
        error = error[mask]
    if error.size == 0:
        return float("nan")
    mean = float(error.mean(dtype=np.float64))
    return MAXIMUM_PSNR if mean == 0 else min(MAXIMUM_PSNR, -10 * float(np.log10(mean)))


def ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity of Wang et al. (2004), at most 1: Gaussian window of sigma 1.5, mean over frames and RGB.

    `mask` (T, H, W) bool averages the map over these pixels only (NaN if there are none). Raises `ValueError` if
    the shapes differ.
    """
    x, y = _pair(a, b)
    maps = np.stack([_ssim_map(p, q) for p, q in zip(x, y, strict=True)])
    if mask is not None:
        maps = maps[mask]
    return float(maps.mean(dtype=np.float64)) if maps.size else float("nan")


def changed_mask(source: np.ndarray, truth: np.ndarray, threshold: float = 6, dilate: int = 2) -> np.ndarray:
    """Where an edit changes the clip: (T, H, W) bool.

    A pixel counts if any channel of source and truth differs by more than `threshold` of 255; each frame's region is
    then widened by `dilate` pixels in all directions.
    """
    x, y = _pair(source, truth)
    mask = np.abs(x - y).max(axis=-1) > threshold / 255
    if dilate <= 0:
        return mask
    kernel = np.ones((2 * dilate + 1, 2 * dilate + 1), np.uint8)
    return np.stack([cv2.dilate(frame.astype(np.uint8), kernel) > 0 for frame in mask])


def colour_shares(clip: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Share in [0, 1] of each colour word among the pixels of `mask`, (T, H, W) bool.

    Shading does not count against a colour: black, white and gray pixels are outvoted where a third of the region is
    coloured, since every glossy object has shadows and highlights. Raises ValueError for an empty mask.
    """
    pixels = _inner_pixels(_as_float(clip), mask) * 255
    if len(pixels) == 0:
        raise ValueError("The mask is empty: there is no region whose colour could be named.")
    if len(pixels) > 20000:
        pixels = pixels[:: len(pixels) // 20000 + 1]
    names, counts = np.unique(_names(pixels), return_counts=True)
    votes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    coloured = {name: count for name, count in votes.items() if name not in _ACHROMATIC}
    if sum(coloured.values()) >= len(pixels) / 3:
        votes = coloured
    total = sum(votes.values())
    return {name: votes.get(name, 0) / total for name in COLOUR_NAMES}


def named_colour_match(clip: np.ndarray, mask: np.ndarray, colour: str) -> bool:
    """Whether the masked region looks `colour`: it is the dominant one, or nearly level with the dominant one.

    Raises `ValueError` for an empty mask or a word that is not in `COLOUR_NAMES` ("grey" is "gray").
    """
    colour = "gray" if colour == "grey" else colour
    if colour not in COLOUR_NAMES:
        raise ValueError(f"Unknown colour {colour!r}: use one of {', '.join(COLOUR_NAMES)}.")
    shares = colour_shares(clip, mask)
    return shares[colour] >= 0.8 * max(shares.values())


def gmsd(a: np.ndarray, b: np.ndarray) -> float:
    """Gradient magnitude similarity deviation of Xue et al. (2014), mean over frames: 0 for equal clips, higher where
    edges are lost, blurred or invented. It sees structure alone, not colour, and needs no weights.

    Prewitt gradients of the luminance at half size, constant 170 of 255 squared, as published. Raises `ValueError`
    if the shapes differ.
    """
    x, y = _pair(a, b)
    return float(np.mean([_gms_map(p, q).std() for p, q in zip(x, y, strict=True)]))


class OpticalFlow:
    """The optical flow (DIS, medium preset) of a clip from each frame to the next; other clips are measured along
    it."""

    def __init__(self, clip: np.ndarray) -> None:
        """clip: (T, H, W, 3)."""
        grey = [cv2.cvtColor(np.round(f * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for f in _as_float(clip)]
        self.shape = clip.shape
        self._flows: list[tuple[np.ndarray, np.ndarray]] = []
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        for here, there in itertools.pairwise(grey):
            forth = flow.calc(here, there, None)
            back = flow.calc(there, here, None)
            returned, inside = _warp(back, forth)
            self._flows.append((forth, inside & (np.linalg.norm(forth + returned, axis=-1) < 1)))

    def warped_difference(self, result: np.ndarray) -> float:
        """Flicker of `result` along this motion, in 0..255 (lower is steadier).

        The mean absolute difference between each frame and the next one, carried back by the flow, where the flows
        forth and back agree within a pixel. No clip reaches 0: light changes, and flow is an estimate; a blurred clip
        scores lower than a sharp one. Compare with the value of the truth. One frame gives 0. Raises `ValueError`
        if the shapes differ.
        """
        if result.shape != self.shape:
            raise ValueError(f"Two clips of one shape (T, H, W, 3) are needed, not {result.shape} and {self.shape}.")
        frames = np.round(_as_float(result) * 255)
        total, count = 0.0, 0
        for index, (flow, valid) in enumerate(self._flows):
            difference = np.abs(frames[index] - _warp(frames[index + 1], flow)[0])[valid]
            total, count = total + float(difference.sum(dtype=np.float64)), count + difference.size
        return total / count if count else 0.0


def _as_float(clip: np.ndarray) -> np.ndarray:
    """The clip as float32 in [0, 1]."""
    return clip.astype(np.float32) / 255 if clip.dtype == np.uint8 else np.clip(clip, 0, 1).astype(np.float32)


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3:
        raise ValueError(f"Two clips of one shape (T, H, W, 3) are needed, not {a.shape} and {b.shape}.")
    return _as_float(a), _as_float(b)


def _ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM of each pixel of two (H, W, 3) frames, mean over channels, (H, W)."""

    def blur(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)

    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    result: np.ndarray = top / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return result.mean(axis=-1)


def _gms_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Similarity of the gradients of two (H, W, 3) frames at each second pixel, at most 1."""
    constant = 170 / 255**2
    gradients = []
    for frame in (x, y):
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        small = cv2.blur(grey, (2, 2))[::2, ::2]
        kernel = np.array([[1, 0, -1]] * 3, np.float32) / 3
        gradients.append(np.hypot(cv2.filter2D(small, -1, kernel), cv2.filter2D(small, -1, kernel.T)))
    p, q = gradients
    similarity: np.ndarray = (2 * p * q + constant) / (p**2 + q**2 + constant)
    return similarity


def _inner_pixels(clip: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(N, 3) pixels of the mask without its rim, where colours mix; with the rim if little else is left."""
    kernel = np.ones((3, 3), np.uint8)
    inner = np.stack([cv2.erode(frame.astype(np.uint8), kernel, iterations=2) > 0 for frame in mask])
    return clip[inner if inner.sum() > 0.3 * mask.sum() else mask.astype(bool)]


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """(N, 3) sRGB in 0..255 to Oklab (L in [0, 1]), a space in which distances look even (Ottosson, 2020)."""
    value = rgb.astype(np.float32) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_lms = np.array(
        [[0.4122214708, 0.5363325363, 0.0514459929],
         [0.2119034982, 0.6806995451, 0.1073969566],
         [0.0883024619, 0.2817188376, 0.6299787005]], np.float32,
    )  # fmt: skip
    to_lab = np.array(
        [[0.2104542553, 0.7936177850, -0.0040720468],
         [1.9779984951, -2.4285922050, 0.4505937099],
         [0.0259040371, 0.7827717662, -0.8086757660]], np.float32,
    )  # fmt: skip
    lab: np.ndarray = np.cbrt(linear @ to_lms.T) @ to_lab.T
    return lab


def _names(rgb: np.ndarray) -> np.ndarray:
    """The colour word of each of (N, 3) RGB colours in 0..255; lightness, being mostly shading, counts less."""
    words = np.array([name for name, shades in _PROTOTYPES.items() for _ in shades])
    weight = np.array([_LIGHTNESS_WEIGHT, 1, 1], np.float32)
    shades = _oklab(np.array([shade for many in _PROTOTYPES.values() for shade in many])) * weight
    distance = ((_oklab(rgb)[:, None] * weight - shades[None]) ** 2).sum(axis=-1)
    return words[distance.argmin(axis=1)]


def _warp(image: Any, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`image` (H, W, C) sampled at each pixel plus its flow, as float32, and where that lies inside."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return cv2.remap(np.asarray(image, np.float32), x, y, cv2.INTER_LINEAR), inside
