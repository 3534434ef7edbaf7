"""The page about samplers, made from the raw results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from training.evaluation.samplers.results import Results
from training.evaluation.samplers.runs import CaseScore, Measured
from training.evaluation.samplers.variants import EXACT, Variant
from training.evaluation.tables import markdown_table
from training.synth.edits.tasks import TASKS

ALLOWED_LOSS = 0.3
"""dB that a sampler may lose against the exact result, inside or outside the edit, to be in use other than in Fast."""


class Mean(NamedTuple):
    """A mean over cases, its standard error, and the number of cases."""

    mean: float
    error: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Mean:
        known = [float(value) for value in values if value is not None]
        if not known:
            return cls(math.nan, math.nan, 0)
        error = float(np.std(known, ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan
        return cls(float(np.mean(known)), error, len(known))

    def told(self, digits: int = 1, sign: bool = False, error: bool = False) -> str:
        if not self.n:
            return "-"
        text = f"{self.mean:{'+' if sign else ''}.{digits}f}"
        return text + (f" ± {self.error:.{digits}f}" if error and not math.isnan(self.error) else "")


def loss(results: Results, variant: Variant, field: str) -> Mean:
    """dB that a sampler loses against the exact result, both measured against the truth; a mean over the cases that
    both have. field: "inside" or "outside"."""
    exact, scores = results.measured[EXACT].scores, results.measured[variant].scores
    pairs = [(getattr(exact[name], field), getattr(scores[name], field)) for name in scores if name in exact]
    return Mean.of([best - found for best, found in pairs if best is not None and found is not None])


def followed(measured: Measured, task: str | None = None) -> Mean:
    """The share of instructions that were followed."""
    return _mean(measured, lambda score: None if score.followed is None else float(score.followed), task)


def page_text(results: Results, command: str) -> str:
    """The page. command: the one that measured."""
    about, exact = results.about, results.measured[EXACT]
    names = used_by()
    rows = []
    for variant, measured in results.measured.items():
        in_use = [quality.capitalize() for quality, used in names.items() if used == variant]
        share = followed(measured)
        rows.append([
            variant.name + (f" (**{', '.join(in_use)}**)" if in_use else ""),
            f"{measured.evaluations:.3g}",
            f"{measured.seconds:.2f}",
            f"{exact.seconds / measured.seconds:.1f}",
            _mean(measured, lambda score: score.exact).told(),
            _mean(measured, lambda score: score.inside).told(),
            "-" if variant == EXACT else loss(results, variant, "inside").told(2, sign=True, error=True),
            _mean(measured, lambda score: score.outside).told(),
            "-" if variant == EXACT else loss(results, variant, "outside").told(2, sign=True, error=True),
            f"{100 * share.mean:.0f} ± {100 * share.error:.0f} %" if share.n > 1 else "-",
        ])  # fmt: skip
    heads = ["sampler", "evaluations", "s a clip", "times as quick", "against exact", "inside", "lost inside",
             "outside", "lost outside", "followed"]  # fmt: skip
    return _PAGE.format(
        command=command,
        device=about["device"],
        versions=f"torch {about['torch']}, diffusers {about['diffusers']}",
        count=len(results.ids),
        frames=about["frames"],
        timed=about["timed"],
        exact=EXACT.name,
        table=markdown_table(heads, rows),
        unread=("" if about["ocr"] else _UNREAD) + "".join(f"\n{note}" for note in about.get("notes", ())),
        allowed=ALLOWED_LOSS,
        caches=_CACHES,
        fidelity=_by_task(results, lambda measured, task: _mean(measured, lambda score: score.exact, task).told()),
        inside=_by_task(results, lambda measured, task: _mean(measured, lambda score: score.inside, task).told()),
        followed=_by_task(results, _share),
    )


def used_by() -> dict[str, Variant]:
    """The way of sampling behind each quality of the embedded model."""
    from sama.presets import PRESETS, own_few_steps, saved_settings

    preset = PRESETS["tiny"]
    assert preset.folder is not None
    defaults = saved_settings(preset.folder)
    found = {}
    for name, sampling in preset.qualities.items():
        guidance = defaults["default_guidance"] if sampling.guidance is None else sampling.guidance
        steps = defaults["default_steps"] if sampling.steps is None else sampling.steps
        few_steps = sampling.few_steps and own_few_steps("tiny") is not None
        found[name] = Variant(sampling.scheduler, steps, guidance != 1, sampling.guidance_interval, None, few_steps)
    return found


def _mean(measured: Measured, value: Callable[[CaseScore], float | None], task: str | None = None) -> Mean:
    scores = [score for name, score in measured.scores.items() if task is None or name.rpartition("-")[0] == task]
    return Mean.of([value(score) for score in scores])


def _share(measured: Measured, task: str) -> str:
    share = followed(measured, task)
    return f"{100 * share.mean:.0f} %" if share.n else "-"


def _by_task(results: Results, cell: Callable[[Measured, str], str]) -> str:
    present = {name.rpartition("-")[0] for name in results.ids}
    tasks = [task for task in TASKS if task in present]
    rows = [[variant.name, *(cell(measured, task) for task in tasks)] for variant, measured in results.measured.items()]
    return markdown_table(["sampler", *(task.replace("_", " ") for task in tasks)], rows)


_CACHES = """Tried with diffusers 0.42 on a small model of random weights, 6 steps with guidance, the two evaluations of
a step being separate calls:

| cache | here |
|---|---|
| First Block Cache | works; in use as `--cache` |
| Pyramid Attention Broadcast | works (self- and cross-attention); it saves attention only, which is a small part here |
| MagCache | works; needs ratios that are calibrated for each model and number of steps |
| SeaCache | works; its decision is made for plain Wan, without source tokens |
| FasterCache | fails ("tuple index out of range"): it wants both guidance texts in one batch; with `is_guidance_distilled=True` its attention half works |
| TaylorSeer | finds no layer by its default names, and changes nothing; in lite mode it skips whole steps by the output layer, which the anchors do not pass: the plan is wrong at each such step |
| Text KV cache | changes nothing: keys and values of the text are computed as before |

"""  # noqa: E501 - rows of a table
_UNREAD = """
Subtitles were not read, because rapidocr was not installed: new and changed subtitles have no "followed" here."""

_PAGE = """# Fewer evaluations of the model

An edit evaluates the model once or twice a denoising step, and that is nearly all of its time. This page compares
samplers on held-out pairs whose seeds are not published: schedulers at few steps, guidance at some noise levels only,
and a cache over steps.

## Measured
`{command}`

{count} pairs of {frames} frames, the embedded model, the same noise for every sampler; {device}, {versions}. Errors are
standard errors over the pairs. Raw results: [results.json](samplers/results.json).{unread}

{table}
- **evaluations**: of the whole model for a clip. **s a clip**: sampling and decoding one clip that is alone on the
  device, the median of {timed} runs; encoding, reading and writing come on top.
- **against exact**: PSNR in dB against the result of {exact} with the same noise, which more steps do not change to
  the eye. It says how alike two results are, not which one is better.
- **inside, outside**: PSNR in dB against the truth where the edit was, and was not, asked for. **lost**: how much lower
  it is than that of {exact}, pair by pair; negative where it is higher. PSNR likes what is smooth: a result of few
  steps is an average of what could be, so that it may gain here and yet look soft.
- **followed**: the share of instructions that were followed, by the benchmark's rule.
- **LoRA for few steps**: guidance and steps distilled into an adapter that the embedded model carries
  ([how](training.md#few-steps-without-guidance)).

## In use
`--quality fast`, `balanced` and `best` of `python -m sama edit`, of the page and of the API name rows of this table for
the embedded model (`TINY_QUALITIES` in `sama/presets.py`). Nothing that loses more than {allowed} dB, inside or
outside, is in use, and a test compares this. An edit that names no quality and says nothing else of how to sample is
Fast; with `--steps`, `--guidance`, a negative prompt or a LoRA it is Balanced. The presets `14b` and `1.3b` sample with
guidance 5 and 50 steps, as Wan is published, unless they are asked for less; their Fast and Balanced are named samplers
that nobody has tried on real weights, and the page says so.

- `--guidance-interval LOW HIGH`: guidance acts between two noise levels, 1 being noise; elsewhere a step is one
  evaluation instead of two.
- `--cache THRESHOLD`: diffusers' First Block Cache. The first block is always computed; where its work on the target's
  tokens has changed by less than the threshold since the last step that was computed in full, the other blocks are
  not. diffusers compares whole sequences, half of which here is the source; the target's tokens alone decide here.
  It works in one process only, not with several GPUs.

### diffusers' other caches on this model
{caches}
## Against the exact result, by the kind of edit
PSNR in dB.

{fidelity}
## Inside the edit, by the kind of edit
PSNR against the truth, in dB.

{inside}
## Followed, by the kind of edit
{followed}"""
