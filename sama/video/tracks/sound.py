"""A sound track of a result: the source's packets copied, or re-encoded where players could not read them."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.codec import Codec
from av.container import OutputContainer
from av.packet import Packet

from sama.video.tracks.copying import CopiedTrack, can_hold

# What players read in a container. The muxer takes more: PCM in MP4, for one, which many play as noise.
_PLAYABLE = {
    "mp4": {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"},
    "mov": {"aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le"},
}
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_OPUS_LAYOUTS = _LAYOUTS | {4: "quad"}
_GAP = Fraction(1, 10)  # seconds: a longer hole in the sound is silence, a shorter one the rounding of its clock
_MAX_SILENCE = 600  # seconds


class SoundTrack(NamedTuple):
    """A track and what was changed about it, as a sentence ("" for nothing)."""

    track: CopiedTrack | EncodedTrack
    notice: str


def open_sound_track(
    stream: AudioStream, output: OutputContainer, fallback_codec: str, force_codec: bool
) -> SoundTrack:
    """Open a track in ``output`` for the source's ``stream``: a copy if the container and its players can read it.

    ``force_codec``: copied only when it is of ``fallback_codec`` already.
    """
    codec = str(stream.codec_context.codec.canonical_name)
    playable = _PLAYABLE.get(output.format.name)
    copied = codec == fallback_codec if force_codec else playable is None or codec in playable
    if copied and can_hold(output.format.name, stream):
        return SoundTrack(CopiedTrack(stream, output.add_stream_from_template(stream)), "")
    channels = stream.codec_context.channels
    encoded = EncodedTrack(stream, output, fallback_codec)
    became = encoded.codec.removeprefix("lib")
    notes = [] if force_codec else [f"{codec} became {became}, which players of such a file can read"]
    if channels != encoded.channels:
        notes.append(f"{channels} channels mixed down to {encoded.channels}")
    return SoundTrack(encoded, f"Sound: {', '.join(notes)}." if notes else "")


class EncodedTrack:
    """Re-encodes the source's packets, with times that follow from the number of samples.

    The times of packets only say where the sound begins and where it pauses: some containers round them so coarsely
    that two packets begin at once.
    """

    def __init__(self, source: AudioStream, output: OutputContainer, codec: str) -> None:
        opus = codec == "libopus"
        self._rate = _rate_for(codec, source.codec_context.sample_rate)
        layouts = _OPUS_LAYOUTS if opus else _LAYOUTS
        stream = output.add_stream(codec, rate=self._rate)
        assert isinstance(stream, AudioStream)
        self._stream = stream
        context = stream.codec_context
        context.layout = layouts.get(source.codec_context.channels, "stereo")
        self.codec = codec
        self.channels = context.channels
        context.bit_rate = 192_000 if self.channels <= 2 else 80_000 * self.channels
        self._resampler: AudioResampler | None = None
        self._given: tuple[int, str, str] | None = None  # rate, layout and format of what is decoded
        self._next: int | None = None  # where the next sample belongs, in samples of the output

    def take(self, packet: Packet, time: Fraction) -> list[Packet]:
        """Encoded packets, none or several, after a source packet that begins at ``time`` (output seconds)."""
        assert packet.pts is not None and packet.time_base is not None
        shift = time - packet.pts * packet.time_base
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:  # a damaged piece is a pause, as in players
            return []
        packets: list[Packet] = []
        for frame in frames:
            assert isinstance(frame, AudioFrame)
            begin = time if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base + shift
            packets += self._encode(frame, begin)
        return packets

    def flush(self) -> list[Packet]:
        """The packets that are left at the end."""
        return [*self._drain(), *self._stream.encode(None)]

    def _encode(self, frame: AudioFrame, begin: Fraction) -> list[Packet]:
        packets: list[Packet] = []
        given = (frame.sample_rate, frame.layout.name, frame.format.name)
        if self._resampler is None or given != self._given:
            packets += self._drain()
            context = self._stream.codec_context
            self._resampler = AudioResampler(format=context.format, layout=context.layout, rate=self._rate)
            self._given = given
        if self._next is None:
            self._next = round(begin * self._rate)
        hole = begin - Fraction(self._next, self._rate)
        if _GAP < hole < _MAX_SILENCE:
            packets += self._drain()
            self._resampler = AudioResampler(
                format=self._stream.codec_context.format, layout=self._stream.codec_context.layout, rate=self._rate
            )
            packets += self._silence(round(hole * self._rate))
        frame.pts = None
        for resampled in self._resampler.resample(frame):
            packets += self._place(resampled)
        return packets

    def _drain(self) -> list[Packet]:
        """Encode what the resampler still holds."""
        resampler, self._resampler = self._resampler, None
        rest = [] if resampler is None else resampler.resample(None)
        return [packet for frame in rest for packet in self._place(frame)]

    def _silence(self, samples: int) -> list[Packet]:
        packets: list[Packet] = []
        context = self._stream.codec_context
        while samples > 0:
            quiet = AudioFrame(format=context.format.name, layout=context.layout.name, samples=min(samples, self._rate))
            for plane in quiet.planes:
                plane.update(bytes(plane.buffer_size))
            quiet.sample_rate = self._rate
            samples -= quiet.samples
            packets += self._place(quiet)
        return packets

    def _place(self, frame: AudioFrame) -> list[Packet]:
        assert self._next is not None
        frame.pts, frame.time_base = self._next, Fraction(1, self._rate)
        self._next += frame.samples
        return list(self._stream.encode(frame))


def _rate_for(codec: str, rate: int) -> int:
    """The sample rate for an encoder: the source's where the encoder supports it, else 48 kHz."""
    rates = Codec(codec, "w").audio_rates
    return rate if not rates or rate in rates else 48_000
