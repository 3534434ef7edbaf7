"""Draws the named backgrounds. Each has one look, at any size, so that "put it on a beach" has one right answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from training.synth.scenes.canvas import (
    Canvas,
    Colour,
    bar,
    cloud,
    disc,
    glow,
    gradient,
    hill,
    pixel_grid,
    polygon,
    ridge,
    smooth_noise,
    texture,
    whole_pixels,
)

PLAIN: dict[str, Colour] = {
    "plain red": (214, 58, 52),
    "plain orange": (240, 148, 56),
    "plain yellow": (246, 212, 84),
    "plain green": (86, 178, 92),
    "plain blue": (70, 128, 218),
    "plain purple": (142, 88, 196),
    "plain pink": (246, 160, 188),
    "plain white": (244, 244, 242),
    "plain gray": (140, 142, 146),
    "plain black": (24, 24, 28),
}


@lru_cache(maxsize=256)
def background(name: str, width: int, height: int) -> Canvas:
    """The named background as (height, width, 3) uint8 RGB, read-only. Raises KeyError for another name."""
    canvas = _plain(PLAIN[name], width, height) if name in PLAIN else _SCENES[name](width, height)
    picture = np.clip(canvas, 0, 255).astype(np.uint8)
    picture.setflags(write=False)
    return picture


def _plain(colour: Colour, width: int, height: int) -> Canvas:
    x, y = pixel_grid(width, height)
    shade = 1.04 - 0.16 * ((x - 0.5) ** 2 + (y - 0.45) ** 2)
    return np.array(colour, np.float32) * shade[..., None]


def _beach(width: int, height: int) -> Canvas:
    sky: list[tuple[float, Colour]] = [(0, (92, 176, 240)), (0.42, (190, 228, 250)), (0.43, (22, 128, 182))]
    sand: list[tuple[float, Colour]] = [(0.62, (72, 196, 208)), (0.66, (244, 250, 248)), (0.69, (238, 214, 160))]
    canvas = gradient(width, height, [*sky, *sand, (1, (222, 188, 126))])
    texture(canvas, 0.69, 7, (40, 40), 1)
    disc(canvas, 0.82, 0.16, 0.075, (255, 240, 170))
    cloud(canvas, 0.28, 0.17, 0.09)
    cloud(canvas, 0.58, 0.27, 0.055)
    return canvas


def _meadow(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (84, 162, 240)), (0.55, (196, 230, 252)), (1, (196, 230, 252))])
    cloud(canvas, 0.22, 0.2, 0.1)
    cloud(canvas, 0.74, 0.14, 0.08)
    hill(canvas, 0.52, 0.05, 0.6, 0.9, (122, 190, 92))
    hill(canvas, 0.6, 0.04, 2.6, 1.1, (98, 174, 70))
    hill(canvas, 0.74, 0.03, 4.4, 0.8, (76, 154, 54))
    texture(canvas, 0.62, 9, (64, 24), 2)
    rng = np.random.default_rng(3)
    for x, y, kind in zip(rng.uniform(0, 1, 46), rng.uniform(0.68, 1, 46), rng.integers(3, size=46), strict=True):
        disc(canvas, x, y, 0.008, ((255, 250, 240), (252, 214, 70), (236, 110, 140))[kind])
    return canvas


def _starry(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (8, 12, 44)), (0.7, (34, 44, 104)), (1, (62, 66, 128))])
    rng = np.random.default_rng(4)
    for x, y, r in zip(rng.uniform(0, 1, 90), rng.uniform(0, 0.85, 90), rng.uniform(0.003, 0.009, 90), strict=True):
        disc(canvas, x, y, r, (250, 248, 224))
    glow(canvas, 0.8, 0.2, 0.14, (190, 200, 240), 0.5)
    disc(canvas, 0.8, 0.2, 0.085, (248, 244, 212))
    for x, y, r in ((0.78, 0.18, 0.02), (0.82, 0.23, 0.014), (0.81, 0.16, 0.01)):
        disc(canvas, x, y, r, (222, 216, 184))
    hill(canvas, 0.86, 0.03, 1.0, 1.0, (12, 16, 34))
    return canvas


def _snowy_mountains(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (110, 170, 228)), (0.6, (214, 232, 246)), (1, (214, 232, 246))])
    for base, rise, peaks, seed, colour in (
        (0.66, 0.42, 3, 6, (116, 136, 168)),
        (0.74, 0.3, 4, 8, (84, 104, 140)),
    ):
        crest = ridge(canvas, base, rise, peaks, seed, colour)
        for i in range(1, len(crest), 2):
            (x, y), reach = crest[i], rise * 0.36
            dx = reach * 0.5 * (1.1 / (2 * peaks)) / (0.8 * rise) * 2
            cap = [(x, y), (x + dx, y + reach), (x + dx * 0.4, y + reach * 0.72), (x, y + reach)]
            polygon(canvas, [*cap, (x - dx * 0.45, y + reach * 0.7), (x - dx, y + reach)], (250, 252, 255))
    hill(canvas, 0.78, 0.025, 0.4, 1.0, (236, 242, 250))
    texture(canvas, 0.8, 4, (24, 24), 9)
    return canvas


def _desert(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (104, 176, 226)), (0.5, (250, 226, 180)), (1, (250, 226, 180))])
    disc(canvas, 0.2, 0.2, 0.08, (255, 246, 196))
    hill(canvas, 0.54, 0.06, 0.2, 0.8, (226, 172, 104))
    hill(canvas, 0.66, 0.06, 2.8, 0.9, (212, 148, 78))
    hill(canvas, 0.8, 0.05, 5.0, 0.7, (196, 126, 60))
    texture(canvas, 0.5, 5, (12, 48), 10)
    return canvas


def _city_night(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (12, 12, 40)), (0.6, (56, 36, 92)), (0.8, (120, 62, 110)), (1, (30, 24, 50))])
    rng = np.random.default_rng(11)
    for row, (colour, low, high) in enumerate((((38, 34, 72), 0.22, 0.5), ((20, 20, 44), 0.4, 0.66))):
        x = -0.02
        while x < 1.02:
            w, top = float(rng.uniform(0.07, 0.12)), float(rng.uniform(low, high))
            bar(canvas, x, top, x + w, 0.9, colour)
            for wx in np.arange(x + 0.012, x + w - 0.014, 0.024):
                for wy in np.arange(top + 0.03, 0.86, 0.05):
                    if rng.random() < 0.45:
                        lit: Colour = (255, 214, 110) if (row or rng.random() < 0.6) else (150, 190, 255)
                        bar(canvas, wx, wy, wx + 0.011, wy + 0.024, lit)
            x += w + float(rng.uniform(0.0, 0.012))
    bar(canvas, 0, 0.88, 1, 1, (26, 24, 40))
    bar(canvas, 0, 0.94, 1, 0.95, (220, 196, 90))
    return canvas


def _sunset_sea(width: int, height: int) -> Canvas:
    sky: list[tuple[float, Colour]] = [(0, (70, 44, 110)), (0.3, (214, 90, 96)), (0.56, (255, 184, 92))]
    canvas = gradient(width, height, [*sky, (0.57, (190, 96, 96)), (1, (34, 34, 84))])
    glow(canvas, 0.5, 0.5, 0.22, (255, 236, 160), 0.8)
    sea = canvas[int(0.57 * height) :].copy()
    disc(canvas, 0.5, 0.52, 0.11, (255, 244, 190))
    canvas[int(0.57 * height) :] = sea
    rng = np.random.default_rng(12)
    for y in np.linspace(0.59, 0.98, 18).tolist():
        reach = 0.05 + 0.12 * (y - 0.57)
        x = 0.5 + float(rng.uniform(-0.03, 0.03))
        bar(canvas, x - reach, y, x + reach, y + 0.009, (255, 206, 120))
    return canvas


def _brick(width: int, height: int) -> Canvas:
    canvas = np.full((height, width, 3), (186, 176, 164), np.float32)
    rows = 12
    unit = height / rows
    across = max(3, round(width / (unit * 2.2)))
    rng = np.random.default_rng(13)
    for row in range(rows):
        for column in range(-1, across + 1):
            x = (column + 0.5 * (row % 2)) / across
            tone = float(rng.uniform(-16, 16))
            colour = (168 + tone, 78 + tone * 0.7, 58 + tone * 0.6)
            left, right = round(x * width) + 1, round((x + 1 / across) * width) - 1
            top, bottom = round(row * unit) + 1, round((row + 1) * unit) - 1
            if right > 0 and left < width:
                canvas[top:bottom, max(0, left) : right] = colour
    texture(canvas, 0, 6, (60, 60), 14)
    return canvas


def _floor(canvas: Canvas, horizon: float, scale: float, colours: tuple[Colour, Colour], planks: bool) -> None:
    """A floor in perspective below the horizon: checks, or planks that run away from the camera."""
    height, width = canvas.shape[:2]
    start = int(horizon * height)
    _, y = pixel_grid(width, height)
    depth = 1.0 / np.maximum(y[start:] - horizon + 0.06, 1e-3)
    x = (np.arange(width, dtype=np.float32)[None, :] + 0.5 - width / 2) / min(width, height)
    across = np.floor(x * depth * scale * 0.5 + 100)
    along = np.floor(depth * scale * 0.42) if not planks else np.zeros_like(depth)
    pick = ((across + along) % 2)[..., None]
    canvas[start:] = np.array(colours[0], np.float32) * pick + np.array(colours[1], np.float32) * (1 - pick)
    canvas[start:] *= (0.72 + 0.28 * np.clip((y[start:] - horizon) / (1 - horizon), 0, 1))[..., None]


def _checkered(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (206, 216, 226)), (0.56, (232, 234, 232)), (1, (232, 234, 232))])
    _floor(canvas, 0.58, 1.2, ((238, 238, 234), (44, 46, 54)), planks=False)
    return canvas


def _wooden_room(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (216, 200, 172)), (0.62, (236, 222, 196)), (1, (236, 222, 196))])
    _floor(canvas, 0.64, 1.5, ((186, 124, 70), (160, 100, 54)), planks=True)
    bar(canvas, 0, 0.61, 1, 0.645, (250, 246, 236))
    left, top, right, bottom = 0.62, 0.12, 0.86, 0.46
    bar(canvas, left, top, right, bottom, (250, 248, 242))
    x, y = (left + right) / 2, (top + bottom) / 2
    for x0, x1 in ((left + 0.015, x - 0.006), (x + 0.006, right - 0.015)):
        for y0, y1 in ((top + 0.022, y - 0.008), (y + 0.008, bottom - 0.022)):
            bar(canvas, x0, y0, x1, y1, (160, 206, 240))
    return canvas


def _space(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (8, 6, 20)), (1, (22, 12, 42))])
    nebula = np.clip(smooth_noise(width, height, (5, 4), 15), 0, 1)[..., None]
    canvas += nebula * np.array((70, 20, 90), np.float32)
    rng = np.random.default_rng(16)
    for x, y, r in zip(rng.uniform(0, 1, 110), rng.uniform(0, 1, 110), rng.uniform(0.002, 0.008, 110), strict=True):
        disc(canvas, x, y, r, (246, 244, 255))
    disc(canvas, 0.76, 0.3, 0.15, (222, 140, 84))
    disc(canvas, 0.745, 0.285, 0.125, (240, 168, 104))
    unit, centre = min(width, height), (round(0.76 * width), round(0.3 * height))
    cv2.ellipse(canvas, centre, (round(0.25 * unit), round(0.055 * unit)), -18, 0, 360, (236, 214, 176), 2, cv2.LINE_AA)
    cv2.ellipse(
        canvas, centre, (round(0.145 * unit), round(0.11 * unit)), -18, 180, 360, (240, 168, 104), -1, cv2.LINE_AA
    )
    return canvas


def _forest(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (150, 200, 150)), (0.6, (206, 230, 176)), (1, (206, 230, 176))])
    rng = np.random.default_rng(17)
    for colour, count, base, tall in (((108, 160, 112), 11, 0.72, 0.42), ((52, 108, 66), 8, 0.8, 0.56)):
        for x in np.linspace(0.0, 1.0, count) + rng.uniform(-0.025, 0.025, count):
            top, w = base - tall * float(rng.uniform(0.8, 1.1)), 0.45 / count
            for step in (0.0, 0.3, 0.6):
                y0, reach = top + (base - top) * step * 0.8, w * (0.55 + 0.6 * step)
                polygon(
                    canvas,
                    [(x, y0), (x + reach, y0 + 0.4 * (base - top)), (x - reach, y0 + 0.4 * (base - top))],
                    colour,
                )
            polygon(
                canvas,
                [(x - 0.006, base - 0.06), (x + 0.006, base - 0.06), (x + 0.006, base), (x - 0.006, base)],
                (82, 58, 40),
            )
    hill(canvas, 0.8, 0.015, 0.0, 1.0, (92, 138, 62))
    texture(canvas, 0.82, 9, (48, 30), 18)
    return canvas


def _underwater(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (96, 210, 232)), (0.6, (22, 122, 186)), (1, (10, 66, 128))])
    x, y = pixel_grid(width, height)
    rays = np.clip(np.sin(26 * (x - 0.5) / (0.7 + y) + 0.6) + np.sin(11 * (x - 0.4) / (0.7 + y)), 0, 2) * (1 - y) ** 2
    canvas += 26 * rays[..., None]
    hill(canvas, 0.86, 0.025, 0.8, 1.0, (206, 186, 130))
    rng = np.random.default_rng(19)
    for px in (0.06, 0.12, 0.86, 0.93):
        for k in range(3):
            sway = [
                (px + 0.014 * k + 0.012 * np.sin(9 * s + k), 0.9 - 0.3 * s * (1 - 0.2 * k))
                for s in np.linspace(0, 1, 12)
            ]
            line = whole_pixels(width, height, sway)
            cv2.polylines(canvas, [line], False, (40, 140, 84), max(2, min(width, height) // 50), cv2.LINE_AA)
    for bx, by in zip(rng.uniform(0.1, 0.9, 16), rng.uniform(0.1, 0.75, 16), strict=True):
        disc(canvas, bx, by, 0.011, (206, 244, 252))
    return canvas


def _autumn(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (178, 208, 230)), (0.6, (250, 232, 196)), (1, (250, 232, 196))])
    rng = np.random.default_rng(20)
    colours: tuple[Colour, ...] = ((214, 92, 36), (236, 150, 40), (190, 58, 40), (244, 190, 70))
    for x in (0.04, 0.2, 0.4, 0.62, 0.8, 0.96):
        polygon(canvas, [(x - 0.012, 0.4), (x + 0.012, 0.4), (x + 0.018, 0.8), (x - 0.018, 0.8)], (96, 64, 44))
        colour = colours[int(rng.integers(4))]
        for _ in range(6):
            disc(canvas, x + float(rng.uniform(-0.06, 0.06)), 0.36 + float(rng.uniform(-0.12, 0.1)), 0.1, colour)
    hill(canvas, 0.76, 0.02, 1.2, 1.0, (204, 146, 66))
    for x, y, kind in zip(rng.uniform(0, 1, 90), rng.uniform(0.77, 1, 90), rng.integers(4, size=90), strict=True):
        disc(canvas, x, y, 0.012, colours[kind])
    return canvas


def _road(width: int, height: int) -> Canvas:
    canvas = gradient(width, height, [(0, (96, 170, 236)), (0.5, (206, 232, 250)), (1, (206, 232, 250))])
    ridge(canvas, 0.54, 0.16, 4, 21, (136, 150, 176))
    bar(canvas, 0, 0.52, 1, 1, (186, 168, 104))
    texture(canvas, 0.54, 7, (50, 30), 22)
    polygon(canvas, [(0.48, 0.52), (0.52, 0.52), (0.92, 1.0), (0.08, 1.0)], (84, 86, 92))
    for near, far in ((0.58, 0.55), (0.68, 0.62), (0.84, 0.74), (1.0, 0.93)):
        wide, slim = 0.03 * (near - 0.5), 0.03 * (far - 0.5)
        polygon(canvas, [(0.5 - slim, far), (0.5 + slim, far), (0.5 + wide, near), (0.5 - wide, near)], (246, 230, 120))
    return canvas


def _volcano(width: int, height: int) -> Canvas:
    canvas = gradient(
        width, height, [(0, (52, 26, 36)), (0.5, (176, 66, 42)), (0.75, (240, 140, 60)), (1, (60, 26, 24))]
    )
    cloud(canvas, 0.5, 0.12, 0.12, (84, 66, 70))
    polygon(canvas, [(0.42, 0.26), (0.58, 0.26), (0.96, 0.84), (0.04, 0.84)], (58, 40, 44))
    polygon(canvas, [(0.42, 0.26), (0.58, 0.26), (0.54, 0.33), (0.46, 0.33)], (255, 150, 50))
    polygon(canvas, [(0.49, 0.3), (0.53, 0.3), (0.57, 0.55), (0.51, 0.84), (0.45, 0.84), (0.52, 0.55)], (255, 104, 32))
    hill(canvas, 0.84, 0.015, 0.0, 1.2, (36, 24, 28))
    texture(canvas, 0.84, 6, (30, 20), 23)
    return canvas


_SCENES: dict[str, Callable[[int, int], Canvas]] = {
    "beach": _beach,
    "green meadow": _meadow,
    "starry night sky": _starry,
    "snowy mountains": _snowy_mountains,
    "desert": _desert,
    "city skyline at night": _city_night,
    "sunset over the sea": _sunset_sea,
    "brick wall": _brick,
    "checkered floor": _checkered,
    "wooden room": _wooden_room,
    "outer space": _space,
    "forest": _forest,
    "underwater": _underwater,
    "autumn park": _autumn,
    "road": _road,
    "volcano": _volcano,
}

BACKGROUNDS: tuple[str, ...] = (*_SCENES, *PLAIN)
"""Every name that :func:`background` draws: scenes first, then plain colours."""
