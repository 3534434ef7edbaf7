"""The settings that `benchmarks.speed` measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EditSetting:
    """One measurement: `floor`, `vae`, `gpus`, or a memory mode.

    limit: device memory that the process may take, in GiB (0: all there is). compile: on or off. frames, height, width:
    of the clip. steps: denoising steps, of which the last ones are timed. guidance: 1 leaves the second evaluation out.
    """

    what: str
    limit: float = 0.0
    compile: str = "off"
    frames: int = 81
    height: int = 480
    width: int = 832
    steps: int = 2
    guidance: float = 5.0

    @property
    def name(self) -> str:
        """The name of its result's file, without the suffix."""
        changes = [
            f"{field.name}_{getattr(self, field.name):g}" if field.type == "float" else
            f"{field.name}_{getattr(self, field.name)}"
            for field in dataclasses.fields(self)[1:]
            if getattr(self, field.name) != field.default
        ]  # fmt: skip
        return "-".join([self.what, *changes])


GPU_SETTINGS = (
    "floor", "resident", "resident:compile=on", "streamed:compile=on", "auto:compile=on:limit=8",
    "auto:compile=on:limit=12", "auto:compile=on:limit=16", "auto:compile=on:limit=24", "auto:compile=on:limit=48",
    "auto:compile=on:limit=80", "float8:limit=24", "streamed-disk:compile=on:limit=8", "vae", "gpus",
)  # fmt: skip
"""Most important first."""
QUICK_SETTINGS = ("floor", "resident:compile=on", "streamed:compile=on", "vae", "gpus")
CPU_SETTINGS = ("floor", "resident", "streamed", "streamed-disk", "vae")
_READERS: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
TOY = {"frames": 5, "height": 32, "width": 48}
CPU_CLIP = {"frames": 17, "height": 192, "width": 192, "steps": 3, "guidance": 2.0}


def parse_edit_setting(text: str, defaults: dict[str, Any] | None = None) -> EditSetting:
    """Parse `NAME:key=value:...` into a setting. Raises ValueError for a name, key or value that is none."""
    from sama.device.memory import MEMORY_MODES

    what, *changes = text.split(":")
    names = ("floor", "vae", "gpus", *MEMORY_MODES)
    if what not in names:
        raise ValueError(f"there is no setting {what!r}: choose from {', '.join(names)}")
    kinds = {field.name: _READERS[str(field.type)] for field in dataclasses.fields(EditSetting)[1:]}
    values = dict(defaults or {})
    for change in changes:
        key, _, value = change.partition("=")
        if key not in kinds:
            raise ValueError(f"there is no {key!r} to set: choose from {', '.join(kinds)}")
        values[key] = kinds[key](value)
    return EditSetting(what, **values)
