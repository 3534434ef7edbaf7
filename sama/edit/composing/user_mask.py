"""A user's own mask: a picture or a clip that is white where an edit may show.

Nothing here imports torch, so that a bad mask is refused at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sama.video import FrameReader, VideoError, VideoLimits
from sama.video.timeline import read_timeline

Weights = NDArray[np.float32]  # (H, W) in [0, 1]

_BLACK, _WHITE = 0.05, 0.95
"""What is darker or brighter is black or white: a mask that was saved with loss is neither exactly."""


class MaskError(ValueError):
    """A mask that cannot be used. The message is one sentence for the user."""


def is_still(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a picture that does not move. Reads its header."""
    image = _opened(Path(path))
    if image is None:
        return False
    with image:
        return getattr(image, "n_frames", 1) == 1


def check_mask(path: str | os.PathLike[str], start: int, count: int, limits: VideoLimits | None = None) -> None:
    """Raise `MaskError` unless `path` is a picture or a clip with some white in frames [start, start + count)."""
    if not isinstance(path, (str, os.PathLike)):
        raise MaskError("The mask must be the path of a picture or of a clip.")
    name = Path(path).name or str(path)
    if not Path(path).is_file():
        raise MaskError(f"There is no mask {name!r}; check the path.")
    try:
        limits = limits or VideoLimits()
        if is_still(path):
            white = bool(_still(Path(path), limits).any())
        else:
            with _clip(path, start, limits, count=count) as reader:
                white = any(_weights(_grey(frame.image)).any() for frame in reader)
    except VideoError as error:
        raise MaskError(f"The mask cannot be used: {error}") from error
    if not white:
        raise MaskError(f"The mask {name} is all black; paint white where the edit may show.")


@contextmanager
def open_mask(
    path: str | os.PathLike[str], start: int, size: tuple[int, int], limits: VideoLimits | None = None
) -> Iterator[Iterator[Weights]]:
    """Weights (H, W) for one frame of the source after another, from frame `start`, without end.

    A picture is for all frames. A clip's frame belongs to the source's frame of the same number, and its last frame to
    all that follow. size: (width, height) of the weights. Raises `VideoError` for a file that is damaged.
    """
    limits = limits or VideoLimits()
    if is_still(path):
        weights = _still(Path(path), limits)
        smaller = size[0] * size[1] < weights.size
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        yield repeat(np.asarray(cv2.resize(weights, size, interpolation=method), np.float32))
        return
    with _clip(path, start, limits, size) as reader:
        yield _following(reader)


def _following(reader: FrameReader) -> Iterator[Weights]:
    last: Weights | None = None
    for frame in reader:
        last = _weights(_grey(frame.image))
        yield last
    if last is not None:
        yield from repeat(last)


def _clip(
    path: str | os.PathLike[str],
    start: int,
    limits: VideoLimits,
    size: tuple[int, int] | None = None,
    count: int | None = None,
) -> FrameReader:
    timeline = read_timeline(path, limits)
    return FrameReader(path, min(start, timeline.frames - 1), count, limits, size, timeline)


def _still(path: Path, limits: VideoLimits) -> Weights:
    """A picture's weights at its own size: its brightness, and nothing where it is transparent."""
    from PIL import ImageOps

    image = _opened(path)
    assert image is not None  # `is_still` has opened it
    with image:
        limits.check_size(*image.size)
        try:
            if image.mode.startswith(("I", "F")):  # 16 bit, which a conversion would cut off
                grey = np.asarray(image, np.float32)
                return _weights(grey / np.float32(65535 if grey.max() > 255 else 255))
            upright = ImageOps.exif_transpose(image).convert("RGBA")
        except (OSError, SyntaxError, ValueError) as error:
            raise VideoError(f"{path.name} is damaged; export it again.") from error
    alpha = np.asarray(upright.getchannel("A"), np.float32)
    return _weights(np.asarray(upright.convert("L"), np.float32) * alpha / np.float32(255**2))


def _opened(path: Path) -> Any:
    """The file as an image that is not decoded yet; None when it is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path)
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError as error:
        raise VideoError(f"{path.name} has too many pixels; scale it down first.") from error


def _grey(image: NDArray[np.uint8]) -> Weights:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / np.float32(255)


def _weights(grey: Weights) -> Weights:
    return np.asarray(np.clip((grey - _BLACK) / (_WHITE - _BLACK), 0, 1), np.float32)
