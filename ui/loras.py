"""LoRAs that the app is started with, as the page offers them. Headers of files are read; torch is not imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from sama.edit.request import MAX_INSTRUCTION, check_lora, parse_lora
from sama.model.lora_keys import plain
from ui.text import NO_LORA

LORA_STRENGTH = (0.0, 2.0)


class Lora(NamedTuple):
    """A LoRA by the name that visitors see.

    path: its file or folder. scale: its strength unless another is chosen, within LORA_STRENGTH.
    trigger: an instruction that asks for what it was trained on, where its file says so.
    Both texts come from strangers: one line each, to be shown as text.
    """

    name: str
    path: Path
    scale: float = 1.0
    trigger: str = ""

    def spec(self, scale: float) -> str:
        """The text for `EditRequest.lora`, with the strength clamped to LORA_STRENGTH."""
        return f"{self.path}@{_within_limits(scale):g}"


def named_by_environment() -> tuple[str, ...]:
    """The LoRAs named by the environment variable SAMA_LORA, separated like the folders of PATH."""
    return tuple(filter(None, os.environ.get("SAMA_LORA", "").split(os.pathsep)))


def offered(specs: Sequence[str]) -> dict[str, Lora]:
    """The LoRAs of `FILE[@SCALE]` texts by name, in their order. Raises EditError for one that cannot be used."""
    found: dict[str, Lora] = {}
    for spec in specs:
        path, scale = parse_lora(spec)
        check_lora(path)
        file = next(iter(path.glob("*.safetensors"))) if path.is_dir() else path
        with safe_open(file, framework="numpy") as opened:
            header = opened.metadata() or {}
        stem = plain(file.stem)
        name, number = stem, 2
        while name in found or name == NO_LORA:
            name, number = f"{stem} {number}", number + 1
        trigger = plain(header.get("modelspec.trigger_phrase", ""), MAX_INSTRUCTION)
        found[name] = Lora(name, path.resolve(), _within_limits(scale), trigger)
    return found


def _within_limits(scale: float) -> float:
    low, high = LORA_STRENGTH
    return min(high, max(low, float(scale)))
