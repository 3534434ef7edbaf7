"""Small pictures of a clip: a poster, and frames from all over it in one row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from sama.video import FrameReader
from ui.viewer.plan import picture_url

if TYPE_CHECKING:
    from ui.media.clips import PageClip

CELLS = 12
_POSTER_SIDE = 320
_CELL_HEIGHT = 64
_CELL_WIDTH = 112


def filmstrip(clip: PageClip) -> tuple[str, str, int]:
    """The first frame and a row of frames as JPEG data URLs, and how many frames the row has (at most 12).

    Cells are 64 pixels high and have one width; the i-th shows the middle of the i-th part of the clip.
    """
    scale = min(1.0, _POSTER_SIDE / max(clip.width, clip.height))
    size = (max(2, round(clip.width * scale)), max(2, round(clip.height * scale)))
    count = min(CELLS, clip.frames)
    wanted = {(2 * cell + 1) * clip.frames // (2 * count) for cell in range(count)}
    poster, cells = None, []
    with FrameReader(clip.path, size=size) as frames:
        for frame in frames:
            poster = frame.image if poster is None else poster
            if frame.index in wanted:
                cells.append(_cell(frame.image))
            if len(cells) == count:
                break
    if poster is None:
        raise ValueError("the clip has no frame")
    return picture_url(poster, 80), picture_url(np.concatenate(cells, 1), 70), len(cells)


def _cell(image: np.ndarray) -> np.ndarray:
    """The picture 64 pixels high, cut at the sides where it is too wide."""
    height, width = image.shape[:2]
    wide = max(2, round(width * _CELL_HEIGHT / height))
    small = cv2.resize(image, (wide, _CELL_HEIGHT), interpolation=cv2.INTER_AREA)
    left = max(0, wide - _CELL_WIDTH) // 2
    return small[:, left : left + _CELL_WIDTH]
