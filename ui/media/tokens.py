"""The anchor tokens of one run, as a file beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sama.files import whole_file


@dataclass(frozen=True)
class Tokens:
    """Anchor tokens of one run.

    plan: (steps, 65, C), of the first window; source, result: (65, C), of the anchor frames by the vision tower.
    anchor_source, anchor_result: (H, W, 3) uint8. ordered: whether a token's index is its cell of the grid.
    """

    plan: np.ndarray
    source: np.ndarray
    result: np.ndarray
    anchor_source: np.ndarray
    anchor_result: np.ndarray
    ordered: bool

    def save(self, path: Path) -> None:
        half = {name: getattr(self, name).astype(np.float16) for name in ("plan", "source", "result")}
        with whole_file(path) as part, part.open("wb") as file:  # given a name, numpy adds a suffix to it
            np.savez_compressed(
                file,
                **half,
                anchor_source=self.anchor_source,
                anchor_result=self.anchor_result,
                ordered=np.array(self.ordered),
            )

    @classmethod
    def load(cls, path: Path) -> Tokens:
        with np.load(path, allow_pickle=False) as data:
            return cls(
                **{name: data[name] for name in ("plan", "source", "result", "anchor_source", "anchor_result")},
                ordered=bool(data["ordered"]),
            )
