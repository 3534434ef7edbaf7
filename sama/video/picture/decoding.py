"""Decodes frames in display order, with display times also where the container has none."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from av.codec.context import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# These say when a frame is decoded and not when it is shown, which differs where there are B-frames.
_DECODING_TIMES_ONLY = {"avi"}
_TIMES_TO_BEGIN = 3
# The library's own decoders of these leave the transparency out.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def lacks_display_times(container: InputContainer) -> bool:
    """Whether the container stores only decoding times: frame i is then shown at the i-th of them."""
    return container.format.name in _DECODING_TIMES_ONLY


def has_alpha(stream: VideoStream) -> bool:
    """Whether the stream says that it has transparency, in its header or by its pixel format."""
    if stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in _ALPHA_DECODERS:
        return True
    pixels = stream.codec_context.format
    return pixels is not None and alpha_format(pixels.name)


def alpha_format(pix_fmt: str) -> bool:
    """Whether a pixel format has a transparency channel."""
    return pix_fmt.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16", "ayuv", "pal8"))


def decode_frames(container: InputContainer, stream: VideoStream, alpha: bool = False) -> Iterator[VideoFrame]:
    """Decoded frames from where the container stands, with their display times as ``pts`` (ticks of the stream).

    alpha: whether transparency is wanted, which takes another decoder for VP8 and VP9.
    """
    if alpha and stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in _ALPHA_DECODERS:
        frames = _decoded_by(_ALPHA_DECODERS[stream.codec_context.name], container.demux(stream))
    elif lacks_display_times(container):
        frames = _timed_anew(container.demux(stream))
    else:
        frames = container.decode(stream)
    return iter(frames)


def first_time(times: Sequence[int]) -> int:
    """The first of three ascending decoding times (ticks), corrected.

    In an AVI that was copied from a file with B-frames the first frame stands a few frames too early.
    """
    return 2 * times[1] - times[2] if len(times) > 2 and times[1] - times[0] > times[2] - times[1] else times[0]


def _timed_anew(packets: Iterable[Packet]) -> Iterator[VideoFrame]:
    """Decoded frames, each with the earliest decoding time that no earlier frame has."""
    times: list[int] = []
    waiting: deque[VideoFrame] = deque()
    known = 0
    for packet in packets:
        if packet.size and packet.dts is not None:
            heapq.heappush(times, packet.dts)
            known += 1
        waiting.extend(frame for frame in packet.decode() if isinstance(frame, VideoFrame))
        if known < _TIMES_TO_BEGIN and packet.size:
            continue
        if known <= _TIMES_TO_BEGIN and times:
            heapq.heapreplace(times, first_time(heapq.nsmallest(3, times)))
            known += _TIMES_TO_BEGIN  # once only
        while waiting:
            frame = waiting.popleft()
            frame.pts = heapq.heappop(times) if times else None
            yield frame


def _decoded_by(decoder: str, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
    context = CodecContext.create(decoder, "r")
    assert isinstance(context, VideoCodecContext)
    for packet in packets:
        yield from context.decode(packet if packet.size else None)
