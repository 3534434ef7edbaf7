"""The header: name, what the model does well by the benchmark's own figures, paper and code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from sama.presets import TINY_FOLDER
from ui import text
from ui.component import component
from ui.settings import Settings

_NVIDIA = Path("/proc/driver/nvidia/gpus")


class Score(NamedTuple):
    """How often a kind of edit was done as asked: per cent of so many held-out pairs."""

    kind: str
    percent: int
    pairs: int


def header(settings: Settings, **kwargs: Any) -> gr.HTML:
    """The component."""
    rows = scores_of(TINY_FOLDER) if settings.preset == "tiny" else []
    return component(
        Path(__file__),
        {
            "tagline": text.TAGLINE,
            "model": text.MODELS.get(settings.preset, settings.info.label),
            "lead": text.WHAT_WORKS if rows else "",
            "rows": [list(row) for row in rows],
            "how": text.HOW_MEASURED if rows else "",
            "large": text.no_large_model(_NVIDIA.is_dir()) if settings.preset != "14b" else "",
            "paper": text.PAPER,
            "code": text.CODE,
        },
        **kwargs,
    )


def scores_of(folder: Path) -> list[Score]:
    """The table "kind of edit" of a model's card, best first; empty where the card has none."""
    card = folder / "README.md"
    lines = card.read_text("utf-8").splitlines() if card.is_file() else []
    begin = next((number for number, line in enumerate(lines) if line.startswith("| kind of edit |")), None)
    found = []
    for line in lines[begin + 2 :] if begin is not None else ():
        match = re.match(r"\| ([^|]+) \| (\d+) % \| (\d+) \|", line)
        if match is None:
            break
        found.append(Score(match[1].strip(), int(match[2]), int(match[3])))
    return sorted(found, key=lambda row: -row.percent)
