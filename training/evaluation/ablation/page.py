"""The page of the ablation: tables, plots, and what agrees with the paper."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from sama.files import whole_file
from training.errors import ConfigError
from training.evaluation.ablation.plots import plot_losses, plot_scores
from training.evaluation.ablation.record import Record
from training.evaluation.ablation.results import (
    CLAIMS,
    JUDGED_BY,
    MEASURES,
    Outcomes,
    agreement,
    column,
    effect,
    over_seeds,
    shown,
)
from training.evaluation.held_out.report import markdown_table, written
from training.evaluation.held_out.summary import DECIDED, Mean, mean_of


def write_page(record: Record, page: Path, notes: Path | None = None) -> None:
    """Write the page and its plots, which lie beside it in a folder of the page's name. notes: a file with what a
    reader of the figures made of them, in Markdown. ConfigError: the notes are missing."""
    outcomes = record.outcomes
    if notes is not None and not notes.is_file():
        raise ConfigError(f"--notes {notes}: there is no such file")
    plots = page.with_suffix("")
    plots.mkdir(parents=True, exist_ok=True)
    plot_losses(outcomes, plots / "losses.png")
    plot_scores(outcomes, plots / "scores.png")
    with whole_file(page) as part:
        part.write_text(page_text(record, plots.name, notes), encoding="utf-8")


def page_text(record: Record, plots: str, notes: Path | None = None) -> str:
    """The page in Markdown."""
    plan, outcomes = record.plan, record.outcomes
    counts = [len(runs) for runs in outcomes.values()]
    fewest, most = min(counts), max(counts)
    seeds = f"{most} seed{'s' if most > 1 else ''}" if fewest == most else f"{fewest} to {most} seeds"
    common = f"--config {shlex.join(plan.command)} --groups {plan.groups}"
    lines = [
        "# Ablation",
        "",
        "What each part of the method adds to the embedded model, from equal budgets: "
        f"{plan.steps} steps a run on the same {plan.groups} encoded scenes, {seeds}, "
        f"{plan.per_task} held-out cases of each task. The variants of one seed begin with the same weights and draw "
        "their batches by the same numbers.",
        "",
    ]
    if record.left_out:
        names = ", ".join(f"`{name}` ({reason})" for name, reason in record.left_out.items())
        lines += [f"**Not complete:** {len(record.left_out)} of {len(plan.runs())} runs are left out: {names}.", ""]
    if notes:
        lines += ["## What it says", "", notes.read_text(encoding="utf-8").strip(), ""]
    lines += [
        "## Scores",
        "",
        scores_table(outcomes, record.references),
        "Means over cases, then over seeds (n), with the standard error over seeds; one seed has none. The measures "
        "are those of the "
        "[benchmark](benchmark/README.md).",
        "",
        f"![Scores of every variant, with standard errors over seeds]({plots}/scores.png)",
        "",
        "## Against the paper",
        "",
        claims_table(outcomes),
        f"Differences are paired by seed and case, positive where the first is better; their error counts the scatter "
        f"over cases and over seeds (n, of those that both have). What lies within {DECIDED:.0f} errors is undecided, "
        "and one seed allows no conclusion. The paper's figures are "
        "VIE-Bench scores (1 to 10, GPT-4o) of Wan2.2-5B on a subset of Ditto: only their order can be compared with "
        "ours.",
        "",
        "## Loss against steps",
        "",
        f"![Held-out and training loss against steps]({plots}/losses.png)",
        "",
        "Mean and standard deviation over seeds (one seed has no band). The held-out flow loss is at fixed noise and "
        "noise levels. A model with anchors sees those of the truth, as noisy as the video, and so knows more than one "
        "without: compare the curves within each kind, and the kinds by the scores. The training loss is of each "
        "variant's own mixture.",
        "",
        "## Runs",
        "",
        runs_table(outcomes),
        f"Measured on {machine(outcomes)}. Every case's measures and the curves: [results.json]({plots}/results.json).",
        "",
        *definitions(outcomes),
        "## Commands",
        "",
        "```bash",
        "# Each of n GPUs encodes a part of the scenes into the cache, then trains a part of the runs: "
        "--share 0/n to n-1/n. One GPU does all without --share.",
        f"python -m training.evaluation.ablation encode {common} --share 0/4",
        f"python -m training.evaluation.ablation run {common} \\\n    "
        f"--steps {plan.steps} --seeds {plan.seeds} --per-task {plan.per_task} --share 0/4",
        "python -m training.evaluation.ablation read       # where the machine that trained has no OCR",
        "python -m training.evaluation.ablation collect    # the runs' results into docs/ablation/results.json",
        f"python -m training.evaluation.ablation report{f' --notes {notes}' if notes else ''}  # this page",
        "```",
        "",
    ]
    return "\n".join(lines)


def scores_table(outcomes: Outcomes, references: dict[str, Any]) -> str:
    """A row for each variant, and one each for an editor that does nothing and for the truth."""
    titles = [title for title in MEASURES if any(over_seeds(runs, title).n for runs in outcomes.values())]
    columns = [column(title) for title in titles]
    rows = [
        [
            variant.title,
            str(len(outcomes[variant.name])),
            *(written(over_seeds(outcomes[variant.name], c.title), c.share, c.digits) for c in columns),
        ]
        for variant in shown(outcomes)
    ]
    for name, scores in references.items():
        means = (Mean(*mean_of(c.value(score) for score in scores.values())) for c in columns)
        rows.append(
            [
                f"*{name}*",
                "",
                *(written(m, c.share, c.digits, error=False) for m, c in zip(means, columns, strict=True)),
            ]
        )
    return markdown_table(["variant", "n", *titles], rows)


def claims_table(outcomes: Outcomes) -> str:
    """A row for each claim whose variants both ran."""
    rows = []
    for claim in CLAIMS:
        if not (outcomes.get(claim.one) and outcomes.get(claim.other)):
            continue
        cells, words, seeds = [], [], 0
        for title in JUDGED_BY:
            found, measure = effect(outcomes, claim.one, claim.other, title), column(title)
            cells.append(written(Mean(found.better_by, found.error, found.pairs), measure.share, measure.digits))
            words.append(f"{title}: {agreement(claim, found) if claim.expected else found.verdict}")
            seeds = max(seeds, found.seeds)
        verdict = "; ".join(words) if seeds > 1 else "no conclusion"
        rows.append([claim.text, str(seeds), *cells, claim.paper or "-", verdict])
    return markdown_table(["claim", "n", *JUDGED_BY, "paper", "verdict"], rows)


def runs_table(outcomes: Outcomes) -> str:
    """What the runs took."""
    rows = []
    for variant in shown(outcomes):
        runs = outcomes[variant.name]
        cells = []
        for name in ("steps", "samples", "training_seconds"):
            known = [run.facts[name] for run in runs if name in run.facts]
            cells.append(f"{np.mean(known):.0f}" if known else "-")
        rows.append([variant.title, ", ".join(str(run.facts["seed"]) for run in runs), *cells])
    return markdown_table(["variant", "seeds", "steps", "samples", "seconds of training"], rows)


def machine(outcomes: Outcomes) -> str:
    """The devices, versions and days of the runs that wrote them down, in words."""
    facts = [run.facts for runs in outcomes.values() for run in runs if "device" in run.facts]
    if not facts:
        return "a machine that no run has written down"
    devices, versions, days = (sorted({one[name] for one in facts}) for name in ("device", "torch", "date"))
    return f"{' and '.join(devices)} with torch {' and '.join(versions)}, {' to '.join({days[0]: 0, days[-1]: 0})}"


def definitions(outcomes: Outcomes) -> list[str]:
    """What the variants are, in words."""
    return [f"- **{variant.title}**: {variant.meaning}." for variant in shown(outcomes)] + [""]
