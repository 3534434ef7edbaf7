"""Edits the whole picture of real clips, for looking at: there is no truth to measure against.

The files go through the product's own path (`sama.edit`), so that what is seen is what a user gets.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.watch.contact_sheet import contact_sheet

logger = logging.getLogger(__name__)

GLOBAL_EDITS = (
    "Make it snowy",
    "Make it rain",
    "Make it foggy",
    "Turn it into a pencil sketch",
    "Make it look like a watercolor painting",
    "Turn it into pixel art",
    "Make it black and white",
)
FRAME_HEIGHT = 120


def edit_real_clips(
    clips: Sequence[Path], edits: Sequence[str], model: str, out: Path, device: str | None = None, frames: int = 17
) -> Path:
    """Write a sheet with a row for each clip: its middle frame, then that frame of each edit, with seed 0.

    Raises sama.edit.request.EditError for a clip that cannot be read.
    """
    from sama.edit import EditRequest, edit_video, load_pipeline
    from sama.video import read_clip

    pipeline = load_pipeline("tiny", device, model=model)
    rows: list[tuple[str, list[np.ndarray]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for clip in clips:
            source = read_clip(clip, 0, frames)
            row = [source[len(source) // 2]]
            for edit in edits:
                path = Path(folder) / "edit.mp4"
                for _ in edit_video(EditRequest(clip, edit, path, frames=frames, model=model), pipeline):
                    pass
                row.append(read_clip(path)[len(source) // 2])
                logger.info("%s: %s", clip.name, edit)
            rows.append((clip.stem, row))
    heads = ["source", *edits]
    return contact_sheet(rows, out, frame_height=FRAME_HEIGHT, columns=heads, label_width=110, font_size=12, quality=85)
