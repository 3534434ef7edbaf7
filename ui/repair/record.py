"""A damaged clip, and its repair, as a folder: the same for a repair of the repository and for one of this session.

original, seen, repaired, error   pictures of all frames, row by row (`.jpg`, or `.webp` in the repository)
repair.json                       what was done, by which settings, and all numbers
numbers.csv                       the numbers of each frame        (of a repair)
film.mp4                          the three panels side by side    (of a repair)
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sama.files import whole_file
from sama.video import VideoWriter
from ui.repair.damage import Break, Damaged
from ui.repair.numbers import measured

SHOWN_FPS = 8
"""Frames per second on the page and in the film: 17 frames at their own rate are over before one has looked."""
PANELS = ("Original", "What the model sees", "Repaired")
ORANGE = (232, 89, 12)
"""The one colour that marks change, RGB."""
ERROR_RANGE = 64
"""The difference, in steps of 255, that is shown in full orange."""
_QUALITY = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 88], ".webp": [cv2.IMWRITE_WEBP_QUALITY, 75]}
_FILM_WIDTH, _FILM_BAR, _FILM_CRF = 384, 36, 26


@dataclass(frozen=True)
class Repair:
    """A damaged clip that can be shown, repaired or not. facts: the content of repair.json; suffix: of the pictures."""

    folder: Path
    facts: dict[str, Any] = field(hash=False, compare=False)
    suffix: str = ".jpg"

    @classmethod
    def load(cls, folder: Path) -> Repair:
        """Raises OSError or ValueError when the folder is incomplete."""
        facts = json.loads((folder / "repair.json").read_text("utf-8"))
        suffix = next((end for end in _QUALITY if (folder / f"original{end}").is_file()), ".jpg")
        repair = cls(folder, facts, suffix)
        wanted = [repair.sheet("original"), repair.sheet("seen")]
        wanted += [repair.sheet("repaired"), repair.sheet("error"), repair.film, repair.table] * repair.finished
        if missing := [path.name for path in wanted if not path.is_file()]:
            raise FileNotFoundError(f"{folder.name} has no {', '.join(missing)}: make the repair again")
        return repair

    @property
    def choice(self) -> Break:
        return Break(**self.facts["choice"])

    @property
    def finished(self) -> bool:
        return "psnr" in self.facts

    @property
    def numbers_file(self) -> Path:
        return self.folder / "repair.json"

    @property
    def film(self) -> Path:
        return self.folder / "film.mp4"

    @property
    def table(self) -> Path:
        return self.folder / "numbers.csv"

    def sheet(self, name: str) -> Path:
        """The picture of all frames of a row."""
        return self.folder / f"{name}{self.suffix}"


def save_damage(damaged: Damaged, folder: Path, facts: dict[str, Any] | None = None, suffix: str = ".jpg") -> Repair:
    """Write what can be shown before a repair. facts: more of them for repair.json."""
    _write_sheet(folder / f"original{suffix}", damaged.clean)
    _write_sheet(folder / f"seen{suffix}", damaged.given)
    total, height, width, _ = damaged.clean.shape
    known = {
        "choice": asdict(damaged.choice),
        "detail": damaged.detail,
        "width": width,
        "height": height,
        "count": total,
        "columns": sheet_columns(total),
        "touched": [round(float(share), 4) for share in damaged.touched],
        "sources": damaged.sources,
        "pieces": [asdict(piece) for piece in damaged.pieces],
    }
    return _with_facts(Repair(folder, {}, suffix), known | (facts or {}))


def save_repair(
    damaged: Damaged,
    restored: np.ndarray,
    ceiling: np.ndarray,
    folder: Path,
    facts: dict[str, Any] | None = None,
    suffix: str = ".jpg",
) -> Repair:
    """Write everything about a repair. restored, ceiling: (T, H, W, 3) uint8, the repair, and the clean clip as the
    model's autoencoder gives it back."""
    numbers = measured(damaged, restored, ceiling)
    _write_sheet(folder / f"repaired{suffix}", restored)
    _write_sheet(folder / f"error{suffix}", heat(damaged.clean, restored))
    _write_film(damaged, restored, folder / "film.mp4")
    with whole_file(folder / "numbers.csv") as part:
        part.write_text(_csv(numbers["frames"]), "utf-8")
    return save_damage(damaged, folder, (facts or {}) | numbers, suffix)


def heat(clean: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|other - clean|, the mean of the three colours, as orange over the clean clip in grey: (T, H, W, 3) uint8.

    The scale is the same for every frame and clip: from nothing at 0 to full orange at `ERROR_RANGE`.
    """
    error = np.abs(other.astype(np.int16) - clean.astype(np.int16)).mean(axis=3, dtype=np.float32)
    share = np.minimum(error / ERROR_RANGE, 1)[..., None]
    grey = (clean.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    return np.rint(grey * (1 - share) + np.array(ORANGE, np.float32) * share).astype(np.uint8)


def sheet_columns(frames: int) -> int:
    """How many frames stand in a row of a sheet."""
    return math.ceil(math.sqrt(frames))


def sheet(frames: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) as one picture, row by row from the upper left; places that are left over are black."""
    total, height, width, _ = frames.shape
    columns = sheet_columns(total)
    rows = math.ceil(total / columns)
    places = np.zeros((rows * columns, height, width, 3), np.uint8)
    places[:total] = frames
    return places.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)


def _with_facts(repair: Repair, facts: dict[str, Any]) -> Repair:
    written = json.dumps(facts, indent=1, ensure_ascii=False)
    with whole_file(repair.numbers_file) as part:
        part.write_text(written + "\n", "utf-8")
    return Repair(repair.folder, json.loads(written), repair.suffix)


def _write_sheet(path: Path, frames: np.ndarray) -> None:
    ok, data = cv2.imencode(path.suffix, sheet(frames)[..., ::-1], _QUALITY[path.suffix])
    if not ok:
        raise OSError(f"{path.name} cannot be encoded")
    path.write_bytes(data.tobytes())


def _csv(frames: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(frames[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(frames)
    return out.getvalue()


def _write_film(damaged: Damaged, restored: np.ndarray, path: Path) -> None:
    """The three panels under their names, twice as large where they are small; orange where a frame was touched."""

    def panel(name: str, frames: np.ndarray, marked: bool) -> list[np.ndarray]:
        shown = []
        for frame, touched in zip(frames, damaged.touched, strict=True):
            width = max(_FILM_WIDTH, frame.shape[1]) // 2 * 2
            height = round(width * frame.shape[0] / frame.shape[1] / 2) * 2
            picture = cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)
            bar = np.full((_FILM_BAR, width, 3), 20, np.uint8)
            colour = ORANGE if marked and touched else (255, 255, 255)
            cv2.putText(bar, name, (10, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, 1, cv2.LINE_AA)
            if marked and touched:
                bar[-4:] = ORANGE
            shown.append(np.concatenate([bar, picture]))
        return shown

    clips = (damaged.clean, damaged.given, restored)
    panels = [panel(name, clip, index == 1) for index, (name, clip) in enumerate(zip(PANELS, clips, strict=True))]
    height, width = panels[0][0].shape[:2]
    with VideoWriter(path, width * len(panels), height, Fraction(SHOWN_FPS), crf=_FILM_CRF, preset="slow") as writer:
        for shown in zip(*panels, strict=True):
            writer.write(np.concatenate(shown, axis=1))
