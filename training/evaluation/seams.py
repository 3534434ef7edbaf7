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
from training.evaluation.seams_page import ABOUT, USED, page
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
_SECONDS, _SIZE = 20, (416, 234)
_TAKEN = {"city": 70}  # frames, where they are fewer than the clip made of them has
_SHOWN = ("snow", "watercolour")
_DEFAULTS = {"steps": None, "seed": 0, "frames": None}


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
