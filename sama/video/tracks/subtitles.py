"""A subtitle track of a result: the source's packets copied, or its text converted to the container's format."""

from __future__ import annotations

from fractions import Fraction

import av
from av.container import OutputContainer
from av.packet import Packet
from av.subtitles.stream import SubtitleStream

from sama.video.tracks.copying import CopiedTrack, can_hold

_OWN_CODEC = {"mp4": "mov_text", "mov": "mov_text", "matroska": "srt", "webm": "webvtt"}
# The style that encoders take for none at all: players then show text in their own. Without one it is invisible.
_PLAIN_STYLE = b"""[Script Info]
ScriptType: v4.00+
PlayResX: 384
PlayResY: 288

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
_TEXT_CODECS = {"mov_text", "srt", "subrip", "webvtt", "ass", "ssa", "text"}


def open_subtitle_track(stream: SubtitleStream, output: OutputContainer) -> CopiedTrack | TextTrack | None:
    """A track in ``output`` for the source's ``stream``; None for pictures that the container cannot hold."""
    codec = str(stream.codec_context.codec.canonical_name)
    own = _OWN_CODEC[output.format.name]
    # The muxer for MP4 takes others too, which players do not show.
    if (codec == own or output.format.name == "matroska") and can_hold(output.format.name, stream):
        return CopiedTrack(stream, output.add_stream_from_template(stream))
    if codec not in _TEXT_CODECS:
        return None
    text = output.add_stream(own)
    assert isinstance(text, SubtitleStream)
    return TextTrack(stream, text)


class TextTrack:
    """Decodes the source's text and writes it in the codec of ``stream``."""

    def __init__(self, source: SubtitleStream, stream: SubtitleStream) -> None:
        self._stream = stream
        self._source = source
        stream.time_base = Fraction(1, 1000)
        stream.codec_context.subtitle_header = _PLAIN_STYLE

    def take(self, packet: Packet, time: Fraction) -> list[Packet]:
        """The packet's text as a packet that begins at ``time`` (output seconds); none for an empty one."""
        try:
            text = self._source.decode2(packet)
            if text is None or not len(text):
                return []
            encoded = self._stream.codec_context.encode_subtitle(text)
        except (av.error.FFmpegError, ValueError):  # one line that is damaged
            return []
        encoded.stream = self._stream
        encoded.time_base = Fraction(1, 1000)
        encoded.pts = encoded.dts = round(time * 1000)
        encoded.duration = round((packet.duration or 0) * (packet.time_base or Fraction(1, 1000)) * 1000)
        return [encoded]

    def flush(self) -> list[Packet]:
        """An empty list: packets are never held back."""
        return []
