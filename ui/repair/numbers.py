"""Measures a repair against the clean clip, frame by frame and place by place, beside what the model's own autoencoder
makes of the clean clip: no repair can be expected to be better than that."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ui.repair.damage import Damaged

_SHARP = 1.25
"""By how much a frame must be nearer to one frame of the clip than to the middle one, to count as read."""
_READ = 0.8
"""The share of frames that must be read for a speed to be told."""


def clip_psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of uint8 clips (T, H, W, 3), overall or where a mask (T, H, W) holds.

    Infinite for equal pixels, NaN for an empty mask.
    """
    error = (a.astype(np.float32) - b.astype(np.float32)) ** 2
    chosen = error if where is None else error[where]
    if not chosen.size:
        return float("nan")
    mean = float(chosen.mean())
    return float("inf") if mean == 0 else float(10 * np.log10(255.0**2 / mean))


def scores(damaged: Damaged, restored: np.ndarray, ceiling: np.ndarray | None = None) -> dict[str, float]:
    """PSNR in dB against the clean clip of what was given, of what was restored and, with `ceiling`, of the
    autoencoder: in the hidden part, outside it, and overall."""
    clips = {"given": damaged.given, "restored": restored} | ({} if ceiling is None else {"autoencoder": ceiling})
    places = {"hidden": damaged.hidden, "outside": ~damaged.hidden, "overall": None}
    return {
        f"{clip}_{place}": clip_psnr(damaged.clean, frames, where)
        for clip, frames in clips.items()
        for place, where in places.items()
    }


def mean_errors(clean: np.ndarray, other: np.ndarray) -> list[float]:
    """The mean of |other - clean| in each frame, in steps of 255."""
    difference = np.abs(clean.astype(np.int16) - other.astype(np.int16))
    return [float(value) for value in difference.mean(axis=(1, 2, 3))]


def nearest_frames(clean: np.ndarray, other: np.ndarray) -> list[int | None]:
    """For each frame of `other` the most alike frame of `clean`, by squared error; None where none stands out, as in a
    clip that hardly moves."""
    small, found = _thumbs(clean), _thumbs(other)
    error = ((found[:, None] - small[None]) ** 2).mean(axis=2)
    return [int(row.argmin()) if float(np.median(row)) > _SHARP * float(row.min()) + 1e-6 else None for row in error]


def speed_read(sources: list[int | None], span: int) -> float | None:
    """How many frames of the clip pass in a frame, by least squares over the first `span` frames; None where too few of
    them are known.

    sources: for each frame, the frame of the clip that it shows.
    """
    known = [(at, source) for at, source in enumerate(sources[:span]) if source is not None]
    if len(known) < max(2.0, _READ * min(span, len(sources))):
        return None
    moments, shown = np.array(known, np.float64).T
    return float(np.polyfit(moments, shown, 1)[0])


def measured(damaged: Damaged, restored: np.ndarray, ceiling: np.ndarray) -> dict[str, Any]:
    """All numbers of a repair, ready for JSON: `psnr` as `scores` gives it, `frames` (one entry each) and, for a clip
    at another speed, `speed` (of what was given and of what was restored). What is infinite or unknown is None."""
    psnr = scores(damaged, restored, ceiling)
    by_frame = {"given": damaged.given, "restored": restored, "autoencoder": ceiling}
    errors, read = mean_errors(damaged.clean, restored), None
    speed: dict[str, float | None] | None = None
    if damaged.choice.task == "speed":
        read = nearest_frames(damaged.clean, restored)
        forward = int((len(read) - 1) // damaged.choice.strength) + 1  # then it turns round
        speed = {"given": speed_read(damaged.sources, forward), "restored": speed_read(read, forward)}
    frames = [
        {
            "frame": index + 1,
            "touched": round(float(damaged.touched[index]), 4),
            "shows": None if source is None else source + 1,
            **({} if read is None else {"restored_shows": None if (at := read[index]) is None else at + 1}),
            **{
                f"{name}_psnr": _finite(clip_psnr(damaged.clean[index], clip[index])) for name, clip in by_frame.items()
            },
            "error": round(errors[index], 4),
        }
        for index, source in enumerate(damaged.sources)
    ]
    return {"psnr": {name: _finite(value) for name, value in psnr.items()}, "speed": speed, "frames": frames}


def _thumbs(clip: np.ndarray) -> np.ndarray:
    """(T, N) float32: frames at a quarter of the size, so that a repair's lost detail does not count."""
    total, height, width, _ = clip.shape
    rows, columns = height // 4 * 4, width // 4 * 4
    blocks = clip[:, :rows, :columns].reshape(total, rows // 4, 4, columns // 4, 4, 3)
    small: np.ndarray = blocks.astype(np.float32).mean(axis=(2, 4)).reshape(total, -1)
    return small


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
