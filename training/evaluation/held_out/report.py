"""Reports: `scores.json` with every case, `scores.md` with the tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sama.files import whole_file
from training.evaluation.held_out.scoring import Score, as_score
from training.evaluation.held_out.summary import (
    COLUMNS,
    DECIDED,
    PERCEPTION,
    PIXELS,
    RECOGNITION,
    Difference,
    Mean,
    compare,
    summarise,
    wordings_table,
)
from training.evaluation.tables import markdown_table


def written(value: Mean, share: bool = False, digits: int = 1, error: bool = True) -> str:
    """A mean with its error as text: `17.4 ± 0.6`, `83 ± 12 %`, or `-`."""
    if not value.n or math.isnan(value.mean):
        return "-"
    scale, digits = (100, 0) if share else (1, digits)
    text = f"{value.mean * scale:.{digits}f}"
    if error and not math.isnan(value.se):
        text += f" ± {value.se * scale:.{digits}f}"
    return f"{text} %" if share else text


def scores_text(scores: Sequence[Score]) -> str:
    """The tables of a report; errors are standard errors over cases, written where there is room."""
    table = summarise(scores)
    parts = []
    for title, columns, error in (
        ("What was asked for is there", RECOGNITION, True),
        ("Pixels, dB", PIXELS, True),
        ("Perception and motion", PERCEPTION, False),
    ):
        shown = [c for c in columns if any(row[c.title].n for row in table.values())]
        rows = [
            [task, str(sum(task in (s.task, "all") for s in scores))]
            + [written(row[c.title], c.share, c.digits, error) for c in shown]
            for task, row in table.items()
        ]
        parts.append(f"### {title}\n\n" + markdown_table(["task", "pairs", *(c.title for c in shown)], rows))
    wordings = wordings_table(scores)
    if wordings["all"]["wordings"].n:
        shares = ("followed", "all alike")
        rows = [
            [task, str(row["wordings"].n), *(written(value, name in shares) for name, value in row.items())]
            for task, row in wordings.items()
        ]
        parts.append("### Wordings\n\n" + markdown_table(["task", "pairs", *wordings["all"]], rows))
    return "\n".join(parts)


def comparison_markdown(differences: Sequence[Difference], other: str) -> str:
    """Which tasks are better than those of `other`, by how much."""
    shares = {column.title for column in COLUMNS if column.share}
    rows = []
    for d in differences:
        share = d.column in shares
        scale, unit = (100, " %") if share else (1, "")
        digits = 0 if share else 3 if d.column == "GMSD" else 1
        by = f"{d.better_by * scale:+.{digits}f}" + ("" if math.isnan(d.se) else f" ± {d.se * scale:.{digits}f}") + unit
        on = f"{d.mine.n} pairs" if d.paired else f"{d.mine.n} and {d.other.n} different cases"
        means = (written(mean, share, digits, error=False) for mean in (d.mine, d.other))
        rows.append([d.task, d.column, *means, by, d.verdict, on])
    head = ["task", "measure", "this", "other", "better by", f"beyond {DECIDED:.0f} standard errors", "on"]
    return f"### Against {other}\n\n" + markdown_table(head, rows)


def write_report(
    scores: Sequence[Score], out: Path, about: Mapping[str, Any], against: Path | None = None
) -> dict[str, Any]:
    """Write `scores.json` and `scores.md`: tables, and the comparison with another report if one is given.

    about: facts about what was examined and how, for the JSON.
    """
    out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"about": dict(about), "summary": _plain(summarise(scores))}
    text = scores_text(scores)
    wordings = wordings_table(scores)
    if wordings["all"]["wordings"].n:
        report["wordings"] = _plain(wordings)
    if against is not None:
        differences = compare(scores, read_report(against))
        report["against"] = [_plain_difference(d) for d in differences]
        text += "\n" + comparison_markdown(differences, str(against))
    report["scores"] = [_without_nothing(asdict(score)) for score in scores]
    for name, content in (("scores.json", _one_line_a_score(report)), ("scores.md", text)):
        with whole_file(out / name) as part:
            part.write_text(content, encoding="utf-8")
    return report


def read_report(path: Path) -> list[Score]:
    """The scores of a `scores.json`, of this form or the first published one. Raises ValueError for another file."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["scores"]
        return [as_score(row) for row in rows]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a report of this benchmark: {error}") from error


def _plain(table: Mapping[str, Mapping[str, Mean]]) -> dict[str, dict[str, dict[str, float]]]:
    return {task: {title: _plain_mean(mean) for title, mean in row.items() if mean.n} for task, row in table.items()}


def _plain_mean(mean: Mean) -> dict[str, float]:
    return {name: round(value, 4) for name, value in mean._asdict().items() if not math.isnan(value)}


def _plain_difference(difference: Difference) -> dict[str, Any]:
    return {
        "task": difference.task,
        "column": difference.column,
        "mine": _plain_mean(difference.mine),
        "other": _plain_mean(difference.other),
        "better_by": round(difference.better_by, 4),
        "se": None if math.isnan(difference.se) else round(difference.se, 4),
        "paired": difference.paired,
        "verdict": difference.verdict,
    }


def _without_nothing(values: Any) -> Any:
    """The values without the entries that are None or empty."""
    if isinstance(values, dict):
        pruned = {name: _without_nothing(value) for name, value in values.items()}
        return {name: value for name, value in pruned.items() if value is not None and value != []}
    return [_without_nothing(value) for value in values] if isinstance(values, list) else values


def _one_line_a_score(report: Mapping[str, Any]) -> str:
    """JSON in which a changed score is a changed line."""
    parts = []
    for name, value in report.items():
        if name in ("scores", "against"):
            body = "[\n" + ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in value) + "\n ]"
        elif name in ("summary", "wordings"):
            rows = (f"  {json.dumps(task)}: {json.dumps(row)}" for task, row in value.items())
            body = "{\n" + ",\n".join(rows) + "\n }"
        else:
            body = json.dumps(value, indent=2, ensure_ascii=False)
        parts.append(f" {json.dumps(name)}: {body}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
