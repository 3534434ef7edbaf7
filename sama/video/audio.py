"""Carrying the sound of one file into another: packets untouched, moved in time, cut to a range."""

from __future__ import annotations

import io
import os
from collections.abc import Generator
from contextlib import ExitStack
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from sama.video.container import open_input
from sama.video.limits import VideoLimits


class AudioCopier:
    """Copies every sound track of ``source`` whose codec the output can hold and re-encodes the others.

    Times of the output are those of the source minus ``origin`` (seconds on the source's own clock). With ``start`` and
    ``end`` (output seconds) only packets that begin in [start, end) are taken; None leaves that side open. Packets come
    out in step with the video through :meth:`mux_until`, so that nothing piles up in memory.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        output: OutputContainer,
        origin: Fraction,
        start: Fraction | None,
        end: Fraction | None,
        fallback_codec: str,
        force_codec: bool = False,
    ) -> None:
        self._output = output
        self._origin = origin
        self._start = start
        self._end = end
        self._stack = ExitStack()
        self._container: InputContainer = self._stack.enter_context(open_input(source, VideoLimits()))
        self._tracks: dict[int, _Track] = {}
        # A track of an unknown codec (for example spatial sound of a phone) has no context and is left out.
        streams = [s for s in self._container.streams.audio if s.codec_context is not None]
        for stream in streams:
            self._tracks[stream.index] = _open_track(stream, output, fallback_codec, force_codec)
        self._packets = self._read(streams)
        self._waiting: tuple[Fraction, Packet] | None = None

    def mux_until(self, time: Fraction) -> None:
        """Write all packets that begin up to ``time`` (output seconds)."""
        while True:
            if self._waiting is None:
                self._waiting = next(self._packets, None)
            if self._waiting is None or self._waiting[0] > time:
                return
            self._output.mux(self._waiting[1])
            self._waiting = None

    def finish(self) -> None:
        """Write all packets that are left."""
        if self._waiting is not None:
            self._output.mux(self._waiting[1])
            self._waiting = None
        for _, packet in self._packets:
            self._output.mux(packet)

    def close(self) -> None:
        self._packets.close()
        self._stack.close()

    def _read(self, streams: list[AudioStream]) -> Generator[tuple[Fraction, Packet], None, None]:
        if not streams:
            return
        for packet in self._container.demux(streams):
            if packet.size == 0 or packet.pts is None or packet.time_base is None:
                continue
            time = packet.pts * packet.time_base - self._origin
            if (self._start is not None and time < self._start) or (self._end is not None and time >= self._end):
                continue
            for ready in self._tracks[packet.stream_index].take(packet, time):
                yield time, ready
        for track in self._tracks.values():
            for ready in track.flush():
                yield self._end or Fraction(0), ready


class _CopiedTrack:
    def __init__(self, source: AudioStream, stream: AudioStream) -> None:
        self._stream = stream
        self._end: int | None = None
        if source.start_time is not None and source.duration:
            self._end = source.start_time + source.duration

    def take(self, packet: Packet, time: Fraction) -> list[Packet]:
        assert packet.pts is not None and packet.time_base is not None
        shift = round(time / packet.time_base) - packet.pts
        # The padding in an encoder's last packet is cut by the source's track length, not by its packet.
        if self._end is not None and packet.duration and packet.pts < self._end < packet.pts + packet.duration:
            packet.duration = self._end - packet.pts
        packet.pts += shift
        packet.dts = packet.pts if packet.dts is None else packet.dts + shift
        packet.stream = self._stream
        return [packet]

    def flush(self) -> list[Packet]:
        return []


class _EncodedTrack:
    def __init__(self, stream: AudioStream) -> None:
        self._stream = stream

    def take(self, packet: Packet, time: Fraction) -> list[Packet]:
        assert packet.pts is not None and packet.time_base is not None
        shift = time - packet.pts * packet.time_base
        packets: list[Packet] = []
        for frame in packet.decode():
            if frame.pts is not None and frame.time_base is not None:
                frame.pts += round(shift / frame.time_base)
            packets.extend(self._stream.encode(frame))  # type: ignore[arg-type]
        return packets

    def flush(self) -> list[Packet]:
        return list(self._stream.encode(None))


_Track = _CopiedTrack | _EncodedTrack


def _open_track(stream: AudioStream, output: OutputContainer, fallback_codec: str, force_codec: bool) -> _Track:
    wanted = not force_codec or stream.codec_context.name == fallback_codec
    if wanted and _can_hold(output.format.name, stream):
        return _CopiedTrack(stream, output.add_stream_from_template(stream))
    rate = 48_000 if fallback_codec == "libopus" else stream.codec_context.sample_rate
    encoded = output.add_stream(fallback_codec, rate=rate)
    assert isinstance(encoded, AudioStream)
    encoded.codec_context.layout = "mono" if stream.codec_context.channels == 1 else "stereo"
    encoded.codec_context.bit_rate = 160_000
    return _EncodedTrack(encoded)


def _can_hold(format_name: str, stream: AudioStream) -> bool:
    """Whether a container takes a track as it is: asked by writing a header into memory, as its own list is too long
    (it says yes to Opus in QuickTime, for one)."""
    try:
        with av.open(io.BytesIO(), "w", format=format_name) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (ValueError, av.error.FFmpegError):
        return False
    return True


def clock_origin(container: InputContainer, video_start: Fraction | None) -> Fraction:
    """The moment of the source's clock that becomes 0 when a whole clip is copied.

    Sound may begin before the picture: at a negative time (encoder delay, which a player drops) or as a real lead of
    the sound. Both are kept. A clock that begins late (broadcast streams) is moved to 0 as a whole.
    """
    starts = [s.start_time * s.time_base for s in container.streams.audio if s.start_time is not None and s.time_base]
    if video_start is not None:
        starts.append(video_start)
    earliest = min(starts, default=Fraction(0))
    if earliest > 0:
        return earliest
    return min(Fraction(0), video_start if video_start is not None else Fraction(0))


def sample_rates(container: InputContainer) -> list[int]:
    """Samples per second of each sound track that can be carried over."""
    return [s.codec_context.sample_rate for s in container.streams.audio if s.codec_context is not None]
