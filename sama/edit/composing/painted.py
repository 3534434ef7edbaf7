"""Painted frames of one window, waiting to be written at the clip's own size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sama.edit.composing.change import changed_share
from sama.edit.composing.compose import compose, crossfade, enlarge, smooth_in_time
from sama.edit.composing.detail import fit_detail, shared_structure, with_detail, without_grain

_KEPT_BYTES = 64 << 20
"""Fits of a window that are kept until its frames are written; those beyond are made again."""


class _Gain(NamedTuple):
    """A fit's gain where the mask shows the frame: rows and columns of the whole, and their values (.., .., 3, 3)."""

    rows: slice
    columns: slice
    values: NDArray[np.float32]

    @classmethod
    def within(cls, gain: NDArray[np.float32], mask: NDArray[np.float32]) -> _Gain:
        # `compose` shows a pixel beyond the mask's box, and enlarging the gain there needs another one.
        rows, columns = (_reach(np.flatnonzero(mask.any(axis=axis)), 2) for axis in (1, 0))
        return cls(rows, columns, gain[rows, columns].copy())

    def whole(self, height: int, width: int) -> NDArray[np.float32]:
        """The gain (height, width, 3, 3), zero where it is not shown."""
        out = np.zeros((height, width, *self.values.shape[2:]), np.float32)
        out[self.rows, self.columns] = self.values
        return out


@dataclass(frozen=True)
class Painted:
    """Frames at the model's size, and how they become pictures of the clip's size.

    frames: (T, h, w, 3) uint8, the decoded result.
    change: (T, h, w) uint8, how far each pixel moves away from the source, see `change.shown_change`.
    mask: (T, h, w) in [0, 1], where they replace the source; None for everywhere.
    reference: (T, h, w, 3) uint8, the decoded source, from which the source's lost detail is known; None leaves it out.
    shared: (T, h, w) in [0, 1], how much of that detail belongs into a local edit; None for all of it.
    gains: of T frames of a local edit, how the source's detail is changed there; None for what is not known yet.
    """

    frames: NDArray[np.uint8]
    change: NDArray[np.uint8]
    mask: NDArray[np.float32] | None = None
    reference: NDArray[np.uint8] | None = None
    shared: NDArray[np.float32] | None = None
    gains: tuple[_Gain | None, ...] | None = None

    @classmethod
    def of(
        cls,
        frames: NDArray[np.uint8],
        change: NDArray[np.uint8],
        mask: NDArray[np.float32] | None = None,
        reference: NDArray[np.uint8] | None = None,
    ) -> Painted:
        """A window's frames, with what the mask and the reference say of the source's detail in them."""
        if mask is None or reference is None:
            return cls(frames, change, mask, reference)
        shared: list[NDArray[np.float32]] = []
        gains: list[_Gain | None] = []
        room = _KEPT_BYTES
        for frame, source, weight in zip(frames, reference, mask, strict=True):
            fit = fit_detail(frame, source)
            shared.append(shared_structure(fit, weight))
            gain = _Gain.within(fit.gain, weight)
            room -= gain.values.nbytes
            gains.append(gain if room >= 0 else None)
        return cls(frames, change, mask, reference, smooth_in_time(np.stack(shared)), tuple(gains))

    def part(self, start: int, stop: int | None = None) -> Painted:
        """Frames [start, stop)."""
        fields = (*self._fields(), self.gains)
        return Painted(*(None if field is None else field[start:stop] for field in fields))  # type: ignore[arg-type]

    def fading_into(self, later: Painted) -> Painted:
        """`later`, cross-faded from this, which shows its first frames too. Both have the same fields."""
        pairs = zip(self._fields(), later._fields(), strict=True)
        gains = None if later.gains is None else (None,) * len(self.frames) + later.gains[len(self.frames) :]
        faded = (None if a is None or b is None else _faded(a, b) for a, b in pairs)
        return Painted(*faded, gains=gains)  # type: ignore[arg-type, misc]

    def picture(
        self, index: int, source: NDArray[np.uint8], limit: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint8]:
        """Frame `index` at the size of `source` (H, W, 3), the clip's own frame.

        limit: (H, W) in [0, 1], the user's mask, outside which the source stays; None for no limit.
        """
        if limit is None:
            return self._unlimited(index, source)
        return compose(source, self._unlimited(index, source), limit) if limit.any() else source

    def _unlimited(self, index: int, source: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = source.shape[:2]
        frame = self.frames[index]
        if self.mask is not None and not self.mask[index].any():
            return source
        if self.reference is None:
            painted = enlarge(frame, width, height)
        else:
            reference = self.reference[index]
            known = None if self.gains is None else self.gains[index]
            if known is not None:
                gain = known.whole(*frame.shape[:2])
            else:
                fit = fit_detail(frame, reference)
                gain = fit.gain
                if self.mask is None:
                    frame = without_grain(frame, reference, fit)
            if self.shared is not None:
                gain = gain * self.shared[index][..., None, None]
            painted = with_detail(source, frame, reference, gain)
        return painted if self.mask is None else compose(source, painted, self.mask[index])

    def changed(self, index: int, limit: NDArray[np.float32] | None = None) -> float:
        """The share of frame `index` that changes by more than a faint amount, 0 to 1. limit: as in `picture`."""
        change = self.change[index]
        if limit is not None:
            height, width = change.shape
            change = change * cv2.resize(limit, (width, height), interpolation=cv2.INTER_AREA)
        return changed_share(change)

    def _fields(self) -> tuple[NDArray | None, ...]:
        return self.frames, self.change, self.mask, self.reference, self.shared


def _reach(places: NDArray[np.intp], margin: int) -> slice:
    """From the first to the last of ascending places, and `margin` further; empty where there is none."""
    return slice(max(0, int(places[0]) - margin), int(places[-1]) + 1 + margin) if len(places) else slice(0, 0)


def _faded(earlier: NDArray, later: NDArray) -> NDArray:
    overlap = len(earlier)
    return np.concatenate([crossfade(earlier, later[:overlap]), later[overlap:]])
