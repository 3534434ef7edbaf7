"""The comparison viewer: clips packed side by side in one video, drawn to a canvas panel by panel.

One video has one clock, so the panels cannot drift apart, however busy the machine is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ui import text

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Comparison:
    """The contents of a viewer.

    video: a file with the panels left to right, all of one size.
    panels: their names, in that order. compare: the two of them that the divider and the difference are about.
    fps: frames per second; frames: how many. times: seconds at which each is shown, where the rate is not constant.
    sound: whether the file has any. poster: a picture of the viewer at its start, shown until the video is there.
    """

    video: Path
    panels: tuple[str, ...]
    fps: float
    frames: int
    caption: str = ""
    sound: bool = False
    compare: tuple[int, int] = (0, 1)
    mode: str = "wipe"
    times: tuple[float, ...] = ()
    poster: Path | None = None

    def value(self) -> dict[str, Any]:
        """The value of the component."""
        return {
            "video": file_data(self.video),
            "panels": list(self.panels),
            "compare": list(self.compare),
            "fps": self.fps,
            "frames": self.frames,
            "caption": self.caption,
            "sound": self.sound,
            "mode": self.mode,
            "times": list(self.times),
            "poster": file_data(self.poster) if self.poster else None,
        }


def file_data(path: Path) -> dict[str, Any]:
    """A file in the form that gradio's client takes; gradio copies it to its cache and fills in the URL."""
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def viewer(value: Comparison | None = None, empty: str = text.EMPTY_VIEWER, **kwargs: Any) -> gr.HTML:
    """A viewer; its value is `Comparison.value()`, or None for the words in `empty`.

    A component, not a subclass of one: gradio writes a stub file beside the source of every subclass it meets.
    """
    return gr.HTML(
        value.value() if value else None,
        html_template=(_HERE / "viewer.html").read_text("utf-8"),
        css_template=(_HERE / "viewer.css").read_text("utf-8"),
        js_on_load=(_HERE / "viewer.js").read_text("utf-8"),
        apply_default_css=False,
        empty=empty,
        **kwargs,
    )
