"""Examines a model in several processes, each with its own pipeline, one case after another.

Every case leaves `<id>.json` (its score) and `<id>.webp` (its result) in the work folder, so that a run that was
stopped goes on where it was, and what a machine could not do (reading subtitles without OCR) is done on another one.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sama import fingerprint
from sama.files import whole_file
from training.evaluation.held_out.cases import CaseLine, draw
from training.evaluation.held_out.clips import find_result, read_result, read_strip, write_strip
from training.evaluation.held_out.scoring import (
    READ_TASKS,
    Measures,
    Score,
    Scorer,
    as_score,
    has_unread_subtitle,
    score_case,
)
from training.synth.material.pack import Pack
from training.watch.contact_sheet import contact_sheet

logger = logging.getLogger(__name__)

LOG_SECONDS = 20.0

ABOUT_FILE = "about.json"
"""The file of a work folder that says what was examined and how."""


@dataclass(frozen=True)
class Examination:
    """The settings of an examination.

    model: folder of a saved pipeline. tower: folder of the pipeline whose tower measures distances ("": the model's
    own; "none": no tower). steps, guidance: None is the model's default. wordings: paraphrases tried for each of the
    first `worded` cases of a task. store: WebP quality in which results are kept, 0 for none.
    """

    model: str
    pack: str = "data/pack"
    device: str = "cpu"
    steps: int | None = None
    guidance: float | None = None
    wordings: int = 0
    worded: int = 1000
    store: int = 92
    tower: str = ""

    def wanted(self, line: CaseLine, number: int) -> int:
        """The number of paraphrases to try for the `number`-th case of its task."""
        return min(self.wordings, len(line.paraphrases)) if number < self.worded else 0


def examine_model(lines: Sequence[CaseLine], how: Examination, work: Path, workers: int = 1) -> list[Score]:
    """Scores of all cases, in their order; those that the work folder has are not examined again.

    Raises RuntimeError when a process fails; what was finished stays.
    """
    work.mkdir(parents=True, exist_ok=True)
    wanted = _wanted(lines, how)
    open_lines = [line for line in lines if finished(work, line, wanted[line.id]) is None]
    logger.info("%d cases, %d of them to do, in %s", len(lines), len(open_lines), work)
    workers = max(1, min(workers, len(open_lines)))
    if open_lines:
        if workers == 1:
            _work(open_lines, wanted, how, work, how.device, 0)
        else:
            _in_processes(open_lines, wanted, how, work, workers)
    scores = [finished(work, line, wanted[line.id]) for line in lines]
    return [score for score in scores if score is not None]


def finished(work: Path, line: CaseLine, wordings: int = 0) -> Score | None:
    """The stored score of a case, if it is of the same wording and as many paraphrases were tried."""
    file = work / f"{line.id}.json"
    if not file.is_file():
        return None
    score = as_score(json.loads(file.read_text(encoding="utf-8")))
    return score if score.instruction == line.instruction and len(score.wordings) >= wordings else None


def _wanted(lines: Sequence[CaseLine], how: Examination) -> dict[str, int]:
    seen: dict[str, int] = {}
    wanted = {}
    for line in lines:
        number = seen.get(line.task, 0)
        seen[line.task] = number + 1
        wanted[line.id] = how.wanted(line, number)
    return wanted


def _in_processes(lines: Sequence[CaseLine], wanted: dict[str, int], how: Examination, work: Path, count: int) -> None:
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    threads = max(1, (os.cpu_count() or 1) // count)
    devices = _devices(how.device)
    processes = [
        context.Process(
            target=_work, args=(lines[i::count], wanted, how, work, devices[i % len(devices)], threads), daemon=True
        )
        for i in range(count)
    ]
    for process in processes:
        process.start()
    told = time.monotonic()
    while any(process.is_alive() for process in processes):
        time.sleep(0.2)
        if time.monotonic() - told > LOG_SECONDS:
            told = time.monotonic()
            logger.info("%d of %d done", sum((work / f"{line.id}.json").is_file() for line in lines), len(lines))
    failed = [process.exitcode for process in processes if process.exitcode]
    if failed:
        raise RuntimeError(f"{len(failed)} of {count} processes failed; run it again to go on with the rest")


def _devices(device: str) -> list[str]:
    """The devices of the processes; `cuda` means all GPUs in turn."""
    if device != "cuda":
        return [device]
    import torch

    return [f"cuda:{index}" for index in range(max(1, torch.cuda.device_count()))]


def _work(
    lines: Sequence[CaseLine], wanted: dict[str, int], how: Examination, work: Path, device: str, threads: int
) -> None:
    """Examine cases one by one in this process. threads: for its arithmetic; 0 leaves them as they are."""
    import torch

    from training.evaluation.held_out.editor import load_editor, load_tower

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if threads:
        torch.set_num_threads(threads)
        cv2.setNumThreads(1)
    editor = load_editor(how.model, device, how.steps, how.guidance)
    distance = None if how.tower == "none" else load_tower(how.tower or how.model, device)
    scorer = Scorer(Pack.load(how.pack), distance)
    for line in lines:
        case = draw(scorer.pack, line)
        words = [line.instruction, *line.paraphrases[: wanted[line.id]]]
        results = editor.edit([case.source] * len(words), words, [line.seed] * len(words))
        source_again, truth_again = editor.through_vae([case.source, case.target])
        score = score_case(scorer.case(case), line, results, source_again, truth_again)
        if how.store:
            store(work, line, results, truth_again, how.store)
        write_score(work, score)


def write_score(work: Path, score: Score) -> None:
    with whole_file(work / f"{score.id}.json") as part:
        part.write_text(json.dumps(asdict(score)), encoding="utf-8")


def store(work: Path, line: CaseLine, results: Sequence[np.ndarray], truth_again: np.ndarray, quality: int) -> None:
    """Keep the result, and for cases that are read also the other wordings' results and the autoencoder's truth."""
    write_strip(work / f"{line.id}.webp", results[0], quality)
    if line.task in READ_TASKS:
        for number, clip in enumerate(results[1:], 1):
            write_strip(work / f"{line.id}.{number}.webp", clip, quality)
        write_strip(work / f"{line.id}.vae.webp", truth_again, quality)


def score_folder(lines: Sequence[CaseLine], folder: Path, scorer: Scorer) -> tuple[list[Score], list[str]]:
    """Score another editor's results: the scores of the cases whose results lie in `folder`, and the ids of the others.

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
        scores.append(score_case(scorer.case(draw(scorer.pack, line)), line, [read_result(path, line)]))
        logger.info("%s: inside %s dB, followed %s", line.id, scores[-1].result.inside, scores[-1].result.followed)
    if not scores:
        raise ValueError(f"no case has a result in {folder}: name them <id>.mp4, as cases.jsonl of the export says")
    return scores, missing


def read_later(lines: Sequence[CaseLine], work: Path, pack: Pack) -> int:
    """Read the subtitles of stored results that a machine without OCR left unread; returns how many cases were read.

    What is read is the stored picture, so that its compression counts a little.
    """
    scorer = Scorer(pack, ocr=True)
    count = 0
    for line in lines:
        score = finished(work, line)
        if score is None or not has_unread_subtitle(score) or not (work / f"{line.id}.webp").is_file():
            continue
        case = draw(pack, line)
        own = scorer.case(case)
        clips: list[tuple[Measures | None, np.ndarray | None]] = [
            (score.result, stored(work, line)), (score.vae, stored(work, line, ".vae")),
            (score.copy, case.source), (score.truth, case.target),
        ]  # fmt: skip
        clips += [(w.result, stored(work, line, f".{n}")) for n, w in enumerate(score.wordings, 1)]
        for measures, clip in clips:
            if measures is not None and clip is not None:
                own.read(measures, clip)
        write_score(work, score)
        count += 1
    return count


def stored(work: Path, line: CaseLine, which: str = "") -> np.ndarray | None:
    """A clip that `store` kept, or None."""
    file = work / f"{line.id}{which}.webp"
    return read_strip(file, line.frames, *line.bucket) if file.is_file() else None


def write_sheets(lines: Sequence[CaseLine], work: Path, pack: Pack, out: Path, count: int) -> list[Path]:
    """A contact sheet of each task's first `count` cases: source, result and truth at the first, middle and last
    frame. Cases without a stored result are left out."""
    sheets = []
    for task in dict.fromkeys(line.task for line in lines):
        rows: list[tuple[str, list[np.ndarray]]] = []
        for line in [line for line in lines if line.task == task][:count]:
            result = stored(work, line)
            if result is not None:
                case = draw(pack, line)
                picked = (0, line.frames // 2, line.frames - 1)
                rows.append(
                    (line.instruction, [clip[i] for i in picked for clip in (case.source, result, case.target)])
                )
        if rows:
            heads = [
                f"{what}, {when}" for when in ("first", "middle", "last") for what in ("source", "result", "truth")
            ]
            sheets.append(contact_sheet(rows, out / f"{task}.jpg", frame_height=112, columns=heads, quality=82))
    return sheets


def about_model(how: Examination) -> dict[str, Any]:
    """Facts about what is examined, for the report: hashes of the weights, versions, the device's name."""
    import diffusers
    import torch

    cuda = how.device.startswith("cuda") and torch.cuda.is_available()
    tower = "" if how.tower == "none" else fingerprint.of_folder(Path(how.tower or how.model) / "semantic_tower")
    return {
        "model": Path(how.model).name,
        "weights": fingerprint.of_folder(how.model),
        "tower": tower,
        "steps": how.steps,
        "guidance": how.guidance,
        "device": torch.cuda.get_device_name(0) if cuda else "CPU",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }
