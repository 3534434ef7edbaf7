"""The page of the ablation: `page.md` filled with tables, and its two plots."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from sama.files import whole_file
from training.errors import ConfigError
from training.evaluation.ablation.results import (
    COLUMN,
    HELD_OUT,
    MEASURES,
    TRAINED,
    AblationRecord,
    Outcome,
    Outcomes,
    agreement_with_paper,
    band,
    effect,
    over_seeds,
)
from training.evaluation.ablation.runs import EXPERIMENT, Variant
from training.evaluation.held_out.report import written
from training.evaluation.held_out.summary import DECIDED, Mean
from training.evaluation.tables import markdown_table

SMOOTHED = 5
"""Logged points over which the training loss is averaged for the plot."""


def write_page(record: AblationRecord, page: Path, notes: Path | None = None) -> None:
    """Write the page and its plots, which lie beside it in a folder of the page's name. notes: a file with what a
    reader of the figures made of them, in Markdown. Raises ConfigError where the notes are missing."""
    if notes is not None and not notes.is_file():
        raise ConfigError(f"--notes {notes}: there is no such file")
    plots = page.with_suffix("")
    plots.mkdir(parents=True, exist_ok=True)
    plot_losses(record.outcomes, plots / "losses.png")
    plot_scores(record.outcomes, plots / "scores.png")
    with whole_file(page) as part:
        part.write_text(page_text(record, plots.name, notes), encoding="utf-8")


def page_text(record: AblationRecord, plots: str, notes: Path | None = None) -> str:
    """The page in Markdown."""
    plan, outcomes = record.plan, record.outcomes
    fewest, most = (limit(map(len, outcomes.values())) for limit in (min, max))
    left_out = ", ".join(f"`{name}` ({reason})" for name, reason in record.left_out.items())
    runs = [run for one in outcomes.values() for run in one]
    template = Template(Path(__file__).with_name("page.md").read_text(encoding="utf-8"))
    return template.substitute(
        steps=plan.steps,
        groups=plan.groups,
        seeds=f"{most} seed{'s' if most > 1 else ''}" if fewest == most else f"{fewest} to {most} seeds",
        planned_seeds=plan.seeds,
        per_task=plan.per_task,
        left_out=left_out
        and f"**Not complete:** {len(record.left_out)} of {len(plan.runs())} runs are left out: {left_out}.\n\n",
        notes=f"## What it says\n\n{notes.read_text(encoding='utf-8').strip()}\n\n" if notes else "",
        notes_option=f" --notes {notes}" if notes else "",
        plots=plots,
        scores=_scores_table(record),
        claims=_claims_table(outcomes),
        decided=f"{DECIDED:.0f}",
        runs=_runs_table(outcomes),
        machine=_machine([run.facts for run in runs if "device" in run.facts]),
        definitions="\n".join(f"- **{variant.title}**: {variant.meaning}." for variant in _shown(outcomes)),
        common=f"--config {shlex.join(plan.command)} --groups {plan.groups}",
    )


def _shown(outcomes: Outcomes) -> list[Variant]:
    """The variants that have a scored run, in their order."""
    return [variant for variant in EXPERIMENT.variants if outcomes.get(variant.name)]


def _measured(outcomes: Outcomes, titles: Sequence[str]) -> list[str]:
    return [title for title in titles if any(over_seeds(runs, title).n for runs in outcomes.values())]


def _scores_table(record: AblationRecord) -> str:
    """A row for each variant, and one each for an editor that does nothing and for the truth."""
    titles = _measured(record.outcomes, MEASURES)

    def cells(runs: Sequence[Outcome], error: bool = True) -> list[str]:
        return [written(over_seeds(runs, title), COLUMN[title].share, COLUMN[title].digits, error) for title in titles]

    runs = record.outcomes
    rows = [[one.title, str(len(runs[one.name])), *cells(runs[one.name])] for one in _shown(runs)]
    rows += [
        [f"*{name}*", "", *cells([Outcome({}, scores, {})], error=False)] for name, scores in record.references.items()
    ]
    return markdown_table(["variant", "n", *titles], rows)


def _claims_table(outcomes: Outcomes) -> str:
    """A row for each claim whose variants both ran."""
    rows, judged_by = [], MEASURES[:3]
    for claim in EXPERIMENT.claims:
        if not (outcomes.get(claim.one) and outcomes.get(claim.other)):
            continue
        effects = {title: effect(outcomes, claim.one, claim.other, title) for title in judged_by}
        seeds = max(found.seeds for found in effects.values())
        cells = [
            written(Mean(found.better_by, found.error, found.pairs), COLUMN[title].share, COLUMN[title].digits)
            for title, found in effects.items()
        ]
        words = "; ".join(f"{title}: {agreement_with_paper(claim, found)}" for title, found in effects.items())
        rows.append([claim.text, str(seeds), *cells, claim.paper or "-", words if seeds > 1 else "no conclusion"])
    return markdown_table(["claim", "n", *judged_by, "paper", "verdict"], rows)


def _runs_table(outcomes: Outcomes) -> str:
    """A table of the time that the runs took."""
    rows = []
    for variant in _shown(outcomes):
        facts = [run.facts for run in outcomes[variant.name]]
        known = ([one[name] for one in facts if name in one] for name in ("steps", "samples", "training_seconds"))
        cells = [f"{np.mean(values):.0f}" if values else "-" for values in known]
        rows.append([variant.title, ", ".join(str(one["seed"]) for one in facts), *cells])
    return markdown_table(["variant", "seeds", "steps", "samples", "seconds of training"], rows)


def _machine(facts: Sequence[dict[str, Any]]) -> str:
    """The devices, versions and days of the runs that wrote them down, in words."""
    if not facts:
        return "a machine that no run has written down"
    devices, versions, days = (sorted({one[name] for one in facts}) for name in ("device", "torch", "date"))
    return f"{' and '.join(devices)} with torch {' and '.join(versions)}, {' to '.join({days[0]: 0, days[-1]: 0})}"


# --- Plots ------------------------------------------------------------------------------------------------------------


def plot_losses(outcomes: Outcomes, path: Path) -> None:
    """Held-out and training flow loss against steps."""
    from matplotlib.ticker import LogLocator

    figure, axes = _figure(2, width=11)
    panels = ((HELD_OUT, "held-out flow loss", 1), (TRAINED, "training flow loss (own mixture)", SMOOTHED))
    for axis, (name, title, smooth) in zip(axes, panels, strict=True):
        for variant in _shown(outcomes):
            steps, mean, deviation = (_smoothed(part, smooth) for part in band(outcomes[variant.name], name))
            if len(steps):
                axis.plot(steps, mean, color=variant.colour, label=_label(variant, outcomes), linewidth=1.4)
                axis.fill_between(
                    steps, mean - deviation, mean + deviation, color=variant.colour, alpha=0.15, linewidth=0
                )
        axis.set(xlabel="steps", title=title, yscale="log")
        axis.grid(alpha=0.25)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    axes[1].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def plot_scores(outcomes: Outcomes, path: Path) -> None:
    """One panel a measure: a dot for each seed; of several the mean with its standard error."""
    titles, variants = _measured(outcomes, MEASURES[:4]), _shown(outcomes)
    figure, axes = _figure(len(titles), width=3.2 * max(1, len(titles)), height=3.6)
    for axis, title in zip(axes, titles, strict=True):
        measure = COLUMN[title]
        scale = 100 if measure.share else 1
        for place, variant in enumerate(variants):
            runs = outcomes[variant.name]
            seeds, mean = [over_seeds([run], title).mean * scale for run in runs], over_seeds(runs, title)
            alpha = 0.45 if len(seeds) > 1 else 1.0
            axis.plot(
                seeds, [place] * len(seeds), "o", color=variant.colour, markersize=4, alpha=alpha, markeredgewidth=0
            )
            if mean.n > 1:  # of one no error is known, and a bar of length zero would say the opposite
                bar = {"color": variant.colour, "markersize": 6, "capsize": 4, "linewidth": 1.6}
                axis.errorbar(mean.mean * scale, place, xerr=mean.se * scale, fmt="D", **bar)
        unit = ", %" if measure.share else ", dB" if title in ("inside", "outside") else ""
        axis.set_title(title + unit + ("" if measure.higher else " (less is better)"), fontsize=10)
        axis.set_yticks(range(len(variants)), [""] * len(variants))
        axis.invert_yaxis()
        axis.grid(alpha=0.25)
    axes[0].set_yticks(range(len(variants)), [_label(variant, outcomes) for variant in variants])
    figure.savefig(path, dpi=130)


def _label(variant: Variant, outcomes: Outcomes) -> str:
    return f"{variant.title} (n = {len(outcomes[variant.name])})"


def _smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Means of `window` neighbours; fewer points come back than went in."""
    if window < 2 or len(values) < 2 * window:
        return values
    return np.convolve(values, np.ones(window) / window, mode="valid")


def _figure(panels: int, width: float, height: float = 4.0) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # nothing but the plots needs it

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, panels)))
