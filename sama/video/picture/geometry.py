"""Geometry of displayed frames: rotation, mirroring and non-square pixels."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Orientation:
    """How a coded frame is turned for display: flipped left to right first, then turned counter-clockwise."""

    rotation: int = 0
    mirrored: bool = False

    @property
    def swaps_sides(self) -> bool:
        return self.rotation % 180 == 90

    def apply(self, image: np.ndarray) -> np.ndarray:
        """``image`` (H, W, 3), turned; contiguous."""
        if self.mirrored:
            image = image[:, ::-1]
        return np.ascontiguousarray(np.rot90(image, k=self.rotation // 90))


def orientation_of(frame: VideoFrame) -> Orientation:
    """Read a decoded frame's display matrix; angles between quarter turns go to the nearest one."""
    side_data: Any = frame.side_data
    if Type.DISPLAYMATRIX not in side_data:
        return Orientation()
    matrix = np.frombuffer(bytes(side_data[Type.DISPLAYMATRIX]), dtype="=i4")
    a, b, _, c, d = matrix[:5].astype(float)
    mirrored = a * d - b * c < 0
    if mirrored:  # take the flip out, so that what is left is a pure rotation
        a, b = -a, -b
    # The matrix is in 16.16 fixed point with y pointing down, so a positive angle turns clockwise.
    clockwise = np.degrees(np.arctan2(b, a))
    return Orientation(rotation=round(float(-clockwise) / 90) % 4 * 90, mirrored=bool(mirrored))


def displayed_size(frame: VideoFrame, aspect: Fraction | None, orientation: Orientation) -> tuple[int, int]:
    """Width and height that a player shows, in square pixels. The stretched side grows, so that no detail is lost."""
    width, height = frame.width, frame.height
    if aspect and aspect > 1:
        width = max(1, round(width * aspect))
    elif aspect and 0 < aspect < 1:
        height = max(1, round(height / aspect))
    return (height, width) if orientation.swaps_sides else (width, height)


def scaled_coded_size(size: tuple[int, int], orientation: Orientation) -> tuple[int, int]:
    """Size to scale a coded frame to, so that turning it gives the displayed ``size`` (width, height)."""
    return (size[1], size[0]) if orientation.swaps_sides else size
