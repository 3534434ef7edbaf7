"""Which codec a written file gets: by its suffix, or the one asked for, with transparency where the codec holds it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from sama.errors import VideoError


class Container(NamedTuple):
    """What a suffix stands for. audio_codec: for sound that the container cannot hold as it is."""

    format: str
    video_codec: str
    audio_codec: str


CONTAINERS = {
    ".mp4": Container("mp4", "libx264", "aac"),
    ".m4v": Container("mp4", "libx264", "aac"),
    ".mov": Container("mov", "libx264", "aac"),
    ".mkv": Container("matroska", "libx264", "aac"),
    ".webm": Container("webm", "libvpx-vp9", "libopus"),
}


class _Editing(NamedTuple):
    """A codec for editing programs and archives.

    pix_fmt, alpha_pix_fmt: without transparency and with it. suffixes: of files that programs read with it.
    """

    encoder: str
    pix_fmt: str
    alpha_pix_fmt: str
    suffixes: tuple[str, ...]


_EDITING = {
    "prores": _Editing("prores_ks", "yuv422p10le", "yuva444p10le", (".mov", ".mkv")),
    "ffv1": _Editing("ffv1", "bgr0", "bgra", (".mkv",)),  # RGB: every pixel as it was given
}
CODECS = tuple(_EDITING)
"""Codecs that can be asked for in place of the suffix's own."""

# What a suffix's own codec gives way to for transparency; .mp4 has none that players know.
_ALPHA = {
    ".mov": ("prores_ks", "yuva444p10le"),
    ".mkv": ("libvpx-vp9", "yuva420p"),
    ".webm": ("libvpx-vp9", "yuva420p"),
}


def holds_alpha(path: str | os.PathLike[str]) -> bool:
    """Whether a file of this name can hold transparency."""
    return Path(path).suffix.lower() in _ALPHA


def usual_suffix(codec: str | None) -> str:
    """The suffix of a file whose codec is asked for; `.mp4` where none is."""
    return ".mp4" if codec is None else _EDITING[codec].suffixes[0]


def check_codec(codec: str | None, path: str | os.PathLike[str]) -> None:
    """Raise :class:`VideoError` where a file of this name cannot hold the codec that is asked for."""
    if codec is None:
        return
    if codec not in _EDITING:
        raise VideoError(f"There is no codec {codec!r}; choose one of {', '.join(CODECS)}.")
    suffixes = _EDITING[codec].suffixes
    if Path(path).suffix.lower() not in suffixes:
        raise VideoError(f"{Path(path).name} cannot hold {codec}; give the output a name in {' or '.join(suffixes)}.")


def container_of(path: str | os.PathLike[str], codec: str | None, alpha: bool) -> tuple[Container, str]:
    """The container of a file with the codec that it gets, and the pixel format; "" leaves that to the size.

    codec: one of `CODECS`, or None for the suffix's own. alpha: whether transparency is written.
    Raises :class:`VideoError` for a name that cannot be written, or cannot hold the codec.
    """
    file = Path(path)
    kind, suffix = CONTAINERS.get(file.suffix.lower()), file.suffix.lower()
    if kind is None:
        raise VideoError(f"{file.name} has no video suffix that can be written; use .mp4, .mov, .mkv or .webm.")
    if file.is_dir():
        raise VideoError(f"{file.name} is a folder; give a file name for the video.")
    if not file.parent.is_dir():
        raise VideoError(f"The folder {file.parent.name} for {file.name} does not exist; create it first.")
    check_codec(codec, file)
    if codec is not None:
        chosen = _EDITING[codec]
        return kind._replace(video_codec=chosen.encoder), chosen.alpha_pix_fmt if alpha else chosen.pix_fmt
    if alpha:
        encoder, pix_fmt = _ALPHA[suffix]
        return kind._replace(video_codec=encoder), pix_fmt
    return kind, ""
