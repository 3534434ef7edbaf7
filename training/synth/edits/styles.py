"""Styles and weathers of whole pictures: deterministic functions of a frame (weathers also of its index).

All take and return (height, width, 3) uint8 RGB. Textures, snowflakes and rain come from fixed fields, so that the
source alone determines the result of "make it snowy".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

Frame = np.ndarray


def apply_style(name: str, frame: Frame) -> Frame:
    """The frame in a style, one of STYLES. Raises KeyError for another name."""
    return _STYLES[name](frame)


def apply_weather(name: str, frame: Frame, index: int = 0) -> Frame:
    """The frame under a weather, one of WEATHERS; ``index`` is the frame's number. Raises KeyError for another name."""
    return _WEATHERS[name](frame, index)


@lru_cache(maxsize=64)
def _table(*curves: tuple[tuple[float, float], ...]) -> np.ndarray:
    """A lookup table (1, 256, channels) uint8 through the given (input, output) points, one curve per channel."""
    levels = np.arange(256)
    columns = [np.interp(levels, [p[0] for p in curve], [p[1] for p in curve]) for curve in curves]
    return np.round(np.stack(columns, axis=-1)).astype(np.uint8)[None]


@lru_cache(maxsize=64)
def _ramp(*colours: tuple[int, int, int]) -> np.ndarray:
    """A lookup table (1, 256, 3) that maps luminance onto the colours, evenly spaced from black to white."""
    stops = np.linspace(0, 255, len(colours))
    return _table(*(tuple(zip(stops.tolist(), [c[k] for c in colours], strict=True)) for k in range(3)))


@lru_cache(maxsize=16)
def _paper(width: int, height: int, strength: float) -> np.ndarray:
    """A fixed paper grain (height, width, 3) uint8 around 128."""
    rng = np.random.default_rng(99)
    fine = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 1.0)
    coarse = cv2.resize(rng.normal(0, 1, (height // 12 + 2, width // 12 + 2)).astype(np.float32), (width, height))
    grain = np.clip(128 + strength * (fine / fine.std() + 0.6 * coarse), 0, 255).astype(np.uint8)
    return cv2.merge([grain, grain, grain])


def _grey(frame: Frame) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def _mapped(grey: np.ndarray, ramp: np.ndarray) -> Frame:
    return cv2.LUT(cv2.merge([grey, grey, grey]), ramp)


def _saturated(frame: Frame, factor: float) -> Frame:
    grey = cv2.cvtColor(_grey(frame), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(frame, factor, grey, 1 - factor, 0)


def _edges(grey: np.ndarray, gain: float) -> np.ndarray:
    """Edge strength (height, width) uint8: the morphological gradient, scaled."""
    return cv2.convertScaleAbs(cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)), alpha=gain)


def _darkened(frame: Frame, ink: np.ndarray) -> Frame:
    """The frame multiplied by 255 - ink."""
    keep = 255 - ink
    return cv2.multiply(frame, cv2.merge([keep, keep, keep]), scale=1 / 255)


def _kuwahara(frame: Frame, radius: int) -> Frame:
    """Brush-like smoothing: each pixel takes the mean of the calmest of the four squares that meet there."""
    size = (radius + 1, radius + 1)
    grey = _grey(frame)
    mean = cv2.blur(frame, size)
    grey_mean = cv2.boxFilter(grey, cv2.CV_32F, size)
    spread = cv2.sqrBoxFilter(grey, cv2.CV_32F, size) - grey_mean * grey_mean
    height, width = grey.shape
    reach = radius // 2 + radius % 2
    padded_mean = cv2.copyMakeBorder(mean, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
    padded_spread = cv2.copyMakeBorder(spread, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
    out, best = None, None
    for dy in (0, 2 * reach):
        for dx in (0, 2 * reach):
            picture = padded_mean[dy : dy + height, dx : dx + width]
            value = padded_spread[dy : dy + height, dx : dx + width]
            if out is None or best is None:
                out, best = picture.copy(), value.copy()
                continue
            calmer = cv2.compare(value, best, cv2.CMP_LT)
            cv2.copyTo(picture, calmer, out)
            cv2.min(value, best, best)
    assert out is not None
    return out


@lru_cache(maxsize=16)
def _weave(width: int, height: int) -> np.ndarray:
    """A fixed canvas weave (height, width, 3) uint8 around 128."""
    y, x = np.mgrid[:height, :width]
    thread = 128 + 5 * np.sin(x * np.pi / 2) * np.cos(y * np.pi / 2)
    return cv2.merge([np.round(thread).astype(np.uint8)] * 3)


def _watercolor(frame: Frame) -> Frame:
    wash = _kuwahara(frame, 3)
    pale = cv2.LUT(_saturated(wash, 1.3), _table(*(((0, 84), (128, 182), (255, 255)),) * 3))
    rims = _edges(_grey(cv2.medianBlur(wash, 3)), 0.7)
    inked = _darkened(pale, cv2.min(rims, 80))
    return cv2.addWeighted(inked, 1.0, _paper(frame.shape[1], frame.shape[0], 11.0), 0.6, -77)


def _oil(frame: Frame) -> Frame:
    strokes = _saturated(_kuwahara(_kuwahara(frame, 4), 2), 1.55)
    emboss = np.array(((-1, -1, 0), (-1, 0, 1), (0, 1, 1)), np.float32) * 0.3
    lit = cv2.filter2D(_grey(strokes), cv2.CV_8U, emboss, delta=128)
    canvas = cv2.addWeighted(strokes, 1.0, cv2.merge([lit, lit, lit]), 1.0, -128)
    return cv2.addWeighted(canvas, 1.0, _weave(frame.shape[1], frame.shape[0]), 1.0, -128)


def _pixel(frame: Frame) -> Frame:
    height, width = frame.shape[:2]
    small = cv2.resize(_saturated(frame, 1.5), (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    small = _posterised(small, 7)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def _sketch(frame: Frame) -> Frame:
    grey = cv2.GaussianBlur(_grey(frame), (0, 0), 0.7)
    dodge = cv2.divide(grey, cv2.GaussianBlur(grey, (0, 0), 5.0), scale=232)
    shade = cv2.addWeighted(dodge, 0.86, cv2.convertScaleAbs(grey, alpha=0.5, beta=120), 0.14, 6)
    lines = cv2.subtract(shade, _edges(grey, 0.6))
    page = cv2.merge([lines, lines, lines])
    return cv2.addWeighted(page, 1.0, _paper(frame.shape[1], frame.shape[0], 10.0), 0.4, -51)


def _black_and_white(frame: Frame) -> Frame:
    return _mapped(_grey(frame), _table(*(((0, 0), (64, 48), (192, 212), (255, 255)),) * 3))


def _sepia(frame: Frame) -> Frame:
    return _mapped(_grey(frame), _ramp((36, 20, 10), (128, 86, 50), (206, 168, 116), (255, 240, 206)))


def _posterised(frame: Frame, levels: int) -> Frame:
    """The frame with its luminance in ``levels`` flat steps, colours kept."""
    luma, red, blue = cv2.split(cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb))
    step = 256 / levels
    table = np.array([(v // step + 0.5) * step for v in range(256)]).astype(np.uint8)
    return cv2.cvtColor(cv2.merge([cv2.LUT(luma, table), red, blue]), cv2.COLOR_YCrCb2RGB)


def _cartoon(frame: Frame) -> Frame:
    flat = _saturated(_posterised(cv2.medianBlur(_kuwahara(frame, 3), 3), 5), 1.6)
    bright = cv2.LUT(flat, _table(*(((0, 16), (128, 150), (255, 255)),) * 3))
    grey = cv2.GaussianBlur(_grey(frame), (0, 0), 1.0)
    lines = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, 11, 13)
    return _darkened(bright, cv2.GaussianBlur(lines, (0, 0), 0.5))


@lru_cache(maxsize=16)
def _dots(width: int, height: int, cell: int) -> np.ndarray:
    """A fixed halftone screen (height, width) uint8: cones on a grid turned by 45 degrees."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u, v = (x + y) * np.pi / (cell * 1.414), (x - y) * np.pi / (cell * 1.414)
    return np.round(127.5 + 63.7 * (np.cos(u * 1.414) + np.cos(v * 1.414))).clip(0, 255).astype(np.uint8)


def _comic(frame: Frame) -> Frame:
    height, width = frame.shape[:2]
    flat = _saturated(_posterised(cv2.medianBlur(frame, 5), 4), 1.9)
    flat = cv2.LUT(flat, _table(*(((0, 40), (128, 172), (255, 255)),) * 3))
    grey = cv2.medianBlur(_grey(frame), 3)
    shade = cv2.compare(_dots(width, height, 6), cv2.convertScaleAbs(grey, alpha=1.1, beta=90), cv2.CMP_GT)
    shaded = _darkened(flat, cv2.convertScaleAbs(cv2.GaussianBlur(shade, (0, 0), 0.6), alpha=0.7))
    lines = cv2.threshold(_edges(cv2.GaussianBlur(grey, (0, 0), 0.8), 1.0), 58, 255, cv2.THRESH_BINARY)[1]
    return _darkened(shaded, lines)


def _cyberpunk(frame: Frame) -> Frame:
    grey = _grey(frame)
    graded = _mapped(grey, _ramp((10, 4, 34), (70, 16, 130), (226, 30, 168), (70, 214, 250), (226, 255, 255)))
    mixed = cv2.addWeighted(graded, 0.82, _saturated(frame, 1.6), 0.18, -6)
    glow = _mapped(_edges(grey, 1.5), _ramp((0, 0, 0), (0, 120, 140), (60, 240, 255)))
    glow = cv2.add(cv2.GaussianBlur(glow, (0, 0), 2.0), cv2.convertScaleAbs(glow, alpha=0.5))
    return cv2.add(mixed, glow)


def _night(frame: Frame) -> Frame:
    toned = _saturated(frame, 0.55)
    return cv2.LUT(
        toned,
        _table(((0, 2), (128, 26), (255, 104)), ((0, 6), (128, 40), (255, 128)), ((0, 24), (128, 84), (255, 196))),
    )


@lru_cache(maxsize=16)
def _sun(width: int, height: int) -> np.ndarray:
    """Warm light from above, (height, width, 3) uint8, added to the graded picture."""
    y = np.linspace(1, 0, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    strength = (0.25 + 0.75 * y) * np.exp(-(x**2) * 0.5)
    return np.round(strength[..., None] * np.array((66, 24, 0))).astype(np.uint8)


def _sunset(frame: Frame) -> Frame:
    warm = cv2.LUT(
        _saturated(frame, 1.1),
        _table(((0, 30), (128, 158), (255, 255)), ((0, 12), (128, 98), (255, 214)), ((0, 40), (128, 82), (255, 156))),
    )
    return cv2.add(warm, _sun(frame.shape[1], frame.shape[0]))


def _pop_art(frame: Frame) -> Frame:
    grey = cv2.medianBlur(_grey(frame), 5)
    steps = (np.arange(256) // 52).clip(0, 4)
    palette = np.array(((40, 20, 110), (232, 30, 120), (255, 128, 20), (255, 222, 40), (120, 236, 226)), np.uint8)
    return _mapped(grey, palette[steps][None])


def _negative(frame: Frame) -> Frame:
    return cv2.bitwise_not(frame)


def _blueprint(frame: Frame) -> Frame:
    grey = cv2.GaussianBlur(_grey(frame), (0, 0), 0.8)
    ink = cv2.add(_edges(grey, 3.0), cv2.convertScaleAbs(grey, alpha=0.12))
    sheet = _mapped(ink, _ramp((18, 62, 150), (120, 164, 226), (245, 250, 255)))
    height = len(grey)
    sheet[:: height // 9] = cv2.add(sheet[:: height // 9], 26)
    sheet[:, :: height // 9] = cv2.add(sheet[:, :: height // 9], 26)
    return sheet


_STYLES: dict[str, Callable[[Frame], Frame]] = {
    "watercolor": _watercolor,
    "oil painting": _oil,
    "pixel art": _pixel,
    "pencil sketch": _sketch,
    "black and white": _black_and_white,
    "sepia": _sepia,
    "cartoon": _cartoon,
    "comic": _comic,
    "cyberpunk": _cyberpunk,
    "night": _night,
    "sunset": _sunset,
    "pop art": _pop_art,
    "negative": _negative,
    "blueprint": _blueprint,
}

STYLES: tuple[str, ...] = tuple(_STYLES)


@lru_cache(maxsize=16)
def _whitening(width: int, height: int) -> np.ndarray:
    """Share of snow on the ground by height, (height, width, 3) uint8: none above the middle, most at the bottom."""
    y = np.linspace(0, 1, height, dtype=np.float32)
    share = np.clip((y - 0.5) / 0.4, 0, 1) ** 1.2 * 190
    return np.ascontiguousarray(np.broadcast_to(share[:, None, None], (height, width, 3))).astype(np.uint8)


@lru_cache(maxsize=16)
def _flakes(width: int, height: int) -> np.ndarray:
    """One period of falling snow, (height, width) uint8 opacity, seamless in both directions."""
    rng = np.random.default_rng(7)
    field = np.zeros((height * 3, width * 3), np.uint8)
    count = max(40, width * height // 300)
    radii = rng.choice((1, 1, 1, 2, 2), count)
    for x, y, r in zip(rng.integers(width, size=count), rng.integers(height, size=count), radii, strict=True):
        for dx in (0, width, 2 * width):
            for dy in (0, height, 2 * height):
                cv2.circle(field, (int(x) + dx, int(y) + dy), int(r), 255, -1, lineType=cv2.LINE_AA)
    soft = cv2.convertScaleAbs(cv2.GaussianBlur(field, (0, 0), 0.8), alpha=1.3)
    return np.ascontiguousarray(soft[height : 2 * height, width : 2 * width])


def _drift(field: np.ndarray, across: int, down: int) -> np.ndarray:
    return np.roll(field, (down, across), (0, 1))


def _over(frame: Frame, opacity: np.ndarray, colour: tuple[int, int, int]) -> Frame:
    """The colour laid over the frame with the given opacity (height, width) uint8."""
    alpha = cv2.merge([opacity, opacity, opacity])
    paint = cv2.LUT(alpha, _ramp((0, 0, 0), colour))
    return cv2.add(cv2.multiply(frame, 255 - alpha, scale=1 / 255), paint)


def _snow(frame: Frame, index: int) -> Frame:
    height, width = frame.shape[:2]
    cold = cv2.LUT(
        _saturated(frame, 0.6),
        _table(((0, 40), (128, 140), (255, 242)), ((0, 48), (128, 150), (255, 247)), ((0, 64), (128, 168), (255, 255))),
    )
    grey = cv2.GaussianBlur(_grey(frame), (0, 0), 1.0)
    tops = cv2.convertScaleAbs(np.maximum(cv2.Sobel(grey, cv2.CV_16S, 0, 1, ksize=3), 0), alpha=1.2)
    tops = cv2.dilate(cv2.threshold(tops, 60, 150, cv2.THRESH_TOZERO)[1], np.ones((3, 1), np.uint8))
    share = cv2.max(_whitening(width, height), cv2.merge([tops, tops, tops]))
    grain = cv2.convertScaleAbs(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), alpha=0.22, beta=196)
    covered = cv2.add(cv2.multiply(cold, 255 - share, scale=1 / 255), cv2.multiply(grain, share, scale=1 / 255))
    return _over(covered, _drift(_flakes(width, height), index, 3 * index), (255, 255, 255))


@lru_cache(maxsize=16)
def _streaks(width: int, height: int) -> np.ndarray:
    """One period of rain, (height, width) uint8 opacity."""
    rng = np.random.default_rng(8)
    field = np.zeros((height * 3, width * 3), np.uint8)
    count = max(40, width * height // 420)
    for x, y, n in zip(
        rng.integers(width, size=count), rng.integers(height, size=count), rng.integers(9, 18, count), strict=True
    ):
        for dx in (0, width, 2 * width):
            for dy in (0, height, 2 * height):
                start = (int(x) + dx, int(y) + dy)
                cv2.line(field, start, (start[0] - int(n) // 4, start[1] + int(n)), 190, 1, lineType=cv2.LINE_AA)
    return np.ascontiguousarray(field[height : 2 * height, width : 2 * width])


def _rain(frame: Frame, index: int) -> Frame:
    height, width = frame.shape[:2]
    dark = cv2.LUT(
        _saturated(frame, 0.5),
        _table(((0, 10), (128, 74), (255, 166)), ((0, 14), (128, 82), (255, 176)), ((0, 24), (128, 98), (255, 194))),
    )
    return _over(dark, _drift(_streaks(width, height), -4 * index, 16 * index), (214, 226, 240))


@lru_cache(maxsize=16)
def _haze(width: int, height: int) -> np.ndarray:
    """Opacity of the fog, (height, width) uint8: dense above, thinner near the ground, with slow banks."""
    rng = np.random.default_rng(9)
    banks = cv2.resize(rng.uniform(-1, 1, (4, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    return np.round(np.clip(0.84 - 0.34 * y + 0.1 * banks, 0, 1) * 255).astype(np.uint8)


def _fog(frame: Frame, index: int) -> Frame:  # noqa: ARG001 - fog stands still
    height, width = frame.shape[:2]
    soft = cv2.GaussianBlur(_saturated(frame, 0.7), (0, 0), 0.8)
    return _over(soft, _haze(width, height), (214, 220, 226))


_WEATHERS: dict[str, Callable[[Frame, int], Frame]] = {"snow": _snow, "rain": _rain, "fog": _fog}

WEATHERS: tuple[str, ...] = tuple(_WEATHERS)
