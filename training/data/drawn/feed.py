"""Feeds batches of rendered pairs: groups are encoded once and drawn often, while workers draw new ones.

What is held after n groups, and what the m-th batch takes from it, are functions of the seed, the rank, n and m. The
position is therefore three integers; a resumed run encodes the newest groups again and goes on.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.closed_yaml import hint
from training.config import TrainConfig
from training.core.batch import EncodedBatch, finite_rows, without_broken_rows
from training.core.guard import Guard
from training.core.randomness import derived_seed
from training.data.drawn.group_cache import GroupCache
from training.data.drawn.latents import LatentStore
from training.data.drawn.scenes import ALL_TASKS, GroupedPairs, RenderedGroups, stream
from training.data.encoders import CLIPS_AT_ONCE, Encoders
from training.data.sizes import tiny_buckets
from training.errors import ConfigError, NotFiniteError
from training.parallel.processes import DataRank
from training.synth.edits.tasks import TASKS

logger = logging.getLogger(__name__)


class RenderedFeed:
    """The feed of `data.source: rendered`, one for each data rank."""

    def __init__(self, config: TrainConfig, encoders: Encoders, data_rank: DataRank) -> None:
        if not encoders.small:
            raise ConfigError(
                "data.source=rendered is for the embedded model: use data.source=manifest with this `base`"
            )
        if config.parallel.sequence > 1 and not config.data.rendered.groups:
            raise ConfigError(
                "processes that share sequences must hold the same scenes: set data.rendered.groups, not encode_minutes"
            )
        named = {"data.rendered.task_weights": config.data.rendered.task_weights}
        for key, tasks in {**named, "distill.truth_tasks": config.distill.truth_tasks}.items():
            for task in tasks:
                if task not in TASKS:
                    raise ConfigError(f"{key}: there is no task {task!r}: {hint(task, TASKS)}")
        self.config, self.encoders, self.data_rank = config, encoders, data_rank
        self.data = config.data.rendered
        self.buckets = tiny_buckets()
        self.capacity = math.ceil(self.data.capacity_groups / len(self.buckets))
        """Number of groups held of each bucket."""
        self.filled = 0
        """Number of groups that were encoded before the first batch; 0: not yet known."""
        self.drawn = 0
        self.guard = Guard(config.guard)
        """Counts clips whose encoding is not finite, by the number of their scene."""
        self._random = torch.Generator(data_rank.device)
        truths = [ALL_TASKS.index(task) for task in config.distill.truth_tasks]
        self._exact_tasks = torch.tensor(truths, dtype=torch.long, device=data_rank.device)

    def batches(self) -> Iterator[EncodedBatch]:
        """Fill the store, then draw from it; `refresh_per_step` new groups are encoded before each batch. Clips that do
        not encode to finite values are named and not trained on. Raises NotFiniteError when they are too many."""
        refresh = self.data.refresh_per_step
        encoded = self.filled + math.floor(self.drawn * refresh)
        turns_gone = max(0, encoded // len(self.buckets) - self.capacity)  # of all buckets: what was replaced since
        store = LatentStore(
            self.data_rank.device,
            self.capacity,
            self.data.task_weights,
            self.config.seed,
            self.data_rank.rank,
            turns_gone,
        )
        start = turns_gone * len(self.buckets)
        groups = self._groups(start)
        self._fill(store, groups, start, encoded - start)
        if not refresh:
            del groups  # and with it the workers
        while True:
            due = math.floor((self.drawn + 1) * refresh) - math.floor(self.drawn * refresh)
            for _ in range(due):
                store.add(*next(groups))
                self._settle()
            batch = self._draw(store)
            self.drawn += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"filled": self.filled, "drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.filled, self.drawn = state["filled"], state["drawn"]

    def summary(self) -> str:
        """The sizes, counts and shares of what is rendered, held and drawn, as lines."""
        data, sizes = self.data, ", ".join(f"{bucket.width}x{bucket.height}" for bucket in self.buckets)
        first = f"{data.groups} scenes" if data.groups else f"the scenes of {data.encode_minutes:g} minutes"
        return "\n".join(
            [
                f"rendered from {data.pack}: {data.frames} frames, sizes {sizes}, one size a micro-step",
                f"{first} before the first step, {data.refresh_per_step:g} a micro-step, {data.capacity_groups} held",
                self._mixture(),
            ]
        )

    def _mixture(self) -> str:
        size, data = f"{self.config.batch_size} samples a micro-step and process", self.data
        if self.config.stage == "pretrain":
            images = data.image_share if self.config.objective.pretext else 1.0
            many = f" ({data.image_batch} each)" if data.image_batch else ""
            return f"{size}: image edits in {images:.0%} of the micro-steps{many}, clips to restore in the others"
        return f"{size}, {data.pretext_share if self.config.objective.pretext else 0.0:.0%} restorations"

    def _draw(self, store: LatentStore) -> EncodedBatch:
        config, encoders = self.config, self.encoders
        number, image, restorations = self._kind_of(self.drawn)
        size = self.data.image_batch if image and self.data.image_batch else config.batch_size
        drawn = store.draw(number, size, restorations)
        if image:  # the causal VAE encodes the first frame alone
            drawn.source, drawn.target = drawn.source[:, :, :1], drawn.target[:, :, :1]
        self._random.manual_seed(derived_seed("text drop-out", config.seed, self.data_rank.rank, self.drawn))
        chance = torch.rand(len(drawn.token_ids), 1, generator=self._random, device=self.data_rank.device)
        token_ids = torch.where(chance < config.data.text_dropout, encoders.bare_ids, drawn.token_ids)
        anchors = encoders.anchors(drawn.pictures) if config.objective.semantic_weight else None
        exact = torch.isin(drawn.tasks, self._exact_tasks) if config.distill.truth_weight else None
        text = encoders.states_of(token_ids)
        batch, _ = without_broken_rows(EncodedBatch(drawn.source, drawn.target, text, anchors, exact))
        return batch

    def _kind_of(self, batch: int) -> tuple[int, bool, float]:
        """The kind of batch `batch`: (its number in the store, whether it is one of images, its share of restorations).

        Images and clips alternate as evenly as their shares allow, and each take every bucket in turn."""
        if not self.config.objective.pretext:
            return batch, self.config.stage == "pretrain", 0.0
        if self.config.stage != "pretrain":
            return batch, False, self.data.pretext_share
        before, after = (math.floor(count * self.data.image_share) for count in (batch, batch + 1))
        return (before, True, 0.0) if after > before else (batch - before, False, 1.0)

    def _fill(
        self, store: LatentStore, groups: Iterator[tuple[dict[str, Any], Tensor]], first: int = 0, wanted: int = 0
    ) -> None:
        """Add `wanted` groups, which begin with number `first`, and keep them in the cache; if that is 0, the first
        `groups`, or those that come within `encode_minutes`."""
        wanted = wanted or self.data.groups
        count, start = 0, time.monotonic()
        for group, latents in groups:
            store.add(group, latents)
            if self._cache is not None:
                self._cache.store(first + count, group, latents)
            count += 1
            late = time.monotonic() - start > self.data.encode_minutes * 60
            if count == wanted or (not wanted and late and count % len(self.buckets) == 0):
                break
        if self._cache is not None:
            self._cache.flush()
        self._settle(ended=True)
        self.filled = self.filled or count
        logger.info("encoded %d groups in %.0f s: %s", count, time.monotonic() - start, store.counts())

    def _settle(self, ended: bool = False) -> None:
        """Log the scenes whose encodings are known by now not to be finite. Raises NotFiniteError for too many.

        ended: whether encoding is over: then all scenes are judged, however few they are."""
        for number, clips in Counter(self.guard.settle(wait=ended)).items():
            logger.warning("scene %d: the latents of %d clips are not finite; they are not trained on", number, clips)
        if self.guard.too_many(ended):
            raise NotFiniteError(
                f"{self.guard} drawn clips gave latents that are not finite: try another `base`, or precision=float32"
            )

    @cached_property
    def _cache(self) -> GroupCache | None:
        if not self.data.cache:
            return None
        return GroupCache(Path(self.data.cache), self.config, self.encoders, self.data_rank.rank)

    def _groups(self, start: int) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Groups from number `start` on with their latents, without end: those of the cache as far as it goes, then new
        ones."""
        while self._cache is not None and (kept := self._cache.load(start)) is not None:
            yield kept
            start += 1
        yield from self._rendered(start)

    def _rendered(self, start: int) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Groups from number `start` on, drawn and encoded. While one is encoded, the next one's clips travel to the
        device."""
        data, device = self.data, self.data_rank.device
        words = str(Path(self.encoders.base) / "tokenizer")
        transform = GroupedPairs(words, self.encoders.spelling, self.encoders.text_length, data.paraphrases)
        dataset = RenderedGroups(data.pack, data.frames, transform, self.config.seed, self.data_rank.rank, start=start)
        travel = torch.cuda.Stream(device) if device.type == "cuda" else None
        ahead: tuple[dict[str, Any], Tensor] | None = None
        for number, group in enumerate(stream(dataset, self.config.data.workers, pin=travel is not None), start - 1):
            with torch.cuda.stream(travel):  # None: does nothing
                clips = group.pop("clips")
                room = math.ceil(len(clips) / CLIPS_AT_ONCE) * CLIPS_AT_ONCE
                moved = torch.zeros(room, *clips.shape[1:], dtype=torch.uint8, device=device)
                moved[: len(clips)].copy_(clips, non_blocking=True)
            group["count"] = len(clips)
            if ahead:
                latents = self.encoders.latents(ahead[1])[: ahead[0]["count"]]
                self.guard.note(~finite_rows(latents), [number] * len(latents))
                yield ahead[0], latents
            if travel is not None:
                torch.cuda.current_stream(device).wait_stream(travel)
                moved.record_stream(torch.cuda.current_stream(device))
            ahead = group, moved
