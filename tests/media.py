"""Real video files for tests, made on the spot: every frame carries its own number as a barcode."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from sama.video import FrameReader

_BITS = 16


def barcode_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """(height, width, 3) uint8: the number as 16 black or white columns above a gradient that moves with it."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(40, 200, width, dtype=np.uint8)[None]
    image[..., 1] = np.linspace(60, 180, height, dtype=np.uint8)[:, None]
    image[..., 2] = 40 + number * 3 % 160
    edges = np.linspace(0, width, _BITS + 1).astype(int)
    for bit in range(_BITS):
        image[: height // 2, edges[bit] : edges[bit + 1]] = 235 if number >> bit & 1 else 20
    return image


def read_barcode(image: np.ndarray) -> int:
    """The number that :func:`barcode_frame` drew, from an upright frame of any size."""
    height, width = image.shape[:2]
    centres = ((np.arange(_BITS) + 0.5) * width / _BITS).astype(int)
    row = image[height // 6 : height // 3, centres].astype(float).mean(axis=(0, 2))
    return int(sum(1 << bit for bit in range(_BITS) if row[bit] > 128))


def make_clip(
    path: Path,
    frames: int = 12,
    width: int = 96,
    height: int = 64,
    fps: Fraction | int = 24,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[Fraction] | None = None,
    sample_aspect: Fraction | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    audio: str | None = None,
    audio_seconds: float | None = None,
    audio_rate: int = 48_000,
    audio_layout: str = "mono",
    start_time: Fraction = Fraction(0),
    constant: bool = False,
    options: dict[str, str] | None = None,
    mux_options: dict[str, str] | None = None,
) -> Path:
    """Write a clip of barcode frames.

    ``times`` (seconds, one more than frames: the last is the end) makes a variable frame rate on a 1/90000 clock;
    ``rotation`` is metadata, in degrees counter-clockwise, as is ``mirrored``; ``audio`` names an encoder;
    ``start_time`` delays the picture behind the sound; ``constant`` repeats one grey frame.
    """
    fps = Fraction(fps)
    clock = Fraction(1, 90_000) if times is not None or start_time else 1 / fps
    quick = {"preset": "ultrafast", "crf": "14"} if codec in ("libx264", "libx265") else {}
    if codec == "libx265":
        quick["x265-params"] = "log-level=none"
    with av.open(str(path), "w", container_options=mux_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=quick | (options or {}))
        stream.codec_context.width, stream.codec_context.height = width, height
        stream.codec_context.pix_fmt = pix_fmt
        stream.codec_context.time_base = clock
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        sound = None
        if audio is not None:
            sound = container.add_stream(audio, rate=audio_rate)
            sound.codec_context.layout = audio_layout
        for number in range(frames):
            image = np.full((height, width, 3), 128, np.uint8) if constant else barcode_frame(number, width, height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
            begin = start_time + (number / fps if times is None else times[number])
            end = start_time + ((number + 1) / fps if times is None else times[number + 1])
            frame.pts, frame.time_base = round(begin / clock), clock
            frame.duration = round((end - begin) / clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            length = audio_seconds if audio_seconds is not None else float(times[-1] if times else frames / fps)
            for frame in _tone(length):
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def make_sound_only(path: Path, seconds: float = 0.5) -> Path:
    """An .m4a or .wav file without a picture."""
    if path.suffix == ".wav":
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(48_000)
            file.writeframes(_samples(seconds).tobytes())
        return path
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=48_000)
        sound.codec_context.layout = "mono"
        for frame in _tone(seconds):
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def make_text(path: Path) -> Path:
    """A text file under a video's name."""
    path.write_text("This is not a video.\n" * 50)
    return path


def make_truncated(path: Path, source: Path, keep: float = 0.5) -> Path:
    """The first part of ``source``; what is missing depends on where its index lies."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def make_damaged(path: Path, source: Path) -> Path:
    """``source`` with its coded pictures overwritten by noise; the index stays whole."""
    data = bytearray(source.read_bytes())
    start = data.index(b"mdat") + 4
    noise = np.random.default_rng(0).integers(0, 256, max(0, len(data) - start), dtype=np.uint8).tobytes()
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    data[start : start + size] = noise[:size]
    path.write_bytes(data)
    return path


def make_lying_duration(path: Path, source: Path, factor: int) -> Path:
    """``source`` (MP4) with the durations in the movie, track and media headers multiplied by ``factor``."""
    data = bytearray(source.read_bytes())
    for kind, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):  # version 0 boxes, counted from the name
        at = data.index(kind) + offset
        value = int.from_bytes(data[at : at + 4], "big") * factor
        data[at : at + 4] = value.to_bytes(4, "big")
    path.write_bytes(data)
    return path


def make_bomb(path: Path, side: int = 4096, frames: int = 8) -> Path:
    """A tiny file of huge, empty frames that promises to go on: ``frames`` are real, the pattern is what matters."""
    fast = {"tune": "zerolatency", "threads": "1"}
    return make_clip(path, frames=frames, width=side, height=side, fps=30, constant=True, options=fast)


def repeat_packets(path: Path, source: Path, times: int) -> Path:
    """``source``'s coded pictures over and over: an hour of video in a few kilobytes, without encoding it."""
    with av.open(str(source)) as reader:
        stream = reader.streams.video[0]
        pictures = [(bytes(p), p.is_keyframe) for p in reader.demux(stream) if p.size]
        step = round(1 / stream.average_rate / stream.time_base)
        with av.open(str(path), "w") as writer:
            out = writer.add_stream_from_template(stream, opaque=True)
            for index in range(times * len(pictures)):
                data, key = pictures[index % len(pictures)]
                packet = av.Packet(data)
                packet.stream, packet.time_base = out, stream.time_base
                packet.pts = packet.dts = index * step
                packet.duration, packet.is_keyframe = step, key
                writer.mux(packet)
    return path


def numbers(path: Path, **cut: Any) -> list[int]:
    """The barcodes of all frames, or of a cut (arguments of FrameReader)."""
    with FrameReader(path, **cut) as reader:
        return [read_barcode(frame.image) for frame in reader]


def uneven_times(frames: int) -> list[Fraction]:
    """Times for :func:`make_clip` with gaps of 1, 2 and 3 thirtieths of a second in turn."""
    gaps = [Fraction(1 + number % 3, 30) for number in range(frames)]
    return [sum(gaps[:number], Fraction(0)) for number in range(frames + 1)]


def audio_packets(path: Path) -> list[tuple[Fraction, bytes]]:
    """(time in seconds, bytes) of every sound packet of a file's first track."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size and p.pts is not None]


def sound_of(path: Path, track: int = 0) -> np.ndarray:
    """(samples,) float32 of a sound track, mixed to one channel at 48 kHz."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=48_000)
        decoded = [part for frame in container.decode(audio=track) for part in resampler.resample(_untimed(frame))]
        return np.concatenate([part.to_ndarray()[0] for part in [*decoded, *resampler.resample(None)]])


def correlation(one: np.ndarray, other: np.ndarray, shift: int = 3000) -> float:
    """The largest correlation of two sounds over delays up to ``shift`` samples, ends left out."""
    middle = one[shift : min(len(one), len(other)) - 2 * shift]
    scores = np.correlate(other[: len(middle) + 2 * shift], middle, "valid")
    energy = np.convolve(other[: len(middle) + 2 * shift] ** 2, np.ones(len(middle)), "valid")
    return float(np.max(scores / np.sqrt(energy * (middle**2).sum())))


def frame_times(path: Path) -> list[Fraction]:
    """Presentation times in seconds of all frames, on the file's own clock."""
    with av.open(str(path)) as container:
        return [f.pts * f.time_base for f in container.decode(video=0)]


def container_seconds(path: Path) -> tuple[float, float, Fraction]:
    """Length of the file, of its picture track (seconds, by the headers) and the average rate of the picture."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        track = stream.duration * stream.time_base if stream.duration is not None else Fraction(0)
        return container.duration / av.time_base, float(track), stream.average_rate


def _untimed(frame: av.AudioFrame) -> av.AudioFrame:
    frame.pts = None
    return frame


def _samples(seconds: float) -> np.ndarray:
    moments = np.arange(int(seconds * 48_000)) / 48_000
    return (8000 * np.sin(2 * np.pi * 440 * moments)).astype(np.int16)


def _tone(seconds: float) -> list[av.AudioFrame]:
    samples = _samples(seconds)
    frames = []
    for at in range(0, len(samples), 1024):
        frame = av.AudioFrame.from_ndarray(samples[None, at : at + 1024], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, at, Fraction(1, 48_000)
        frames.append(frame)
    return frames
