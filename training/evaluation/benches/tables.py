"""Turns answers into the paper's tables: our rows beside the published ones, each with its judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from training.evaluation.benches.benchmarks import Benchmark
from training.evaluation.benches.cases import Case, Found
from training.evaluation.judge.answers import Standing
from training.evaluation.tables import markdown_table


@dataclass
class Graded:
    """The grades of a benchmark.

    cases: figures of each graded case of a task, in the table's columns. failed: cases whose scores could not be had,
    each with the reason. missing: cases without a result. waiting: cases that still lack answers.
    """

    cases: dict[str, list[tuple[Case, tuple[float, ...]]]] = field(default_factory=dict)
    failed: list[tuple[Case, str]] = field(default_factory=list)
    missing: list[Case] = field(default_factory=list)
    waiting: list[Case] = field(default_factory=list)


def grade(
    benchmark: Benchmark, found: Sequence[Found], standings: Mapping[str, Standing], runs: int, attempts: int
) -> Graded:
    """Grade every case from all answers about it."""
    graded = Graded()
    for case, result, key in found:
        if result is None:
            graded.missing.append(case)
            continue
        grades = standings.get(key, Standing()).grades(benchmark.questions[case.task], runs, attempts)
        if grades is None:
            graded.waiting.append(case)
        elif isinstance(grades, str):
            graded.failed.append((case, grades))
        else:
            graded.cases.setdefault(case.task, []).append((case, benchmark.grade(grades)))
    return graded


def as_dict(benchmark: Benchmark, graded: Graded, name: str, judge: str) -> dict[str, Any]:
    """All grades as a dictionary for scores.json."""
    return {
        "benchmark": benchmark.title,
        "method": name,
        "judge": judge,
        "columns": list(benchmark.columns),
        "tasks": {
            task: dict(zip(benchmark.columns, _means(graded, task), strict=True))
            | {"graded": len(graded.cases[task]), "cases": _count(graded, task)}
            for task in benchmark.tasks
            if task in graded.cases
        },
        "cases": [
            {"id": case.id, "task": task, "figures": list(figures)}
            for task in benchmark.tasks
            for case, figures in graded.cases.get(task, ())
        ],
        "failed": [{"id": case.id, "task": case.task, "reason": reason} for case, reason in graded.failed],
        "missing": [{"id": case.id, "task": case.task} for case in graded.missing],
        "published": {
            "judge": benchmark.judge,
            "rows": {
                task: {method: dict(zip(benchmark.columns, row, strict=True)) for method, row in rows.items()}
                for task, rows in benchmark.published.items()
            },
        },
    }


def grades_table(benchmark: Benchmark, graded: Graded, name: str, judge: str) -> str:
    """The paper's tables, with a column for the judge. One figure a task makes one table, several make one each."""
    tables = _one_table if len(benchmark.columns) == 1 else _table_per_task
    lines = [
        f"# {benchmark.title}: {name}",
        "",
        f"Published rows were graded by {benchmark.judge}, this one by {judge} with questions in our own words. "
        "Grades of different judges, or of different wordings, cannot be compared with each other.",
        "",
        *tables(benchmark, graded, name, judge),
    ]
    for cases, words in (
        (graded.missing, "have no result"),
        ([case for case, _ in graded.failed], "could not be graded (see scores.json)"),
    ):
        if cases:
            lines.append(f"{len(cases)} cases {words} and are in no average.")
    return "\n".join(lines).rstrip() + "\n"


def _one_table(benchmark: Benchmark, graded: Graded, name: str, judge: str) -> list[str]:
    tasks = [task for task in benchmark.tasks if task in benchmark.published or task in graded.cases]
    rows = []
    for method in dict.fromkeys(method for rows in benchmark.published.values() for method in rows):
        figures = [benchmark.published.get(task, {}).get(method, (None,))[0] for task in tasks]
        rows.append(_row(f"{method} (published)", benchmark.judge, figures))
    rows.append(_row(f"**{name}**", judge, [_means(graded, t)[0] if t in graded.cases else None for t in tasks]))
    counts = [f"{len(graded.cases.get(task, ()))}/{_count(graded, task)}" for task in tasks]
    titles = [benchmark.tasks[task] for task in tasks]
    return [markdown_table(["Method", "Judge", *titles], [*rows, ["graded cases", "", *counts]])]


def _table_per_task(benchmark: Benchmark, graded: Graded, name: str, judge: str) -> list[str]:
    lines = []
    for task, heading in benchmark.tasks.items():
        if task in graded.cases:
            published = benchmark.published.get(task, {}).items()
            rows = [_row(f"{method} (published)", benchmark.judge, row) for method, row in published]
            rows.append(_row(f"**{name}**", judge, _means(graded, task)))
            lines += [f"## {heading} ({len(graded.cases[task])} of {_count(graded, task)} cases)", ""]
            lines.append(markdown_table(["Method", "Judge", *benchmark.columns], rows))
    return lines


def _row(method: str, judge: str, figures: Sequence[float | None]) -> list[str]:
    return [method, judge, *("-" if one is None else f"{one:.3f}".removesuffix("0") for one in figures)]


def _means(graded: Graded, task: str) -> list[float]:
    return [fmean(column) for column in zip(*(figures for _, figures in graded.cases[task]), strict=True)]


def _count(graded: Graded, task: str) -> int:
    others = [*graded.missing, *graded.waiting, *(case for case, _ in graded.failed)]
    return len(graded.cases.get(task, ())) + sum(case.task == task for case in others)
