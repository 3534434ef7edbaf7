"""Packs clips side by side into one video, so that a comparison in the browser has one clock and cannot drift."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from sama.errors import VideoError
from sama.video.writing import VideoWriter, as_rate

MAX_PACKED_WIDTH = 4096
"""Wider videos are beyond the hardware decoders of many phones."""

Panel = np.ndarray | Iterable[np.ndarray]
"""A clip: (T, H, W, 3) uint8 RGB, or anything that yields (H, W, 3) frames one by one."""


def pack_side_by_side(
    panels: Sequence[Panel],
    path: str | os.PathLike[str],
    fps: Fraction | int | float,
    audio_from: str | os.PathLike[str] | None = None,
    times: Iterable[Fraction] | None = None,
) -> tuple[int, int]:
    """Write clips of equal size and length left to right into one video; returns the (width, height) of one panel.

    ``times`` (ascending, in seconds, one for each frame) says when each frame is shown, so that clips of a variable
    rate keep step with their sound; without it the frames follow each other at ``fps``. A panel is scaled down when all
    together would be wider than 4096 pixels, and loses a row or column when a side is odd, which browsers' 4:2:0 cannot
    hold. The sound comes from the file ``audio_from``. One key frame each second makes stepping quick. Raises
    :class:`VideoError` when the clips (or ``times``) differ in size or length, or are empty.
    """
    if not panels:
        raise VideoError("There are no clips to compare.")
    rate = as_rate(fps)
    rows: Iterator[tuple[list[np.ndarray], Fraction | None]]
    if times is None:
        rows = ((frames, None) for frames in _in_step([iter(panel) for panel in panels]))
    else:
        rows = ((frames, time) for *frames, time in _in_step([*(iter(panel) for panel in panels), iter(times)]))
    first = next(rows, None)
    if first is None:
        raise VideoError("The clips to compare have no frames.")
    height, width = first[0][0].shape[:2]
    size = packed_panel_size(width, height, len(panels))
    row = _RowPacker((width, height), size)
    gop = max(1, round(rate))
    with VideoWriter(path, size[0] * len(panels), size[1], rate, source=audio_from, gop_size=gop) as writer:
        for frames, time in chain((first,), rows):
            writer.write(row.pack(frames), time)
    return size


def packed_panel_size(width: int, height: int, panels: int) -> tuple[int, int]:
    """Even (width, height) of one panel of ``width`` x ``height`` pixels among ``panels`` side by side."""
    scale = min(1.0, MAX_PACKED_WIDTH / (width * panels))
    return max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2)


def _in_step(clips: Sequence[Iterator[Any]]) -> Iterator[list[Any]]:
    """Yield the items of all iterators in parallel. Raises VideoError when one ends before the others."""
    try:
        yield from (list(frames) for frames in zip(*clips, strict=True))
    except ValueError as error:
        if "zip()" not in str(error):
            raise
        raise VideoError("The clips to compare have different lengths; cut them to the same frames.") from error


class _RowPacker:
    def __init__(self, size: tuple[int, int], packed: tuple[int, int]) -> None:
        self._size = size
        self._packed = packed
        # Odd by one pixel: cutting is sharper than resampling the whole picture.
        self._crops = all(0 <= a - b <= 1 for a, b in zip(size, packed, strict=True))
        self._reformatter = VideoReformatter()

    def pack(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([self._fit(frame) for frame in frames], axis=1)

    def _fit(self, frame: np.ndarray) -> np.ndarray:
        width, height = self._size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise VideoError("The clips to compare have different sizes; scale them to the same size first.")
        if self._crops:
            return frame[: self._packed[1], : self._packed[0]]
        source = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        scaled = self._reformatter.reformat(
            source, width=self._packed[0], height=self._packed[1], interpolation=Interpolation.BICUBIC
        )
        return scaled.to_ndarray()
