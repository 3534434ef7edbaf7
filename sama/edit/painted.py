"""Painted frames of one window, waiting to be written at the clip's own size."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sama.edit.change import changed_share
from sama.edit.compose import compose, crossfade, enlarge, smooth_in_time
from sama.edit.detail import fit_detail, shared_structure, with_detail


@dataclass(frozen=True)
class Painted:
    """Frames at the model's size, and how they become pictures of the clip's size.

    frames: (T, h, w, 3) uint8, the decoded result.
    change: (T, h, w) uint8, how far each pixel moves away from the source, see `sama.edit.change.shown_change`.
    mask: (T, h, w) in [0, 1], where they replace the source; None for everywhere.
    reference: (T, h, w, 3) uint8, the decoded source, from which the source's lost detail is known; None leaves it out.
    shared: (T, h, w) in [0, 1], how much of that detail belongs into a local edit; None for all of it.
    """

    frames: NDArray[np.uint8]
    change: NDArray[np.uint8]
    mask: NDArray[np.float32] | None = None
    reference: NDArray[np.uint8] | None = None
    shared: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        frames: NDArray[np.uint8],
        change: NDArray[np.uint8],
        mask: NDArray[np.float32] | None = None,
        reference: NDArray[np.uint8] | None = None,
    ) -> Painted:
        """A window's frames, with what the mask and the reference say of the source's detail in them."""
        shared = None
        if mask is not None and reference is not None:
            shared = np.stack(
                [
                    shared_structure(fit_detail(frame, source), weight)
                    for frame, source, weight in zip(frames, reference, mask, strict=True)
                ]
            )
            shared = smooth_in_time(shared)
        return cls(frames, change, mask, reference, shared)

    def part(self, start: int, stop: int | None = None) -> Painted:
        """Frames [start, stop)."""
        return Painted(*(None if field is None else field[start:stop] for field in self._fields()))  # type: ignore[arg-type]

    def fading_into(self, later: Painted) -> Painted:
        """`later`, cross-faded from this, which shows its first frames too. Both have the same fields."""
        pairs = zip(self._fields(), later._fields(), strict=True)
        return Painted(*(None if a is None or b is None else _faded(a, b) for a, b in pairs))  # type: ignore[arg-type]

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
            gain = fit_detail(frame, self.reference[index]).gain
            if self.shared is not None:
                gain = gain * self.shared[index][..., None, None]
            painted = with_detail(source, frame, self.reference[index], gain)
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


def _faded(earlier: NDArray, later: NDArray) -> NDArray:
    overlap = len(earlier)
    return np.concatenate([crossfade(earlier, later[:overlap]), later[overlap:]])
