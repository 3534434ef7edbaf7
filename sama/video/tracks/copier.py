"""Copies sound and subtitles from one file into another: shifted in time, cut to a range, interleaved with the
picture."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack
from fractions import Fraction

from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.subtitles.stream import SubtitleStream

from sama.video.container import open_input
from sama.video.limits import VideoLimits
from sama.video.tracks.copying import CopiedTrack
from sama.video.tracks.sound import EncodedTrack, open_sound_track
from sama.video.tracks.subtitles import TextTrack, open_subtitle_track

_Track = CopiedTrack | EncodedTrack | TextTrack


class TrackCopier:
    """Copies every track of sound and subtitles of ``source`` that players can read in the output, and encodes others.

    Times of the output are those of the source minus ``origin`` (seconds on the source's own clock). With ``start`` and
    ``end`` (output seconds) only packets that begin in [start, end) are taken; None leaves that side open. Packets come
    out in step with the video through :meth:`mux_until`, so that nothing piles up in memory. ``audio_codec`` is for
    sound that must be encoded; ``force_codec`` says that all sound must be of it. ``notices`` are sentences about
    sound that was changed; ``lost`` are names of what could not be carried over.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        output: OutputContainer,
        origin: Fraction,
        start: Fraction | None,
        end: Fraction | None,
        audio_codec: str,
        force_codec: bool = False,
    ) -> None:
        self._output = output
        self._origin = origin
        self._start = start
        self._end = end
        self._stack = ExitStack()
        self._container: InputContainer = self._stack.enter_context(open_input(source, VideoLimits()))
        self._tracks: dict[int, _Track] = {}
        self.notices: list[str] = []
        self.lost: list[str] = []
        for sound in self._container.streams.audio:
            self._add_sound(sound, audio_codec, force_codec)
        for subtitles in self._container.streams.subtitles:
            self._add_subtitles(subtitles)
        self._packets = self._read()
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

    def _add_sound(self, stream: AudioStream, codec: str, force: bool) -> None:
        if stream.codec_context is None:  # an unknown codec, for example spatial sound of a phone
            self.lost.append("a sound track of an unknown codec")
            return
        track, notice = open_sound_track(stream, self._output, codec, force)
        self._add(stream, track)
        if notice and notice not in self.notices:
            self.notices.append(notice)

    def _add_subtitles(self, stream: SubtitleStream) -> None:
        track = None if stream.codec_context is None else open_subtitle_track(stream, self._output)
        if track is None:
            self.lost.append("subtitles")
        else:
            self._add(stream, track)

    def _add(self, stream: AudioStream | SubtitleStream, track: _Track) -> None:
        self._tracks[stream.index] = track
        copy = self._output.streams[-1]
        for name in ("language", "title"):
            if name in stream.metadata:
                copy.metadata[name] = stream.metadata[name]

    def _read(self) -> Generator[tuple[Fraction, Packet], None, None]:
        streams = [self._container.streams[index] for index in self._tracks]
        if not streams:
            return
        for packet in self._container.demux(streams):
            if packet.size == 0 or packet.pts is None or packet.time_base is None:
                continue
            time = packet.pts * packet.time_base - self._origin
            if packet.stream.type == "subtitle":
                time = self._clip(packet, time)
            if (self._start is not None and time < self._start) or (self._end is not None and time >= self._end):
                continue
            for ready in self._tracks[packet.stream_index].take(packet, time):
                yield time, ready
        for track in self._tracks.values():
            for ready in track.flush():
                yield self._end or Fraction(0), ready

    def _clip(self, packet: Packet, time: Fraction) -> Fraction:
        """Cut a subtitle's display time to the range; returns its new start in output seconds."""
        assert packet.time_base is not None
        stop = time + (packet.duration or 0) * packet.time_base
        begin = time if self._start is None or stop <= self._start else max(time, self._start)
        stop = stop if self._end is None else min(stop, self._end)
        if packet.duration and stop > begin:
            packet.duration = round((stop - begin) / packet.time_base)
        return begin


def clock_origin(container: InputContainer, video_start: Fraction | None) -> Fraction:
    """The time on the source's clock (seconds) that becomes 0 when a whole clip is copied.

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
