"""Makes a benchmark's results with this project's own editor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from sama.edit import edit_video
from sama.edit.request import EditRequest
from sama.errors import EditError, EditFailedError
from sama.pipeline import SamaPipeline
from training.evaluation.benches.cases import Case, result_of

logger = logging.getLogger(__name__)


def produce(
    cases: Sequence[Case],
    results: Path,
    pipeline: SamaPipeline,
    preset: str,
    seed: int = 0,
    steps: int | None = None,
    frames: int | None = None,
) -> list[tuple[Case, str]]:
    """Edit every case that has no result yet, into `<results>/<task>/<id>.mp4`; a stopped run goes on where it was.

    preset: whose sizes and window hold where the pipeline names none. frames: the first of each clip (None: all).
    Returns the cases that cannot be edited, each with the reason.
    """
    failed = []
    for number, case in enumerate(cases, 1):
        if result_of(case, results):
            continue
        output = results / case.task / f"{case.id}.mp4"
        output.parent.mkdir(parents=True, exist_ok=True)
        request = EditRequest(
            video=case.source,
            instruction=case.instruction,
            output=output,
            preset=preset,
            seed=seed,
            steps=steps,
            frames=frames,
        )
        try:
            for _ in edit_video(request, pipeline):
                pass
        except (EditError, EditFailedError) as error:
            logger.warning("%s: %s", case.id, error)
            failed.append((case, str(error)))
            continue
        logger.info("%d of %d: %s", number, len(cases), output.name)
    return failed
