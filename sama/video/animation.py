"""Converts animated WebP, which the media library cannot decode, to a video that it can; tells pictures from videos."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sama.errors import VideoError
from sama.video.limits import VideoLimits

_MILLISECOND = Fraction(1, 1000)
_SHORTEST, _DEFAULT = 11, 100  # milliseconds: browsers show a picture for 100 when its file asks for 10 or less

_STILL_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF"}
_PICTURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)


def is_webp(path: Path) -> bool:
    """True for a WebP picture or animation, by the file's first bytes."""
    head = _head(path)
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def picture_kind(path: Path) -> str | None:
    """The format of a still picture ("JPEG") by its first bytes; None for anything else, animations included."""
    head = _head(path)
    if b"acTL" in head:  # the mark of an animated PNG, which stands ahead of its first picture
        return None
    if head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS:
        return _STILL_BRANDS[head[8:12]]
    return next((name for mark, name in _PICTURES if head.startswith(mark)), None)


@contextmanager
def webp_as_video(path: Path, limits: VideoLimits) -> Iterator[IO[bytes]]:
    """Yield an open temporary file with the animation as lossless FFV1 in Matroska, transparency included.

    Raises :class:`VideoError` when the file is damaged or passes one of ``limits``.
    """
    from PIL import Image

    with tempfile.TemporaryFile(prefix="sama-") as file:
        try:
            with Image.open(path, formats=["WEBP"]) as animation:
                limits.check_size(*animation.size)
                frames = getattr(animation, "n_frames", 1)
                limits.check_length(frames, 0.0, frames * animation.width * animation.height)
                _write(animation, frames, file)
        except VideoError:
            raise
        except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
            raise VideoError(
                f"{path.name} is damaged or cut off; check that it plays, or save the animation again."
            ) from error
        file.seek(0)
        yield file


def _write(animation: Any, frames: int, file: IO[bytes]) -> None:
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=25)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height = animation.size
        context.pix_fmt = "bgra"
        context.time_base = stream.time_base = _MILLISECOND
        now = 0
        for number in range(frames):
            animation.seek(number)
            frame = VideoFrame.from_ndarray(np.array(animation.convert("RGBA")), format="rgba")
            duration = int(animation.info.get("duration", 0))
            duration = duration if duration >= _SHORTEST else _DEFAULT
            frame = frame.reformat(format="bgra")
            frame.pts, frame.time_base, frame.duration = now, _MILLISECOND, duration
            container.mux(stream.encode(frame))
            now += duration
        container.mux(stream.encode(None))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1024)
