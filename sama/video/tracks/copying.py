"""Copies the packets of a track without re-encoding, shifted in time."""

from __future__ import annotations

import io
from fractions import Fraction

import av
from av.packet import Packet
from av.stream import Stream


class CopiedTrack:
    """Packets of ``source`` for ``stream``, its copy in the output."""

    def __init__(self, source: Stream, stream: Stream) -> None:
        self._stream = stream
        self._end: int | None = None
        if source.start_time is not None and source.duration:
            self._end = source.start_time + source.duration

    def take(self, packet: Packet, time: Fraction) -> list[Packet]:
        """The packet, to begin at ``time`` (output seconds)."""
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
        """An empty list: packets are never held back."""
        return []


def can_hold(format_name: str, stream: Stream) -> bool:
    """Whether a container can hold a track without re-encoding. This is tested by writing a header into memory, because
    the library's own list is wrong (it allows Opus in QuickTime, for example)."""
    try:
        with av.open(io.BytesIO(), "w", format=format_name) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (ValueError, av.error.FFmpegError):
        return False
    return True
