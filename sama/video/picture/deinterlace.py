"""Deinterlaces video."""

from __future__ import annotations

from collections.abc import Iterator

from av.error import BlockingIOError as NotYetError
from av.error import EOFError as EndError
from av.filter import Graph
from av.video.frame import VideoFrame

NOTICE = "Interlaced: deinterlaced."


class Deinterlacer:
    """Passes frames on, and deinterlaces those that are marked as interlaced: one frame out for each one in.

    ``used``: whether any frame was interlaced. Times and colour tags are kept.
    """

    def __init__(self) -> None:
        self.used = False

    def frames(self, source: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """The frames of ``source``, deinterlaced where needed. The filter looks one frame ahead, so it holds one frame
        back."""
        bwdif: _Filter | None = None
        for frame in source:
            if bwdif is not None and not bwdif.takes(frame):
                yield from bwdif.finish()
                bwdif = None
            if bwdif is None and frame.interlaced_frame:
                bwdif, self.used = _Filter(frame), True
            if bwdif is None:
                yield frame
            else:
                yield from bwdif.push(frame)
        if bwdif is not None:
            yield from bwdif.finish()


class _Filter:
    """libavfilter's bwdif for frames like the first one."""

    def __init__(self, first: VideoFrame) -> None:
        self._shape = _shape(first)
        self._tick = first.time_base
        self._colours = (first.colorspace, first.color_range, first.color_trc, first.color_primaries)
        self._graph = Graph()
        self._graph.threads = 4
        source = self._graph.add_buffer(
            width=first.width, height=first.height, format=first.format, time_base=self._tick
        )
        # Frame by frame (not field by field): the number of frames and their times are the clip's own.
        bwdif = self._graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
        sink = self._graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        self._graph.configure()

    def takes(self, frame: VideoFrame) -> bool:
        return _shape(frame) == self._shape

    def push(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        self._graph.vpush(frame)
        yield from self._ready()

    def finish(self) -> Iterator[VideoFrame]:
        self._graph.vpush(None)
        yield from self._ready()

    def _ready(self) -> Iterator[VideoFrame]:
        while True:
            try:
                frame = self._graph.vpull()
            except (NotYetError, EndError):
                return
            if frame.pts is not None and frame.time_base and self._tick:
                frame.pts = round(frame.pts * frame.time_base / self._tick)  # the filter halves its tick
            frame.time_base = self._tick
            frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries = self._colours
            yield frame


def _shape(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
