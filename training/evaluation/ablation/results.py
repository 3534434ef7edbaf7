"""What the runs gave: curves and scores, averaged over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.core.tracking import METRICS_FILE
from training.evaluation.ablation.plan import (
    CASES_FOLDER,
    REFERENCES,
    RESULT_FILE,
    STAGE0_FOLDER,
    VARIANTS,
    Plan,
    Run,
    Variant,
)
from training.evaluation.held_out.scoring import Score, as_score
from training.evaluation.held_out.summary import COLUMNS, DECIDED, Column, Mean

HELD_OUT, TRAINED = "validation/raw/flow", "flow"
"""The curves that are kept and drawn: of held-out samples, and of what was trained on."""

MEASURES = ("followed", "inside", "GMSD", "outside", "top 1", "colour", "letters")
"""Columns of the benchmark's tables that are shown; the claims are judged by the first three."""

JUDGED_BY = MEASURES[:3]


Curves = dict[str, list[tuple[int, float]]]
"""Steps and values by the figure's name."""


@dataclass(frozen=True)
class Outcome:
    """One run whose cases are all scored: its facts, its cases' scores, its figures by step."""

    facts: dict[str, Any]
    scores: dict[str, Score]
    curves: Curves


Outcomes = dict[str, list[Outcome]]
"""By variant, in the order of seeds."""


def load_outcomes(plan: Plan, folder: Path, cases: Collection[str]) -> tuple[Outcomes, dict[str, str]]:
    """The runs of a plan whose `cases` are all scored, and for every other run by name why it is left out.

    A session that was stopped may leave a run that is scored and has no `result.json`: such a run counts, with those
    facts that the plan and its figures tell.
    """
    found: Outcomes = {}
    left_out: dict[str, str] = {}
    for run in plan.runs():
        own = folder / run.name
        scores = {name: score for name, score in _scores(own / CASES_FOLDER).items() if name in cases}
        if len(scores) < len(cases):
            left_out[run.name] = f"{len(scores)} of {len(cases)} cases scored" if own.is_dir() else "not begun"
            continue
        outcome = Outcome(_facts(own, run, plan), scores, _curves(own, run.variant.first_steps(plan.steps)))
        found.setdefault(run.variant.name, []).append(outcome)
    return found, left_out


def _facts(folder: Path, run: Run, plan: Plan) -> dict[str, Any]:
    """What a run has written about itself; else what can be told without it, which is no device, version or day."""
    file = folder / RESULT_FILE
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    first_steps = run.variant.first_steps(plan.steps)
    facts = {"variant": run.variant.name, "seed": run.seed, "steps": plan.steps, "first_steps": first_steps}
    parts = ([folder / STAGE0_FOLDER] if first_steps else []) + [folder]
    last = [rows[-1] for part in parts if (rows := [row for row in _rows(part) if "samples" in row])]
    return facts | ({"samples": sum(row["samples"] for row in last)} if len(last) == len(parts) else {})


def load_references(folder: Path) -> dict[str, dict[str, Score]]:
    """Scores of an editor that does nothing and of one that does all, if they were taken."""
    return {name: scores for name in REFERENCES if (scores := _scores(folder / name / CASES_FOLDER))}


def _scores(folder: Path) -> dict[str, Score]:
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    scores = (as_score(json.loads(file.read_text(encoding="utf-8"))) for file in files)
    return {score.id: score for score in scores}


def _curves(folder: Path, first_steps: int) -> Curves:
    """Figures by step. first_steps: of the stage 0 before; the steps of what followed are counted from there."""
    curves: Curves = {}
    for part, before in ((folder / STAGE0_FOLDER, 0), (folder, first_steps)):
        for row in _rows(part):
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)):
                    points = curves.setdefault(name, [])
                    step = row["step"] + before
                    if not points or points[-1][0] != step:
                        points.append((step, float(value)))
    return curves


def _rows(folder: Path) -> list[dict[str, Any]]:
    """The figures that a run logged, a row for each step."""
    file = folder / METRICS_FILE
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def column(title: str) -> Column:
    return next(one for one in COLUMNS if one.title == title)


def over_seeds(outcomes: Sequence[Outcome], title: str) -> Mean:
    """A measure's mean over cases, then over seeds, with the standard error over seeds; n is the number of seeds."""
    value = column(title).value
    return _mean([mean for one in outcomes if (mean := _over_cases(one.scores.values(), value)) is not None])


def _over_cases(scores: Any, value: Callable[[Score], float | None]) -> float | None:
    found = [number for score in scores if (number := value(score)) is not None]
    return float(np.mean(found)) if found else None


def _mean(values: Sequence[float]) -> Mean:
    n = len(values)
    if not n:
        return Mean(math.nan, math.nan, 0)
    return Mean(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan, n)


@dataclass(frozen=True)
class Effect:
    """How much better one variant is than another by one measure, seed by seed and case by case.

    error: standard error that counts the scatter over cases (averaged over seeds) and over seeds (averaged over cases);
        NaN with one seed, which says nothing about others.
    pairs, seeds: how many pairs of cases, of how many seeds that both variants have.
    """

    better_by: float
    error: float
    pairs: int
    seeds: int

    @property
    def verdict(self) -> str:
        if not self.pairs or math.isnan(self.error) or abs(self.better_by) <= DECIDED * self.error:
            return "undecided"
        return "better" if self.better_by > 0 else "worse"


def effect(outcomes: Outcomes, one: str, other: str, title: str) -> Effect:
    """The difference of two variants, paired where both have the seed and the case; positive where `one` is better."""
    measure, rows = column(title), []
    others = {outcome.facts["seed"]: outcome for outcome in outcomes.get(other, ())}
    for outcome in outcomes.get(one, ()):
        against = others.get(outcome.facts["seed"])
        if against is None:
            continue
        row = {
            name: (a - b) if measure.higher else (b - a)
            for name, score in outcome.scores.items()
            if name in against.scores
            and (a := measure.value(score)) is not None
            and (b := measure.value(against.scores[name])) is not None
        }
        rows.append(row)
    names = set.intersection(*map(set, rows)) if rows else set()
    if not names:
        return Effect(math.nan, math.nan, 0, 0)
    table = np.array([[row[name] for name in sorted(names)] for row in rows])  # (seeds, cases)
    seeds, cases = (_mean(table.mean(axis=axis).tolist()) for axis in (1, 0))
    error = math.hypot(0.0 if math.isnan(cases.se) else cases.se, seeds.se)  # one seed tells nothing of the others
    return Effect(float(table.mean()), error, table.size, len(rows))


@dataclass(frozen=True)
class Claim:
    """A comparison, with the figures that the paper gives for it, if it does."""

    text: str
    one: str
    other: str
    paper: str = ""
    expected: str = ""
    """What the paper's figures say of `one`: better or worse; empty where they say nothing."""


CLAIMS = (
    Claim("semantic anchoring helps", "anchoring", "baseline", "6.696 against 6.312", "better"),
    Claim("motion alignment helps", "motion", "baseline", "6.711 against 6.312", "better"),
    Claim("both help", "both", "baseline", "7.095 against 6.312", "better"),
    Claim("both are better than anchoring alone", "both", "anchoring", "7.095 against 6.696", "better"),
    Claim("both are better than motion alignment alone", "both", "motion", "7.095 against 6.711", "better"),
    Claim(
        "a type embedding is better than shifted positions",
        "both",
        "shifted",
        "6.975 against 6.498 (replace)",
        "better",
    ),
    Claim("anchors on the grid are better than anchors without position", "both", "unplaced"),
    Claim("stage 0 before stage 1 is better than stage 1 alone", "two_stages", "both"),
    Claim("stage 1 is needed after stage 0", "two_stages", "stage0"),
    Claim("stage 1 alone is better than stage 0 alone", "both", "stage0"),
)
"""Paper: VIE-Bench, Wan2.2-5B on a subset of Ditto."""


def agreement(claim: Claim, found: Effect) -> str:
    """Whether a measured effect agrees with the paper."""
    if not claim.expected:
        return "the paper gives no figure"
    if found.verdict == "undecided":
        return "undecided"
    return "agrees" if found.verdict == claim.expected else "disagrees"


def band(outcomes: Sequence[Outcome], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A curve's steps, mean and standard deviation over seeds, at the steps that all seeds have."""
    curves = [dict(outcome.curves[name]) for outcome in outcomes if name in outcome.curves]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    values = np.array([[curve[step] for step in steps] for curve in curves])
    if not steps:
        return np.array([]), np.array([]), np.array([])
    return np.array(steps), values.mean(axis=0), values.std(axis=0, ddof=1 if len(values) > 1 else 0)


def shown(outcomes: Outcomes) -> list[Variant]:
    """The variants that have a scored run, in their order."""
    return [variant for variant in VARIANTS if outcomes.get(variant.name)]
