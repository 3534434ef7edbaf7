"""Writes video with exact rates and times and the source's sound and metadata. A file is written whole or not at
all."""

from __future__ import annotations

import math
import os
import uuid
import weakref
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from sama.errors import VideoError
from sama.video.codecs import container_of
from sama.video.container import av_errors, moving_pictures, open_input
from sama.video.limits import VideoLimits
from sama.video.timeline import Timeline, read_timeline
from sama.video.tracks.copier import TrackCopier, clock_origin, sample_rates
from sama.video.tracks.labels import Labels, lost_labels, read_labels, write_labels

_LARGEST_CLOCK = 2**31 - 1
_LARGE_FRAME = 2560 * 1440
_SCALER_THREADS = 4
_AVX_512F = 13  # OpenCV's number of this feature, which its Python module does not name
_MATRIX_RGB = 0
_MATRIX_BT709 = 1
_MATRIX_SMPTE170M = 6


class VideoWriter:
    """Encode frames to ``path``; the suffix chooses the container (.mp4, .mov, .mkv: H.264; .webm: VP9), and ``codec``
    another codec in it: "prores" (10 bits; .mov, .mkv) or "ffv1" (lossless; .mkv).

    Use it as a context manager: the file appears, complete, when the block ends without an exception, and otherwise
    nothing is left behind.

    ``source`` is a file whose sound (without re-encoding where players can read it), subtitles, chapters, title, date
    and place are carried over. When the frames are a range of that file, ``start`` and ``end`` say which one, in
    seconds after the source's first frame; ``end=None`` is the end of the file. ``crf`` is the quality (lower is
    better); the default is visually clean. ``preset`` is x264's, of speed against file size. ``gop_size`` is the
    largest distance of key frames. ``audio_codec`` re-encodes sound of any other codec to that one. ``timeline`` is the
    source's, where the caller has read it. ``alpha`` writes transparency, in ProRes 4444 (.mov), VP9 (.webm, .mkv) or
    ``codec``; see :func:`sama.video.codecs.holds_alpha`. ``name`` stands in error messages in place of the path's.
    ``notices``, once the file is there, are sentences about what of the source was changed or not kept.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        fps: Fraction | int | float,
        source: str | os.PathLike[str] | None = None,
        start: Fraction | float = 0,
        end: Fraction | float | None = None,
        *,
        crf: int | None = None,
        preset: str | None = None,
        gop_size: int | None = None,
        audio_codec: str | None = None,
        timeline: Timeline | None = None,
        alpha: bool = False,
        codec: str | None = None,
        name: str | None = None,
    ) -> None:
        self._path = Path(path)
        self._size = (width, height)
        self._fps = as_rate(fps)
        self._source = source
        self._start = Fraction(start)
        self._end = None if end is None else Fraction(end)
        # Programs that ignore colour tags take the BT.601 matrix for small pictures, BT.709 for HD; agree with them.
        self._is_hd = width >= 1280 or height > 576
        self._crf = crf
        self._preset = preset
        self._gop_size = gop_size
        self._force_audio = audio_codec
        self._kind, self._pix_fmt = container_of(self._path, codec, alpha)
        if self._pix_fmt == "yuv422p10le" and width % 2:  # one colour for two columns: the last one would have none
            self._pix_fmt = "yuv444p10le"
        self._is_rgb = self._pix_fmt.startswith("bgr")
        self.alpha = alpha
        self._name = name or self._path.name
        self._action = "write" if name is None else "convert"
        self.notices: list[str] = []
        if width < 1 or height < 1:
            raise ValueError(f"a video needs a size of at least 1 x 1, got {width} x {height}")
        self._timeline = timeline
        self._labels = Labels({}, (), ())
        self._origin: Fraction | None = None
        self._label_origin = Fraction(0)
        self._offset = Fraction(0)
        self._sample_rates: list[int] = []
        self._read_source()
        self._clock = self._choose_clock()
        self._reformatter = VideoReformatter()
        # Without the file's own name, which may be as long as names get.
        self._part = self._path.parent / f".{uuid.uuid4().hex}.part"
        self._output: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._tracks: TrackCopier | None = None
        self._held: tuple[VideoFrame, int] | None = None
        self._first_pts: Fraction | None = None
        self._previous_gap: int | None = None
        self._finalizer: weakref.finalize | None = None
        self.frames_written = 0

    def __enter__(self) -> Self:
        with av_errors(self._name, self._action):
            # Opening the file here, and not at the first frame, tells of a full or forbidden folder before the work.
            self._part.touch(exist_ok=False)
            self._finalizer = weakref.finalize(self, _remove, self._part)
            try:
                self._open()
            except BaseException:
                self._discard()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def write(self, image: np.ndarray, pts: Fraction | None = None, alpha: np.ndarray | None = None) -> None:
        """Append ``image`` (H, W, 3) uint8 RGB, with its transparency ``alpha`` (H, W) uint8 where the file holds it.

        ``pts`` (seconds, ascending; only differences to the first one count) keeps the times of a source with a
        variable frame rate; without it frames follow each other at ``fps``. Raises ``ValueError`` for another shape
        or a time that does not ascend.
        """
        if self._output is None:
            raise RuntimeError("open the writer with a with statement first")
        width, height = self._size
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise ValueError(f"expected a uint8 image of shape {(height, width, 3)}, got {image.dtype} {image.shape}")
        if pts is None:
            time = self.frames_written / self._fps
        else:
            self._first_pts = pts if self._first_pts is None else self._first_pts
            time = Fraction(pts) - self._first_pts
            if self._timeline is not None:
                time = self._timeline.regular(time)
        tick = round(time / self._clock)
        with av_errors(self._name, self._action):
            if self._held is not None:
                self._previous_gap = tick - self._held[1]
                if self._previous_gap <= 0:
                    raise ValueError(f"frame times must ascend, got {pts} after an equal or later one")
                self._encode(self._previous_gap)
            self._held = (self._converted(image, alpha), tick)
        self.frames_written += 1

    def _read_source(self) -> None:
        """Read the source's metadata and clock; leaves ``_origin`` None when it has neither sound nor subtitles."""
        if self._source is None:
            return
        self._labels = read_labels(self._source)
        with open_input(self._source, VideoLimits()) as container:
            has_video = bool(moving_pictures(container))
            self._sample_rates = sample_rates(container)
            has_tracks = bool(container.streams.audio or container.streams.subtitles)
        if has_video and self._timeline is None:
            self._timeline = read_timeline(self._source, VideoLimits())
        video_start = self._timeline.start if self._timeline else None
        with open_input(self._source, VideoLimits()) as container:
            origin = clock_origin(container, video_start)
        if self._start > 0:
            origin = (video_start or Fraction(0)) + self._start
        elif video_start is not None and self._sample_rates:
            self._offset = video_start - origin
        self._label_origin = origin
        if has_tracks:
            self._origin = origin

    def _choose_clock(self) -> Fraction:
        """A time base in which both the frame rate and the source's times are whole numbers, where one exists."""
        candidates = [self._fps.numerator]
        candidates.append(self._timeline.time_base.denominator if self._timeline else 90_000)
        exact = math.lcm(*candidates)
        return Fraction(1, exact if exact <= _LARGEST_CLOCK else candidates[-1])

    def _open(self) -> None:
        # Bit-exact: no random identifiers and no dates, so that the same frames give the same file.
        options = {"fflags": "+bitexact"}
        if self._kind.format in ("mp4", "mov"):
            options["movflags"] = "+faststart"
            # The file's own clock counts the delays of picture and sound; milliseconds would round them.
            exact = math.lcm(self._clock.denominator, *self._sample_rates)
            options["movie_timescale"] = str(exact if exact <= _LARGEST_CLOCK else self._clock.denominator)
        self._output = av.open(f"file:{self._part}", "w", format=self._kind.format, container_options=options)
        length = None if self._end is None else self._end - self._start + self._offset
        write_labels(self._output, self._labels, self._label_origin, length)
        stream = self._output.add_stream(self._kind.video_codec, rate=self._fps, options=self._encoder_options())
        assert isinstance(stream, VideoStream)
        self._stream = stream
        context = stream.codec_context
        context.width, context.height = self._size
        odd = any(side % 2 for side in self._size)
        # H.264 in 4:2:0 stores one colour sample for 2 x 2 pixels and cannot have odd sides; keeping the exact size is
        # worth a format (4:4:4) that fewer players know. VP9 has no such rule.
        context.pix_fmt = self._pix_fmt or ("yuv444p" if odd and self._kind.video_codec == "libx264" else "yuv420p")
        context.time_base = self._clock
        stream.time_base = self._clock
        # B-frames are stored out of order, which needs an edit list to start at 0 and blurs the last frame's length;
        # exact times are worth a few per cent of size.
        context.max_b_frames = 0
        context.flags |= Flags.frame_duration  # else the last frame of a variable rate lasts 1 / fps
        if self._gop_size is not None:
            context.gop_size = self._gop_size
        self._tag_colours()
        if self._source is not None and self._origin is not None:
            self._tracks = TrackCopier(
                self._source,
                self._output,
                self._origin,
                Fraction(0) if self._start > 0 else None,
                length,
                self._force_audio or self._kind.audio_codec,
                force_codec=self._force_audio is not None,
            )

    def _encoder_options(self) -> dict[str, str]:
        width, height = self._size
        large = width * height > _LARGE_FRAME
        # Look-ahead and threads each hold frames; at 4K and above that must stay within a small memory.
        threads = str(min(os.cpu_count() or 1, 4 if large else 16))
        if self._kind.video_codec == "prores_ks":
            return {"profile": "4444" if "444" in self._pix_fmt else "hq", "threads": threads}
        if self._kind.video_codec == "ffv1":
            # Version 3 with checksums, every frame for itself: what archives ask for.
            return {"level": "3", "slicecrc": "1", "slices": "4", "g": "1", "threads": threads}
        if self._kind.video_codec == "libvpx-vp9":
            crf = 24 if self._crf is None else self._crf
            options = {"crf": str(crf), "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"}
            # Transparency is a second stream, which must have a packet for each of the first one's.
            in_step = {"auto-alt-ref": "0", "lag-in-frames": "0"} if self.alpha else {}
            return options | in_step | {"threads": threads}
        crf = 17 if self._crf is None else self._crf
        preset = self._preset or ("veryfast" if large else "fast")
        # x264's AVX-512 code reads what nobody wrote where rows of macroblocks are odd (at 112 x 112, 15 of 100 files
        # differ; none with AVX2), and one seed must give one file.
        code = {"x264-params": "asm=AVX2"} if _has_avx512() else {}
        return {"crf": str(crf), "preset": preset, "threads": threads, **code}

    def _tag_colours(self) -> None:
        assert self._stream is not None
        context = self._stream.codec_context
        context.color_range = ColorRange.JPEG if self._is_rgb else ColorRange.MPEG
        context.colorspace = _MATRIX_RGB if self._is_rgb else _MATRIX_BT709 if self._is_hd else _MATRIX_SMPTE170M
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709

    def _converted(self, image: np.ndarray, alpha: np.ndarray | None) -> VideoFrame:
        assert self._stream is not None
        if self.alpha:
            opaque = np.full(image.shape[:2], 255, np.uint8)
            image = np.dstack([image, opaque if alpha is None else alpha])
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgba" if self.alpha else "rgb24")
        if self._is_rgb:
            return self._reformatter.reformat(frame, format=self._stream.codec_context.pix_fmt)
        return self._reformatter.reformat(
            frame,
            format=self._stream.codec_context.pix_fmt,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            dst_colorspace=Colorspace.ITU709 if self._is_hd else Colorspace.ITU601,
            threads=_SCALER_THREADS,
        )

    def _encode(self, duration: int) -> None:
        """Encode the held frame, which is shown for ``duration`` ticks."""
        assert self._held is not None and self._stream is not None
        frame, tick = self._held
        frame.pts = tick + round(self._offset / self._clock)
        frame.time_base = self._clock
        frame.duration = duration
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: list[av.Packet]) -> None:
        assert self._output is not None
        for packet in packets:
            if self._tracks is not None and packet.pts is not None and packet.time_base is not None:
                self._tracks.mux_until(packet.pts * packet.time_base)
            self._output.mux(packet)

    def _last_duration(self) -> int:
        """The last frame's duration in ticks: as in the source when it is the source's last frame or ends the range."""
        assert self._held is not None
        nominal = self._previous_gap or round(1 / self._fps / self._clock)
        if self._timeline is None:
            return nominal
        time = self._start + self._held[1] * self._clock
        half_frame = 1 / self._fps / 2
        if abs(time - self._timeline.last_pts) < half_frame:
            return max(1, round((self._timeline.duration - time) / self._clock))
        if self._end is not None and 0 < self._end - time <= 2:
            return max(1, round((self._end - time) / self._clock))
        return nominal

    def _finish(self) -> None:
        with av_errors(self._name, self._action):
            if self._held is None:
                raise VideoError(f"There are no frames to write to {self._path.name}.")
            assert self._stream is not None and self._output is not None
            self._encode(self._last_duration())
            self._mux(self._stream.encode(None))
            if self._tracks is not None:
                self._tracks.finish()
            self._output.close()
            self._output = None
            self._take_notice()
            self._part.replace(self._path)

    def _take_notice(self) -> None:
        """Add notices about what of the source the finished file lacks."""
        lost = lost_labels(self._labels, self._part) if self._source is not None else []
        if self._tracks is not None:
            self.notices += self._tracks.notices
            lost = [*self._tracks.lost, *lost]
        if lost:
            self.notices.append(f"Not kept: {', '.join(dict.fromkeys(lost))}.")

    def _discard(self) -> None:
        """Close everything; remove the unfinished file when it is still there."""
        self._held = None
        if self._tracks is not None:
            self._tracks.close()
            self._tracks = None
        try:
            if self._output is not None:
                self._output.close()
        except (av.error.FFmpegError, OSError):
            pass  # the file is thrown away in any case
        finally:
            self._output = None
            if self._finalizer is not None:
                self._finalizer()


def as_rate(fps: Fraction | int | float) -> Fraction:
    """Frames per second as an exact ratio; 29.97 becomes 30000/1001, and 23.976 and 59.94 likewise."""
    if isinstance(fps, float):
        ntsc = Fraction(round(fps) * 1000, 1001)
        rate = ntsc if abs(ntsc - fps) < 0.006 and not fps.is_integer() else Fraction(fps).limit_denominator(1001)
    else:
        rate = Fraction(fps)
    if rate <= 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    return rate


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _has_avx512() -> bool:
    import cv2

    return bool(cv2.checkHardwareSupport(_AVX_512F))
