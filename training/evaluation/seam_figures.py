"""Figures about a long edit: how visible its seams are, and how far it drifts from its first window."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Clip = NDArray[np.uint8]  # (T, H, W, 3) RGB
Windows = Sequence[tuple[int, int]]

_REACH = 8  # frames on each side that a step between frames is compared with
_COMPARED = 95  # percentile
_FINE = 1.5  # standard deviation, in pixels of the model's size, of the blur that fine structure does not survive


@dataclass(frozen=True)
class Measured:
    """One edit of one clip, made in one way.

    method: how the windows were joined, see `training.evaluation.seam_methods`. frames, windows: of the clip.
    apart: mean difference of what two windows made of the frames they share, before they are faded; of 255.
    step, step_elsewhere, step_source: by how much the difference of neighbouring frames, after their motion is taken
        out, exceeds that of the neighbours around: 95th percentile over the frames of the seams, over all other frames
        of the result, and over all frames of the source. 0.1 is 10 % more.
    leap, leap_source: the same from the last frame before a seam's fade to the first one after it.
    repeats: correlation of what the edit adds with itself one window later, above that at other distances.
    colours: of each window, the distance in Lab of its mean colour, relative to the source's, from the first window's.
    likeness: of each window, the likeness to the source (cosine of the tower's tokens) less the first window's.
    sharpness: of each window, the fine structure of the frames that it adds over that of the same frames of the source,
        as they were painted, before the source's detail is put back.
    """

    clip: str
    edit: str
    method: str
    frames: int
    windows: int
    apart: float
    step: float
    step_elsewhere: float
    step_source: float
    leap: float
    leap_source: float
    repeats: float
    colours: tuple[float, ...]
    likeness: tuple[float, ...]
    sharpness: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Whether the seams are no more visible than neighbouring frames of the source."""
        return self.step <= self.step_source and self.leap <= self.leap_source

    @property
    def colour(self) -> float:
        return max(self.colours)

    @property
    def identity(self) -> float:
        return max(map(abs, self.likeness))


class Motion:
    """Where each pixel of a clip's frames is `gap` frames later: (T - gap, h, w, 2), by optical flow."""

    def __init__(self, clip: Clip, gap: int) -> None:
        finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
        height, width = grey[0].shape
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
        self.gap = gap
        self._maps = [grid + finder.calc(a, b, None) for a, b in zip(grey, grey[gap:], strict=False)]

    def steps(self, clip: Clip) -> NDArray[np.float64]:
        """Mean difference of frames that are `gap` apart along the motion, (T - gap,), of 255."""
        pairs = zip(clip, clip[self.gap :], self._maps, strict=False)
        return np.array([np.abs(_moved(later, where) - earlier).mean() for earlier, later, where in pairs])


def _moved(frame: NDArray[np.uint8], where: NDArray[np.float32]) -> NDArray[np.float32]:
    pixels = frame.astype(np.float32)
    moved = cv2.remap(pixels, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


def above_neighbours(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much each step exceeds the median of those around it: 0.1 is 10 % more."""
    around = [np.median(steps[max(0, t - _REACH) : t + _REACH + 1]) for t in range(len(steps))]
    return steps / np.maximum(around, 1e-6) - 1


def seams(windows: Windows) -> list[tuple[int, int]]:
    """The frames [start, stop) that neighbouring windows share."""
    return [(start, stop) for (_, stop), (start, _) in itertools.pairwise(windows)]


def measure(
    named: tuple[str, str, str], result: Clip, source: Clip, painted: Sequence[Clip], windows: Windows, tower: Any
) -> Measured:
    """The figures of one edit.

    named: clip, edit and method. result, source: (T, h, w, 3), the finished file and the clip at the model's size.
    painted: of each window. tower: the vision tower; None leaves the likeness at 0.
    """
    shared = seams(windows)
    gap = shared[0][1] - shared[0][0] + 1
    near, far = Motion(source, 1), Motion(source, gap)
    steps, steps_source = (above_neighbours(near.steps(clip)) for clip in (result, source))
    leaps, leaps_source = (above_neighbours(far.steps(clip)) for clip in (result, source))
    at = [frame for start, stop in shared for frame in range(start - 1, min(stop, len(steps)))]
    across = [start - 1 for start, stop in shared if stop - start + 1 == gap and start - 1 < len(leaps)]
    elsewhere = np.setdiff1d(np.arange(len(steps)), at)

    def percentile(values: NDArray[np.float64]) -> float:
        return float(np.percentile(values, _COMPARED)) if len(values) else 0.0

    return Measured(
        *named,
        frames=len(result),
        windows=len(windows),
        apart=float(np.mean([np.abs(a - b).mean() for a, b in shown_twice(painted, windows)])),
        step=percentile(steps[at]),
        step_elsewhere=percentile(steps[elsewhere]),
        step_source=percentile(steps_source),
        leap=percentile(leaps[across]),
        leap_source=percentile(leaps_source),
        repeats=repetition(result, source, windows[1][0] - windows[0][0]),
        colours=colours(result, source, windows),
        likeness=(0.0,) * len(windows) if tower is None else likeness(result, source, windows, tower),
        sharpness=sharpness(painted, source, windows),
    )


def shown_twice(painted: Sequence[Clip], windows: Windows) -> Iterator[tuple[NDArray, NDArray]]:
    """What the earlier and the later window made of the frames that they share, as floats of 0 to 255."""
    for number, (start, stop) in enumerate(seams(windows)):
        first = start - windows[number][0]
        earlier, later = painted[number][first : first + stop - start], painted[number + 1][: stop - start]
        yield earlier.astype(np.float32), later.astype(np.float32)


def repetition(result: Clip, source: Clip, period: int) -> float:
    """Correlation of what an edit adds (fine structure of result minus source) with itself `period` frames later, above
    the mean of those at distances near it. 0 for a clip that is too short."""
    added = [
        (change - cv2.GaussianBlur(change, (0, 0), 4)).ravel()
        for change in (a.astype(np.float32) - b for a, b in zip(result, source, strict=True))
    ]
    units = [change / max(1e-6, float(np.linalg.norm(change))) for change in added]

    def alike(distance: int) -> float:
        return float(np.mean([a @ b for a, b in zip(units, units[distance:], strict=False)]))

    if len(units) <= period + 2 or period <= 2:
        return 0.0
    return alike(period) - (alike(period - 2) + alike(period + 2)) / 2


def colours(result: Clip, source: Clip, windows: Windows) -> tuple[float, ...]:
    """The distance in Lab of each window's mean colour, relative to the source's, from the first window's."""
    means = [_lab(result[start:stop]) - _lab(source[start:stop]) for start, stop in windows]
    return tuple(float(np.linalg.norm(mean - means[0])) for mean in means)


def likeness(result: Clip, source: Clip, windows: Windows, tower: Any) -> tuple[float, ...]:
    """The cosine between each window's tokens of the result and of the source, less the first window's."""
    alike = [_likeness(result[start:stop:4], source[start:stop:4], tower) for start, stop in windows]
    return tuple(each - alike[0] for each in alike)


def sharpness(painted: Sequence[Clip], source: Clip, windows: Windows) -> tuple[float, ...]:
    """The fine structure of the frames that each window adds to the clip, divided by that of the source's."""
    ends = [0, *(stop for _, stop in windows)]
    pairs = (
        (frames[end - start : stop - start], source[end:stop])
        for frames, (start, stop), end in zip(painted, windows, ends, strict=False)
    )
    return tuple(_fine_structure(mine) / max(1e-6, _fine_structure(theirs)) for mine, theirs in pairs)


def _fine_structure(clip: Clip) -> float:
    floats = [frame.astype(np.float32) for frame in clip]
    return float(np.mean([np.abs(frame - cv2.GaussianBlur(frame, (0, 0), _FINE)).mean() for frame in floats]))


def _lab(clip: Clip) -> NDArray[np.float64]:
    frames = [cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for frame in clip]
    return np.asarray(np.mean(frames, axis=(0, 1, 2)))


def _likeness(result: Clip, source: Clip, tower: Any) -> float:
    import torch

    from sama.model.semantics import anchor_tokens

    with torch.inference_mode():
        edited, original = (
            anchor_tokens(tower, torch.from_numpy(clip).movedim(-1, 1).to(tower.device, tower.dtype) / 255)
            for clip in (result, source)
        )
        return float(torch.cosine_similarity(edited, original, dim=-1).float().mean())
