"""The raw results of a comparison of samplers, as a file that grows with every way of sampling."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sama.files import whole_file
from training.evaluation.samplers.runs import CaseScore, Measured
from training.evaluation.samplers.variants import VARIANTS, Variant


class ResultsError(ValueError):
    """Results that cannot be read, or do not belong together."""


@dataclass
class Results:
    """What was measured.

    about: weights, device, versions, frames; `notes`, sentences for the page, if there is something to say.
    measured: by the way of sampling, in the order of `VARIANTS`.
    """

    about: Mapping[str, Any]
    measured: dict[Variant, Measured] = field(default_factory=dict)

    def lacks(self, variant: Variant, ids: Iterable[str]) -> bool:
        """Whether any of the cases is not there."""
        known = self.measured[variant].scores if variant in self.measured else {}
        return not set(ids) <= set(known)

    def add(self, variant: Variant, new: Measured) -> None:
        """Put scores of cases to those that are there. The evaluations are the mean over all of them; the time is the
        first one's, which was taken on one clip."""
        old = self.measured.get(variant)
        if old is None:
            self.measured[variant] = new
            return
        counts = len(old.scores), len(new.scores)
        evaluations = (old.evaluations * counts[0] + new.evaluations * counts[1]) / sum(counts)
        self.measured[variant] = Measured(round(evaluations, 2), old.seconds, old.scores | new.scores)

    def join(self, other: Results) -> None:
        """Add the results of another share. Raises ResultsError where something else was measured."""
        if _measured_with(other.about) != _measured_with(self.about):
            raise ResultsError("these results are of other weights, another device or another version: start anew")
        for variant, measured in other.measured.items():
            self.add(variant, measured)

    @property
    def ids(self) -> list[str]:
        """The cases of the first way of sampling."""
        return list(next(iter(self.measured.values())).scores) if self.measured else []


def _measured_with(about: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name != "notes"}


def read_results(path: Path) -> Results:
    """The results in a file. Raises ResultsError for another file, and OSError."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        results = Results(stored["about"])
        for row in stored["variants"]:
            interval = row["interval"]
            variant = Variant(
                row["scheduler"], row["steps"], row["guided"], None if interval is None else tuple(interval),
                row["cache"], row.get("few_steps", False),
            )  # fmt: skip
            scores = {name: CaseScore(*score) for name, score in row["scores"].items()}
            results.measured[variant] = Measured(row["evaluations"], row["seconds"], scores)
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path} holds no results of this comparison: {error}") from error
    return results


def write_results(results: Results, path: Path) -> None:
    """Write the file whole; a way of sampling is one line."""
    order = {variant: number for number, variant in enumerate(VARIANTS)}
    rows = [
        {
            "name": variant.name,
            "scheduler": variant.scheduler,
            "steps": variant.steps,
            "guided": variant.guided,
            "interval": variant.interval,
            "cache": variant.cache,
            **({"few_steps": True} if variant.few_steps else {}),
            "evaluations": measured.evaluations,
            "seconds": measured.seconds,
            "scores": measured.scores,
        }
        for variant, measured in sorted(results.measured.items(), key=lambda item: order.get(item[0], len(order)))
    ]
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    text = f'{{\n "about": {json.dumps(dict(results.about))},\n "variants": [\n{lines}\n ]\n}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
