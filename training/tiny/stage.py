"""The part that the stages `vae` and `tower` share: samples come from one stream of rendered groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from training.config import TrainConfig
from training.data.drawn.scenes import RenderedGroups, stream


class RenderedStage:
    """A stage whose position is the number of batches that it has taken."""

    config: TrainConfig
    taken: int = 0

    def _taking(self, groups: RenderedGroups) -> Iterator[Any]:
        """Batches of `groups`, counted."""
        for batch in stream(groups, self.config.data.workers):
            self.taken += 1
            yield batch

    def figures(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]
