"""Upper limits of input files. A file beyond them is refused with a VideoError that says why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sama.errors import VideoError


@dataclass(frozen=True)
class VideoLimits:
    """Upper bounds of an input file; ``None`` means no limit.

    Headers are checked first because that is cheap, and the same bounds are checked again while frames are decoded,
    because headers can be wrong. The defaults only keep a single frame from filling the memory (8K is the largest
    common format).
    """

    max_bytes: int | None = None
    max_side: int | None = 8192
    max_pixels: int | None = 8192 * 4320
    """Pixels of one frame, as stored and as displayed."""
    max_seconds: float | None = None
    max_frames: int | None = None
    max_fps: float | None = None
    max_total_pixels: int | None = None
    """Pixels of all decoded frames together: bounds the work that a small file can cause."""
    codecs: frozenset[str] | None = None

    def check_file(self, path: Path) -> None:
        """Raise :class:`VideoError` when the file is empty or has too many bytes."""
        size = path.stat().st_size
        if size == 0:
            raise VideoError(f"{path.name} is empty (0 bytes); choose the file again or export it once more.")
        if self.max_bytes is not None and size > self.max_bytes:
            raise VideoError(
                f"{path.name} has {size / 1e6:.1f} MB, more than the limit of {self.max_bytes / 1e6:.0f} MB; "
                "cut or compress it first."
            )

    def check_codec(self, codec: str) -> None:
        """Raise :class:`VideoError` when the video codec is not one of those allowed."""
        if self.codecs is not None and codec not in self.codecs:
            raise VideoError(f"The video codec {codec} is not accepted; convert the video to H.264 (MP4) first.")

    def check_size(self, width: int, height: int) -> None:
        """Raise :class:`VideoError` when a frame of ``width`` x ``height`` pixels is too large."""
        if self.max_side is not None and max(width, height) > self.max_side:
            raise VideoError(
                f"The frames are {width} x {height} pixels, and a side may have {self.max_side} at most; "
                "scale the video down first."
            )
        if self.max_pixels is not None and width * height > self.max_pixels:
            raise VideoError(
                f"The frames are {width} x {height} pixels, more than the limit of {self.max_pixels / 1e6:.1f} "
                "megapixels; scale the video down first."
            )

    def check_length(self, frames: int, seconds: float, total_pixels: int) -> None:
        """Raise :class:`VideoError` when ``frames``, ``seconds`` or all pixels together pass a limit."""
        if self.max_seconds is not None and seconds > self.max_seconds:
            raise VideoError(f"The video is longer than {self.max_seconds:g} seconds; cut it first.")
        if self.max_frames is not None and frames > self.max_frames:
            raise VideoError(f"The video has more than {self.max_frames} frames; cut it first.")
        if self.max_total_pixels is not None and total_pixels > self.max_total_pixels:
            raise VideoError("The video unpacks to more pixels than we accept; cut it or scale it down first.")

    def check_fps(self, fps: float) -> None:
        """Raise :class:`VideoError` when there are too many frames per second."""
        if self.max_fps is not None and fps > self.max_fps:
            raise VideoError(
                f"The video has {fps:.4g} frames per second, more than the limit of {self.max_fps:g}; "
                "lower its frame rate first."
            )


UPLOAD_LIMITS = VideoLimits(
    max_bytes=50_000_000,
    max_side=4096,
    max_pixels=4096 * 2304,
    max_seconds=30.5,  # a "30 second" clip often ends a few frames later
    max_frames=240 * 30 + 60,
    max_fps=1000.5,
    max_total_pixels=1800 * 3840 * 2160,  # 30 s of 4K at 60 frames per second
    codecs=frozenset(
        {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "prores", "mjpeg", "gif", "apng", "webp"}
        | {"mpeg2video", "msmpeg4v3", "dvvideo", "dnxhd", "qtrle", "png"}
    ),
)
"""Limits of uploaded files."""
