"""Small files like those that people have: HDR, interlaced, see-through, with covers, labels, without times."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from tests.media import barcode_frame

PQ, HLG, BT709 = 16, 18, 1
_SCRIPT = b"[Script Info]\n[V4+ Styles]\n[Events]\nFormat: Layer, Start, End, Style, Text\n"
QUIET = {
    "libx265": {
        "preset": "ultrafast", "x265-params": "crf=4:log-level=none:bframes=0:frame-threads=1:pools=none"
    },
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
}  # fmt: skip


def make_coded(
    path: Path,
    signal: np.ndarray,
    transfer: int,
    primaries: int = 9,
    codec: str = "libx265",
    pix_fmt: str = "yuv420p10le",
    frames: int = 2,
) -> Path:
    """A clip of one picture, ``signal`` (H, W, 3) in [0, 1]: RGB with these transfer and primaries (H.273), tagged."""
    matrix = 9 if primaries == 9 else 1
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=QUIET.get(codec, {"crf": "6"}))
        context = stream.codec_context
        context.height, context.width = signal.shape[:2]
        context.pix_fmt = pix_fmt
        context.color_trc, context.color_primaries = transfer, primaries
        context.colorspace, context.color_range = matrix, 1
        deep = av.VideoFrame.from_ndarray(np.rint(signal * 65535).astype(np.uint16), format="rgb48le")
        for number in range(frames):
            frame = deep.reformat(
                format=pix_fmt,
                dst_colorspace=Colorspace.BT2020 if matrix == 9 else Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
            )
            frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range = (
                transfer, primaries, matrix, 1
            )  # fmt: skip
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_interlaced(path: Path, codec: str, options: dict[str, str], frames: int = 6) -> Path:
    """A bar that moves 8 pixels a field, woven from two fields a frame, top field first."""

    def field(moment: int) -> np.ndarray:
        picture = np.full((64, 96, 3), 40, np.uint8)
        picture[:, 4 + 4 * moment : 24 + 4 * moment] = 220
        return picture

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.codec_context.width, stream.codec_context.height = 96, 64
        for number in range(frames):
            woven = field(2 * number)
            woven[1::2] = field(2 * number + 1)[1::2]
            frame = av.VideoFrame.from_ndarray(woven, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def combing(image: np.ndarray) -> float:
    """How much each row differs from the mean of its neighbours."""
    rows = image.astype(float).mean(axis=2)
    return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())


def disc(width: int = 96, height: int = 64) -> np.ndarray:
    """(H, W, 4) uint8: red, see-through outside of a soft disc."""
    y, x = np.mgrid[:height, :width]
    picture = np.zeros((height, width, 4), np.uint8)
    picture[..., 0] = 230
    picture[..., 3] = np.clip(300 - ((x - width / 2) ** 2 + (y - height / 2) ** 2) / 3, 0, 255)
    return picture


def make_alpha(path: Path, codec: str, pix_fmt: str, frames: int = 3) -> Path:
    """A clip of :func:`disc`."""
    options = {"libvpx-vp9": {"auto-alt-ref": "0"}, "libvpx": {"auto-alt-ref": "0"}}.get(codec, {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=options)
        stream.codec_context.width, stream.codec_context.height = 96, 64
        stream.codec_context.pix_fmt = pix_fmt
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(disc(), format="rgba").reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_with_cover(path: Path, film: Path, codec: str = "mjpeg", first: bool = True) -> Path:
    """``film``'s picture, and a still red picture in a video stream of its own, without the mark of a cover."""
    with av.open(str(film)) as reader, av.open(str(path), "w") as writer:
        source = reader.streams.video[0]
        copy = None if first else writer.add_stream_from_template(source)
        cover = writer.add_stream(codec, rate=25)
        cover.codec_context.width, cover.codec_context.height = 32, 32
        cover.codec_context.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
        copy = copy or writer.add_stream_from_template(source)
        red = np.full((32, 32, 3), (200, 20, 20), np.uint8)
        still = av.VideoFrame.from_ndarray(red, format="rgb24").reformat(format=cover.codec_context.pix_fmt)
        still.pts, still.time_base = 0, Fraction(1, 25)
        writer.mux([*cover.encode(still), *cover.encode(None)])
        for packet in reader.demux(source):
            if packet.size:
                packet.stream = copy
                writer.mux(packet)
    return path


def make_growing(path: Path, sizes: Sequence[tuple[int, int]], each: int = 4) -> Path:
    """An H.264 clip whose frames change their size: ``each`` white frames of each of ``sizes`` in turn."""
    raw = io.BytesIO()
    for width, height in sizes:
        part = io.BytesIO()
        with av.open(part, "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
            stream.codec_context.width, stream.codec_context.height = width, height
            for _ in range(each):
                white = np.full((height, width, 3), 235, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(white, format="rgb24")))
            container.mux(stream.encode(None))
        raw.write(part.getvalue())
    raw.seek(0)
    with av.open(raw, format="h264") as reader, av.open(str(path), "w") as writer:
        source = reader.streams.video[0]
        copy = writer.add_stream_from_template(source)
        for number, packet in enumerate(p for p in reader.demux(source) if p.size):
            packet.pts = packet.dts = number
            packet.duration, packet.time_base, packet.stream = 1, Fraction(1, 24), copy
            writer.mux(packet)
    return path


def make_animation(path: Path, frames: int = 4, milliseconds: int = 40, still: bool = False) -> Path:
    """Barcode frames as an animated GIF, WebP or PNG, by the suffix; a single picture when ``still``."""
    pictures = [Image.fromarray(barcode_frame(number)) for number in range(1 if still else frames)]
    kind = {".gif": "GIF", ".webp": "WEBP", ".apng": "PNG", ".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    quality = {"lossless": True} if kind == "WEBP" else {}
    several = {} if still else {"save_all": True, "append_images": pictures[1:], "duration": milliseconds, "loop": 0}
    pictures[0].save(path, format=kind, **several, **quality)
    return path


def make_labelled(path: Path, film: Path, subtitles: str | None = None, timecode: bool = False) -> Path:
    """``film`` with a title, a date, a place, two chapters, and a line of subtitles from 0.1 s to 0.4 s."""
    with av.open(str(film)) as reader, av.open(str(path), "w") as writer:
        writer.metadata.update({
            "title": "Holiday", "creation_time": "2026-01-02T03:04:05.000000Z", "location": "+48.8577+002.2950/",
            "comment": "by the sea",
        })  # fmt: skip
        milli = Fraction(1, 1000)
        writer.set_chapters([
            {"id": 1, "start": 0, "end": 250, "time_base": milli, "metadata": {"title": "one"}},
            {"id": 2, "start": 250, "end": 500, "time_base": milli, "metadata": {"title": "two"}},
        ])  # fmt: skip
        copies = {s.index: writer.add_stream_from_template(s) for s in reader.streams if s.type in ("video", "audio")}
        if timecode:
            copies[0].metadata["timecode"] = "01:00:00:00"
        if subtitles is not None:
            words = writer.add_stream(subtitles)
            words.metadata["language"] = "eng"
            words.codec_context.subtitle_header = _SCRIPT
            line = av.Packet(b"\x00\x05Hallo" if subtitles == "mov_text" else b"Hallo")
            line.stream, line.time_base = words, milli
            line.pts = line.dts = 100
            line.duration = 300
            writer.mux(line)
        for packet in reader.demux():
            if packet.size and packet.stream_index in copies:
                packet.stream = copies[packet.stream_index]
                writer.mux(packet)
    return path


def labels_of(path: Path) -> dict[str, str]:
    """A file's tags."""
    with av.open(str(path)) as container:
        return {key.lower(): value for key, value in container.metadata.items()}


def subtitles_of(path: Path) -> list[tuple[float, float, str]]:
    """(begin, end, text) of each line of a file's first subtitles, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        lines = []
        for packet in container.demux(stream):
            text = stream.decode2(packet) if packet.size else None
            if text is not None and len(text):
                begin = float(packet.pts * packet.time_base)
                words = text.rects[0].ass.split(b",", 8)[-1].decode().strip() if len(text.rects) else ""
                if words:
                    lines.append((begin, begin + float(packet.duration * packet.time_base), words))
        return lines
