"""Batches from manifests: samples read by worker processes, encoded on the device, cached where a folder is given.

The order of samples is a function of (seed, epoch), whatever the number of workers. The position is that of the last
batch that was taken: what workers have read ahead is read again after a resumption.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from training.config import TrainConfig
from training.core.batch import EncodedBatch, without_broken_rows
from training.core.guard import Guard
from training.data.encoders import Encoders
from training.data.files.adapters import adapter
from training.data.files.buckets import Signature, assign, batch_sizes, bucket_table, model_width, signatures
from training.data.files.cache import ContentCache
from training.data.files.checks import shared_catalogue, usage_report, write_dropped
from training.data.files.clips import ClipError
from training.data.files.manifest import Dropped, manifest_files
from training.data.files.paired import PairedClips, ReadClip, Reading, ReadStep
from training.data.files.sampler import Sampler, make_groups
from training.errors import ConfigError, DataError, NotFiniteError
from training.parallel.processes import DataRank, is_first_process

logger = logging.getLogger(__name__)

READ_AHEAD = 2
"""Micro-steps that each worker reads before they are wanted."""

CHECK_THREADS = 8


class ManifestData:
    """The samples that a configuration's manifests give, their buckets and their order.

    Needs no encoders and no device. With several processes the first one makes the catalogue and the others wait.
    """

    def __init__(
        self, config: TrainConfig, rank: int = 0, places: int = 1, fresh: bool = False, threads: int = CHECK_THREADS
    ) -> None:
        """rank, places: which of how many data ranks this is. fresh: open all clips again. threads: clips opened at a
        time. Raises ConfigError for settings that do not fit, a missing manifest, or where no sample is left."""
        manifest = config.data.manifest
        _check_sets(config)
        self.config, self.places = config, places
        self.folder = Path(config.output) / "data"
        self.known = signatures(manifest)
        self.width = model_width(config)
        self.sizes = batch_sizes(self.known, manifest, self.width)
        where = Path(manifest.cache) if manifest.cache else self.folder
        self.catalogue = shared_catalogue(manifest, where, fresh, threads)
        self.chosen, unfit = assign(self.catalogue, manifest, self.known)
        self.dropped = [*self.catalogue.dropped, *unfit]
        if is_first_process():
            write_dropped(self.dropped, self.folder / "dropped.jsonl")
        weights = [chosen.weight for chosen in manifest.sets]
        groups = make_groups(self.catalogue.numbers, self.chosen, self.known, weights, manifest.image_share)
        try:
            self.sampler = Sampler(groups, self.sizes, config.seed, rank, places)
        except ConfigError as error:
            raise ConfigError("\n".join([str(error), *self._report()])) from error

    def dataset(self, cache: ContentCache | None = None) -> PairedClips:
        """The dataset that reads the samples."""
        config, manifest = self.config, self.config.data.manifest
        anchors, dropout = config.objective.semantic_weight > 0, config.data.text_dropout
        reading = Reading(config.seed, manifest.fps, manifest.extract, config.objective.pretext, anchors, dropout)
        return PairedClips(self.catalogue, self.chosen, self.known, reading, cache)

    def summary(self) -> list[str]:
        """Sets, drops, buckets and mixture, as lines."""
        counts = self.sampler.samples_an_epoch()
        shown = {signature: self.sizes[signature] for signature in self.sampler.buckets}
        total, images = sum(counts.values()), sum(count for s, count in counts.items() if s.is_image)
        lines = [*self._report(), "", *bucket_table(counts, shown, self.places, self.width)]
        lines.append(f"an epoch: {total} samples, {images} of them images, over {self.places} places")
        kinds = {bool(self.known[number].is_image) for number in np.unique(self.chosen[self.chosen >= 0])}
        if len(kinds) == 1:
            lines.append("image_share is not used: there is one kind of samples only")
        elif not images or images == total:
            lines.append(f"image_share is {self.config.data.manifest.image_share:g}: the other kind is never drawn")
        return lines

    def _report(self) -> list[str]:
        lines = usage_report(self.dropped, self.config.data.manifest, self.catalogue.rows)
        return [*lines, f"every drop: {self.folder / 'dropped.jsonl'}"] if self.dropped else lines


class ManifestFeed:
    """A `training.core.batch.Feed` of manifests.

    Text encoder and tower are loaded at the first entry that the cache does not hold, so never after `fill_cache`. The
    VAE stays, since perturbed sources and samples need it.
    """

    def __init__(self, config: TrainConfig, encoders: Encoders, data_rank: DataRank) -> None:
        """Raises ConfigError: see `ManifestData`."""
        self.config, self.encoders, self.data_rank = config, encoders, data_rank
        self.data = ManifestData(config, data_rank.rank, data_rank.count)
        self.sampler = self.data.sampler
        self.cache: ContentCache | None = None
        if config.data.manifest.cache:
            self.cache = ContentCache(Path(config.data.manifest.cache), encoders.fingerprint())
        self.dataset = self.data.dataset(self.cache)
        self.replaced: Counter[str] = Counter()
        """Samples that could not be read or used in this session, by origin."""
        self.guard = Guard(config.guard)
        self._latents_type = torch.bfloat16 if config.precision == "bfloat16" else torch.float32

    def batches(self) -> Iterator[EncodedBatch]:
        """Batches from the present position on, without end. A sample that does not encode to finite values is named,
        and another of its batch takes its place. Raises DataError where samples cannot be read, NotFiniteError where
        too many are not finite."""
        workers = self.config.data.workers
        loader = DataLoader(
            self.dataset,
            batch_size=None,  # a sample of the loader is a whole micro-step
            sampler=self.sampler,
            num_workers=workers,
            prefetch_factor=READ_AHEAD if workers else None,
            pin_memory=self.data_rank.device.type == "cuda",
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=_one_thread,
            generator=torch.Generator(),  # else it draws a number from the global one, which belongs to the run
        )
        for read in _said_plainly(loader):
            batch, finite = without_broken_rows(self.encode(read))
            self._note(read.replaced)
            self.guard.note(~finite, [sample.number for sample in read.samples])
            self._settle()
            self.sampler.take(read.step)
            yield batch

    def encode(self, read: ReadStep) -> EncodedBatch:
        """A micro-step as latents, states and anchors on the device."""
        samples, encoders = read.samples, self.encoders
        targets = self._latents([sample.target for sample in samples])
        changed = [number for number, sample in enumerate(samples) if sample.task != "none"]
        sources = targets.clone() if len(changed) < len(samples) else torch.empty_like(targets)
        if changed:
            sources[changed] = self._latents([samples[number].source for number in changed])
        prompts = [encoders.prompt(sample.text, sample.prefix) for sample in samples]
        first = [sample.first for sample in samples if sample.first is not None]
        anchors = self._anchors(first) if first else None
        return EncodedBatch(sources, targets, self._texts(prompts), anchors)

    def state_dict(self) -> dict[str, Any]:
        """The sampler's position."""
        self._settle(wait=True)
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a stored position (see `Sampler.load_state_dict`); call before `batches`."""
        self.sampler.load_state_dict(state)

    def summary(self) -> str:
        lines = self.data.summary()
        if self.cache:
            lines.append(f"latents, anchors and text states are kept in {self.cache.folder}")
        if self.replaced:
            lines.append(
                f"{self.replaced.total()} samples could not be read or encoded and were replaced: {self._failures()}"
            )
        return "\n".join(lines)

    def fill_cache(self, progress: Callable[[int, int], None] | None = None) -> Counter[str]:
        """Encode and keep what this rank's share of the samples still lacks: targets, sources of edits, anchors and
        every prompt. Returns how many entries were made, of how many samples nothing could be read, and how many
        entries were not finite and therefore not kept.

        progress: called with the number of samples done and their total. Raises ConfigError without a cache.
        """
        if self.cache is None:
            raise ConfigError("data.manifest.cache names no folder: nothing would be kept")
        made: Counter[str] = Counter()
        mine = np.flatnonzero(self.data.chosen >= 0)[self.data_rank.rank :: self.data_rank.count]
        for done, index in enumerate(mine.tolist(), 1):
            signature = self.data.known[self.data.chosen[index]]
            try:
                made.update(self._fill(index, signature))
            except ClipError as error:
                made["unreadable"] += 1
                logger.warning("%s cannot be read: %s", self.data.catalogue[index].record.origin, error)
            if progress:
                progress(done, len(mine))
        return made

    def _fill(self, index: int, signature: Signature) -> Counter[str]:
        assert self.cache is not None
        sample, made = self.data.catalogue[index], Counter[str]()
        source, target = self.dataset.clips(sample, signature)
        for clip in filter(None, (source, target)):
            if (key := self.dataset.key(clip)) not in self.cache:
                self._latents([ReadClip(clip.pixels(), None, key)])
                made[self._kept("latents", key, str(clip.media))] += 1
        if self.dataset.reading.anchors and (key := self.dataset.key(target, only_first=True)) not in self.cache:
            self._anchors([ReadClip(target.first(), None, key)])
            made[self._kept("anchors", key, str(target.media))] += 1
        for prefix in self.dataset.prefixes(sample):
            for text in (sample.record.prompt, ""):
                prompt = self.encoders.prompt(text, prefix)
                if (key := self.cache.key("text", prompt)) not in self.cache:
                    self._texts([prompt])
                    made[self._kept("texts", key, prompt)] += 1
        return made

    def _kept(self, what: str, key: str, name: str) -> str:
        """`what` where the entry was kept; otherwise "not finite", with a warning."""
        assert self.cache is not None
        if key in self.cache:
            return what
        logger.warning("%s: its %s are not finite and are not kept", name, what)
        return "not finite"

    def _keep(self, key: str, **tensors: Tensor) -> None:
        """Store an entry, if there is a cache and all values are finite (`_settle` and `_kept` name the others)."""
        if self.cache and key:
            with contextlib.suppress(NotFiniteError):
                self.cache.store(key, tensors)

    def _latents(self, clips: Sequence[ReadClip]) -> Tensor:
        """(N, C, F, H/8, W/8) on the device, in the run's type. With a cache, clips are encoded one by one, so that
        what is kept does not depend on who shared the batch."""

        def encode(pixels: Tensor) -> Tensor:
            return self.encoders.latents(pixels).to(self._latents_type)

        return self._encoded(clips, "latents", encode, at_once=1 if self.cache else len(clips))

    def _anchors(self, first_frames: Sequence[ReadClip]) -> Tensor:
        """(N, 65, semantic_dim) on the device."""

        def encode(pixels: Tensor) -> Tensor:
            return self.encoders.anchors(pixels[:, 0].permute(0, 3, 1, 2).contiguous())

        return self._encoded(first_frames, "anchor", encode, at_once=1)

    def _encoded(
        self, clips: Sequence[ReadClip], name: str, encode: Callable[[Tensor], Tensor], at_once: int
    ) -> Tensor:
        """The cached encodings of the clips, and `encode` of the pixels (n, T, H, W, 3) of the others, which are
        kept."""
        ready = [None if clip.encoded is None else self._moved(clip.encoded) for clip in clips]
        fresh = [number for number, known in enumerate(ready) if known is None]
        for start in range(0, len(fresh), at_once):
            some = fresh[start : start + at_once]
            # Each travels by itself: their stack on the host would leave the page-locked memory.
            pixels = torch.stack([self._moved(clips[number].pixels) for number in some])
            for number, encoded in zip(some, encode(pixels), strict=True):
                ready[number] = encoded
                self._keep(clips[number].key, **{name: encoded})
        return torch.stack([tensor for tensor in ready if tensor is not None])

    def _moved(self, tensor: Tensor | None) -> Tensor:
        assert tensor is not None  # a clip has pixels or was encoded
        return tensor.to(self.data_rank.device, non_blocking=True)

    def _texts(self, prompts: Sequence[str]) -> Tensor:
        """(N, L, text_dim) on the device. Rows of padding are not kept, since they are zero."""
        if self.cache is None:
            return self.encoders.text_states(prompts)
        states = []
        for prompt in prompts:
            key = self.cache.key("text", prompt)
            found = self.cache.load(key)
            if found is None:
                full = self.encoders.text_states([prompt])[0]
                used = int(full.abs().amax(dim=1).nonzero().max()) + 1
                self._keep(key, states=full[:used])
            else:
                kept = self._moved(found["states"])
                full = kept.new_zeros(self.encoders.text_length, kept.shape[1])
                full[: len(kept)] = kept
            states.append(full)
        return torch.stack(states)

    def _failures(self) -> Path:
        return self.data.folder / f"unreadable-{self.data_rank.rank}.jsonl"

    def _note(self, replaced: Sequence[Dropped]) -> None:
        """Write samples that could not be used to the list of failures."""
        for drop in replaced:
            self.replaced[drop.origin] += 1
            with self._failures().open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(drop), ensure_ascii=False) + "\n")

    def _settle(self, wait: bool = False) -> None:
        """Log and list the samples that are known by now not to be finite. Raises NotFiniteError for too many."""
        for number in self.guard.settle(wait):
            record = self.data.catalogue[number].record
            logger.warning("%s is not trained on: its latents, anchors or text states are not finite", record.origin)
            detail = "latents, anchors or text states"
            self._note([Dropped(record.number, record.origin, "not finite in training", detail)])
        if self.guard.too_many():
            raise NotFiniteError(
                f"{self.guard} samples gave latents, anchors or text states that are not finite: look at the clips in "
                f"{self._failures()}, or set precision=float32"
            )


def data_summary(config: TrainConfig, places: int = 1) -> str:
    """Lines for a dry run: `ManifestData.summary`; where manifests are not on this machine, what is missing and the
    table of all buckets that the settings allow. Raises ConfigError for settings that do not fit."""
    manifest = config.data.manifest
    _check_sets(config)
    missing = []
    for chosen in manifest.sets:
        try:
            manifest_files(chosen.manifest)
        except ConfigError as error:
            missing.append(str(error))
    if not missing:
        return "\n".join(ManifestData(config, 0, places).summary())
    known, width = signatures(manifest), model_width(config)
    return "\n".join([*missing, "", *bucket_table({}, batch_sizes(known, manifest, width), places, width)])


def _check_sets(config: TrainConfig) -> None:
    if not config.data.manifest.sets:
        raise ConfigError("data.manifest.sets is empty: name at least one manifest, or set data.source: rendered")
    for chosen in config.data.manifest.sets:
        if not adapter(chosen.adapter).edits and config.stage != "pretrain":
            raise ConfigError(
                f"{chosen.manifest} holds clips without edits ({chosen.adapter}), which only stage pretrain takes: "
                "remove the set, or read it as pairs"
            )


def _said_plainly(steps: Iterable[ReadStep]) -> Iterator[ReadStep]:
    """The steps of a loader. A worker's DataError loses the traceback that the loader puts before it."""
    try:
        yield from steps
    except DataError as error:
        raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error


def _one_thread(worker: int) -> None:  # noqa: ARG001 - the loader's signature
    """Initialise a worker: one thread, since there is a worker for each core already."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
