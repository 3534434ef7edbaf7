"""Transcodes uploaded files to clean ones, in a child process with limits on memory and time."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

import sama
from sama.errors import VideoError
from sama.video.container import checked_path
from sama.video.limits import UPLOAD_LIMITS, VideoLimits
from sama.video.reading import FrameReader, VideoInfo, probe
from sama.video.timeline import Timeline, read_timeline
from sama.video.writing import VideoWriter

MAX_UPLOAD_SIDE = 1280
MAX_UPLOAD_FPS = Fraction("240.5")
"""Faster clips (super slow motion) are thinned; 240 frames per second, which phones film, are kept whole."""
MAX_FILE_SECONDS = 600.0
"""How long a file may be of which only a part is taken."""
_MEMORY_BYTES = 4 * 2**30
_REFUSED = 3


class Part(NamedTuple):
    """The part of a file that was taken: its first second, and how many seconds the file has."""

    start: float
    of: float


def normalise_upload(
    path: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    limits: VideoLimits = UPLOAD_LIMITS,
    timeout: float = 120.0,
    memory_bytes: int = _MEMORY_BYTES,
) -> VideoInfo:
    """Transcode ``path`` to H.264 yuv420p with AAC sound at ``destination`` (.mp4); returns facts about the result.

    Rotation and pixel shape are applied, and the longer side becomes 1280 pixels at most; the ``notices`` of the result
    are sentences about other changes. The file is opened in a child process with limits on memory, processor time and
    ``timeout`` (seconds), so that a hostile file does no harm. Raises :class:`VideoError` with a sentence for the user;
    no file is then left.
    """
    return _normalise(path, destination, limits, timeout, memory_bytes, None)[0]


def normalise_part(
    path: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    start: float,
    limits: VideoLimits = UPLOAD_LIMITS,
    timeout: float = 120.0,
    memory_bytes: int = _MEMORY_BYTES,
) -> tuple[VideoInfo, Part]:
    """Like :func:`normalise_upload`, but takes as much as ``limits`` allow of a longer file, from second ``start``.

    The part begins earlier where the file would end before it is full. Files of up to 10 minutes are taken.
    """
    return _normalise(path, destination, limits, timeout, memory_bytes, start)


def _normalise(
    path: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    limits: VideoLimits,
    timeout: float,
    memory_bytes: int,
    start: float | None,
) -> tuple[VideoInfo, Part]:
    source = checked_path(path, limits)
    target = Path(destination)
    if not target.parent.is_dir():
        raise VideoError(f"The folder {target.parent.name} does not exist; create it first.")
    with tempfile.TemporaryDirectory(prefix=".upload-", dir=target.parent) as folder:
        part = Path(folder) / "clean.mp4"
        notices, taken = _run_child(source, part, limits, timeout, memory_bytes, start)
        with _named_after(source):
            info = probe(part)
        part.replace(target)
    return replace(info, path=os.fspath(destination), notices=notices), taken


@contextmanager
def _named_after(source: Path) -> Iterator[None]:
    """Name the user's file in errors about the transcoded one."""
    try:
        yield
    except VideoError as error:
        raise VideoError(f"{source.name} could not be converted; export it as MP4 (H.264, AAC) first.") from error


def _run_child(
    source: Path, part: Path, limits: VideoLimits, timeout: float, memory_bytes: int, start: float | None
) -> tuple[tuple[str, ...], Part]:
    """Run the child process that writes ``part``; returns its notices, and what it took of the file."""
    order = {
        "source": str(source.resolve()),
        "destination": str(part),
        "limits": _limits_to_json(limits),
        "memory_bytes": memory_bytes,
        "cpu_seconds": max(1, round(timeout * 2)),
        "start": start,
    }
    too_much = VideoError(f"{source.name} takes too long or too much memory to open; use a shorter or smaller video.")
    try:
        child = subprocess.run(
            [sys.executable, "-m", "sama.video"],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=_child_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise too_much from error
    if child.returncode == 0 and part.exists():
        notices, taken = json.loads(child.stdout)
        return tuple(notices), Part(*taken)
    if child.returncode == _REFUSED:
        raise VideoError(child.stdout.strip())
    raise too_much


def _child_environment() -> dict[str, str]:
    """The parent's environment, with the package on PYTHONPATH and settings that keep memory small."""
    root = str(Path(sama.__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # Each memory arena of the C library reserves address space, which the limit counts.
    return (
        os.environ
        | one_thread
        | {
            "PYTHONPATH": root if not inherited else os.pathsep.join((root, inherited)),
            "MALLOC_ARENA_MAX": "2",
        }
    )


def _limits_to_json(limits: VideoLimits) -> dict[str, object]:
    values = asdict(limits)
    if limits.codecs is not None:
        values["codecs"] = sorted(limits.codecs)
    return values


def run_child(order_text: str) -> int:
    """The child's work: takes its task as JSON, prints its notices and the part as JSON or the sentence of a refusal;
    returns the exit status."""
    order = json.loads(order_text)
    _restrict(order["memory_bytes"], order["cpu_seconds"])
    values = order["limits"]
    if values["codecs"] is not None:
        values["codecs"] = frozenset(values["codecs"])
    limits = VideoLimits(**values)
    try:
        done = _transcode(Path(order["source"]), Path(order["destination"]), limits, order["start"])
    except VideoError as error:
        sys.stdout.write(str(error))
        return _REFUSED
    sys.stdout.write(json.dumps(done))
    return 0


def _restrict(memory_bytes: int, cpu_seconds: int) -> None:
    try:
        import resource
    except ImportError:
        return  # not on Windows: there the wall clock is the only bound
    for what, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 2**30),
    ):
        try:
            resource.setrlimit(what, (value, value))
        except (ValueError, OSError):
            continue  # a tighter limit is in force already, or the system does not know this one (macOS: RLIMIT_AS)


def _transcode(
    source: Path, destination: Path, limits: VideoLimits, start: float | None
) -> tuple[list[str], tuple[float, float]]:
    """Write the clean file; returns sentences about what it does not keep, and the part (see :class:`Part`)."""
    whole = limits if start is None else replace(limits, max_seconds=MAX_FILE_SECONDS, max_frames=None,
                                                 max_total_pixels=None)  # fmt: skip
    bounded = replace(whole, max_total_pixels=limits.max_total_pixels)  # of what is decoded
    timeline = read_timeline(source, whole)
    info = probe(source, whole, timeline)
    first, last = 0, info.frames
    if start is not None:
        first, last = _part_of(timeline, start, limits)
        limits.check_length(last - first, 0.0, (last - first) * info.width * info.height)
    begin, end = (timeline.regular(int(timeline.ticks[index] - timeline.ticks[0]) * timeline.time_base)
                  if index < info.frames else None for index in (first, last))  # fmt: skip
    scale = min(1.0, MAX_UPLOAD_SIDE / max(info.width, info.height))
    width, height = (max(2, round(side * scale / 2) * 2) for side in (info.width, info.height))
    every = math.ceil(info.fps / MAX_UPLOAD_FPS)
    with (
        FrameReader(source, first, last - first, bounded, (width, height), timeline) as reader,
        VideoWriter(
            destination, width, height, info.fps / every, source=source, start=begin or 0, end=end, preset="veryfast",
            audio_codec="aac", name=source.name, timeline=timeline,
        ) as writer,
    ):  # fmt: skip
        for frame in reader:
            if frame.index % every == 0:
                writer.write(frame.image, frame.pts)
    thinned = [f"{float(info.fps):.4g} frames per second: one of {every} was kept."] if every > 1 else []
    notices = list(dict.fromkeys([*thinned, *info.notices, *reader.notices, *writer.notices]))
    return notices, (float(begin or 0), info.duration)


def _part_of(timeline: Timeline, start: float, limits: VideoLimits) -> tuple[int, int]:
    """The first frame of the part from second ``start``, and the one behind its last."""
    if limits.max_seconds is None or timeline.duration <= limits.max_seconds:
        return 0, timeline.frames
    length = math.floor(limits.max_seconds)
    start = min(max(0.0, start), float(timeline.duration) - length)
    seconds = (timeline.ticks - timeline.ticks[0]) * float(timeline.time_base)
    first, last = np.searchsorted(seconds, (start - 1e-3, start + length - 1e-3))
    return int(first), max(int(first) + 1, int(last))
