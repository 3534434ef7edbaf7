"""Clips from files: what a file holds, and its frames at a bucket's size.

Videos go through `sama.video` (displayed frames, rotation and pixel shape applied, exact counts); pictures and folders
of pictures through Pillow. A clip in a tar shard is copied to a temporary file first.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sama.errors import VideoError
from sama.shapes import Bucket
from sama.video import FrameReader, probe
from training.data.files.manifest import IMAGES, Media

Extract = Literal["head", "uniform"]

_BLOCK = 2**20
_MAX_PIXELS = 8192 * 4320
"""The largest picture that is read, in pixels: the same as the largest frame that `sama.video` reads."""


class ClipError(ValueError):
    """A clip that cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """The facts of a file, counted and not taken from its header.

    fps: frames per second; 0 where frames have no times (pictures and folders). digest: of the content. size, changed:
    bytes and time of change (ns) of the file, by which a later reader knows that the digest still holds.
    """

    frames: int
    fps: Fraction
    width: int
    height: int
    digest: str
    size: int
    changed: int


def look(media: Media) -> ClipFacts:
    """Open a clip and count. Reads the whole file (for its digest), decodes no more than a frame. Raises ClipError."""
    size, changed = state(media)
    digest = digest_of(media)
    return ClipFacts(*count(media), digest, size, changed)


def count(media: Media) -> tuple[int, Fraction, int, int]:
    """Frames, frames per second (0 where frames have no times), width and height of a clip. Raises ClipError."""
    if Path(media.path).is_dir():
        files = _pictures(media)
        with _opened(files[0]) as picture:
            return len(files), Fraction(0), *picture.size
    with _as_file(media) as path:
        if media.is_image:
            with _opened(path) as picture:
                return 1, Fraction(0), *picture.size
        try:
            info = probe(path)
        except VideoError as error:
            raise ClipError(str(error)) from error
    return info.frames, info.fps, info.width, info.height


def state(media: Media) -> tuple[int, int]:
    """Bytes and last time of change (ns) of a clip's file, or of a folder's pictures. Raises ClipError without one."""
    path = Path(media.path)
    try:
        found = [file.stat() for file in _pictures(media)] if path.is_dir() else [path.stat()]
    except OSError as error:
        raise ClipError(f"{media} cannot be read: {error.strerror}") from error
    return media.size or sum(one.st_size for one in found), max(one.st_mtime_ns for one in found)


def digest_of(media: Media) -> str:
    """A hash of what the clip's file holds; of all pictures and their order for a folder. Raises ClipError."""
    hasher = hashlib.blake2b(digest_size=16)
    try:
        if Path(media.path).is_dir():
            for file in _pictures(media):
                hasher.update(hashlib.blake2b(file.read_bytes(), digest_size=16).digest())
        else:
            with Path(media.path).open("rb") as stream:
                stream.seek(media.offset)
                left = media.size if media.member else -1
                while left and (block := stream.read(_BLOCK if left < 0 else min(left, _BLOCK))):
                    hasher.update(block)
                    left -= len(block) if left > 0 else 0
    except OSError as error:
        raise ClipError(f"{media} cannot be read: {error.strerror}") from error
    return hasher.hexdigest()


def frame_numbers(available: int, fps: Fraction, count: int, rate: float, extract: Extract) -> list[int]:
    """Which `count` of a clip's `available` frames are seen, ascending from 0.

    `head`: from the first on, at `rate` frames per second (0, or a clip without times: each). `uniform`: spread evenly
    from the first to the last, whatever the rate. The last one repeats where a clip ends early.
    """
    if extract == "uniform" and count > 1:
        numbers = [round((available - 1) * step / (count - 1)) for step in range(count)]
    elif rate and fps:
        numbers = [round(step * fps / Fraction(rate)) for step in range(count)]
    else:
        numbers = list(range(count))
    return [min(number, available - 1) for number in numbers]


def read_frames(media: Media, numbers: Sequence[int], bucket: Bucket, aspect: float) -> Tensor:
    """Frames `numbers` (ascending, repeats allowed) as (T, height, width, 3) uint8 at a bucket's size.

    The clip is scaled to cover the bucket as a picture of `aspect` (width / height) would, and its centre is cut out.
    Both clips of a pair are read with one aspect, so that the same part of the scene is cut from both. Raises
    ClipError.
    """
    size = covering_size(bucket, aspect)
    top, left = (size[1] - bucket.height) // 2, (size[0] - bucket.width) // 2
    wanted = set(numbers)
    kept: dict[int, np.ndarray] = {}
    for number, image in scaled_frames(media, size, min(wanted), max(wanted)):
        if number in wanted:
            kept[number] = image[top : top + bucket.height, left : left + bucket.width]
    if not kept:
        raise ClipError(f"{media} has no frame {min(wanted)} that can be decoded")
    end = max(kept)
    if end < max(wanted) - 1:
        raise ClipError(f"{media} ends at frame {end}, before frame {max(wanted)} that its index promises")
    return torch.from_numpy(np.stack([kept[min(number, end)] for number in numbers]))


def covering_size(bucket: Bucket, aspect: float) -> tuple[int, int]:
    """The smallest (width, height) of an aspect ratio that covers a bucket."""
    if aspect >= bucket.width / bucket.height:
        return max(bucket.width, round(bucket.height * aspect)), bucket.height
    return bucket.width, max(bucket.height, round(bucket.width / aspect))


def scaled_frames(media: Media, size: tuple[int, int], first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
    """Frames `first` to `last` of a clip, scaled to `size` (width, height): the number and (H, W, 3) uint8 of each.
    Raises ClipError."""
    if Path(media.path).is_dir():
        for number, file in enumerate(_pictures(media)[first : last + 1], first):
            yield number, _picture(file, size)
        return
    with _as_file(media) as path:
        if media.is_image:
            yield 0, _picture(path, size)
            return
        try:
            with FrameReader(path, first, last + 1 - first, size=size) as reader:
                for frame in reader:
                    yield frame.index, frame.image
        except VideoError as error:
            raise ClipError(str(error)) from error


@contextmanager
def _as_file(media: Media) -> Iterator[Path]:
    """The clip as a file of its own: itself, or a temporary copy of a shard's member."""
    if not media.member:
        yield Path(media.path)
        return
    with tempfile.NamedTemporaryFile(suffix=media.suffix) as copy:
        try:
            with Path(media.path).open("rb") as shard:
                shard.seek(media.offset)
                copy.write(shard.read(media.size))
                copy.flush()
        except OSError as error:
            raise ClipError(f"{media} cannot be read: {error.strerror}") from error
        yield Path(copy.name)


def _pictures(media: Media) -> list[Path]:
    """The frames of a folder in the order of the numbers in their names ("2.png" before "10.png")."""
    files = [file for file in Path(media.path).iterdir() if file.suffix.lower() in IMAGES]
    if not files:
        raise ClipError(f"{media} is a folder without pictures")
    return sorted(files, key=lambda file: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.name)])


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture, upright. Raises ClipError, also for errors while it is decoded inside the block."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise ClipError(f"{path.name} has {picture.width} x {picture.height} pixels: scale it down first")
            yield ImageOps.exif_transpose(picture)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:  # Pillow's word for a broken PNG
        raise ClipError(f"{path.name} is no picture that can be decoded: {error}") from error


def _picture(path: Path, size: tuple[int, int]) -> np.ndarray:
    with _opened(path) as picture:
        return np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))
