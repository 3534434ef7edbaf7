"""Turns answers into decisions: which pairs are kept, which are dropped and why, and a table of both."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sama.files import whole_file
from training.errors import JudgeError
from training.evaluation.judge.answers import Standing
from training.evaluation.tables import markdown_table
from training.filter.criteria import (
    ABOUT_PICTURES,
    ABOUT_VIDEOS,
    PICTURE_THRESHOLDS,
    VIDEO_THRESHOLDS,
    shortcomings,
)
from training.filter.pairs import ListedPair

NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Verdict:
    """The decision about a pair. reasons: empty for one that is kept. still_open: it can be asked again."""

    scores: dict[str, float]
    reasons: tuple[str, ...]
    kind: str
    still_open: bool = False


@dataclass
class Summary:
    """Counts of a merge, by kind of pair (`images`, `videos`, `unknown`)."""

    kept: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, Counter[str]] = field(default_factory=dict)

    def take(self, verdict: Verdict) -> None:
        """Count one pair; it counts under each of its reasons."""
        (self.dropped if verdict.reasons else self.kept)[verdict.kind] += 1
        self.reasons.update(reason.partition(":")[0] for reason in verdict.reasons)
        for name, score in verdict.scores.items():
            histogram = self.histograms.setdefault(f"{verdict.kind}, {name}", Counter())
            histogram[f"{score:.2f}"] += 1

    def as_dict(self) -> dict[str, Any]:
        """The contents of summary.json: counts, and the averages' mean and deciles."""
        return {
            "kept": dict(self.kept),
            "dropped": dict(self.dropped),
            "reasons": dict(self.reasons.most_common()),
            "scores": {name: _spread(histogram) for name, histogram in sorted(self.histograms.items())},
        }

    def as_markdown(self) -> str:
        """The text of summary.md."""
        kinds = []
        for kind in sorted({*self.kept, *self.dropped}):
            kept, dropped = self.kept[kind], self.dropped[kind]
            kinds.append([kind, str(kept), str(dropped), f"{kept / (kept + dropped):.1%}"])
        reasons = [[reason, str(count)] for reason, count in self.reasons.most_common()]
        spreads = []
        for name, histogram in sorted(self.histograms.items()):
            spread = _spread(histogram)
            spreads.append([name, *(f"{spread[column]:.2f}" for column in ("mean", "p10", "p50", "p90"))])
        return "\n".join(
            (
                markdown_table(["pairs", "kept", "dropped", "share kept"], kinds),
                markdown_table(["reason for dropping", "pairs"], reasons),
                markdown_table(["score", "mean", "10 %", "median", "90 %"], spreads),
            )
        )


def decide(standing: Standing | None, runs: int, attempts: int) -> Verdict:
    """The verdict on a pair from all that was answered about it."""
    standing = standing or Standing()
    kind = {True: "images", False: "videos", None: "unknown"}[standing.picture]
    picture = bool(standing.picture)
    questions = ABOUT_PICTURES if picture else ABOUT_VIDEOS
    grades = standing.grades(questions, runs, attempts)
    if grades is None:
        return Verdict({}, (NO_ANSWER,), kind, still_open=True)
    if isinstance(grades, str):
        return Verdict({}, (grades,), kind)
    thresholds = PICTURE_THRESHOLDS if picture else VIDEO_THRESHOLDS
    low = [f"{name} below {thresholds[name]:g}" for name in shortcomings(grades, thresholds)]
    return Verdict(grades, tuple(low), kind)


def merge(
    pairs: Iterable[ListedPair], standings: Mapping[str, Standing], out: Path, runs: int, attempts: int, partial: bool
) -> Summary:
    """Write kept.jsonl and dropped.jsonl (the manifest's rows, with `filter` added), summary.json and summary.md; of
    pairs in shards also kept/*.tar, shards with the kept samples.

    partial: drop pairs that still lack answers instead of refusing to merge. Raises JudgeError.
    """
    summary = Summary()
    waiting = 0
    samples: dict[Path, set[str]] = {}
    with (
        whole_file(out / "kept.jsonl") as kept_path,
        whole_file(out / "dropped.jsonl") as dropped_path,
        kept_path.open("w", encoding="utf-8") as kept,
        dropped_path.open("w", encoding="utf-8") as dropped,
    ):
        for pair in pairs:
            if pair.record is None:
                verdict = Verdict({}, (f"unreadable row: {pair.error}",), "unknown")
            else:
                verdict = decide(standings.get(pair.key), runs, attempts)
            waiting += verdict.still_open
            summary.take(verdict)
            found = {"scores": verdict.scores, "reasons": list(verdict.reasons), "origin": pair.origin}
            line = json.dumps(pair.row | {"filter": found}, ensure_ascii=False) + "\n"
            (dropped if verdict.reasons else kept).write(line)
            if pair.sample and pair.record and not verdict.reasons:
                samples.setdefault(Path(pair.record.target.path), set()).add(pair.sample)
        if waiting and not partial:
            raise JudgeError(
                f"{waiting} pairs still lack answers; run the shards that are not finished again, or merge with "
                "--partial to drop these pairs."
            )
    for shard, names in samples.items():
        with whole_file(out / "kept" / shard.name) as path:
            _copy_samples(shard, names, path)
    for name, text in (
        ("summary.json", json.dumps(summary.as_dict(), indent=2) + "\n"),
        ("summary.md", summary.as_markdown()),
    ):
        with whole_file(out / name) as path:
            path.write_text(text, encoding="utf-8")
    return summary


def _copy_samples(shard: Path, names: Collection[str], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(shard, "r:") as source, tarfile.open(path, "w") as target:
        for member in source:
            sample = member.name[: member.name.find(".", member.name.rfind("/") + 1)]
            if member.isfile() and sample in names:
                target.addfile(member, source.extractfile(member))


def _spread(histogram: Counter[str]) -> dict[str, float]:
    values = sorted((float(value), count) for value, count in histogram.items())
    total = sum(count for _, count in values)
    spread = {"mean": sum(value * count for value, count in values) / total}
    for share in (10, 50, 90):
        below = 0
        for value, count in values:
            below += count
            if below * 100 >= share * total:
                spread[f"p{share}"] = value
                break
    return spread
