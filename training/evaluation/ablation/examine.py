"""Scores of the runs: the device edits the held-out cases, processes beside it judge them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from sama.pipeline import SamaPipeline
from training.core.precision import autocast
from training.evaluation.held_out.cases import CaseLine, draw
from training.evaluation.held_out.clips import write_strip
from training.evaluation.held_out.editor import Editor
from training.evaluation.held_out.runner import write_score
from training.evaluation.held_out.scoring import CaseJudge, Judge, score_case, unread
from training.synth.material.pack import Pack

Item = tuple[Path, CaseLine, np.ndarray]

CASES_AT_ONCE = 16
WAITING = 64
"""Results that may wait for a judge; a clip takes about two megabytes."""

QUALITY = 92


class Bench:
    """The held-out cases, drawn once, and edited by one model after another."""

    def __init__(self, lines: Sequence[CaseLine], pack: Pack) -> None:
        self.lines = sorted(lines, key=lambda line: (line.bucket, line.frames))  # one size a batch
        cases = {line.id: draw(pack, line) for line in lines}
        self.sources = {name: case.source for name, case in cases.items()}
        self.targets = {name: case.target for name, case in cases.items()}

    def results(self, pipeline: SamaPipeline, precision: str, device: torch.device) -> Iterator[tuple[CaseLine, Any]]:
        """Each case with its result (T, H, W, 3) uint8. Compiled blocks run uncompiled: every size of batch would be
        compiled anew."""
        pipeline.set_progress_bar_config(disable=True)
        editor = Editor(pipeline)
        for _, same in groupby(self.lines, key=lambda line: (line.bucket, line.frames)):
            rest = list(same)
            while rest:
                some, rest = rest[:CASES_AT_ONCE], rest[CASES_AT_ONCE:]
                with torch.compiler.set_stance("force_eager"), autocast(precision, device):
                    clips = editor.edit(
                        [self.sources[line.id] for line in some],
                        [line.instruction for line in some],
                        [line.seed for line in some],
                    )
                yield from zip(some, clips, strict=True)


class Judges:
    """Judges in processes of their own; `workers` 0 judges in this one, at once.

    Each case of a run leaves `<id>.json` in the folder given, and its result as `<id>.webp` where its subtitle could
    not be read here.
    """

    def __init__(self, pack: str, workers: int) -> None:
        self._own = _Desk(pack) if not workers else None
        context = multiprocessing.get_context("spawn")
        self._queue: Any = context.Queue(WAITING)
        self._processes = [
            context.Process(target=_judge, args=(pack, self._queue), daemon=True) for _ in range(workers)
        ]
        for process in self._processes:
            process.start()

    def give(self, folder: Path, line: CaseLine, result: np.ndarray) -> None:
        """Judge a result now or soon. Raises RuntimeError where no judge is left."""
        folder.mkdir(parents=True, exist_ok=True)
        if self._own is not None:
            self._own.judge(folder, line, result)
            return
        if not any(process.is_alive() for process in self._processes):
            raise RuntimeError("all judging processes have failed; their messages are above")
        self._queue.put((folder, line, result))

    def close(self) -> None:
        """Wait until everything is judged. Raises RuntimeError when a process failed."""
        for _ in self._processes:
            self._queue.put(None)
        for process in self._processes:
            process.join()
        if any(process.exitcode for process in self._processes):
            raise RuntimeError("a judging process failed; run the same command again")


class _Desk:
    """One process's judge and what it keeps of each case."""

    def __init__(self, pack: str) -> None:
        self._judge = Judge(Pack.load(pack))
        self._cases: dict[str, CaseJudge] = {}

    def judge(self, folder: Path, line: CaseLine, result: np.ndarray) -> None:
        if line.id not in self._cases:
            self._cases[line.id] = self._judge.case(draw(self._judge.pack, line))
        score = score_case(self._cases[line.id], line, [result], references=False)
        if unread(score):
            write_strip(folder / f"{line.id}.webp", result, QUALITY)
        write_score(folder, score)


def _judge(pack: str, queue: Any) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    desk = _Desk(pack)
    while (item := queue.get()) is not None:
        desk.judge(*item)


def judged(folder: Path, lines: Sequence[CaseLine]) -> bool:
    """Whether every case of a run has its score."""
    return all((folder / f"{line.id}.json").is_file() for line in lines)
