"""The held-out benchmark: what an editor does to pairs it has never seen.

    python -m training.evaluate --model assets/sama-tiny --out docs/benchmark --per-task 13

Scenes, film shots, photographs, pairings of words, wordings and the drawings that are removed or recoloured are held
out; the names of what is added or replaced are known ones, since no model can draw what it never saw. Every pair has a
fixed seed, which also decides its wording and noise. Per task it measures PSNR inside and outside the edit's mask, raw
and with the source kept (`sama.compose`), beside copying the source and the VAE's reconstruction of the truth; whether
a new object is the nearest of all drawings (top 1, top 5), a new colour the named one, and a new subtitle read by OCR.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sama.compose import changes_everything, compose
from sama.compose import edit_mask as soft_mask
from sama.edit import load_pipeline
from sama.pipeline import SamaPipeline
from sama.shapes import TINY_BUCKETS
from training.contact_sheet import contact_sheet
from training.metrics import (
    NearestSprite,
    edit_mask,
    named_colour_match,
    psnr,
    read_text,
    temporal_consistency,
    text_accuracy,
)
from training.procedural.edits import TASKS
from training.procedural.language import instruction
from training.procedural.pack import Pack
from training.procedural.render import Case, render_case
from training.storage import whole

logger = logging.getLogger(__name__)

FIRST_SEED = 700_000
SHEET_FRAMES = (0, 8, 16)
READABLE = 0.8
"""A subtitle counts as read when at least this share of its letters is right (1 - normalised edit distance)."""


@dataclass
class Score:
    """One pair. Decibels, shares or ranks; NaN or None where a measure does not apply."""

    task: str
    seed: int
    instruction: str
    copy_inside: float
    inside: float
    outside: float
    overall: float
    vae: float
    vae_inside: float
    kept_inside: float
    kept_outside: float
    flicker: float
    true_flicker: float
    rank: int | None = None
    colour: bool | None = None
    text: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


class Examiner:
    """Runs a pipeline on held-out cases and scores what comes out."""

    def __init__(self, pipeline: SamaPipeline, pack: Pack, steps: int | None, guidance: float | None) -> None:
        self.pipeline, self.pack, self.steps, self.guidance = pipeline, pack, steps, guidance
        bank: dict[str, list[np.ndarray]] = {}
        for sprite in pack.sprites(target=True):
            bank.setdefault(sprite.name, []).append(sprite.frames[0])
        self.drawings = NearestSprite(bank)

    def examine(self, task: str, seed: int, frames: int = 17) -> tuple[Score, Case, np.ndarray]:
        """Score, case and result (T, H, W, 3) uint8 of one pair."""
        bucket = TINY_BUCKETS[seed % len(TINY_BUCKETS)]
        case = render_case(self.pack, seed, bucket, frames, "test", task)
        words = instruction(case.edit, np.random.default_rng((seed, 3)), split="test")
        result = self._edit(case.source, words, seed)
        truth_again, source_again = self._through_vae(case.target), self._through_vae(case.source)
        mask = edit_mask(case.source, case.target)
        kept = result
        if not changes_everything(result, source_again):
            soft = soft_mask(result, source_again)
            kept = np.stack([compose(*frame) for frame in zip(case.source, result, soft, strict=True)])
        score = Score(
            task=task,
            seed=seed,
            instruction=words,
            copy_inside=psnr(case.source, case.target, mask),
            inside=psnr(result, case.target, mask),
            outside=psnr(result, case.target, ~mask),
            overall=psnr(result, case.target),
            vae=psnr(truth_again, case.target),
            vae_inside=psnr(truth_again, case.target, mask),
            kept_inside=psnr(kept, case.target, mask),
            kept_outside=psnr(kept, case.target, ~mask),
            flicker=temporal_consistency(result, case.source),
            true_flicker=temporal_consistency(case.target, case.source),
        )
        self._recognise(score, case, result)
        return score, case, result

    def _edit(self, source: np.ndarray, words: str, seed: int) -> np.ndarray:
        out: Any = self.pipeline(
            video=source,
            prompt=words,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=torch.Generator().manual_seed(seed),
        )
        return (np.asarray(out.frames[0]) * 255).round().astype(np.uint8)

    def _through_vae(self, clip: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(clip).unsqueeze(0).float() / 255
        again = self.pipeline.decode_latents(self.pipeline.encode_video(frames))[0]
        return (again.cpu().numpy() * 255).round().astype(np.uint8)

    def _recognise(self, score: Score, case: Case, result: np.ndarray) -> None:
        edit = case.edit
        if edit.task in ("add", "replace") and case.box is not None and edit.new_object in self.drawings.names:
            assert case.without is not None
            score.rank = self.drawings.rank(edit.new_object, result[0], case.without, case.box, flip=case.flip)
        if edit.task == "recolour" and case.mask is not None:
            score.colour = named_colour_match(result[:1], case.mask[None], edit.colour)
        if edit.task in ("subtitle_add", "subtitle_change"):
            read = read_text(result)
            score.text = text_accuracy(read, edit.text)
            score.details = {"wanted": edit.text, "read": read}


def summarise(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Means per task and over all: decibels, and shares of what was recognised."""

    def mean(values: Iterator[float | None]) -> float:
        kept = [value for value in values if value is not None and not math.isnan(value)]
        return round(float(np.mean(kept)), 3) if kept else math.nan

    names = ("copy_inside", "inside", "outside", "overall", "vae", "vae_inside", "kept_inside", "kept_outside")
    table = {}
    for task in (*dict.fromkeys(score.task for score in scores), "all"):
        some = [score for score in scores if task in (score.task, "all")]
        row = {name: mean(getattr(score, name) for score in some) for name in names}
        row["pairs"] = len(some)
        row["top1"] = mean(None if score.rank is None else float(score.rank == 1) for score in some)
        row["top5"] = mean(None if score.rank is None else float(score.rank <= 5) for score in some)
        row["colour"] = mean(None if score.colour is None else float(score.colour) for score in some)
        row["text_read"] = mean(None if score.text is None else float(score.text >= READABLE) for score in some)
        row["letters"] = mean(score.text for score in some)
        row["flicker"] = mean(score.flicker - score.true_flicker for score in some)
        table[task] = row
    return table


def as_markdown(table: dict[str, dict[str, float]]) -> str:
    """The summary as a Markdown table."""
    columns = {
        "pairs": "pairs", "copy_inside": "copy, inside", "inside": "inside", "outside": "outside",
        "kept_outside": "outside, source kept", "vae": "VAE of truth", "top1": "top 1", "top5": "top 5",
        "colour": "colour", "text_read": "text read", "letters": "letters",
    }  # fmt: skip
    shares = {"top1", "top5", "colour", "text_read", "letters"}

    def cell(name: str, value: float) -> str:
        if math.isnan(value):
            return "-"
        if name in shares:
            return f"{value:.0%}".replace("%", " %")
        return f"{value:.0f}" if name == "pairs" else f"{value:.1f}"

    lines = ["| task | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {task} | " + " | ".join(cell(c, row[c]) for c in columns) + " |" for task, row in table.items()]
    return "\n".join(lines) + "\n"


def evaluate(examiner: Examiner, tasks: Sequence[str], per_task: int, out: Path, sheets: int) -> dict[str, Any]:
    """Examine `per_task` pairs of each task and write `scores.json`, `scores.md` and a contact sheet per task."""
    out.mkdir(parents=True, exist_ok=True)
    scores: list[Score] = []
    for task in tasks:
        rows = []
        for number in range(per_task):
            score, case, result = examiner.examine(task, FIRST_SEED + 1000 * TASKS.index(task) + number)
            scores.append(score)
            if number < sheets:
                picked = [clip[i] for i in SHEET_FRAMES for clip in (case.source, result, case.target)]
                rows.append((score.instruction, picked))
        means = summarise([score for score in scores if score.task == task])[task]
        logger.info("%s: %s", task, {name: value for name, value in means.items() if not math.isnan(value)})
        if rows:
            columns = [f"{what}, frame {i}" for i in SHEET_FRAMES for what in ("source", "result", "truth")]
            contact_sheet(rows, out / f"{task}.jpg", frame_height=112, columns=columns, quality=82)
    summary = summarise(scores)
    report = {"summary": summary, "scores": [asdict(score) for score in scores]}
    for name, text in (("scores.json", json.dumps(report, indent=1)), ("scores.md", as_markdown(summary))):
        with whole(out / name) as part:
            part.write_text(text, encoding="utf-8")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description="Score an editor on held-out pairs.")
    parser.add_argument("--model", default="assets/sama-tiny")
    parser.add_argument("--pack", default="data/pack")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--per-task", type=int, default=13)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--sheets", type=int, default=6, help="pairs shown on each task's contact sheet")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    pipeline = load_pipeline("tiny", model=arguments.model)  # as `sama.edit` runs it, precision included
    pipeline.set_progress_bar_config(disable=True)
    examiner = Examiner(pipeline, Pack.load(arguments.pack), arguments.steps, arguments.guidance)
    evaluate(examiner, arguments.tasks, arguments.per_task, arguments.out, arguments.sheets)


if __name__ == "__main__":
    main()
