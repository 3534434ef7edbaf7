"""Makes sixteen pairs of small clips that teach a style, from files of the repository: nothing is downloaded.

python -m training.tiny.recipes.make_style_pairs --out data/thermal

writes source and target clips of 17 frames, `pairs.jsonl`, which training reads, and `sheet.jpg`, for looking at.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from sama.files import whole_file
from sama.video import FrameReader, write_clip
from training.synth.scenes.backgrounds import background
from training.tiny.recipes.thermal import thermal

logger = logging.getLogger(__name__)

EXAMPLES = Path(__file__).resolve().parents[3] / "assets" / "examples"
FRAMES = 17
FPS = 12
SIZE = (512, 288)
"""Twice the model's size: a video file stores colours at half the resolution."""
PROMPTS = ("Make it thermal", "Show it through a thermal camera", "Make it thermal", "Give it a thermal look")
"""One for each pair in turn; the words to remember come most often."""


class Cut(NamedTuple):
    """A part of a clip: its first frame, where the view lies (0 is left or top, 1 right or bottom), and its
    magnification."""

    clip: str
    first: int
    left: float
    top: float
    zoom: float
    mirrored: bool = False


CUTS = (
    Cut("sketch-squirrel", 0, 0.0, 0.0, 1.0),
    Cut("sketch-squirrel", 16, 0.0, 0.0, 1.0, mirrored=True),
    Cut("sketch-squirrel", 10, 1.0, 0.6, 1.5),
    Cut("sketch-squirrel", 16, 0.2, 0.5, 1.6),
    Cut("sketch-squirrel", 6, 0.5, 0.3, 1.25, mirrored=True),
    Cut("blue-bowl", 0, 0.0, 0.0, 1.0),
    Cut("blue-bowl", 0, 0.6, 0.4, 1.5, mirrored=True),
    Cut("blue-bowl", 0, 0.0, 0.8, 1.4),
)
"""The other example, `snowy-rabbit`, stays unseen, to try the style on."""

SCENES = (
    "autumn park", "forest", "road", "underwater", "city skyline at night", "beach", "snowy mountains", "volcano",
)  # fmt: skip
"""Drawn in code, and given motion by a camera that pans and zooms."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Make sixteen pairs that teach the style of training.tiny.recipes.thermal."
    )
    parser.add_argument("--out", type=Path, default=Path("data/thermal"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    manifest = make_pairs(sources(), options.out)
    logger.info("%d pairs in %s; look at %s", len(CUTS) + len(SCENES), manifest, options.out / "sheet.jpg")
    return 0


def make_pairs(clips: Iterable[np.ndarray], folder: Path) -> Path:
    """Write clips (T, H, W, 3) uint8 and their styled versions, the manifest and a contact sheet into `folder`; returns
    the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, looks = [], []
    for number, source in enumerate(clips):
        target = np.stack([thermal(frame) for frame in source])
        row = {
            "source_video": f"{number:02d}-source.mp4",
            "target_video": f"{number:02d}-target.mp4",
            "prompt": PROMPTS[number % len(PROMPTS)],
        }
        write_clip(folder / row["source_video"], source, FPS)
        write_clip(folder / row["target_video"], target, FPS)
        rows.append(json.dumps(row))
        looks.append(np.concatenate([source[len(source) // 2], target[len(target) // 2]]))
    _write_sheet(folder / "sheet.jpg", looks)
    with whole_file(folder / "pairs.jsonl") as part:
        part.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "pairs.jsonl"


def sources() -> Iterator[np.ndarray]:
    """The sixteen source clips, (17, 288, 512, 3) uint8 each; the same every time."""
    for cut in CUTS:
        yield _cut_out(cut)
    rng = np.random.default_rng(0)
    for scene in SCENES:
        yield _flown_over(scene, rng)


def _cut_out(cut: Cut) -> np.ndarray:
    with FrameReader(EXAMPLES / cut.clip / "source.mp4", cut.first, FRAMES) as reader:
        frames = [frame.image for frame in reader]
    height, width = frames[0].shape[:2]
    view = int(width / cut.zoom), int(height / cut.zoom)
    x, y = int(cut.left * (width - view[0])), int(cut.top * (height - view[1]))
    parts = [frame[y : y + view[1], x : x + view[0]] for frame in frames]
    clip = np.stack([cv2.resize(part, SIZE, interpolation=cv2.INTER_CUBIC) for part in parts])
    return np.ascontiguousarray(clip[:, :, ::-1]) if cut.mirrored else clip


def _flown_over(scene: str, rng: np.random.Generator) -> np.ndarray:
    """A drawn scene under a camera that moves evenly from one view of it to another."""
    picture = background(scene, 2 * SIZE[0], 2 * SIZE[1])
    height, width = picture.shape[:2]
    zooms, centres = rng.uniform(1.05, 1.7, 2), rng.uniform(0.3, 0.7, (2, 2))
    frames = []
    for passed in np.linspace(0, 1, FRAMES):
        zoom, centre = (start + passed * (end - start) for start, end in (zooms, centres))
        view = np.array((width, height)) / zoom
        corner = np.clip(centre * (width, height) - view / 2, 0, (width, height) - view)
        scale = SIZE / view
        move = np.array(((scale[0], 0, -corner[0] * scale[0]), (0, scale[1], -corner[1] * scale[1])))
        frames.append(cv2.warpAffine(picture, move, SIZE, flags=cv2.INTER_AREA))
    return np.stack(frames)


def _write_sheet(path: Path, looks: list[np.ndarray], columns: int = 4) -> None:
    """Middle frames, each source above its target."""
    rows = [np.concatenate(looks[first : first + columns], axis=1) for first in range(0, len(looks), columns)]
    sheet = cv2.resize(np.concatenate(rows), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    with whole_file(path) as part:
        part.write_bytes(encoded.tobytes())


if __name__ == "__main__":
    raise SystemExit(main())
