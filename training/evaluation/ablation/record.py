"""The raw results of an ablation as one small file of JSON, from which its page is made.

What is kept of each run: its facts (variant, seed, steps, seconds, device), every measure of every held-out case, and
the two losses that the page draws. Pictures, weights and the other figures stay where the runs were made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sama.files import whole_file
from training.errors import ConfigError
from training.evaluation.ablation.plan import Plan, plan_of
from training.evaluation.ablation.results import (
    HELD_OUT,
    TRAINED,
    Curves,
    Outcome,
    Outcomes,
    load_outcomes,
    load_references,
)
from training.evaluation.held_out.scoring import Measures, Score

MEASURED = tuple(one.name for one in fields(Measures))
DIGITS = 5
"""Significant digits of every number."""


@dataclass(frozen=True)
class Record:
    """Everything that the page is made from. references: cases' scores of an editor that does nothing and of one that
    does all, by name. left_out: why a run of the plan is not among the outcomes, by the run's name."""

    plan: Plan
    outcomes: Outcomes
    references: dict[str, dict[str, Score]]
    left_out: dict[str, str]


def collect(plan: Plan, folder: Path, cases: Collection[str]) -> Record:
    """The record of the runs in a folder whose `cases` are all scored; variants may have unequal numbers of seeds.
    Raises ConfigError when there is none."""
    outcomes, left_out = load_outcomes(plan, folder, cases)
    if not outcomes:
        raise ConfigError(f"no run in {folder} is finished: there is nothing to report yet")
    return Record(plan, outcomes, load_references(folder), left_out)


def write_record(record: Record, file: Path) -> None:
    """Write a record, a line for each run."""
    runs = [outcome for outcomes in record.outcomes.values() for outcome in outcomes]
    every = [outcome.scores for outcome in runs] + list(record.references.values())
    cases = sorted({case for scores in every for case in scores})
    head = {"plan": asdict(record.plan), "left_out": record.left_out, "cases": cases, "measures": MEASURED}
    parts = [f'"{name}": {_line(value)}' for name, value in head.items()]
    references = {name: _rows(scores, cases) for name, scores in record.references.items()}
    parts.append(f'"references": {_line(references)}')
    lines = (
        _line({"facts": run.facts, "curves": _drawn(run.curves), "scores": _rows(run.scores, cases)}) for run in runs
    )
    parts.append('"runs": [\n' + ",\n".join(lines) + "\n]")
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part:
        part.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def read_record(file: Path) -> Record:
    """A record. Raises ConfigError when there is none, or none that can be read."""
    if not file.is_file():
        raise ConfigError(
            f"there are no results in {file}: collect those of finished runs with: "
            "python -m training.evaluation.ablation collect --out runs/ablation"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        cases, measures = values["cases"], values["measures"]
        outcomes: Outcomes = {}
        for run in values["runs"]:
            curves = {name: [(int(step), value) for step, value in points] for name, points in run["curves"].items()}
            outcome = Outcome(run["facts"], _scores(run["scores"], cases, measures), curves)
            outcomes.setdefault(run["facts"]["variant"], []).append(outcome)
        references = {name: _scores(rows, cases, measures) for name, rows in values["references"].items()}
        return Record(plan_of(values["plan"]), outcomes, references, values["left_out"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not a record of an ablation: {error}") from error


def _rows(scores: Mapping[str, Score], cases: Sequence[str]) -> list[list[Any] | None]:
    """A row of measures for each case; None for one that was not scored."""
    return [[getattr(scores[case].result, name) for name in MEASURED] if case in scores else None for case in cases]


def _scores(rows: Iterable[Sequence[Any] | None], cases: Sequence[str], measures: Sequence[str]) -> dict[str, Score]:
    scores = {}
    for case, row in zip(cases, rows, strict=True):
        if row is not None:
            task, _, seed = case.rpartition("-")
            scores[case] = Score(task, int(seed), "", Measures(**dict(zip(measures, row, strict=True))))
    return scores


def _drawn(curves: Curves) -> Curves:
    return {name: curves[name] for name in (HELD_OUT, TRAINED) if name in curves}


def _line(value: Any) -> str:
    return json.dumps(_short(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _short(value: Any) -> Any:
    """The same with fewer digits, and None where a number is not finite."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _short(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(one) for one in value]
    return value
