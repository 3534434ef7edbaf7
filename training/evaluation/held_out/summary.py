"""Averages scores: means with their standard errors, and the differences of two models on the same cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from training.evaluation.held_out.scoring import READABLE, Measures, Score

Value = Callable[[Score], float | None]

CASE_TOLERANCE = 0.05
"""dB by which the distance of source and truth may differ between two reports on the same case."""

DECIDED = 2.0
"""Standard errors of a paired difference from which on one model is called better."""


class Mean(NamedTuple):
    """A mean over `n` cases with its standard error; NaN where there is no case, or no error for a single one."""

    mean: float
    se: float
    n: int


def mean_of(values: Iterable[float | None], share: bool = False) -> Mean:
    """Mean and standard error of the values that are not None.

    share: of cases. Where all values are 0 or 1, their standard error is that of Agresti and Coull (two successes and
    two failures added), so that six of six are not called certain.
    """
    kept = np.array([float(value) for value in values if value is not None and not math.isnan(value)])
    n = len(kept)
    if not n:
        return Mean(math.nan, math.nan, 0)
    if share and set(kept) <= {0.0, 1.0}:
        p = (kept.sum() + 2) / (n + 4)
        return Mean(float(kept.mean()), math.sqrt(p * (1 - p) / (n + 4)), n)
    return Mean(float(kept.mean()), float(kept.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan, n)


@dataclass(frozen=True)
class Column:
    """One column of the tables. share: of cases, written in per cent. higher: whether more is better."""

    title: str
    value: Value
    share: bool = False
    higher: bool = True
    digits: int = 1


def _of(clip: str, name: str) -> Value:
    def value(score: Score) -> float | None:
        measures: Measures | None = getattr(score, clip)
        found = None if measures is None else getattr(measures, name)
        return None if found is None else float(found)

    return value


def _rank(clip: str, most: int) -> Value:
    rank = _of(clip, "rank")
    return lambda score: None if (found := rank(score)) is None else float(found <= most)


def _legible(clip: str) -> Value:
    text = _of(clip, "text")
    return lambda score: None if (found := text(score)) is None else float(found >= READABLE)


def _excess_flicker(score: Score) -> float | None:
    own, true = score.result.flicker, score.truth.flicker
    return None if own is None or true is None else own - true


def _below_ceiling(score: Score) -> float | None:
    ceiling = None if score.vae is None else score.vae.outside
    return None if ceiling is None or score.result.outside is None else ceiling - score.result.outside


PIXELS = (
    Column("copy, inside", _of("copy", "inside")),
    Column("inside", _of("result", "inside")),
    Column("VAE, inside", _of("vae", "inside")),
    Column("outside", _of("result", "outside")),
    Column("VAE, outside", _of("vae", "outside")),
    Column("outside, source kept", _of("kept", "outside")),
    Column("SSIM inside", _of("result", "ssim_inside"), digits=3),
    Column("SSIM outside", _of("result", "ssim_outside"), digits=3),
)
PERCEPTION = (
    Column("GMSD", _of("result", "gmsd"), higher=False, digits=3),
    Column("GMSD of VAE", _of("vae", "gmsd"), higher=False, digits=3),
    Column("tower distance", _of("result", "tower_distance"), higher=False, digits=3),
    Column("tower distance of VAE", _of("vae", "tower_distance"), higher=False, digits=3),
    Column("flicker beyond the truth's", _excess_flicker, higher=False, digits=2),
    Column("truth's flicker", _of("truth", "flicker"), higher=False, digits=2),
)
RECOGNITION = (
    Column("followed", _of("result", "followed"), share=True),
    Column("copy", _of("copy", "followed"), share=True),
    Column("truth", _of("truth", "followed"), share=True),
    Column("VAE of truth", _of("vae", "followed"), share=True),
    Column("top 1", _rank("result", 1), share=True),
    Column("top 5", _rank("result", 5), share=True),
    Column("colour", _of("result", "colour"), share=True),
    Column("text read", _legible("result"), share=True),
    Column("letters", _of("result", "text"), share=True),
)
_OTHERS = (
    Column("overall", _of("result", "overall")),
    Column("VAE", _of("vae", "overall")),
    Column("inside, source kept", _of("kept", "inside")),
    Column("outside, below the VAE", _below_ceiling, higher=False),
)
COLUMNS = (*PIXELS, *PERCEPTION, *RECOGNITION, *_OTHERS)


def tasks_of(scores: Sequence[Score]) -> list[str]:
    return [*dict.fromkeys(score.task for score in scores)]


def summarise(scores: Sequence[Score]) -> dict[str, dict[str, Mean]]:
    """Every column's mean per task, and over all cases as "all"."""
    return {
        task: {
            column.title: mean_of((column.value(s) for s in scores if task in (s.task, "all")), column.share)
            for column in COLUMNS
        }
        for task in (*tasks_of(scores), "all")
    }


def wordings_table(scores: Sequence[Score]) -> dict[str, dict[str, Mean]]:
    """How much results depend on the wording, per task and over all, for cases that were edited in several wordings.

    followed: share over all wordings. all alike: share of cases in which every wording was followed or none was.
    spread: standard deviation of the PSNR inside over a case's wordings. agreement: see `Score`.
    """
    asked = [score for score in scores if score.wordings]
    table = {}
    for task in (*tasks_of(asked), "all"):
        some = [score for score in asked if task in (score.task, "all")]
        table[task] = {
            "wordings": mean_of(float(1 + len(score.wordings)) for score in some),
            "followed": mean_of([float(f) for s in some for f in _followed(s)], share=True),
            "all alike": mean_of((_alike(score) for score in some), share=True),
            "inside": mean_of(value for score in some for value in _insides(score)),
            "spread, inside": mean_of(float(np.std(i)) if len(i := _insides(s)) > 1 else None for s in some),
            "agreement": mean_of(score.agreement for score in some),
        }
    return table


def _followed(score: Score) -> list[bool]:
    every = [score.result, *(wording.result for wording in score.wordings)]
    return [measures.followed for measures in every if measures.followed is not None]


def _alike(score: Score) -> float | None:
    followed = _followed(score)
    return float(len(set(followed)) == 1) if followed else None


def _insides(score: Score) -> list[float]:
    every = [score.result, *(wording.result for wording in score.wordings)]
    return [measures.inside for measures in every if measures.inside is not None]


@dataclass(frozen=True)
class Difference:
    """One column of one task: this model's mean, the other's, and the difference, positive where this one is better.

    paired: whether both were measured on the same cases; the error is then that of the case-by-case difference.
    """

    task: str
    column: str
    mine: Mean
    other: Mean
    better_by: float
    se: float
    paired: bool

    @property
    def verdict(self) -> str:
        if math.isnan(self.se) or abs(self.better_by) <= DECIDED * self.se or self.better_by == 0:
            return "undecided"
        return "better" if self.better_by > 0 else "worse"


COMPARED = ("inside", "outside", "outside, source kept", "followed", "top 1", "colour", "letters", "GMSD")


def compare(scores: Sequence[Score], others: Sequence[Score]) -> list[Difference]:
    """The differences between this model and another, per task and column, wherever both have figures.

    Cases are paired where task, seed and wording agree and source and truth are equally far apart in both reports;
    a task without common cases is compared by its means.
    """
    columns = {column.title: column for column in COLUMNS}
    known = {(score.task, score.seed, score.instruction): score for score in others}
    pairs = []
    for score in scores:
        other = known.get((score.task, score.seed, score.instruction))
        if other is not None and _same_case(score, other):
            pairs.append((score, other))
    found = []
    for task in (*(t for t in tasks_of(scores) if t in tasks_of(others)), "all"):
        for title in COMPARED:
            difference = _difference(task, columns[title], scores, others, pairs)
            if difference is not None:
                found.append(difference)
    return found


def _same_case(a: Score, b: Score) -> bool:
    x, y = a.copy.inside, b.copy.inside
    return (x is None) == (y is None) and (x is None or y is None or abs(x - y) <= CASE_TOLERANCE)


def _difference(
    task: str, column: Column, scores: Sequence[Score], others: Sequence[Score], pairs: Sequence[tuple[Score, Score]]
) -> Difference | None:
    sign = 1.0 if column.higher else -1.0
    common = [
        (x, y)
        for a, b in pairs
        if task in (a.task, "all") and (x := column.value(a)) is not None and (y := column.value(b)) is not None
    ]
    if len(common) > 1:
        mine, other = (mean_of((pair[i] for pair in common), column.share) for i in (0, 1))
        steps = mean_of(x - y for x, y in common)
        return Difference(task, column.title, mine, other, sign * steps.mean, steps.se, paired=True)
    if task == "all":  # over different cases, or other tasks, it would mean nothing
        return None
    mine, other = (
        mean_of((column.value(s) for s in some if s.task == task), column.share) for some in (scores, others)
    )
    if not mine.n or not other.n:
        return None
    se = math.hypot(mine.se, other.se)
    return Difference(task, column.title, mine, other, sign * (mine.mean - other.mean), se, paired=False)
