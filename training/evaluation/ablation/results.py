"""The results of the runs: collected as one small file of JSON, and averaged and compared over seeds and cases."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sama.files import whole_file
from training.core.tracking import read_metrics
from training.errors import ConfigError
from training.evaluation.ablation.runs import CASES, STAGE0, AblationPlan, Claim, Run, plan_from_json, scores_of
from training.evaluation.held_out.runner import ABOUT_FILE
from training.evaluation.held_out.scoring import Measures, Score
from training.evaluation.held_out.summary import COLUMNS, DECIDED, Mean, mean_of

HELD_OUT, TRAINED = "validation/raw/flow", "flow"
"""The curves that are kept and drawn: of held-out samples, and of what was trained on."""

MEASURES = ("followed", "inside", "GMSD", "outside", "top 1", "colour", "letters")
"""Columns of the benchmark's tables that are shown; the claims are judged by the first three."""

COLUMN = {column.title: column for column in COLUMNS}
MEASURED = tuple(field.name for field in fields(Measures))
REFERENCES = {"source": "copy", "truth": "truth"}
"""An editor that does nothing and one that does all, and which part of a case's score measures them."""

DIGITS = 5
"""Significant digits of every number in the file."""

Curves = dict[str, list[tuple[int, float]]]
"""Steps and values by the figure's name."""


@dataclass(frozen=True)
class Outcome:
    """One run whose cases are all scored: its facts (variant, seed, steps, device), its scores by case, its curves."""

    facts: dict[str, Any]
    scores: dict[str, Score]
    curves: Curves


Outcomes = dict[str, list[Outcome]]
"""The outcomes of each variant, in the order of seeds."""


@dataclass(frozen=True)
class AblationRecord:
    """Everything that the page is made from. references: scores by name and case. left_out: why a run is missing."""

    plan: AblationPlan
    outcomes: Outcomes
    references: dict[str, dict[str, Score]]
    left_out: dict[str, str]


def collect_record(plan: AblationPlan, out: Path) -> AblationRecord:
    """The record of the runs whose cases are all scored; variants may have unequal numbers of seeds. Raises ConfigError
    when there is none, and CaseError."""
    lines, outcomes, left_out = plan.lines(), Outcomes(), dict[str, str]()
    for run in plan.runs():
        scores = scores_of(run, lines, out)
        if len(scores) == len(lines):
            outcomes.setdefault(run.variant.name, []).append(_outcome(run, plan, out / run.name, scores))
        else:
            begun = (out / run.name).is_dir()
            left_out[run.name] = f"{len(scores)} of {len(lines)} cases scored" if begun else "not begun"
    if not outcomes:
        raise ConfigError(f"no run in {out} is finished: there is nothing to report yet")
    scores = next(iter(outcomes.values()))[0].scores
    references = {
        name: {case: Score(one.task, one.seed, "", getattr(one, part)) for case, one in scores.items()}
        for name, part in REFERENCES.items()
    }
    return AblationRecord(plan, outcomes, references, left_out)


def _outcome(run: Run, plan: AblationPlan, folder: Path, scores: dict[str, Score]) -> Outcome:
    """The outcome of a run, read from its folder. The steps after a stage 0 are counted from that one's end."""
    first, about = plan.first_steps(run.variant), folder / CASES / ABOUT_FILE
    parts = [(folder / STAGE0, 0), (folder, first)] if first else [(folder, 0)]
    metrics = [(before, read_metrics(part)) for part, before in parts]
    facts = {"variant": run.variant.name, "seed": run.seed, "steps": plan.steps, "first_steps": first}
    for name, total in (("samples", "samples"), ("seconds", "training_seconds")):
        facts[total] = round(sum(max((row.get(name, 0) for row in rows), default=0) for _, rows in metrics), 1)
    if about.is_file():
        told = json.loads(about.read_text(encoding="utf-8"))
        day = time.strftime("%Y-%m-%d", time.localtime(about.stat().st_mtime))
        facts |= {"device": told["device"], "torch": told["torch"], "date": day}
    curves = {
        name: [(before + row["step"], float(row[name])) for before, rows in metrics for row in rows if name in row]
        for name in (HELD_OUT, TRAINED)
    }
    return Outcome(facts, scores, {name: points for name, points in curves.items() if points})


# --- File -------------------------------------------------------------------------------------------------------------


def write_record(record: AblationRecord, file: Path) -> None:
    """Write a record, a line for each run."""
    runs = [outcome for outcomes in record.outcomes.values() for outcome in outcomes]
    cases = sorted(runs[0].scores)
    head = {
        "plan": asdict(record.plan), "left_out": record.left_out, "cases": cases, "measures": MEASURED,
        "references": {name: _rows(scores, cases) for name, scores in record.references.items()},
    }  # fmt: skip
    parts = [f'"{name}": {_line(value)}' for name, value in head.items()]
    lines = (_line({"facts": run.facts, "curves": run.curves, "scores": _rows(run.scores, cases)}) for run in runs)
    parts.append('"runs": [\n' + ",\n".join(lines) + "\n]")
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part:
        part.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def read_record(file: Path) -> AblationRecord:
    """A record. Raises ConfigError when there is none, or none that can be read."""
    if not file.is_file():
        raise ConfigError(
            f"there are no results in {file}: collect those of finished runs with: "
            "python -m training.evaluation.ablation collect --out runs/ablation"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        outcomes: Outcomes = {}
        for run in values["runs"]:
            curves = {name: [(int(step), value) for step, value in points] for name, points in run["curves"].items()}
            outcome = Outcome(run["facts"], _scores(run["scores"], values), curves)
            outcomes.setdefault(run["facts"]["variant"], []).append(outcome)
        references = {name: _scores(rows, values) for name, rows in values["references"].items()}
        return AblationRecord(plan_from_json(values["plan"]), outcomes, references, values["left_out"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not a record of an ablation: {error}") from error


def _rows(scores: Mapping[str, Score], cases: Sequence[str]) -> list[list[Any]]:
    return [[getattr(scores[case].result, name) for name in MEASURED] for case in cases]


def _scores(rows: Iterable[Sequence[Any]], values: Mapping[str, Any]) -> dict[str, Score]:
    scores = {}
    for case, row in zip(values["cases"], rows, strict=True):
        task, _, seed = case.rpartition("-")
        scores[case] = Score(task, int(seed), "", Measures(**dict(zip(values["measures"], row, strict=True))))
    return scores


def _line(value: Any) -> str:
    return json.dumps(_short(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _short(value: Any) -> Any:
    """The value with numbers cut to `DIGITS` digits, and None where a number is not finite."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _short(one) for name, one in value.items()}
    return [_short(one) for one in value] if isinstance(value, list | tuple) else value


# --- Figures ----------------------------------------------------------------------------------------------------------


def over_seeds(outcomes: Sequence[Outcome], title: str) -> Mean:
    """A measure's mean over cases, then over seeds, with the standard error over seeds; n is the number of seeds."""
    return mean_of(mean_of(map(COLUMN[title].value, one.scores.values())).mean for one in outcomes)


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
    measure, rows = COLUMN[title], []
    others = {outcome.facts["seed"]: outcome.scores for outcome in outcomes.get(other, ())}
    for outcome in outcomes.get(one, ()):
        against = others.get(outcome.facts["seed"])
        if against is not None:
            pairs = {case: (measure.value(outcome.scores[case]), measure.value(against[case]))
                     for case in outcome.scores.keys() & against.keys()}  # fmt: skip
            rows.append({case: a - b for case, (a, b) in pairs.items() if a is not None and b is not None})
    names = sorted(set.intersection(*map(set, rows))) if rows else []
    if not names:
        return Effect(math.nan, math.nan, 0, 0)
    table = np.array([[row[name] for name in names] for row in rows]) * (1 if measure.higher else -1)  # (seeds, cases)
    seeds, cases = (mean_of(table.mean(axis=axis)) for axis in (1, 0))
    error = math.hypot(0.0 if math.isnan(cases.se) else cases.se, seeds.se)  # one seed tells nothing of the others
    return Effect(float(table.mean()), error, table.size, len(rows))


def agreement_with_paper(claim: Claim, found: Effect) -> str:
    """Whether a measured effect agrees with the paper; only what was found, where the paper gives no figure."""
    if not claim.expected or found.verdict == "undecided":
        return found.verdict
    return "agrees" if found.verdict == claim.expected else "disagrees"


def band(outcomes: Sequence[Outcome], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A curve's steps, mean and standard deviation over seeds, at the steps that all seeds have."""
    curves = [dict(outcome.curves[name]) for outcome in outcomes if name in outcome.curves]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    values = np.array([[curve[step] for step in steps] for curve in curves])
    if not steps:
        return np.array([]), np.array([]), np.array([])
    return np.array(steps), values.mean(axis=0), values.std(axis=0, ddof=1 if len(values) > 1 else 0)
