"""Suggestions for the clip at hand: three instructions that the model does well, chosen by how the clip looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from sama.errors import VideoError
from sama.video import FrameReader
from ui import text
from ui.component import component
from ui.media.clips import PageClip

_SIDE = 64
_DARK, _BRIGHT = 0.35, 0.62  # mean brightness, 0 to 1
_GREY = 0.12  # mean saturation, 0 to 1


def ideas(value: list[str], **kwargs: Any) -> gr.HTML:
    """The component; its value is a list of instructions."""
    return component(Path(__file__), value, **kwargs)


def ideas_for(clip: PageClip | None) -> list[str]:
    """Three instructions for a clip, by brightness and colour of its middle frame; none without a clip."""
    if clip is None:
        return []
    try:
        with FrameReader(clip.path, clip.frames // 2, 1, size=(_SIDE, _SIDE)) as reader:
            frame = next(iter(reader)).image.astype(np.float32) / 255
    except (VideoError, OSError, StopIteration):
        return list(text.IDEAS["plain"])
    high, low = frame.max(axis=-1), frame.min(axis=-1)
    light, colour = float(frame.mean()), float((high - low).mean())
    kind = "grey" if colour < _GREY else "dark" if light < _DARK else "bright" if light > _BRIGHT else "plain"
    return list(text.IDEAS[kind])
