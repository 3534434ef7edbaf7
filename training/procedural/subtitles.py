"""Subtitles: capital letters, one in each cell of a grid that lies on the editor's tokens."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.procedural.layers import Patch
from training.procedural.texts import CELL

_FONT_SIZE = 26
_OUTLINE = 2
_BAND = 2 * CELL
_BASELINE = 26
"""Height of the letters' feet below the upper edge of the band, in pixels."""


def first_cell(letters: int, width: int) -> int:
    """The cell of the first letter of a centred line: the n-th letter stands ``CELL`` pixels times n to the right."""
    return max(0, (width // CELL - letters) // 2)


def subtitle_patch(text: str, font_of: Callable[[int], ImageFont.FreeTypeFont], width: int, height: int) -> Patch:
    """White letters with a black outline in the last two rows of cells; ``font_of(size)`` gives a monospaced bold font.

    A letter is as wide as a cell and no letter lies across two, so that what a token shows hangs on one letter. Cells
    are counted from the left edge, whatever the frame's size.
    """
    font = font_of(_FONT_SIZE)
    left = CELL * first_cell(len(text), width)
    strip = Image.new("L", (CELL * len(text) + 2 * _OUTLINE, _BAND), 0)
    outline = strip.copy()
    pens = ImageDraw.Draw(strip), ImageDraw.Draw(outline)
    for index, letter in enumerate(text):
        where = (_OUTLINE + CELL * (index + 0.5), _BASELINE)
        pens[0].text(where, letter, font=font, fill=255, anchor="ms")
        pens[1].text(where, letter, font=font, fill=255, anchor="ms", stroke_width=_OUTLINE)
    start = max(0, _OUTLINE - left)
    end = strip.width - max(0, left - _OUTLINE + strip.width - width)
    white, dark = np.asarray(strip)[:, start:end], np.asarray(outline)[:, start:end]
    keep = 255 - np.maximum(white, dark)
    return Patch(max(0, left - _OUTLINE), height - _BAND, cv2.merge([white] * 3), cv2.merge([keep] * 3))
