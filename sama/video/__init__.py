"""Reads and writes video: facts about files, streams of frames, and results with the source's rate, times and sound.

Frames are streamed, so memory does not grow with the length of a clip. Nothing here needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from sama.errors import VideoError
from sama.video.limits import UPLOAD_LIMITS, VideoLimits
from sama.video.packing import MAX_PACKED_WIDTH, pack_side_by_side, packed_panel_size
from sama.video.reading import Frame, FrameReader, VideoInfo, probe
from sama.video.uploads import normalise_part, normalise_upload
from sama.video.writing import VideoWriter

__all__ = [
    "MAX_PACKED_WIDTH",
    "UPLOAD_LIMITS",
    "Frame",
    "FrameReader",
    "VideoError",
    "VideoInfo",
    "VideoLimits",
    "VideoWriter",
    "normalise_part",
    "normalise_upload",
    "pack_side_by_side",
    "packed_panel_size",
    "probe",
    "read_clip",
    "write_clip",
]


def read_clip(
    path: str | os.PathLike[str],
    start: int = 0,
    count: int | None = None,
    size: tuple[int, int] | None = None,
    limits: VideoLimits | None = None,
) -> np.ndarray:
    """Frames ``start`` to ``start + count`` as (T, H, W, 3) uint8 RGB, scaled to ``size`` = (width, height) if given.

    Fewer frames are returned when the video ends earlier. All are held in memory: for long clips use
    :class:`FrameReader`. Raises :class:`VideoError` when there is no frame ``start``.
    """
    with FrameReader(path, start, count, limits, size) as reader:
        frames = [frame.image for frame in reader]
    if not frames:
        raise VideoError(f"{Path(path).name} has no frame {start}; start earlier.")
    return np.stack(frames)


def write_clip(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: Fraction | int | float,
    audio_from: str | os.PathLike[str] | None = None,
) -> None:
    """Write (T, H, W, 3) uint8 RGB frames, an array or an iterator, at a constant rate, with the sound of
    ``audio_from``."""
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise VideoError(f"There are no frames to write to {Path(path).name}.")
    height, width = first.shape[:2]
    with VideoWriter(path, width, height, fps, source=audio_from) as writer:
        writer.write(first)
        for frame in iterator:
            writer.write(frame)
