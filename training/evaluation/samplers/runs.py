"""Runs ways of sampling on held-out pairs and measures them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sama.shapes import Bucket
from training.data.sizes import tiny_buckets
from training.evaluation.held_out.metrics import psnr
from training.evaluation.held_out.scoring import CaseScorer, Scorer
from training.evaluation.samplers.variants import EXACT, Variant
from training.synth.edits.tasks import TASKS
from training.synth.material.pack import Pack
from training.synth.scenes.render import DrawnCase, render_case
from training.synth.words.language import instruction

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

logger = logging.getLogger(__name__)

FIRST_SEED = 930_000
"""The first seed of the cases, which are drawn like the benchmark's and are not published."""


class CaseKey(NamedTuple):
    """Which case: it is drawn again from this."""

    task: str
    seed: int
    bucket: Bucket
    frames: int

    @property
    def id(self) -> str:
        return f"{self.task}-{self.seed}"


class CaseScore(NamedTuple):
    """One result. None where a measure does not apply, or for `followed` where it could not be taken.

    exact: PSNR in dB against the result of `EXACT` with the same noise. inside, outside: PSNR against the truth, where
    the edit was and was not asked for. followed: by the rule of `CaseScorer.followed`.
    """

    exact: float | None
    inside: float | None
    outside: float | None
    followed: bool | None


@dataclass(frozen=True)
class Measured:
    """A way of sampling, measured.

    evaluations: of the whole model, for one clip; the mean over the cases. seconds: sampling and decoding one clip that
    is alone on the device, the median of several runs. scores: by the case's id.
    """

    evaluations: float
    seconds: float
    scores: dict[str, CaseScore]


@dataclass(frozen=True)
class Prepared:
    """A case whose source and instruction are encoded: latents (1, C, F, h, w) and text states (1, L, D)."""

    key: CaseKey
    scorer: CaseScorer
    source: Tensor
    text: Tensor


def case_keys(per_task: int, frames: int, tasks: Sequence[str] = TASKS) -> list[CaseKey]:
    """`per_task` cases of each task, those of different tasks in turn, so that the first ones are of all kinds."""
    keys, buckets = [], tiny_buckets()
    for number in range(per_task):
        for task in tasks:
            seed = FIRST_SEED + 1000 * TASKS.index(task) + number
            keys.append(CaseKey(task, seed, buckets[seed % len(buckets)], frames))
    return keys


def draw_cases(keys: Sequence[CaseKey], pack: Path, workers: int) -> Iterator[tuple[DrawnCase, str]]:
    """The pairs of the keys and their instructions, in order, drawn by several processes."""
    if workers <= 1:
        yield from map(partial(_draw, pack), keys)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(partial(_draw, pack), keys)


def _draw(pack: Path, key: CaseKey) -> tuple[DrawnCase, str]:
    case = render_case(_pack(pack), key.seed, key.bucket, key.frames, "test", key.task)
    return case, instruction(case.edit, np.random.default_rng((key.seed, 3)), split="test")


@lru_cache(maxsize=1)
def _pack(folder: Path) -> Pack:
    return Pack.load(folder)


class Comparison:
    """Held-out pairs, each encoded once, on which ways of sampling are compared.

    pipeline: with its LoRA for few steps, if it has one. batch: cases of one size that are sampled together. timed:
    runs of one clip alone whose median is the time.
    """

    def __init__(self, pipeline: SamaPipeline, batch: int, timed: int) -> None:
        self.pipeline, self.batch, self.timed = pipeline, batch, timed
        self.negative = pipeline.encode_text([""])
        self.cases: list[Prepared] = []
        self._exact: dict[str, np.ndarray] = {}
        self._threads: Executor = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def add(self, key: CaseKey, case: DrawnCase, words: str, scorer: Scorer) -> None:
        """Encode a case and keep it."""
        clip = torch.from_numpy(case.source)[None].float() / 255
        source, text = self.pipeline.encode_video(clip), self.pipeline.encode_text([words])
        self.cases.append(Prepared(key, scorer.case(case), source, text))

    def measure(self, variant: Variant) -> Measured:
        """Sample all cases and score them. The first variant must be `EXACT`, or `remember_exact` must have run."""
        with self._counting() as counted:
            clips = self._sampled(variant)
        if variant == EXACT:
            self._exact = clips
        evaluations, seconds = sum(counted) / len(self.cases), self._seconds(variant)
        jobs = {case.key.id: self._threads.submit(self._score, case, clips[case.key.id]) for case in self.cases}
        return Measured(round(evaluations, 2), round(seconds, 4), {name: job.result() for name, job in jobs.items()})

    def remember_exact(self) -> None:
        """Sample the results that the others are compared with."""
        self._exact = self._sampled(EXACT)

    def _score(self, case: Prepared, clip: np.ndarray) -> CaseScore:
        measures, reference = case.scorer.essentials(clip), self._exact[case.key.id]
        exact = None if np.array_equal(clip, reference) else round(psnr(clip, reference), 2)
        inside, outside = (None if db is None else round(db, 2) for db in (measures.inside, measures.outside))
        return CaseScore(exact, inside, outside, None if measures.followed is None else bool(measures.followed))

    def _sampled(self, variant: Variant) -> dict[str, np.ndarray]:
        """The clips (T, H, W, 3) uint8 of all cases, by id. A cache decides for a whole batch at once, as no single
        edit would: with one, cases are sampled alone."""
        clips: dict[str, np.ndarray] = {}
        size = 1 if variant.cache is not None else self.batch
        for bucket in dict.fromkeys(case.key.bucket for case in self.cases):
            same = [case for case in self.cases if case.key.bucket == bucket]
            for first in range(0, len(same), size):
                part = same[first : first + size]
                clips |= zip((case.key.id for case in part), self._run(variant, part), strict=True)
        return clips

    def _run(self, variant: Variant, cases: Sequence[Prepared]) -> list[np.ndarray]:
        if getattr(self.pipeline.transformer, "peft_config", {}):
            (self.pipeline.enable_lora if variant.few_steps else self.pipeline.disable_lora)()
        elif variant.few_steps:
            raise ValueError("the pipeline has no LoRA for few steps")
        out: Any = self.pipeline(
            source_latents=torch.cat([case.source for case in cases]),
            prompt_embeds=torch.cat([case.text for case in cases]),
            negative_prompt_embeds=self.negative.expand(len(cases), -1, -1),
            generator=[torch.Generator().manual_seed(case.key.seed) for case in cases],
            **variant.arguments,
        )
        return [(np.asarray(clip) * 255).round().astype(np.uint8) for clip in out.frames]

    def _seconds(self, variant: Variant) -> float:
        """Seconds of one clip, which has been sampled before: results are on the CPU when a run ends."""
        seconds = []
        for _ in range(self.timed):
            began = time.perf_counter()
            self._run(variant, self.cases[:1])
            seconds.append(time.perf_counter() - began)
        return median(seconds)

    @contextmanager
    def _counting(self) -> Iterator[list[int]]:
        """A list that gets the number of clips of each evaluation of the model that is not left out by a cache."""
        blocks, counted = self.pipeline.transformer.blocks, []

        def count(_module: Any, _inputs: Any, output: Tensor) -> None:
            counted.append(len(output))

        hook = blocks[len(blocks) // 2].ffn.register_forward_hook(count)
        try:
            yield counted
        finally:
            hook.remove()
