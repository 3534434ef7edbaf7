"""What the Repair tab holds for one visitor."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ui.media.clips import PageClip
from ui.repair.damage import Break
from ui.repair.record import Repair

_REMEMBERED = 12
Key = tuple[str, Break]
"""A clip by its path, and how it is broken."""


@dataclass
class RepairSession:
    """What the tab shows to one visitor and has repaired for them. The same object all along, so that a job at work can
    see whether the page has moved on.

    chosen: whether the visitor has chosen the clip. own: path of the own clip that was last offered.
    """

    key: Key | None = None
    shown: Repair | None = None
    repaired: dict[Key, Repair] = field(default_factory=dict)
    chosen: bool = False
    own: str = ""
    seconds: float | None = None

    def remember(self, key: Key, repair: Repair) -> None:
        self.repaired[key] = repair
        while len(self.repaired) > _REMEMBERED:
            del self.repaired[next(iter(self.repaired))]

    @property
    def folders(self) -> list[Path]:
        """The folders in use."""
        return [repair.folder for repair in (*self.repaired.values(), self.shown) if repair is not None]


@dataclass(frozen=True)
class PageInput:
    """The values of the tab's form, and the clip of the Edit tab."""

    clip: int | None
    task: str
    strength: float | None
    start: float | None
    seed: float | None
    caption: str
    own: PageClip | None
