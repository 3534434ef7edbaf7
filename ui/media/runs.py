"""A finished edit as a folder: the same for an example of the repository and for a run of this session.

source.mp4      the clip that was edited
result.mp4      the edited clip
packed.mp4      both side by side, frame by frame, for the comparison viewer
film.mp4        both side by side with labels, for people (runs only: an example makes it when asked)
poster.jpg      one picture of both (examples only)
settings.json   what repeats the edit
tokens.npz      the plan over the steps, and the tokens of source and result

A run's folder is complete with source, result and settings (`finish`). Packing and film come after it, outside the
model's queue; either may fail, and the result stays.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from sama.files import whole_file
from sama.video import FrameReader, VideoLimits, VideoWriter, pack_side_by_side, probe
from sama.video.timeline import read_timeline
from ui.media.tokens import Tokens
from ui.viewer import Comparison

PANELS = ("Original", "Edited")
_FILM_WIDTH = 480
_FILM_BAR = 40


@dataclass(frozen=True)
class FinishedEdit:
    """A finished edit and what a page shows of it. `settings` is the content of settings.json."""

    folder: Path
    title: str
    settings: dict[str, Any] = field(hash=False)  # gradio hashes what a session holds
    frames: int
    fps: float
    width: int
    height: int
    sound: bool
    variable: bool
    """Whether frames stay on the screen for unequal times."""
    caption: str = ""
    credit: str = ""
    """The author of the clip and its licence."""
    parent: Path | None = None
    """The folder of the run whose result this edit was made from."""

    @classmethod
    def load(cls, folder: Path, title: str = "", caption: str = "", credit: str = "") -> FinishedEdit:
        """Raises OSError or ValueError when the folder is incomplete."""
        settings = json.loads((folder / "settings.json").read_text("utf-8"))
        info = probe(folder / "result.mp4")
        if not (folder / "source.mp4").is_file():
            raise FileNotFoundError(f"{folder.name} has no source.mp4: make the edit again")
        return cls(
            folder,
            title or settings["instruction"],
            settings,
            info.frames,
            float(info.fps),
            info.width,
            info.height,
            info.has_audio,
            info.variable_frame_rate,
            caption,
            credit,
        )

    @property
    def start(self) -> int:
        """The frame of the source that the result's first frame was made from."""
        return int(self.settings.get("start", 0))

    @property
    def instruction(self) -> str:
        return str(self.settings["instruction"])

    @property
    def source(self) -> Path:
        return self.folder / "source.mp4"

    @property
    def result(self) -> Path:
        return self.folder / "result.mp4"

    @property
    def poster(self) -> Path:
        return self.folder / "poster.jpg"

    @property
    def settings_file(self) -> Path:
        return self.folder / "settings.json"

    @property
    def packed(self) -> Path | None:
        return self._made("packed.mp4")

    @property
    def film(self) -> Path | None:
        return self._made("film.mp4")

    def tokens(self) -> Tokens | None:
        path = self._made("tokens.npz")
        return Tokens.load(path) if path else None

    def _made(self, name: str) -> Path | None:
        """The path of an optional file; None where it was not made."""
        path = self.folder / name
        return path if path.is_file() else None

    def comparison(self) -> Comparison:
        """The source beside the result; the result alone where they are not packed."""
        packed = self.packed
        return Comparison(
            video=packed or self.result,
            panels=PANELS if packed else PANELS[1:],
            compare=(0, 1) if packed else (0, 0),
            mode="wipe" if packed else "panel-0",
            fps=self.fps,
            frames=self.frames,
            times=tuple(map(float, frame_times(self.result))) if self.variable else (),
            caption=self.instruction,
            sound=self.sound,
            poster=self._made("poster.jpg") if packed else None,
        )


def finish(folder: Path, source: Path, tokens: Tokens | None, notices: tuple[str, ...] = ()) -> FinishedEdit:
    """Turn a folder with result.mp4 and result.json, as `sama.edit` leaves them, into a finished edit. It decodes no
    video.

    notices: sentences about what the transcoded source lost of the upload.

    """
    settings = add_notices(folder / "result.json", notices)
    settings |= {"video": "source.mp4", "output": "result.mp4"}
    settings["lora"] = [Path(spec).name for spec in settings.get("lora", ())]  # not where it lies on this machine
    (folder / "result.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / "result.json").replace(folder / "settings.json")
    if source != folder / "source.mp4":
        _link(source, folder / "source.mp4")
    if tokens is not None:
        tokens.save(folder / "tokens.npz")
    return FinishedEdit.load(folder)


def pack(edit: FinishedEdit) -> Path:
    """Write packed.mp4: source and result side by side, at the times of the result's frames, with its sound."""
    path = edit.folder / "packed.mp4"
    with FrameReader(edit.source, edit.start, edit.frames) as before, FrameReader(edit.result) as after:
        pack_side_by_side(
            [(frame.image for frame in before), (frame.image for frame in after)],
            path,
            probe(edit.result).fps,
            audio_from=edit.result,
            times=frame_times(edit.result),
        )
    return path


def write_poster(edit: FinishedEdit) -> None:
    """Write poster.jpg: left half before, right half after, from the middle of the clip."""
    import cv2

    middle = edit.frames // 2
    images = []
    for file, index in ((edit.source, edit.start + middle), (edit.result, middle)):
        with FrameReader(file, index, 1) as reader:
            images.append(next(iter(reader)).image)
    before, after = images
    half = before.shape[1] // 2
    both = np.concatenate([before[:, :half], after[:, half:]], axis=1)
    scale = min(1.0, 384 / max(both.shape[:2]))
    both = cv2.resize(both, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else both
    ok, data = cv2.imencode(".jpg", both[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    if ok:
        edit.poster.write_bytes(data.tobytes())


def add_notices(file: Path, notices: tuple[str, ...]) -> dict[str, Any]:
    """Put sentences before the notices of a file of settings; returns all settings."""
    settings: dict[str, Any] = json.loads(file.read_text("utf-8"))
    settings["notices"] = list(dict.fromkeys([*notices, *settings.get("notices", ())]))
    with whole_file(file) as part:
        part.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return settings


def compose_film(edit: FinishedEdit) -> Path:
    """A film for people: source and result side by side under their names, above the instruction; with the sound.

    moviepy composes the picture; reading and writing are ours, because it loses frames at fractional rates.
    """
    from moviepy import ColorClip, CompositeVideoClip, TextClip, VideoClip

    path = edit.folder / "film.mp4"
    width = max(_FILM_WIDTH, edit.width) // 2 * 2
    height = round(width * edit.height / edit.width / 2) * 2
    seconds = edit.frames / edit.fps
    size = (2 * width, height + 2 * _FILM_BAR)
    now: dict[str, np.ndarray] = {}

    def panel(name: str) -> VideoClip:
        clip = VideoClip(frame_function=lambda _t: now[name], duration=seconds)
        return clip.resized((width, height)) if (edit.width, edit.height) != (width, height) else clip

    def words(content: str, box: tuple[int, int], corner: tuple[int, int]) -> TextClip:
        clip = TextClip(text=content, font_size=20, color="white", size=box, method="caption", duration=seconds)
        return clip.with_position(corner)

    with (
        FrameReader(edit.source, edit.start, edit.frames) as before,
        FrameReader(edit.result) as after,
        VideoWriter(path, *size, Fraction(probe(edit.result).fps), source=edit.result) as writer,
    ):
        film: CompositeVideoClip | None = None
        for index, (left, right) in enumerate(zip(before, after, strict=True)):
            now |= {"left": left.image, "right": right.image}
            if film is None:  # moviepy asks a clip for its first frame when it is made
                film = CompositeVideoClip(
                    [
                        ColorClip(size, color=(20, 20, 24), duration=seconds),
                        words(PANELS[0], (width, _FILM_BAR), (0, 0)),
                        words(PANELS[1], (width, _FILM_BAR), (width, 0)),
                        panel("left").with_position((0, _FILM_BAR)),
                        panel("right").with_position((width, _FILM_BAR)),
                        words(_one_line(edit.instruction), (2 * width, _FILM_BAR), (0, height + _FILM_BAR)),
                    ],
                    size=size,
                )
            picture = film.get_frame(min((index + 0.5) / edit.fps, seconds)).astype(np.uint8)
            writer.write(picture, right.pts)
    return path


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _one_line(words: str, limit: int = 90) -> str:
    return words if len(words) <= limit else words[: limit - 1] + "…"


def frame_times(video: Path) -> list[Fraction]:
    """When each frame is shown, in seconds after the first one."""
    timeline = read_timeline(video, VideoLimits())
    return [int(tick - timeline.ticks[0]) * timeline.time_base for tick in timeline.ticks]
