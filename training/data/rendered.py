"""Endless streams of rendered groups, drawn by worker processes while the device trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sama.pretext import PRETEXT_TASKS, sample_generator
from sama.shapes import SEMANTIC_GRID, TINY_BUCKETS, Bucket
from training.procedural.language import instruction
from training.procedural.pack import Pack
from training.procedural.render import Group, render_group

ANCHOR_SIZE = 128
"""Side of the anchor pictures that streams carry, the tower's input size."""

Transform = Callable[[Group, np.random.Generator, Bucket], dict[str, Any]]


class RenderedGroups(IterableDataset):
    """Groups of paired edits, each turned into a sample by `transform` in the worker that drew it.

    The n-th group of a worker is a function of (seed, rank, worker, n): no two draw the same scene.
    """

    def __init__(self, pack_folder: str, frames: int, transform: Transform, seed: int, rank: int = 0) -> None:
        self.pack_folder, self.frames, self.transform = pack_folder, frames, transform
        self.seed, self.rank = seed, rank

    def __iter__(self) -> Iterator[dict[str, Any]]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        pack = Pack.load(self.pack_folder)
        info = get_worker_info()
        worker = info.id if info else 0
        count = 0
        while True:
            rng = np.random.default_rng((self.seed, self.rank, worker, count))
            count += 1
            bucket = TINY_BUCKETS[int(rng.integers(len(TINY_BUCKETS)))]
            group = render_group(pack, int(rng.integers(2**31)), bucket, self.frames)
            yield self.transform(group, rng, bucket)


def stream(dataset: RenderedGroups, workers: int, batch_size: int | None, collate: Any = None) -> Iterator[Any]:
    """Samples or batches of a stream, prefetched by `workers` processes (0: drawn in this one)."""
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    return iter(loader)


def to_tensor(clip: np.ndarray) -> Tensor:
    """(T, H, W, 3) uint8 array to (3, T, H, W) uint8 tensor."""
    return torch.from_numpy(np.ascontiguousarray(clip)).permute(3, 0, 1, 2)


@dataclass(frozen=True)
class ClipCrops:
    """For the VAE: some clips of a group, each cut to one square size, so that a run has a single shape."""

    size: int
    clips: int

    def __call__(self, group: Group, rng: np.random.Generator, bucket: Bucket) -> dict[str, Any]:
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
    """For the tower: first frames with the name of what is seen in each of the 8 x 8 cells."""

    clips: int = 6

    def __call__(self, group: Group, rng: np.random.Generator, bucket: Bucket) -> dict[str, Any]:  # noqa: ARG002
        """`anchors`: (N, 3, 128, 128) uint8; `cells`: (N, 64) names; `captions`: N descriptions."""
        chosen = rng.choice(len(group.clips), min(self.clips, len(group.clips)), replace=False)
        return {
            "anchors": torch.stack([anchor_picture(group.clips[index]) for index in chosen]),
            "cells": [[group.names[label] for label in cell_labels(group.labels[index])] for index in chosen],
            "captions": [group.captions[index] for index in chosen],
        }


@dataclass(frozen=True)
class PairedClips:
    """For the editor: all clips of a group, its pairs in several wordings, and pretext versions of some clips.

    Pretext tasks take clips of the group as they come; which task is drawn follows the paper's 2 : 3 : 4.
    """

    paraphrases: int
    pretext: int = 2

    def __call__(self, group: Group, rng: np.random.Generator, bucket: Bucket) -> dict[str, Any]:
        clips = [to_tensor(clip) for clip in group.clips]
        pairs: list[dict[str, Any]] = [
            {
                "source": pair.source,
                "target": pair.target,
                "task": pair.edit.task,
                "prefix": "",
                "texts": [instruction(pair.edit, rng) for _ in range(self.paraphrases)],
            }
            for pair in group.pairs
        ]
        tasks = list(PRETEXT_TASKS.values())
        weights = np.array([task.weight for task in tasks], dtype=float)
        for number in range(self.pretext):
            target = int(rng.integers(len(group.clips)))
            task = tasks[int(rng.choice(len(tasks), p=weights / weights.sum()))]
            generator = sample_generator(int(rng.integers(2**31)), 0, number)
            perturbed = task.perturb(torch.from_numpy(np.ascontiguousarray(group.clips[target])), generator)
            captions = ["", group.captions[target]]  # a restoration needs no words, and takes them
            pairs.append(
                {
                    "source": len(clips),
                    "target": target,
                    "task": task.name,
                    "prefix": task.prefix,
                    "texts": [captions[i % 2] for i in range(self.paraphrases)],
                }
            )
            clips.append(perturbed.frames.permute(3, 0, 1, 2))
        return {
            "bucket": bucket,
            "clips": torch.stack(clips),  # (N, 3, T, H, W) uint8
            "anchors": torch.stack([anchor_picture(clip) for clip in group.clips]),
            "pairs": pairs,
        }


def anchor_picture(clip: np.ndarray) -> Tensor:
    """The clip's first frame at the tower's input size, (3, 128, 128) uint8."""
    small = cv2.resize(clip[0], (ANCHOR_SIZE, ANCHOR_SIZE), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small).permute(2, 0, 1).contiguous()


def cell_labels(labels: np.ndarray, object_share: float = 0.2) -> list[int]:
    """Which label stands for each of the 8 x 8 cells, row by row: the object that covers most of a cell if it covers
    at least `object_share` of it, else what fills most of the cell."""
    ids, counts = np.unique(labels, return_counts=True)
    ground = ids[counts.argmax()]
    cover = np.stack(
        [cv2.resize((labels == i).astype(np.float32), (SEMANTIC_GRID,) * 2, interpolation=cv2.INTER_AREA) for i in ids]
    )
    objects = np.where((ids == ground)[:, None, None], 0, cover)
    best = ids[np.where(objects.max(0) >= object_share, objects.argmax(0), cover.argmax(0))]
    return [int(label) for label in best.ravel()]
