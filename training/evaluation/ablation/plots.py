"""The plots of the ablation's page. They need matplotlib, which nothing else here does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.evaluation.ablation.plan import Variant
from training.evaluation.ablation.results import HELD_OUT, MEASURES, TRAINED, Outcomes, band, column, over_seeds, shown

COLOURS = {
    "baseline": "#777777", "anchoring": "#0072b2", "motion": "#e69f00", "both": "#009e73", "shifted": "#cc79a7",
    "unplaced": "#56b4e9", "stage0": "#d55e00", "two_stages": "#000000",
}  # fmt: skip
SMOOTHED = 5
"""Logged points over which the training loss is averaged for the plot."""


def plot_losses(outcomes: Outcomes, path: Path) -> None:
    """Held-out and training flow loss against steps."""
    from matplotlib.ticker import LogLocator

    figure, axes = _figure(2, width=11)
    for axis, name, title, smooth in (
        (axes[0], HELD_OUT, "held-out flow loss", 1),
        (axes[1], TRAINED, "training flow loss (own mixture)", SMOOTHED),
    ):
        for variant in shown(outcomes):
            steps, mean, deviation = (_smoothed(part, smooth) for part in band(outcomes[variant.name], name))
            if len(steps):
                axis.plot(steps, mean, color=COLOURS[variant.name], label=_label(variant, outcomes), linewidth=1.4)
                low, high = mean - deviation, mean + deviation
                axis.fill_between(steps, low, high, color=COLOURS[variant.name], alpha=0.15, linewidth=0)
        axis.set(xlabel="steps", title=title)
        axis.grid(alpha=0.25)
    for axis in axes:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    axes[1].legend(fontsize=8, frameon=False)
    _save(figure, path)


def plot_scores(outcomes: Outcomes, path: Path) -> None:
    """One panel a measure: a dot for each seed; of several the mean with its standard error."""
    titles = [title for title in MEASURES[:4] if any(over_seeds(runs, title).n for runs in outcomes.values())]
    figure, axes = _figure(len(titles), width=3.2 * max(1, len(titles)), height=3.6)
    variants = shown(outcomes)
    for axis, title in zip(axes, titles, strict=True):
        _points(axis, outcomes, variants, title)
    axes[0].set_yticks(range(len(variants)), [_label(variant, outcomes) for variant in variants])
    _save(figure, path)


def _points(axis: Any, outcomes: Outcomes, variants: Sequence[Variant], title: str) -> None:
    measure = column(title)
    scale = 100 if measure.share else 1
    for place, variant in enumerate(variants):
        runs, colour = outcomes[variant.name], COLOURS[variant.name]
        seeds = [over_seeds([run], title).mean * scale for run in runs]
        alpha = 0.45 if len(seeds) > 1 else 1.0
        axis.plot(seeds, [place] * len(seeds), "o", color=colour, markersize=4, alpha=alpha, markeredgewidth=0)
        mean = over_seeds(runs, title)
        if mean.n < 2:  # no error is known: a bar of length zero would say the opposite
            continue
        axis.errorbar(
            mean.mean * scale,
            place,
            xerr=mean.se * scale,
            fmt="D",
            color=colour,
            markersize=6,
            capsize=4,
            linewidth=1.6,
        )
    unit = ", %" if measure.share else ", dB" if title in ("inside", "outside") else ""
    axis.set_title(title + unit + ("" if measure.higher else " (less is better)"), fontsize=10)
    axis.set_yticks(range(len(variants)), [""] * len(variants))
    axis.invert_yaxis()
    axis.grid(alpha=0.25)


def _label(variant: Variant, outcomes: Outcomes) -> str:
    return f"{variant.title} (n = {len(outcomes[variant.name])})"


def _smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Means of `window` neighbours; fewer points come back than went in."""
    if window < 2 or len(values) < 2 * window:
        return values
    return np.convolve(values, np.ones(window) / window, mode="valid")


def _figure(panels: int, width: float, height: float = 4.0) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # of the plots alone

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, panels)))


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=130)
