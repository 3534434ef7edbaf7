"""The clips that the page works with: always transcoded copies, never the uploaded files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from sama.video import UPLOAD_LIMITS, VideoInfo, normalise_part, normalise_upload, probe
from sama.video.uploads import Part
from ui import text
from ui.media.folders import came_from, new_folder
from ui.media.runs import FinishedEdit, frame_times


@dataclass(frozen=True)
class PageClip:
    """A transcoded clip. caption: what it shows, "" if unknown. notices: sentences about what of the upload was changed
    or lost. times: seconds at which each frame is shown, where the rate is not constant. part: of a file that was
    longer than a clip may be, what is here."""

    path: Path
    width: int
    height: int
    frames: int
    fps: float
    sound: bool
    caption: str = ""
    notices: tuple[str, ...] = ()
    times: tuple[float, ...] = ()
    part: Part | None = None
    made_by: Path | None = None
    """The folder of the run whose result the clip is."""

    @classmethod
    def of(cls, info: VideoInfo, caption: str = "", part: Part | None = None) -> PageClip:
        return cls(
            Path(info.path), info.width, info.height, info.frames, float(info.fps), info.has_audio, caption,
            info.notices, tuple(map(float, frame_times(Path(info.path)))) if info.variable_frame_rate else (),
            part,
        )  # fmt: skip

    @property
    def facts(self) -> str:
        return text.clip_facts(self.width, self.height, self.frames, self.fps, self.sound)


def take_upload(path: str | Path, start: float | None = None, once: bool = True) -> PageClip:
    """Check and transcode an upload. Raises VideoError with a sentence for the user; no file is then left.

    start: of a file that is longer than a clip may be, take the part from this second on. None refuses such a file.
    once: whether the upload is used for nothing else, and goes with the clip.
    """
    folder = new_folder()
    try:
        if once:
            came_from(folder, path)
        if start is None:
            return PageClip.of(normalise_upload(path, folder / "clip.mp4", UPLOAD_LIMITS))
        info, part = normalise_part(path, folder / "clip.mp4", start, UPLOAD_LIMITS)
        return PageClip.of(info, part=part if part.of > (UPLOAD_LIMITS.max_seconds or part.of) else None)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def source_clip(edit: FinishedEdit) -> PageClip:
    """The clip that a finished edit was made from."""
    return PageClip.of(probe(edit.source), edit.caption)


def edited_clip(edit: FinishedEdit) -> PageClip:
    """The edited clip, to be edited again."""
    return replace(PageClip.of(probe(edit.result)), made_by=edit.folder)
