"""Converts decoded frames to RGB pictures of one size: upright, square pixels, BT.709, black behind transparency."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from sama.video.limits import VideoLimits
from sama.video.picture.color import DEEP_RGB, Coding, ColorTable, coding_of
from sama.video.picture.decoding import alpha_format
from sama.video.picture.geometry import Orientation, displayed_size, orientation_of, scaled_coded_size

FLATTENED_NOTICE = "Transparency: not kept, shown on black."

_UNSPECIFIED_MATRIX = 2
_CONSTANT_LUMINANCE = 10
_HD_HEIGHT = 576
_HD_WIDTH = 1280
_SCALER_THREADS = 4  # "as many as cores" would take a big machine's address space for nothing


class FrameConverter:
    """Converts decoded frames to RGB arrays as displayed. All frames get the first one's size, or ``size`` = (width,
    height).

    ``alpha``: whether pictures keep their transparency as a fourth channel; without, they are shown on black.
    ``notices``: one sentence for each thing that was changed on the way, in the order in which it happened.
    """

    def __init__(
        self,
        aspect: Fraction | None,
        limits: VideoLimits,
        size: tuple[int, int] | None = None,
        alpha: bool = False,
    ) -> None:
        self._aspect = aspect
        self._limits = limits
        self._size = size
        self._alpha = alpha
        self._shape: tuple[int, int] | None = None  # of the coded frames for which the rest holds
        self._shown = (0, 0)  # of the first frame, in square pixels
        self._orientation = Orientation()
        self._fitted = (0, 0)
        self._coding: Coding | None = None
        self._tags: tuple[int, int] | None = None
        self._table: ColorTable | None = None
        self._reformatter = VideoReformatter()
        self.notices: list[str] = []

    def displayed(self, frame: VideoFrame) -> np.ndarray:
        """``frame`` as (H, W, 3) uint8 RGB, turned and stretched as a player shows it; (H, W, 4) with ``alpha``."""
        if (frame.width, frame.height) != self._shape:
            self._begin(frame)
        size = scaled_coded_size(self._fitted, self._orientation)
        picture = self._orientation.apply(self._with_alpha(frame, size, self._rgb(frame, size)))
        assert self._size is not None
        return picture if self._fitted == self._size else _on_black_bars(picture, self._size)

    def _begin(self, frame: VideoFrame) -> None:
        """Take the size from a frame of a new size; the size may change within a file."""
        first = self._shape is None
        self._shape, self._table = (frame.width, frame.height), None
        if first:
            self._orientation = orientation_of(frame)
        shown = displayed_size(frame, self._aspect, self._orientation)
        self._limits.check_size(*shown)
        if first:
            self._shown, self._size = shown, self._size or shown
            self._limits.check_size(*self._size)
        assert self._size is not None
        fitted = _fit(shown, self._shown)
        # Stretched as the first frame is, so that each place is at the same share of every size.
        across, down = (whole / one for whole, one in zip(self._size, self._shown, strict=True))
        self._fitted = max(1, round(fitted[0] * across)), max(1, round(fitted[1] * down))
        if not first:
            self._note(f"The size changes on the way: fitted into {self._shown[0]} x {self._shown[1]}.")

    def _rgb(self, frame: VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """``frame`` scaled to ``size`` as BT.709 (H, W, 3)."""
        coding = self._coding_of(frame)
        if coding is None:
            return self._scaled(frame, size, "rgb24").to_ndarray()
        if self._table is None:
            self._table = ColorTable(coding, size)
            self._note(coding.notice)
        converted = self._table.apply(self._scaled(frame, size, DEEP_RGB))
        return self._reformatter.reformat(
            converted,
            format="rgb24",
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG,
            threads=_SCALER_THREADS,
        ).to_ndarray()

    def _coding_of(self, frame: VideoFrame) -> Coding | None:
        tags = (int(frame.color_trc), int(frame.color_primaries))
        if tags != self._tags:  # not at each frame: its metadata may flicker
            self._tags, self._coding, self._table = tags, coding_of(frame), None
        return self._coding

    def _with_alpha(self, frame: VideoFrame, size: tuple[int, int], rgb: np.ndarray) -> np.ndarray:
        """``rgb`` with its transparency as a fourth channel, or on black."""
        if not alpha_format(frame.format.name):
            opaque = np.full((*rgb.shape[:2], 1), 255, np.uint8)
            return np.concatenate([rgb, opaque], axis=2) if self._alpha else rgb
        alpha = self._scaled(frame, size, "rgba").to_ndarray()[..., 3:]
        if self._alpha:
            return np.concatenate([rgb, alpha], axis=2)
        if alpha.min() == 255:
            return rgb
        self._note(FLATTENED_NOTICE)
        return (rgb.astype(np.uint16) * alpha // 255).astype(np.uint8)

    def _scaled(self, frame: VideoFrame, size: tuple[int, int], pixels: str) -> VideoFrame:
        same = size == (frame.width, frame.height)
        return self._reformatter.reformat(
            frame,
            width=size[0],
            height=size[1],
            format=pixels,
            src_colorspace=_matrix_of(frame),
            src_color_range=ColorRange.JPEG if _full_range(frame) else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.BILINEAR if same else Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
            threads=_SCALER_THREADS,
        )

    def _note(self, sentence: str) -> None:
        if sentence not in self.notices:
            self.notices.append(sentence)


def _fit(size: tuple[int, int], into: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same aspect ratio within ``into``; ``into`` itself where they differ by rounding only."""
    scale = min(into[0] / size[0], into[1] / size[1])
    fitted = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return into if all(whole - part <= 2 for part, whole in zip(fitted, into, strict=True)) else fitted


def _on_black_bars(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width, channels = picture.shape
    whole = np.zeros((size[1], size[0], channels), np.uint8)
    whole[..., 3:] = 255
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    whole[top : top + height, left : left + width] = picture
    return whole


def _matrix_of(frame: VideoFrame) -> int:
    """The YUV matrix of a frame; an untagged one is guessed from its size, as players do."""
    if frame.colorspace == _CONSTANT_LUMINANCE:
        return int(Colorspace.BT2020)  # the scaler knows no nearer one
    if frame.colorspace != _UNSPECIFIED_MATRIX:
        return int(frame.colorspace)
    high_definition = frame.width >= _HD_WIDTH or frame.height > _HD_HEIGHT
    return int(Colorspace.ITU709 if high_definition else Colorspace.ITU601)


def _full_range(frame: VideoFrame) -> bool:
    return frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj") or frame.format.is_rgb
