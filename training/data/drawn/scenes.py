"""Endless streams of rendered groups, drawn by worker processes while the device trains."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sama.model.pretext import EDIT_PREFIX, PRETEXT_TASKS
from sama.pipeline.conditioning import PADDING, tokenise
from sama.pipeline.prompts import Spelling, model_prompt
from sama.shapes import SEMANTIC_GRID, Bucket
from training.core.randomness import derived_seed, sample_generator
from training.data.sizes import tiny_buckets
from training.synth.edits.tasks import TASKS
from training.synth.material.pack import Pack
from training.synth.scenes.render import SceneGroup, render_case, render_group
from training.synth.words.language import instruction

ANCHOR_SIZE = 128
"""Side of the anchor pictures that streams carry, the tower's input size."""

MAX_CLIPS = 16
MAX_PAIRS = 24
"""The most that `render_group` draws, with two pretext versions: the size of a group's place in memory."""

ALL_TASKS = (*TASKS, *PRETEXT_TASKS)
"""Samples name their tasks by index: editing tasks first, then the pretext tasks."""

NO_TASK = len(ALL_TASKS)
"""The task of rows that hold no pair."""

FIRST_HELD_OUT_SEED = 800_000
"""The seed of the first pair for validation. The seeds of benchmark cases begin elsewhere, so that a checkpoint chosen
by these pairs has not been chosen by the benchmark."""

Transform = Callable[[SceneGroup, np.random.Generator, Bucket], dict[str, Any]]
Collate = Callable[[list[dict[str, Any]]], Any]


class RenderedGroups(IterableDataset):
    """Groups of paired edits, each turned into a sample by `transform` in the worker that drew it.

    The n-th sample of a stream is a function of (seed, rank, n), whatever the number of workers: a loader takes the
    workers in turn, and each draws the samples that fall to it. As many samples in a row as there are buckets have
    each bucket once, in an order that all ranks share.
    """

    def __init__(
        self,
        pack_folder: str,
        frames: int,
        transform: Transform,
        seed: int,
        rank: int = 0,
        batch: tuple[int, Collate] | None = None,
        start: int = 0,
    ) -> None:
        """batch: how many samples come together, and what makes one of them. start: number of the first sample, or of
        the first batch."""
        self.pack_folder, self.frames, self.transform = pack_folder, frames, transform
        self.seed, self.rank, self.batch, self.start = seed, rank, batch, start

    def __iter__(self) -> Iterator[Any]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        info = get_worker_info()
        if info:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # of this worker: there is one for each core already
        pack = Pack.load(self.pack_folder)
        for number in itertools.count(self.start + (info.id if info else 0), info.num_workers if info else 1):
            if self.batch is None:
                yield self._sample(pack, number)
            else:
                size, collate = self.batch
                yield collate([self._sample(pack, index) for index in range(number * size, number * size + size)])

    def _sample(self, pack: Pack, number: int) -> dict[str, Any]:
        buckets = tiny_buckets()
        turn, place = divmod(number, len(buckets))
        order = np.random.default_rng(derived_seed("buckets", self.seed, turn)).permutation(len(buckets))
        bucket = buckets[int(order[place])]
        rng = np.random.default_rng(derived_seed("group", self.seed, self.rank, number))
        return self.transform(render_group(pack, int(rng.integers(2**31)), bucket, self.frames), rng, bucket)


def stream(dataset: RenderedGroups, workers: int, pin: bool = False) -> Iterator[Any]:
    """A dataset's samples or batches, prefetched by `workers` processes (0: drawn in this one).

    pin: a thread copies them to page-locked memory, from where they travel to a GPU without holding up its work.
    """
    if workers:
        cv2.setNumThreads(1)  # its pool of threads does not survive the fork of workers, who would wait for it
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pin,
        multiprocessing_context="fork" if workers else None,
    )
    return iter(loader)


def to_tensor(clip: np.ndarray) -> Tensor:
    """(T, H, W, 3) uint8 array to (3, T, H, W) uint8 tensor."""
    return torch.from_numpy(np.ascontiguousarray(clip)).permute(3, 0, 1, 2)


@dataclass(frozen=True)
class ClipCrops:
    """Samples for the VAE: some clips of a group, each cut to one square size, so that a run has a single shape."""

    size: int
    clips: int

    def __call__(self, group: SceneGroup, rng: np.random.Generator, bucket: Bucket) -> dict[str, Any]:
        """`frames`: (clips, 3, T, size, size) uint8."""
        chosen = rng.choice(len(group.clips), self.clips, replace=len(group.clips) < self.clips)
        crops = []
        for index in chosen:
            y, x = int(rng.integers(bucket.height - self.size + 1)), int(rng.integers(bucket.width - self.size + 1))
            crop = group.clips[index][:, y : y + self.size, x : x + self.size]
            crops.append(to_tensor(crop[:, :, ::-1] if rng.random() < 0.3 else crop))
        return {"frames": torch.stack(crops)}


@dataclass(frozen=True)
class LabelledAnchors:
    """Samples for the tower: first frames with the name of what is seen in each of the 8 x 8 cells."""

    clips: int = 6

    def __call__(self, group: SceneGroup, rng: np.random.Generator, bucket: Bucket) -> dict[str, Any]:  # noqa: ARG002
        """`anchors`: (N, 3, 128, 128) uint8; `cells`: (N, 64) names; `captions`: N descriptions."""
        chosen = rng.choice(len(group.clips), min(self.clips, len(group.clips)), replace=False)
        return {
            "anchors": torch.stack([anchor_picture(group.clips[index]) for index in chosen]),
            "cells": [[group.names[label] for label in cell_labels(group.labels[index])] for index in chosen],
            "captions": [group.captions[index] for index in chosen],
        }


@dataclass(frozen=True)
class GroupedPairs:
    """Samples for the editor: all clips of a group, its pairs in several wordings, and pretext versions of some clips.

    Pretext tasks take clips of the group as they come; which task is drawn follows the paper's 2 : 3 : 4. Slow
    Python work happens here, in the worker: the training process only copies tensors.

    tokenizer: folder of the tokenizer. spelling: of quoted texts. text_length: tokens of a prompt. paraphrases:
    wordings of each pair. pretext: perturbed clips a group.
    """

    tokenizer: str
    spelling: Spelling
    text_length: int
    paraphrases: int
    pretext: int = 2

    def __call__(self, group: SceneGroup, rng: np.random.Generator, bucket: Bucket) -> dict[str, Any]:
        """With K = `paraphrases`:

        bucket: the clips' size.
        clips: (N <= 16, T, H, W, 3) uint8, the perturbed ones last; anchors: (M, 3, 128, 128) uint8, first frames of
            all but those.
        pairs: (24, 3) int16 with source, target and index in `ALL_TASKS`; rows without a pair have `NO_TASK`.
        tokens: (24, K, text_length) int32, the prompts that the model sees, as `tokenise` gives them.
        """
        clips = group.clips[: MAX_CLIPS - self.pretext]
        rows: list[tuple[int, int, int]] = []
        prompts: list[str] = []
        for pair in group.pairs:
            if max(pair.source, pair.target) < len(clips) and len(rows) < MAX_PAIRS - self.pretext:
                rows.append((pair.source, pair.target, ALL_TASKS.index(pair.edit.task)))
                wordings = (instruction(pair.edit, rng) for _ in range(self.paraphrases))
                prompts += [model_prompt(wording, EDIT_PREFIX, self.spelling) for wording in wordings]
        tasks = list(PRETEXT_TASKS.values())
        weights = np.array([task.weight for task in tasks], dtype=float)
        perturbed = []
        for number in range(self.pretext):
            target = int(rng.integers(len(clips)))
            task = tasks[int(rng.choice(len(tasks), p=weights / weights.sum()))]
            generator = sample_generator(int(rng.integers(2**31)), 0, number)
            rows.append((len(clips) + number, target, ALL_TASKS.index(task.name)))
            perturbed.append(task.perturb(torch.from_numpy(clips[target]), generator).frames.numpy())
            captions = ["", group.captions[target]]  # a restoration needs no words, and takes them
            prompts += [model_prompt(captions[i % 2], task.prefix, self.spelling) for i in range(self.paraphrases)]
        pairs = torch.full((MAX_PAIRS, 3), NO_TASK, dtype=torch.int16)
        pairs[:, :2] = 0
        pairs[: len(rows)] = torch.tensor(rows, dtype=torch.int16)
        tokens = torch.full((MAX_PAIRS, self.paraphrases, self.text_length), PADDING, dtype=torch.int32)
        tokenised = tokenise(tokenizer(self.tokenizer), prompts, self.text_length)
        tokens[: len(rows)] = tokenised.view(len(rows), self.paraphrases, -1)
        return {
            "bucket": bucket,
            "clips": torch.from_numpy(np.stack([*clips, *perturbed])),
            "anchors": torch.stack([anchor_picture(clip) for clip in clips]),
            "pairs": pairs,
            "tokens": tokens,
        }


def held_out_pairs(pack_folder: str, frames: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Source, target ((T, H, W, 3) uint8 each) and instruction of pairs that are kept out of training. Tasks and sizes
    come in turn, so that a few pairs show most of them."""
    tasks, buckets = TASKS[::3] + TASKS[1::3] + TASKS[2::3], tiny_buckets()  # neighbours in the list are alike
    pack = Pack.load(pack_folder)
    for number in range(count):
        seed, bucket = FIRST_HELD_OUT_SEED + number, buckets[number % len(buckets)]
        case = render_case(pack, seed, bucket, frames, "test", tasks[number % len(tasks)])
        yield case.source, case.target, instruction(case.edit, np.random.default_rng((seed, 3)), split="test")


@lru_cache(maxsize=1)
def tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, read once a process."""
    return AutoTokenizer.from_pretrained(Path(folder))


def anchor_picture(clip: np.ndarray) -> Tensor:
    """The clip's first frame at the tower's input size, (3, 128, 128) uint8."""
    small = cv2.resize(clip[0], (ANCHOR_SIZE, ANCHOR_SIZE), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small).permute(2, 0, 1).contiguous()


def cell_labels(labels: np.ndarray, object_share: float = 0.2) -> list[int]:
    """The label of each of the 8 x 8 cells, row by row: the object that covers most of a cell if it covers
    at least `object_share` of it, else what fills most of the cell."""
    ids, counts = np.unique(labels, return_counts=True)
    ground = ids[counts.argmax()]
    cover = np.stack(
        [cv2.resize((labels == i).astype(np.float32), (SEMANTIC_GRID,) * 2, interpolation=cv2.INTER_AREA) for i in ids]
    )
    objects = np.where((ids == ground)[:, None, None], 0, cover)
    best = ids[np.where(objects.max(0) >= object_share, objects.argmax(0), cover.argmax(0))]
    return [int(label) for label in best.ravel()]
