"""Scoring results that were made elsewhere, by any editor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from training.evaluation.held_out.cases import CaseLine, draw
from training.evaluation.held_out.clips import find_result, read_result
from training.evaluation.held_out.scoring import Judge, Score, score_case

logger = logging.getLogger(__name__)


def score_folder(lines: Sequence[CaseLine], folder: Path, judge: Judge) -> tuple[list[Score], list[str]]:
    """Scores of the cases whose results lie in `folder`, and the ids of those that do not.

    Results are named by the case's id, see `training.evaluation.held_out.clips.find_result`; they may have any size,
    and are scaled to the case's. Raises ValueError where there is no result at all.
    """
    scores: list[Score] = []
    missing: list[str] = []
    for line in lines:
        path = find_result(folder, line)
        if path is None:
            missing.append(line.id)
            continue
        scores.append(score_case(judge.case(draw(judge.pack, line)), line, [read_result(path, line)]))
        logger.info("%s: inside %s dB, followed %s", line.id, scores[-1].result.inside, scores[-1].result.followed)
    if not scores:
        raise ValueError(f"no case has a result in {folder}: name them <id>.mp4, as cases.jsonl of the export says")
    return scores, missing
