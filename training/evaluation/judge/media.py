"""Frames of a pair for the judge: the same moments of both, as JPEG pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sama.errors import VideoError
from sama.video import FrameReader, probe
from training.data.files.clips import as_file
from training.data.files.manifest import IMAGES, Media
from training.evaluation.judge.client import Part, picture_part, text_part
from training.evaluation.judge.questions import Show

JPEG_QUALITY = 92


class Pair:
    """Sampled frames of a source and its edit, equally many of both.

    source, edited: clips, pictures, or folders with a clip's frames; on disk or in a tar shard. frames: samples of a
    clip, spread evenly from its first frame to its last. side: pixels of the longer side at most; nothing is ever
    enlarged. offset: frames dropped at the beginning of both clips. picture: whether it is a pair of pictures; clips of
    one frame are pictures too. Raises VideoError when one cannot be read.
    """

    def __init__(self, source: Media, edited: Media, frames: int, side: int, offset: int = 0) -> None:
        with as_file(source) as first, as_file(edited) as second:
            clips = [_open(path) for path in (first, second)]
            self.picture = clips[0].frames == 1
            if self.picture != (clips[1].frames == 1):
                raise VideoError(f"One of {source} and {edited} is a picture and the other a video.")
            moments = _moments(clips[0], clips[1], frames, offset)
            self.source = clips[0].at(moments[0], side)
            self.edited = clips[1].at(moments[1], side)

    def parts(self, show: Show) -> list[Part]:
        """The pair as pieces of a message, introduced in words."""
        count = len(self.source)
        if show == "side by side":
            pictures = [_beside(*both) for both in zip(self.source, self.edited, strict=True)]
            words = "Each picture shows the original on the left and the edited version on the right."
            if count > 1:
                words = f"{count} moments of a video, in the order of time. {words}"
            return [text_part(words), *_pictures(pictures)]
        halves = [("Original", self.source), ("Edited", self.edited)]
        parts = []
        for name, pictures in halves if show == "source first" else reversed(halves):
            kind = "image" if self.picture else f"video, {count} moments in the order of time"
            parts += [text_part(f"{name} {kind}:"), *_pictures(pictures)]
        return parts


class _Pictures:
    """One picture, or a folder of frames in the order of their names."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.frames = len(paths)
        self.seconds: float | None = None

    def at(self, moments: Sequence[int], side: int) -> list[Image.Image]:
        return [_picture(self._paths[index], side) for index in moments]


class _Video:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._info = probe(path)
        self.frames = self._info.frames
        self.seconds: float | None = self._info.duration

    def at(self, moments: Sequence[int], side: int) -> list[Image.Image]:
        scale = min(1.0, side / max(self._info.width, self._info.height))
        size = (max(2, round(self._info.width * scale)), max(2, round(self._info.height * scale)))
        wanted = set(moments)
        with FrameReader(self._path, count=max(moments) + 1, size=size) as reader:
            found = {frame.index: Image.fromarray(frame.image) for frame in reader if frame.index in wanted}
        if not found:
            raise VideoError(f"{self._path.name} has no frame that can be decoded; check that it plays.")
        last = found[max(found)]  # a file may hold a little less than it says
        return [found.get(index, last) for index in moments]


def _open(path: Path) -> _Pictures | _Video:
    if path.is_dir():
        pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES)
        if not pictures:
            raise VideoError(f"The folder {path.name} holds no pictures; check the manifest.")
        return _Pictures(pictures)
    return _Pictures([path]) if path.suffix.lower() in IMAGES else _Video(path)


def _moments(a: _Pictures | _Video, b: _Pictures | _Video, count: int, offset: int) -> tuple[list[int], list[int]]:
    """Frame numbers in both clips. Clips of equal length are paired frame by frame, others by time."""
    frames = min(a.frames, b.frames)
    if frames == 1:
        return [0], [0]
    offset = min(offset, frames - 1)
    if a.frames == b.frames or a.seconds is None or b.seconds is None:
        even = _even(offset, frames, count)
        return even, even
    shorter = a if a.seconds <= b.seconds else b
    rates = [clip.frames / seconds for clip, seconds in ((a, a.seconds), (b, b.seconds))]
    rate = rates[0] if shorter is a else rates[1]
    times = [index / rate for index in _even(offset, shorter.frames, count)]
    first, second = ([min(c.frames - 1, round(t * r)) for t in times] for c, r in zip((a, b), rates, strict=True))
    return first, second


def _even(begin: int, end: int, count: int) -> list[int]:
    return [int(index) for index in np.linspace(begin, end - 1, min(count, end - begin)).round()]


def _picture(path: Path, side: int) -> Image.Image:
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path.name} cannot be read as an image: {error}") from error
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    if left.height != right.height:
        right = right.resize((max(1, round(right.width * left.height / right.height)), left.height))
    both = Image.new("RGB", (left.width + right.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both


def _pictures(pictures: Sequence[Image.Image]) -> list[Part]:
    parts = []
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
        parts.append(picture_part(buffer.getvalue()))
    return parts
