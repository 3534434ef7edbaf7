"""Reads video as a stream of displayed frames: rotation and pixel shape applied, exact times and counts."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sama.errors import VideoError
from sama.video.container import av_errors, codec_name, open_input, video_stream
from sama.video.limits import VideoLimits
from sama.video.picture.color import coding_of
from sama.video.picture.converting import FrameConverter
from sama.video.picture.decoding import alpha_format, decode_frames, has_alpha, lacks_display_times
from sama.video.picture.deinterlace import NOTICE as DEINTERLACED
from sama.video.picture.deinterlace import Deinterlacer
from sama.video.picture.geometry import displayed_size, orientation_of
from sama.video.timeline import Timeline, read_timeline

_SEEK_FROM = 300  # below this many frames, decoding from the beginning is quicker than looking for a place to join
_SEEK_MARGIN = 32


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a video file. Frames and duration are counted, not taken from the header.

    ``width`` and ``height`` are as displayed (rotation and pixel shape applied); ``duration`` is in seconds, from the
    first frame's start to the last one's end; ``rotation`` is in degrees counter-clockwise, one of 0, 90, 180, 270.
    ``alpha`` is whether the first frame is see-through anywhere. ``notices`` are sentences about what reading changes
    (HDR, interlacing), as far as the first frame shows it.
    """

    path: str
    width: int
    height: int
    frames: int
    fps: Fraction
    duration: float
    has_audio: bool
    codec: str
    rotation: int
    variable_frame_rate: bool
    bit_depth: int
    alpha: bool = False
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """``image`` is (H, W, 3) uint8 RGB; ``pts`` is in seconds after the video's first frame; ``index`` counts from 0,
    the video's first frame; ``alpha`` is (H, W) uint8, 255 where nothing shines through, where it was asked for."""

    image: np.ndarray
    pts: Fraction
    index: int
    alpha: np.ndarray | None = None


def probe(
    path: str | os.PathLike[str], limits: VideoLimits | None = None, timeline: Timeline | None = None
) -> VideoInfo:
    """Facts about a file. Only its first frame is decoded, except for codecs whose packets are not frames.

    ``timeline`` is the file's, where the caller has read it: the packets are then not walked again.
    Raises :class:`VideoError` when the file is not a readable video or passes one of ``limits``.
    """
    limits = limits or VideoLimits()
    name = Path(path).name
    timeline = timeline or read_timeline(path, limits)
    with open_input(path, limits) as container:
        stream = video_stream(container, path, limits)
        first = next(decode_frames(container, stream, alpha=has_alpha(stream)), None)
        if first is None:
            raise VideoError(f"{name} has no frame that can be decoded; check that it plays, or export it again.")
        limits.check_size(first.width, first.height)
        orientation = orientation_of(first)
        width, height = displayed_size(first, stream.sample_aspect_ratio, orientation)
        limits.check_size(width, height)
        limits.check_length(timeline.frames, float(timeline.duration), timeline.frames * width * height)
        limits.check_fps(float(timeline.fps))
        return VideoInfo(
            path=os.fspath(path),
            width=width,
            height=height,
            frames=timeline.frames,
            fps=timeline.fps,
            duration=float(timeline.duration),
            has_audio=any(s.codec_context is not None for s in container.streams.audio),
            codec=codec_name(stream),
            rotation=orientation.rotation,
            variable_frame_rate=timeline.variable,
            bit_depth=max(component.bits for component in first.format.components),
            alpha=_see_through(first),
            notices=_notices_of(first),
        )


def _see_through(frame: VideoFrame) -> bool:
    return alpha_format(frame.format.name) and int(frame.to_ndarray(format="rgba")[..., 3].min()) < 255


def _notices_of(frame: VideoFrame) -> tuple[str, ...]:
    coding = coding_of(frame)
    hdr = () if coding is None else (coding.notice,)
    return hdr + ((DEINTERLACED,) if frame.interlaced_frame else ())


class FrameReader:
    """Iterate over a video's frames, one in memory at a time.

    ``start`` and ``count`` cut by frame index; ``size`` = (width, height) scales the displayed frames; ``alpha`` asks
    for their transparency, without which they are shown on black. ``timeline`` is the file's, where the caller has read
    it; a late ``start`` is found by it. ``notices`` grows with what is changed on the way. Use it as a context manager.
    A :class:`VideoError` is raised when the file is damaged, or when a limit is passed on the way.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        start: int = 0,
        count: int | None = None,
        limits: VideoLimits | None = None,
        size: tuple[int, int] | None = None,
        timeline: Timeline | None = None,
        alpha: bool = False,
    ) -> None:
        if start < 0 or (count is not None and count < 0):
            raise ValueError(f"start and count are frame numbers from 0, got {start} and {count}")
        self._path = path
        self._name = Path(path).name
        self._start = start
        self._count = count
        self._limits = limits or VideoLimits()
        self._size = size
        self._timeline = timeline
        self._alpha = alpha
        self._converter: FrameConverter | None = None
        self._deinterlacer = Deinterlacer()
        self._stack = ExitStack()
        self._frames: Generator[Frame, None, None] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            container = stack.enter_context(open_input(self._path, self._limits))
            stream = video_stream(container, self._path, self._limits)
            self._frames = self._decode(container, stream)
            stack.callback(self._frames.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The file closes, but errors of the caller's own block are not the file's: they pass unchanged.
        self._stack.close()

    def __iter__(self) -> Iterator[Frame]:
        if self._frames is None:
            raise RuntimeError("open the reader with a with statement first")
        return self._frames

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences about what was changed in the frames so far."""
        notices = () if self._converter is None else tuple(self._converter.notices)
        return notices + ((DEINTERLACED,) if self._deinterlacer.used else ())

    def _decode(self, container: InputContainer, stream: VideoStream) -> Generator[Frame, None, None]:
        converter = self._converter = FrameConverter(stream.sample_aspect_ratio, self._limits, self._size, self._alpha)
        stop = None if self._count is None else self._start + self._count
        if stop == self._start:
            return
        clock = _Clock(stream)
        total_pixels = 0
        with av_errors(self._name):
            first, frames = self._frames_near_start(container, stream, clock)
            for index, frame in enumerate(self._deinterlacer.frames(frames), first):
                pts = clock.seconds(frame.pts)
                total_pixels += frame.width * frame.height
                self._limits.check_size(frame.width, frame.height)
                self._limits.check_length(index + 1, float(pts), total_pixels)
                if index >= self._start:
                    picture = converter.displayed(frame)
                    alpha = np.ascontiguousarray(picture[..., 3]) if self._alpha else None
                    yield Frame(np.ascontiguousarray(picture[..., :3]), pts, index, alpha)
                if stop is not None and index + 1 >= stop:
                    return
            if clock.last is None:
                raise VideoError(f"{self._name} has no frame that can be decoded; check that it plays.")

    def _frames_near_start(
        self, container: InputContainer, stream: VideoStream, clock: _Clock
    ) -> tuple[int, Iterator[VideoFrame]]:
        """The index of the first decoded frame and the frames from there: from a key frame before ``start`` where one
        is certain, else from the beginning."""
        alpha = has_alpha(stream)
        # A decoder of its own cannot be joined to, nor can times that are counted from the beginning.
        if self._start < _SEEK_FROM or alpha or lacks_display_times(container):
            return 0, decode_frames(container, stream, alpha)
        ticks = (self._timeline or read_timeline(self._path, self._limits)).ticks
        if self._start >= len(ticks):
            return 0, decode_frames(container, stream)
        # Well ahead of the goal: pictures right behind a key frame may need pictures from before it.
        container.seek(int(ticks[self._start - _SEEK_MARGIN]), stream=stream)
        frames = decode_frames(container, stream)
        landed = next(frames, None)
        if landed is not None and landed.pts is not None and landed.key_frame:
            index = int(np.searchsorted(ticks, landed.pts))
            if index <= self._start and ticks[index] == landed.pts:
                clock.begin(int(ticks[0]))
                return index, chain([landed], frames)
        container.seek(int(ticks[0]), stream=stream)
        return 0, decode_frames(container, stream)


class _Clock:
    """Converts frame times to seconds after the first frame. A missing or repeated time is replaced by one after the
    frame before."""

    def __init__(self, stream: VideoStream) -> None:
        self._tick = stream.time_base or Fraction(1, 90_000)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self._gap = Fraction(1) / rate
        self._first: int | None = None
        self.last: Fraction | None = None

    def begin(self, first: int) -> None:
        """Set the first frame's time in ticks, for a reader that joins later."""
        self._first = first

    def seconds(self, pts: int | None) -> Fraction:
        if self._first is None and pts is not None:
            self._first = pts if self.last is None else pts - round((self.last + self._gap) / self._tick)
        if pts is None or self._first is None:
            now = Fraction(0) if self.last is None else self.last + self._gap
        else:
            now = (pts - self._first) * self._tick
            if self.last is not None and now <= self.last:
                now = self.last + self._tick
        self.last = now
        return now
