"""How visible the seams of a long edit are and how far it drifts: windows that agree beside windows by themselves.

    python -m training.evaluation.seams --out docs/long.md

Fetches its clip by package name (75 MB, kept in `--downloads`; `apt-get` and `dpkg-deb` are needed, so Debian or
Ubuntu), or takes `--video`. Every edit is made twice through the editor: as it is, and with each window painted by
itself from the same noise, so that a fade in the overlap is all that joins them. Writes the page, and a picture and the
raw figures in a folder beside it that has the page's name.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sama.files import whole_file
from training.evaluation.detail import CLIPS
from training.evaluation.seam_figures import Clip, Measured, Recorded, Windows, measure, shown_twice
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
_SHOT = 70  # frames of the city until the picture changes
_SHOWN = ("snow", "watercolour")
_COLUMNS = ("earlier window", "later window", "difference x 4")
_LONG = 10  # windows
_SHORT = "So short a clip does not\nshow drift over many windows: that is not measured here."
_DEFAULTS = {"frames": 500, "seed": 0}


def there_and_back(clip: Clip, count: int) -> Clip:
    """`count` frames without a cut: the clip forwards, backwards, forwards, and so on."""
    around = [*range(len(clip)), *range(len(clip) - 2, 0, -1)]
    return clip[[around[index % len(around)] for index in range(count)]]


def examine(
    video: Path, edit: str, instruction: str, pipeline: SamaPipeline, **values: Any
) -> tuple[list[Measured], list[list[Clip]], Windows]:
    """One edit with windows by themselves and with windows that agree: figures, what each window decoded to, and where
    the windows lie.

    values: further fields of the request. Raises EditError for a clip that one window holds.
    """
    from sama.edit import EditError, EditRequest, edit_video
    from sama.edit.request import check_request
    from sama.video import read_clip

    measured, painted = [], []
    with tempfile.TemporaryDirectory() as folder:
        request = EditRequest(video, instruction, Path(folder) / "result.mp4", **values)
        plan = check_request(request, with_weights=False, canvas=pipeline.canvas).plan
        if len(plan.windows) < 2:
            raise EditError(f"One window holds all {plan.frames} frames; take a longer clip, which has a seam.")
        size = (plan.bucket.width, plan.bucket.height)
        source = read_clip(video, plan.start, plan.frames, size=size)
        for joined in (False, True):
            recorded: Any = Recorded(pipeline, joined)
            for _ in edit_video(request, recorded):
                pass
            result = read_clip(Path(request.output), size=size)
            tower = pipeline.semantic_tower
            measured.append(measure(edit, joined, result, source, recorded.windows, plan.windows, tower))
            logger.info("%s, %s: apart %.2f", edit, "joined" if joined else "each by itself", measured[-1].apart)
            painted.append(recorded.windows)
    return measured, painted, plan.windows


def seam_picture(painted: Sequence[Clip], windows: Windows, number: int) -> list[NDArray[np.uint8]]:
    """The second frame that windows `number` and `number` + 1 share, as each painted it, and their difference, four
    times as strong."""
    earlier, later = list(shown_twice(painted, windows))[number]
    index = min(1, len(earlier) - 1)
    difference = np.clip(4 * np.abs(earlier[index] - later[index]), 0, 255)
    return [picture.astype(np.uint8) for picture in (earlier[index], later[index], difference)]


def table(measured: Sequence[Measured]) -> str:
    """A Markdown table with a row for each edit, each figure by itself → joined."""
    rows = []
    for before, after in zip(measured[::2], measured[1::2], strict=True):
        rows.append(
            [
                before.edit,
                f"{before.apart:.1f} → {after.apart:.1f}",
                f"{before.step:+.0%} → {after.step:+.0%} ({after.step_elsewhere:+.0%}; {after.step_source:+.0%})",
                f"{before.leap:+.0%} → {after.leap:+.0%} ({after.leap_source:+.0%})",
                f"{before.repeats:.2f} → {after.repeats:.2f}",
                f"{before.colour:.1f} → {after.colour:.1f}",
                f"{before.identity:.3f} → {after.identity:.3f}",
            ]
        )
    header = ["edit", "apart", "step (elsewhere; source)", "leap (source)", "repeats", "colour", "identity"]
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

{frames} frames in {windows} windows, {steps} steps, seed {seed}, the embedded model. Every edit is made twice: each
window by itself, from the same noise, so that a fade is all that joins them → windows as above.{short}

{table}
- **apart**: mean difference of what two windows made of the frames they share, before the fade, of 255. Two passes
  through the autoencoder lie between them even where they agree.
- **step**: by how much the difference of neighbouring frames, along the source's motion, exceeds that of the frames
  around: 95th percentile over the frames of all seams; in brackets over all other frames of the joined result, and over
  all frames of the source. The autoencoder's rhythm of four frames is in it too, and a fade between pictures that
  differ blurs them, which makes it smaller.
- **leap**: the same from the last frame before a fade to the first one after it.
- A seam is no more visible than the source's own frames where neither is above the source's: {holding} of {count}.
- **repeats**: correlation of what the edit adds with itself one window later, above that at distances near it.
- **colour**, **identity**: drift with length. The largest distance in Lab of a window's mean colour from the first
  window's, and the largest change of the cosine between the vision tower's tokens of result and source; both relative
  to the source in the same window.

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
The same frame as the earlier and the later window painted it, each by itself and as above.

{pictures}"""


def page(kept: dict[str, Any], out: Path, command: str) -> str:
    """The page about the results in `kept`, see `_add`; pictures lie in the folder beside it that has its name."""
    measured = [Measured(**row) for row in kept["measured"]]
    after = measured[1::2]
    return _PAGE.format(
        command=command,
        **{name: kept[name] for name in ("about", "frames", "windows", "steps", "seed")},
        short=" " + _SHORT if kept["windows"] < _LONG else "",
        table=table(measured),
        holding=sum(each.holds for each in after),
        count=len(after),
        pictures="\n\n".join(
            f"![{each.edit}: one frame from two windows, and the difference]({out.stem}/{each.edit}.jpg)"
            for each in after
            if each.edit in _SHOWN
        )
        + "\n",
    )


def _city(downloads: Path, count: int, out: Path) -> str:
    """Writes the clip that is measured by default; what it is."""
    from sama.video import write_clip

    (city,) = (clip for clip in CLIPS if clip.name == "city")
    with tempfile.TemporaryDirectory() as folder:
        shot = city.frames(downloads, Path(folder), _SHOT)
    write_clip(out, there_and_back(shot, count), city.fps)
    return f"{city.about[0].upper()}{city.about[1:]}; one shot of it, forwards and backwards"


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 after one sentence on stderr."""
    from sama.edit import EditError, load_pipeline
    from sama.video import VideoError
    from training.values import Count, argument

    parser = argparse.ArgumentParser(prog="python -m training.evaluation.seams", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/long.md"), help="the page to write")
    parser.add_argument("--downloads", type=Path, default=Path("data/downloads"), help="where packages are kept")
    parser.add_argument("--video", type=Path, help="a clip of yours in place of the one that is fetched")
    parser.add_argument("--edits", nargs="+", choices=EDITS, default=list(EDITS), help="rows of other edits stay")
    parser.add_argument("--frames", type=argument(Count), default=_DEFAULTS["frames"])
    parser.add_argument("--steps", type=argument(Count), help="denoising steps; the model's default if left out")
    parser.add_argument("--seed", type=int, default=_DEFAULTS["seed"])
    parser.add_argument("--device", help="cpu, cuda, ...; the best there is if left out")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        options.downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            video, about = options.video, "A clip of yours"
            if video is None:
                video = Path(folder) / "city.mp4"
                about = _city(options.downloads, options.frames, video)
            pipeline = load_pipeline("tiny", options.device)
            for edit in options.edits:
                _add(edit, video, about, pipeline, options)
    except (IngredientError, EditError, VideoError, OSError, tarfile.TarError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _add(edit: str, video: Path, about: str, pipeline: SamaPipeline, options: argparse.Namespace) -> None:
    """Measures one edit and writes results, picture and page with it: a run that is stopped keeps what is measured."""
    values = {"steps": options.steps, "seed": options.seed, "frames": options.frames}
    measured, painted, windows = examine(video, edit, EDITS[edit], pipeline, **values)
    folder = options.out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "about": about, "frames": windows[-1][1], "windows": len(windows), "seed": options.seed,
        "steps": options.steps or pipeline.config["default_steps"],
    }  # fmt: skip
    results = folder / "results.json"
    kept = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    same = all(kept.get(name) == value for name, value in facts.items())
    rows = [row for row in kept["measured"] if row["edit"] != edit] if same else []
    rows += [asdict(each) for each in measured]
    rows.sort(key=lambda row: (list(EDITS).index(row["edit"]), row["joined"]))
    kept = facts | {"measured": rows}
    with whole_file(results) as part:
        part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if edit in _SHOWN:
        worst = int(np.argmax([np.abs(a - b).mean() for a, b in shown_twice(painted[0], windows)]))
        shown = [
            (f"{edit}, {how}", seam_picture(each, windows, worst))
            for how, each in zip(("each by itself", "joined"), painted, strict=True)
        ]
        contact_sheet(shown, folder / f"{edit}.jpg", 144, 110, 14, columns=_COLUMNS, quality=80)
    changed = [f"--{name} {value}" for name, value in values.items() if value not in (None, _DEFAULTS.get(name))]
    given = [] if options.video is None else ["--video FILE"]
    command = " ".join(["python -m training.evaluation.seams", f"--out {options.out}", *given, *changed])
    with whole_file(options.out) as part:
        part.write_text(page(kept, options.out, command), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
