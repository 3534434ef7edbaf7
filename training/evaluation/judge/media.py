"""Frames of a pair for the judge: the same moments of both, as JPEG pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.files.clips import ClipError, count, scaled_frames
from training.data.files.manifest import Media
from training.evaluation.judge.client import Part, picture_part, text_part
from training.evaluation.judge.questions import Show

JPEG_QUALITY = 92


class Pair:
    """Sampled frames of a source and its edit, equally many of both.

    source, edited: clips, pictures, or folders with a clip's frames; on disk or in a tar shard. frames: samples of a
    clip, spread evenly from its first frame to its last. side: pixels of the longer side at most; nothing is ever
    enlarged. offset: frames dropped at the beginning of both clips. picture: whether it is a pair of pictures; clips of
    one frame are pictures too. Raises ClipError when one cannot be read.
    """

    def __init__(self, source: Media, edited: Media, frames: int, side: int, offset: int = 0) -> None:
        counts = [count(media) for media in (source, edited)]
        self.picture = counts[0][0] == 1
        if self.picture != (counts[1][0] == 1):
            raise ClipError(f"One of {source} and {edited} is a picture and the other a video.")
        first, second = ((number, float(number / fps) if fps else 0.0) for number, fps, *_ in counts)
        moments = _moments(first, second, frames, offset)
        self.source, self.edited = (
            _shown(media, numbers, min(1.0, side / max(size)), *size)
            for media, numbers, (_, _, *size) in zip((source, edited), moments, counts, strict=True)
        )

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


def _shown(media: Media, numbers: Sequence[int], scale: float, width: int, height: int) -> list[Image.Image]:
    """Some frames of a clip, scaled; a file may hold a little less than it says, and then ends in its last frame."""
    size, wanted = (max(2, round(width * scale)), max(2, round(height * scale))), set(numbers)
    spans = [(n, n) for n in sorted(wanted)] if Path(media.path).is_dir() else [(0, max(wanted))]
    frames = (frame for span in spans for frame in scaled_frames(media, size, *span))
    found = {number: Image.fromarray(image) for number, image in frames if number in wanted}
    if not found:
        raise ClipError(f"{media} has no frame that can be decoded; check that it plays.")
    return [found.get(number, found[max(found)]) for number in numbers]


def _moments(a: tuple[int, float], b: tuple[int, float], count: int, offset: int) -> tuple[list[int], list[int]]:
    """Frame numbers in two clips of (frames, seconds; 0 where frames have no times). Clips of equal length are paired
    frame by frame, others by time."""
    frames = min(a[0], b[0])
    if frames == 1:
        return [0], [0]
    offset = min(offset, frames - 1)
    if a[0] == b[0] or not (a[1] and b[1]):
        even = _even(offset, frames, count)
        return even, even
    shorter = min(a, b, key=lambda clip: clip[1])
    times = [index * shorter[1] / shorter[0] for index in _even(offset, shorter[0], count)]
    first, second = ([min(n - 1, round(t * n / seconds)) for t in times] for n, seconds in (a, b))
    return first, second


def _even(begin: int, end: int, count: int) -> list[int]:
    return [int(index) for index in np.linspace(begin, end - 1, min(count, end - begin)).round()]


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
