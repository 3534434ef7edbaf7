"""Copies a file's metadata (title, date, place, chapters) into a result, and names what is lost."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.container import InputContainer, OutputContainer
from av.stream import Disposition

from sama.video.container import open_input, video_stream
from sama.video.limits import VideoLimits

# The keys of the media library, and the names by which people are told that one was lost.
_TAGS = {
    "title": "title",
    "artist": "artist",
    "album": "album",
    "genre": "genre",
    "date": "date",
    "creation_time": "date of recording",
    "location": "place",
    "comment": "comment",
    "description": "description",
    "copyright": "copyright",
    "make": "camera",
    "model": "camera",
}
_APPLE = "com.apple.quicktime."
_APPLE_TAGS = {"location.iso6709": "location", "creationdate": "date"}
_SENSORS = ("gopro", "metadata")  # in the names of tracks that cameras and phones add


@dataclass(frozen=True)
class Chapter:
    """A chapter; ``start`` and ``end`` are seconds on the source's own clock."""

    start: Fraction
    end: Fraction
    title: str


@dataclass(frozen=True)
class Labels:
    """Metadata of a file. ``tags`` by the media library's keys; ``chapters``; ``others``: names of tracks that cannot
    be copied."""

    tags: dict[str, str]
    chapters: tuple[Chapter, ...]
    others: tuple[str, ...]


def read_labels(path: str | os.PathLike[str]) -> Labels:
    """The metadata of the file ``path``."""
    with open_input(path, VideoLimits()) as container:
        return Labels(_tags(container), tuple(_chapters(container)), tuple(_others(container, path)))


def write_labels(output: OutputContainer, labels: Labels, origin: Fraction, end: Fraction | None) -> None:
    """Set tags and chapters of ``output`` before its header is written.

    origin: the moment of the source's clock that is the output's 0, in seconds. end: the output's length in seconds,
    None for the source's own end. Chapters outside are left out.
    """
    for key, value in labels.tags.items():
        output.metadata[key] = value
    chapters: list[Any] = []
    for chapter in labels.chapters:
        start, stop = max(Fraction(0), chapter.start - origin), chapter.end - origin
        stop = stop if end is None else min(stop, end)
        if stop > start:
            chapters.append(
                {
                    "id": len(chapters) + 1,
                    "start": round(start * 1000),
                    "end": round(stop * 1000),
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": chapter.title},
                }
            )
    if chapters:
        output.set_chapters(chapters)


def lost_labels(labels: Labels, path: str | os.PathLike[str]) -> list[str]:
    """Names of the tags that the finished file ``path`` lacks, and of the tracks that cannot be copied."""
    with open_input(path, VideoLimits()) as container:
        kept = _tags(container)
    lost = [_TAGS[key] for key in labels.tags if key not in kept]
    return list(dict.fromkeys([*lost, *labels.others]))


def _tags(container: InputContainer) -> dict[str, str]:
    tags: dict[str, str] = {}
    for key, value in container.metadata.items():
        name = key.lower()
        if name.startswith(_APPLE):
            name = name.removeprefix(_APPLE)
            name = _APPLE_TAGS.get(name, name)
        name = name.split("-")[0]  # a language follows
        if name in _TAGS and value.strip():
            tags.setdefault(name, value)
    return tags


def _chapters(container: InputContainer) -> list[Chapter]:
    return [
        Chapter(
            chapter["start"] * chapter["time_base"],
            chapter["end"] * chapter["time_base"],
            chapter.get("metadata", {}).get("title", ""),
        )
        for chapter in container.chapters()
        if chapter["time_base"]
    ]


def _others(container: InputContainer, path: str | os.PathLike[str]) -> list[str]:
    """Names of the tracks that cannot be copied to a result."""
    others: list[str] = []
    if container.streams.video:
        film = video_stream(container, path, VideoLimits()).index
        for stream in container.streams.video:
            if stream.index != film:
                cover = stream.disposition & Disposition.attached_pic or stream.codec_context.name in ("mjpeg", "png")
                others.append("cover picture" if cover else "another video track")
    for data in container.streams.data:
        handler = data.metadata.get("handler_name", "").lower()
        if "timecode" in data.metadata:
            others.append("timecode")
        elif any(word in handler for word in _SENSORS):
            others.append("camera sensor data")
        elif not container.chapters():  # of which MP4 makes a track
            others.append("a data track")
    if container.streams.attachments:
        others.append("attachments")
    return others
