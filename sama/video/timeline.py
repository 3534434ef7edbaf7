"""Reads when each frame is shown. Times come from the packets, because headers can be wrong."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from sama.errors import VideoError
from sama.video.container import codec_name, open_input, video_stream
from sama.video.limits import VideoLimits
from sama.video.picture.decoding import decode_frames, first_time, lacks_display_times

# Streams of these codecs hold packets that show nothing (VP8) or two pictures (packed MPEG-4): only decoding counts.
_PACKETS_ARE_NOT_FRAMES = {"vp8", "mpeg4", "msmpeg4v3", "mpeg2video", "mpeg1video", "vc1", "wmv3"}
_FALLBACK_FPS = Fraction(25)


@dataclass(frozen=True)
class Timeline:
    """Presentation times of a video stream.

    ``ticks`` is (frames,) int64, ascending, in units of ``time_base`` seconds, as stored (the first may be above 0);
    ``last_duration`` is how long the last frame stays, in seconds.
    """

    ticks: np.ndarray
    time_base: Fraction
    fps: Fraction
    last_duration: Fraction

    @property
    def frames(self) -> int:
        return len(self.ticks)

    @property
    def start(self) -> Fraction:
        """Time of the first frame on the container's own clock, in seconds."""
        return int(self.ticks[0]) * self.time_base

    @property
    def last_pts(self) -> Fraction:
        """Time of the last frame after the first one, in seconds."""
        return int(self.ticks[-1] - self.ticks[0]) * self.time_base

    @property
    def duration(self) -> Fraction:
        """From the first frame's start to the last one's end, in seconds."""
        return self.regular(self.last_pts + self.last_duration)

    def regular(self, time: Fraction) -> Fraction:
        """``time`` (seconds after the first frame) without the rounding to the container's clock, if the rate is
        constant."""
        nearest = round(time * self.fps) / self.fps
        return nearest if self._constant and abs(nearest - time) <= 2 * self.time_base else time

    @cached_property
    def variable(self) -> bool:
        """Whether the gaps between frames differ by more than rounding and slight jitter."""
        gaps = np.diff(self.ticks)
        if len(gaps) < 2 or self._constant:
            return False
        return int(gaps.max() - gaps.min()) > 0.1 * float(np.median(gaps))

    @cached_property
    def _constant(self) -> bool:
        """Whether frame i is at i / fps, up to the rounding of a clock that is much finer than a frame."""
        gap = float(1 / (self.fps * self.time_base))
        error = np.abs(self.ticks - self.ticks[0] - gap * np.arange(self.frames))
        return bool(error.max() <= (1.01 if gap > 8 else 0.01))


def read_timeline(path: str | os.PathLike[str], limits: VideoLimits) -> Timeline:
    """Read the frame times from a file's packets, or by decoding where packets and frames differ."""
    name = Path(path).name
    with open_input(path, limits) as container:
        stream = video_stream(container, path, limits)
        ticks, packet_duration = _packet_times(container, stream, limits)
        if ticks is not None and codec_name(stream) not in _PACKETS_ARE_NOT_FRAMES:
            return _timeline(ticks, stream, packet_duration, name)
    with open_input(path, limits) as container:
        stream = video_stream(container, path, limits)
        return _timeline(_frame_times(container, stream, limits), stream, packet_duration, name)


def _packet_times(container: InputContainer, stream: VideoStream, limits: VideoLimits) -> tuple[np.ndarray | None, int]:
    """Ascending times of all shown packets, or None when packets lack times; and the last one's duration (ticks)."""
    tick = stream.time_base or Fraction(1)
    times: list[int] = []
    latest: int | None = None
    last_duration = 0
    complete = True
    first_is_key: bool | None = None
    decoding_times = lacks_display_times(container)
    for packet in container.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        if first_is_key is None:
            first_is_key = packet.is_keyframe
        time = packet.dts if decoding_times else packet.pts
        if time is None:
            complete = False
            times.append(len(times))
            continue
        if latest is None or time > latest:
            latest, last_duration = time, packet.duration or 0
        times.append(time)
        seconds = float((time - times[0]) * tick) if complete else 0.0
        limits.check_length(len(times), seconds, len(times) * stream.width * stream.height)
    if not times or not complete or not first_is_key:
        return None, last_duration
    ticks = np.sort(np.array(times, dtype=np.int64))
    if decoding_times:
        ticks[0] = first_time(ticks[:3].tolist())
    # Pictures shown before the first key frame need pictures that are not in the file; decoders drop them.
    if np.any(np.diff(ticks) <= 0) or (ticks[0] < times[0] and not decoding_times):
        return None, last_duration
    return ticks, last_duration


def _frame_times(container: InputContainer, stream: VideoStream, limits: VideoLimits) -> np.ndarray:
    gap = max(1, round(1 / (_nominal_rate(stream) * (stream.time_base or Fraction(1, 90_000)))))
    ticks: list[int] = []
    for frame in decode_frames(container, stream):
        after = ticks[-1] if ticks else None
        if frame.pts is None:
            ticks.append(0 if after is None else after + gap)
        else:
            ticks.append(frame.pts if after is None else max(frame.pts, after + 1))
        limits.check_size(frame.width, frame.height)
        limits.check_length(len(ticks), 0.0, len(ticks) * frame.width * frame.height)
    return np.array(ticks, dtype=np.int64)


def _nominal_rate(stream: VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or _FALLBACK_FPS


def _timeline(ticks: np.ndarray, stream: VideoStream, packet_duration: int, name: str) -> Timeline:
    if len(ticks) == 0:
        raise VideoError(f"{name} has no frames; check that it plays, or export it again.")
    tick = stream.time_base or Fraction(1, 90_000)
    fps = _frame_rate(ticks, tick, stream)
    return Timeline(ticks, tick, fps, _last_duration(ticks, tick, fps, stream, packet_duration))


def _frame_rate(ticks: np.ndarray, tick: Fraction, stream: VideoStream) -> Fraction:
    """Frames per second: exact for a constant rate, else the header's value where it agrees with the count of
    frames."""
    gaps = np.diff(ticks)
    nominal = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    if len(gaps) == 0:
        return nominal[0] if nominal else _FALLBACK_FPS
    # A clock of milliseconds (Matroska) cannot show most rates exactly; its header can.
    if gaps.min() == gaps.max() and tick < Fraction(1, 1000):
        return 1 / (int(gaps[0]) * tick)
    span = int(ticks[-1] - ticks[0]) * tick
    for rate in nominal:
        if abs(len(gaps) / rate - span) <= max(1 / rate, 2 * tick):
            return rate
    return (len(gaps) / span).limit_denominator(100_000)


def _last_duration(
    ticks: np.ndarray, tick: Fraction, fps: Fraction, stream: VideoStream, packet_duration: int
) -> Fraction:
    """The duration of the last frame in seconds: the rest of the track's length, if that is plausible."""
    gaps = np.diff(ticks)
    typical = int(np.median(gaps)) * tick if len(gaps) else 1 / fps
    longest = int(gaps.max()) * tick if len(gaps) else typical
    if stream.duration is not None:
        start = int(ticks[0]) if stream.start_time is None else stream.start_time
        rest = (start + stream.duration - int(ticks[-1])) * tick
        if typical / 2 <= rest <= 2 * longest:
            return rest
    return packet_duration * tick if packet_duration > 0 else typical
