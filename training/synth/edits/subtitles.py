"""Draws subtitles: capital letters, one per cell of a grid that matches the editor's tokens."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.synth.edits.texts import CELL
from training.synth.scenes.layers import Patch

_FONT_SIZE = 26
_OUTLINE = 2
_BAND = 2 * CELL
_BASELINE = 26
"""Height of the letters' feet below the upper edge of the band, in pixels."""


FIRST_CELL = 1
"""The cell of the first letter, counted from the left edge.

Lines start at one place, as captions in the lower third do, so that the n-th letter of a text stands in the n-th cell,
however long the text is and whatever the frame's size.
"""


def subtitle_patch(text: str, font_of: Callable[[int], ImageFont.FreeTypeFont], width: int, height: int) -> Patch:
    """White letters with a black outline in the last two rows of cells; ``font_of(size)`` gives a monospaced bold font.

    Each letter lies in one cell, so that a token shows one letter. Text beyond the width is cut off.
    """
    font = font_of(_FONT_SIZE)
    strip = Image.new("L", (CELL * len(text) + 2 * _OUTLINE, _BAND), 0)
    outline = strip.copy()
    pens = ImageDraw.Draw(strip), ImageDraw.Draw(outline)
    for index, letter in enumerate(text):
        where = (_OUTLINE + CELL * (index + 0.5), _BASELINE)
        pens[0].text(where, letter, font=font, fill=255, anchor="ms")
        pens[1].text(where, letter, font=font, fill=255, anchor="ms", stroke_width=_OUTLINE)
    left = CELL * FIRST_CELL - _OUTLINE
    white, dark = (np.asarray(picture)[:, : width - left] for picture in (strip, outline))
    keep = 255 - np.maximum(white, dark)
    return Patch(left, height - _BAND, cv2.merge([white] * 3), cv2.merge([keep] * 3))
