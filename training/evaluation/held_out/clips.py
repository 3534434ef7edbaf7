"""Clips in files: results kept small for a later look, cases written for other editors, their results read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from sama.files import whole_file
from training.evaluation.held_out.cases import CaseLine, draw
from training.synth.material.pack import Pack

EXPORT_FPS = 16
EXPORT_CRF = 6
LOSSLESS = 101
"""OpenCV's WebP quality above 100 keeps every pixel."""

_TALLEST = 16_000  # WebP holds 16383 rows
_VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".gif")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def write_strip(path: Path, clip: np.ndarray, quality: int) -> None:
    """Write a clip (T, H, W, 3) uint8 as one WebP picture of its frames, below each other and in further columns.

    quality: 1 to 100, or LOSSLESS.
    """
    frames, height, width, _ = clip.shape
    rows = max(1, min(frames, _TALLEST // height))
    columns = -(-frames // rows)
    padded = np.zeros((columns * rows, height, width, 3), np.uint8)
    padded[:frames] = clip
    picture = padded.reshape(columns, rows * height, width, 3).transpose(1, 0, 2, 3).reshape(rows * height, -1, 3)
    done, data = cv2.imencode(".webp", picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise ValueError(f"a clip of {clip.shape} cannot be stored as WebP")
    with whole_file(path) as part:
        part.write_bytes(data.tobytes())


def read_strip(path: Path, frames: int, width: int, height: int) -> np.ndarray:
    """A clip that `write_strip` wrote, (frames, height, width, 3) uint8. Raises ValueError for another picture."""
    picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    rows = max(1, min(frames, _TALLEST // height))
    columns = -(-frames // rows)
    if picture is None or picture.shape[:2] != (rows * height, columns * width):
        raise ValueError(f"{path} does not hold {frames} frames of {width}x{height}")
    clip = picture[..., ::-1].reshape(rows * height, columns, width, 3).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(clip.reshape(-1, height, width, 3)[:frames])


def export_cases(lines: Sequence[CaseLine], pack: Pack, out: Path, exact: bool = False) -> None:
    """Write what another editor needs: `<id>/source`, `<id>/truth` and `cases.jsonl` with the instructions.

    exact: PNG frames, numbered from 0; else H.264 of high quality (crf 6, 16 frames a second), which anything opens.
    """
    out.mkdir(parents=True, exist_ok=True)
    for line in lines:
        case = draw(pack, line)
        for name, clip in (("source", case.source), ("truth", case.target)):
            if exact:
                write_frames(out / line.id / name, clip)
            else:
                _write_video(out / line.id / f"{name}.mp4", clip)
    with whole_file(out / "cases.jsonl") as part:
        part.write_text("".join(json.dumps({"id": line.id, **asdict(line)}) + "\n" for line in lines), encoding="utf-8")


def write_frames(folder: Path, clip: np.ndarray) -> None:
    """A clip as PNG files 000.png, 001.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(clip):
        cv2.imwrite(str(folder / f"{index:03d}.png"), frame[..., ::-1])


def _write_video(path: Path, clip: np.ndarray) -> None:
    from sama.video import VideoWriter  # PyAV is not on every machine that scores

    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, clip.shape[2], clip.shape[1], EXPORT_FPS, crf=EXPORT_CRF) as writer:
        for frame in clip:
            writer.write(frame)


def find_result(folder: Path, line: CaseLine) -> Path | None:
    """The path of another editor's result of a case: `<id>.mp4` (or another video), a folder `<id>` of pictures, or a
    video `<id>/result.*`; None where there is none."""
    for place in (folder / line.id, folder / line.id / "result"):
        for suffix in _VIDEOS:
            if place.with_name(place.name + suffix).is_file():
                return place.with_name(place.name + suffix)
    for place in (folder / line.id / "result", folder / line.id):
        if place.is_dir() and _pictures(place):
            return place
    return None


def read_result(path: Path, line: CaseLine) -> np.ndarray:
    """A result at the case's size, (T, H, W, 3) uint8; longer ones are cut. Raises ValueError for fewer frames."""
    if path.is_dir():
        pictures = (cv2.imread(str(file), cv2.IMREAD_COLOR) for file in _pictures(path)[: line.frames])
        clip = [picture[..., ::-1] for picture in pictures if picture is not None]
    else:
        from sama.video import read_clip

        clip = list(read_clip(path, 0, line.frames))
    if len(clip) < line.frames:
        raise ValueError(f"{path} has {len(clip)} frames where the case has {line.frames}")
    width, height = line.bucket
    smaller = clip[0].shape[0] > height
    way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.stack([np.asarray(cv2.resize(frame, (width, height), interpolation=way)) for frame in clip])


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _PICTURES)
