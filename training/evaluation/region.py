"""Rules for where an edit is shown and where the source stays, compared on held-out pairs: pixels, plan, and both.

    python -m training.synth.ingredients --out data/pack
    python -m training.evaluation.region --out docs/region.md

Each pair is edited once; every rule then decides what of that result is shown. Edited pairs are kept in `--work`, so
that a run that was stopped goes on where it was. The page counts the pairs that are there.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sama.edit.composing.compose import FAINT, Mask, changes_everything, compose, differences, edit_mask
from sama.edit.composing.region import MEANT, vouched
from sama.files import whole_file
from training.data.sizes import tiny_buckets
from training.errors import PackError
from training.evaluation.held_out import metrics
from training.evaluation.held_out.cases import FIRST_SEED
from training.evaluation.held_out.report import markdown_table
from training.evaluation.held_out.scoring import UNCHANGED
from training.synth.edits.tasks import TASKS
from training.synth.material.pack import Pack, require_pack
from training.synth.scenes.render import render_case
from training.synth.words.language import instruction

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

logger = logging.getLogger(__name__)
Clip = NDArray[np.uint8]  # (T, H, W, 3) RGB

COUNTS = {
    "identity": 10, "style": 4, "weather": 4, "background": 2, "add": 2, "remove": 2, "replace": 2, "recolour": 2,
    "move": 2, "resize": 2, "subtitle_add": 2, "subtitle_remove": 1, "subtitle_change": 1,
}  # fmt: skip
"""Cases of each task, the first ones of the held-out benchmark."""
LARGE = ("remove", "replace", "recolour", "resize", "add", "move")
LARGE_EACH, LARGE_FROM, LARGE_SEEN = 4, 800_000, 100
"""Of each of these tasks, the cases of so many seeds whose edit covers most of the picture."""
ELSEWHERE = 0.01
"""Share of the picture, away from the edit that was asked for, from which on something else counts as edited."""
NEARER = 1.0
"""dB by which the result of an edit that was followed is nearer to the truth than the source is."""
_AWAY = 8  # pixels around the edit that was asked for in which nothing counts as elsewhere


@dataclass(frozen=True)
class CaseKey:
    """kind: "usual" or "large"."""

    kind: str
    task: str
    seed: int

    @property
    def file(self) -> str:
        return f"{self.kind}-{self.task}-{self.seed}.npz"


@dataclass(frozen=True)
class Edited:
    """A pair and what the model made of its source, at the model's size.

    reference: the decoded source. regions: (2, 8, 8), where the plan means to change the picture, by
    `sama.model.semantics.plan_region`, at the first and at the last step. scale: of the source's tokens.
    """

    key: CaseKey
    source: Clip
    target: Clip
    result: Clip
    reference: Clip
    regions: NDArray[np.float32]
    scale: float

    @property
    def asked(self) -> NDArray[np.bool_]:
        """Where the pair differs, (T, h, w)."""
        return metrics.edit_mask(self.source, self.target)


@dataclass(frozen=True)
class Shown:
    """What one rule shows of an edit, measured. None where a measure does not apply.

    whole: whether the whole result is shown. inside, outside: PSNR in dB against the truth. border: mean difference of
    the gradients of picture and truth where the mask goes from 0 to 1, of 255. elsewhere: share of the picture that
    changed away from what was asked for. alone: whether a clip that was to stay as it is was left alone.
    followed: whether the result is nearer to the truth than the source, by `NEARER`, where a change was asked for.
    reach: the highest cell of the plan's region, as a share of the source's own scale.
    """

    key: CaseKey
    whole: bool
    right: bool
    inside: float | None
    outside: float | None
    border: float | None
    elsewhere: float
    alone: bool | None
    followed: bool | None
    reach: float


Rule = Callable[[Edited], Mask | None]
"""The mask of what is shown, (T, h, w) in [0, 1]; None shows the whole result."""


def by_pixels(edit: Edited) -> Mask | None:
    apart = differences(edit.result, edit.reference)
    return None if changes_everything(apart) else edit_mask(apart)


def by_plan(edit: Edited) -> Mask | None:
    """The plan decides alone."""
    if _plan_is_whole(edit):
        return None
    return np.repeat(_wanted(edit)[None], len(edit.source), axis=0)


def plan_decides_whole(edit: Edited) -> Mask | None:
    """The plan decides whether the whole result is shown, and the pixels where else."""
    return None if _plan_is_whole(edit) else edit_mask(differences(edit.result, edit.reference))


def plan_and_pixels(edit: Edited) -> Mask | None:
    """Shown where both mean a change."""
    mask = by_pixels(edit)
    return None if mask is None else mask * _wanted(edit)


def plan_vouches(edit: Edited) -> Mask | None:
    """Regions of the pixels' mask, connected in space and time, that the plan touches or that appear later than the
    first frame, which is all that the plan is about."""
    mask = by_pixels(edit)
    if mask is None:
        return None
    return vouched(mask, edit.regions[-1], edit.scale)


def soft(edit: Edited) -> Mask | None:
    """The difference counts for more where the plan means a change, and for less where it does not."""
    apart = differences(edit.result, edit.reference)
    if changes_everything(apart):
        return None
    return edit_mask(apart * (0.6 + 0.6 * _wanted(edit)))


RULES: dict[str, Rule] = {
    "pixels": by_pixels,
    "plan": by_plan,
    "plan decides whole": plan_decides_whole,
    "plan and pixels": plan_and_pixels,
    "plan vouches for regions (in use)": plan_vouches,
    "soft": soft,
}
WHOLE_PLAN = 0.40
"""Median of the plan's region from which on the plan means the whole picture."""
WANTED = (0.3, 0.7)
"""A cell of the plan's region means no change up to the first, and certainly one from the second on, as shares of the
source's own scale."""


def _plan_is_whole(edit: Edited) -> bool:
    return float(np.median(edit.regions[-1])) > WHOLE_PLAN


def _wanted(edit: Edited) -> NDArray[np.float32]:
    """How far the plan means a change at each pixel or near it, (h, w) in [0, 1]."""
    low, high = (share * edit.scale for share in WANTED)
    cells = np.clip((edit.regions[-1] - low) / (high - low), 0, 1).astype(np.float32)
    height, width = edit.source.shape[1:3]
    near = cv2.dilate(cells, np.ones((3, 3), np.uint8))  # what lies across a cell's edge belongs to it
    return np.asarray(cv2.resize(near, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def case_keys(pack: Pack, counts: Mapping[str, int] = COUNTS, each: int = LARGE_EACH) -> list[CaseKey]:
    """The cases, those of different tasks in turn, so that the first ones of the list are of all kinds."""
    usual = [[CaseKey("usual", task, FIRST_SEED + 1000 * TASKS.index(task) + n) for n in range(count)]
             for task, count in counts.items()]  # fmt: skip
    large = [_largest(pack, task, each) for task in LARGE] if each else []
    columns = usual + large
    longest = max(map(len, columns), default=0)
    return [column[row] for row in range(longest) for column in columns if row < len(column)]


def _largest(pack: Pack, task: str, each: int) -> list[CaseKey]:
    shares, buckets = [], tiny_buckets()
    for seed in range(LARGE_FROM + 1000 * TASKS.index(task), LARGE_FROM + 1000 * TASKS.index(task) + LARGE_SEEN):
        case = render_case(pack, seed, buckets[seed % len(buckets)], 1, "test", task)
        shares.append((float(metrics.edit_mask(case.source, case.target).mean()), seed))
    return [CaseKey("large", task, seed) for _, seed in sorted(shares, reverse=True)[:each]]


def make_edit(key: CaseKey, pack: Pack, pipeline: SamaPipeline, frames: int, steps: int | None) -> Edited:
    """One pair, edited with its seed's noise."""
    import torch

    from sama.model.semantics import picture_tokens, plan_region, token_scale

    buckets = tiny_buckets()
    case = render_case(pack, key.seed, buckets[key.seed % len(buckets)], frames, "test", key.task)
    words = instruction(case.edit, np.random.default_rng((key.seed, 3)), split="test")
    latents = pipeline.encode_video(torch.from_numpy(case.source)[None].float() / 255)
    generator = torch.Generator().manual_seed(key.seed)
    run: Any = pipeline(source_latents=latents, prompt=words, num_inference_steps=steps, generator=generator,
                   output_type="latent")  # fmt: skip
    assert pipeline.semantic_tower is not None
    tokens = picture_tokens(pipeline.semantic_tower, case.source[0])
    regions = [plan_region(tokens, run.semantic_tokens[0, step]).numpy() for step in (0, -1)]
    result, reference = (
        (pipeline.decode_latents(x)[0] * 255).round().byte().cpu().numpy() for x in (run.frames, latents)
    )
    return Edited(key, case.source, case.target, result, reference, np.stack(regions), token_scale(tokens))


def edits(
    keys: Sequence[CaseKey], work: Path, make: Callable[[CaseKey], Edited], limit: int | None = None
) -> Iterator[Edited]:
    """The edits of `keys`, from `work` where they are there; at most `limit` are made new."""
    work.mkdir(parents=True, exist_ok=True)
    made = 0
    for key in keys:
        path = work / key.file
        if path.is_file():
            with np.load(path) as data:
                yield Edited(key, **({name: data[name] for name in data.files} | {"scale": float(data["scale"])}))
        elif limit is None or made < limit:
            edit, made = make(key), made + 1
            fields = {name: value for name, value in vars(edit).items() if name != "key"}
            with whole_file(path) as part, part.open("wb") as file:
                np.savez_compressed(file, **fields)
            logger.info("%s", path.stem)
            yield edit


def judge(edit: Edited, mask: Mask | None) -> Shown:
    """The measures of what a mask shows."""
    shown = edit.result
    if mask is not None:
        shown = np.stack([compose(*frame) for frame in zip(edit.source, edit.result, mask, strict=True)])
    asked = edit.asked
    away = ~np.stack([cv2.dilate(frame.astype(np.uint8), np.ones((2 * _AWAY + 1,) * 2)) > 0 for frame in asked])
    elsewhere = float(((differences(shown, edit.source) >= FAINT) & away).mean())
    identity = edit.key.task == "identity"
    whole = float(asked.mean()) > 0.5
    return Shown(
        edit.key,
        mask is None,
        (mask is None) == whole,
        _db(metrics.psnr(shown, edit.target, asked)),
        _db(metrics.psnr(shown, edit.target, ~asked)) if not whole else None,
        None if mask is None else _border(shown, edit.target, mask),
        elsewhere,
        metrics.psnr(shown, edit.source) > UNCHANGED if identity else None,
        None
        if identity or whole
        else bool(
            metrics.psnr(edit.result, edit.target, asked) > metrics.psnr(edit.source, edit.target, asked) + NEARER
        ),
        float(edit.regions[-1].max()) / edit.scale,
    )


def _db(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _border(shown: Clip, truth: Clip, mask: Mask) -> float | None:
    band = (mask > 0.02) & (mask < 0.98)
    if not band.any():
        return None
    error = shown.astype(np.float32) - truth
    steps = [np.abs(np.gradient(error, axis=axis)).max(axis=-1) for axis in (1, 2)]
    return float(np.maximum(*steps)[band].mean())


def table(rows: Mapping[str, Sequence[Shown]]) -> str:
    """A Markdown table with a row for each rule."""

    def mean(values: Sequence[float | None], digits: int) -> str:
        known = [value for value in values if value is not None]
        return f"{np.mean(known):.{digits}f}" if known else ""

    lines = []
    for name, all_ in rows.items():
        local = [one for one in all_ if one.outside is not None and one.key.task != "identity"]
        large = [one for one in local if one.key.kind == "large"]
        alone = [one.alone for one in all_ if one.alone is not None]
        lines.append([
            name,
            mean([one.outside for one in local], 2), mean([one.inside for one in local], 2),
            mean([one.outside for one in large], 2), mean([one.inside for one in large], 2),
            mean([one.border for one in local], 2),
            f"{sum(one.elsewhere > ELSEWHERE for one in local)} of {len(local)}",
            f"{len(alone) - sum(alone)} of {len(alone)}",
            mean([100 * one.elsewhere for one in all_ if one.key.task == "identity"], 2),
            f"{sum(not one.right for one in all_ if one.key.task != 'identity')} of "
            f"{sum(one.key.task != 'identity' for one in all_)}",
        ])  # fmt: skip
    heads = ["rule", "outside, dB", "inside, dB", "large: outside", "large: inside", "border", "something else edited",
             "not left alone", "changed of them, %", "whole or local wrong"]  # fmt: skip
    return markdown_table(heads, lines)


_PAGE = """# Where an edit is shown

An edit repaints the whole clip. Where it changes nothing, the editor shows the source's own pixels (`keep_source`): the
decoded result is compared with the decoded source, and what differs is shown (`sama/edit/composing/compose.py`). The
plan also says where the edit will be, from the first step on: 1 - cosine of each planned token and the source's own,
8 x 8 (`sama.model.semantics.plan_region`). Does it help to use it beside the pixels?

## Measured
`{command}`

{count} held-out pairs of {frames} frames, edited once each with {steps} steps by the embedded model; {large} of them
are edits of large objects (`training/evaluation/region.py` says how they are chosen). Every rule decides what of the
same results is shown.

{table}
- **outside, inside**: PSNR against the truth where the edit was not, and was, asked for; local edits.
- **border**: mean error of the picture's gradient where the mask goes from the source to the result, 0 to 255.
- **something else edited**: local edits that change more than {elsewhere:.0%} of the picture away from what was asked.
- **not left alone**: clips that were to stay as they are (the object is not there, or is so already) and were changed:
  less than {unchanged:.0f} dB from the source; and the share of their pictures that changed.
- **whole or local wrong**: edits of the whole picture of which only a part is shown, or the other way round.

The rules:
{rules}

## In use
Pixels decide what is shown and whether it is the whole picture; the plan takes away what it does not mean
(`sama/edit/composing/region.py`). A cell of the plan means
a change from {meant} of the scale on that the source's own tokens
have (the 90th percentile of 1 - cosine between its cells). In clips that were left alone the highest cell reaches
{alone:.2f} at most, in local edits that come nearer to the truth by {nearer:.0f} dB {followed:.2f} at least. Where an
edit fails and leaves a smear that the plan does not mean, the source stays, and the result says that nothing changed.
The plan cannot help where it is wrong itself: asked to change what is not there, the model plans to change something
else. Alone it shows too much, and times the pixels it cuts into the edit, because it knows the first frame only. A
pipeline without a tower, or whose anchors have no place, uses the pixels alone.
"""
_ABOUT = {
    "pixels": "what differs strongly, and faintly around it; the whole picture where most of it differs",
    "plan": "the plan's region, enlarged, and nothing else",
    "plan decides whole": f"the whole picture where the plan's median is above {WHOLE_PLAN}; else as the pixels say",
    "plan and pixels": "the pixels' mask times the plan's region",
    "plan vouches for regions (in use)": "regions of the pixels that the plan means, or that are new later",
    "soft": "as the pixels say, of a difference that counts for 0.6 to 1.2 times as much as the plan means it",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 after one sentence on stderr."""
    from sama.edit import EditError, load_pipeline
    from training.values import Count, Frames, argument

    parser = argparse.ArgumentParser(prog="python -m training.evaluation.region", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/region.md"), help="the page to write")
    parser.add_argument("--pack", type=Path, default=Path("data/pack"), help="the drawn material")
    parser.add_argument("--work", type=Path, default=Path("runs/region"), help="where edited pairs are kept")
    parser.add_argument("--frames", type=argument(Frames), default=5)
    parser.add_argument("--steps", type=argument(Count), default=6)
    parser.add_argument(
        "--limit", type=argument(Count), help="edit so many pairs at most, besides those that are there"
    )
    parser.add_argument("--device", help="cpu, cuda, ...; the best there is if left out")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        require_pack(options.pack)
        pack, pipeline = Pack.load(options.pack), load_pipeline("tiny", options.device)
        rows: dict[str, list[Shown]] = {name: [] for name in RULES}

        def make(key: CaseKey) -> Edited:
            return make_edit(key, pack, pipeline, options.frames, options.steps)

        for edit in edits(case_keys(pack), options.work, make, options.limit):
            for name, rule in RULES.items():
                rows[name].append(judge(edit, rule(edit)))
    except (PackError, EditError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with whole_file(options.out) as part:
        part.write_text(page(rows, options), encoding="utf-8")
    return 0


def page(rows: Mapping[str, Sequence[Shown]], options: argparse.Namespace) -> str:
    """The page about what was measured."""
    first = next(iter(rows.values()))
    return _PAGE.format(
        command=f"python -m training.evaluation.region --out {options.out}",
        count=len(first),
        large=sum(one.key.kind == "large" for one in first),
        frames=options.frames,
        steps=options.steps,
        table=table(rows),
        elsewhere=ELSEWHERE,
        unchanged=UNCHANGED,
        meant=MEANT,
        nearer=NEARER,
        alone=max((one.reach for one in first if one.alone), default=float("nan")),
        followed=min((one.reach for one in first if one.followed), default=float("nan")),
        rules="\n".join(f"- **{name}**: {_ABOUT[name]}." for name in rows),
    )


if __name__ == "__main__":
    sys.exit(main())
