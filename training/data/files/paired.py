"""Micro-steps as pixels: pairs, image pairs, and clips with a pretext task, read from files by worker processes.

What is random about a sample (its pretext task, the perturbation, whether its text is dropped) is a function of (seed,
turn, sample), whichever worker or process reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from sama.model.pretext import EDIT_PREFIX, NO_PRETEXT_WEIGHT, PRETEXT_TASKS, PretextTask, sample_generator
from sama.shapes import Bucket
from training.data.files.buckets import Signature
from training.data.files.cache import ContentCache
from training.data.files.checks import Catalogue, Sample, common_frames
from training.data.files.clips import ClipError, Extract, Facts, digest_of, frame_numbers, read_frames, state
from training.data.files.manifest import Dropped, Media
from training.data.files.sampler import Draw, MicroStep
from training.errors import DataError

logger = logging.getLogger(__name__)

NEIGHBOURS = 3
"""Samples that are tried in place of one that cannot be read, before the run stops."""


class Reading(NamedTuple):
    """How samples are read, the same for all of them.

    rate: frames per second (0: the clip's own). pretext: whether clips without an edit are perturbed. anchors: whether
    first frames are wanted. dropout: share of texts that are replaced by the bare prefix.
    """

    seed: int
    rate: float = 0.0
    extract: Extract = "head"
    pretext: bool = True
    anchors: bool = True
    dropout: float = 0.0


class ReadClip(NamedTuple):
    """Pixels (T, H, W, 3) uint8, or their latents (C, F, H/8, W/8) from the cache. key: of the latents ("": do not
    keep them)."""

    pixels: Tensor | None
    latents: Tensor | None
    key: str


@dataclass
class ReadSample:
    """One sample.

    task: `edit`, a pretext task's name, or `none` for a clip that was left as it is: `source` is `target` then. prefix
    and text make the prompt; the text is empty where it was dropped. anchor: from the cache. picture: (3, H, W) uint8,
    the target's first frame, where the anchor has to be made. number: in the catalogue.
    """

    source: ReadClip
    target: ReadClip
    prefix: str
    text: str
    task: str
    anchor: Tensor | None = None
    anchor_key: str = ""
    picture: Tensor | None = None
    number: int = -1


@dataclass
class ReadStep:
    """A micro-step, read. replaced: samples that could not be read, with why."""

    step: MicroStep
    samples: list[ReadSample]
    replaced: list[Dropped] = field(default_factory=list)

    def pin_memory(self) -> Self:
        """In page-locked memory, from where it travels to a GPU without holding up its work."""
        self.samples = [_pinned(sample) for sample in self.samples]
        return self


class PairedClips(Dataset[ReadStep]):
    """The samples of a `MicroStep`, read one after another. Picklable and without open files, for workers."""

    def __init__(
        self,
        catalogue: Catalogue,
        chosen: np.ndarray,
        known: Sequence[Signature],
        reading: Reading,
        cache: ContentCache | None = None,
    ) -> None:
        """chosen: (N,) number in `known` of each sample's signature, -1 for samples that are not used."""
        self.catalogue, self.chosen, self.known = catalogue, chosen, list(known)
        self.reading, self.cache = reading, cache

    def __getitem__(self, step: MicroStep) -> ReadStep:
        """Raises DataError when a sample and its `NEIGHBOURS` cannot be read."""
        read = ReadStep(step, [])
        for draw in step.draws:
            read.samples.append(self._readable(draw, step.signature, read.replaced))
        return read

    def read(self, draw: Draw, signature: Signature) -> ReadSample:
        """One sample. Raises ClipError when it cannot be read, or turns out to be no pair."""
        sample, reading = self.catalogue[draw.sample], self.reading
        random = sample_generator(reading.seed, draw.turn, draw.sample)
        dropped = float(torch.rand((), generator=random)) < reading.dropout
        text = "" if dropped else sample.record.prompt
        lazy_source, lazy = self.clips(sample, signature)
        target = self._clip(lazy)
        prefix, name = EDIT_PREFIX, "none"
        if lazy_source is not None:
            name, source = "edit", self._clip(lazy_source)
            if source.pixels is not None and target.pixels is not None and torch.equal(source.pixels, target.pixels):
                raise ClipError(f"{lazy_source.media} and {lazy.media} show the same frames")
        elif reading.pretext and (task := draw_task(random)):
            prefix, name = task.prefix, task.name
            source = ReadClip(task.perturb(lazy.pixels(), random).frames, None, "")
        else:
            source = target
        read = ReadSample(source, target, prefix, text, name, number=draw.sample)
        if reading.anchors:
            self._add_anchor(read, lazy)
        return read

    def clips(self, sample: Sample, signature: Signature) -> tuple[LazyClip | None, LazyClip]:
        """Source, if there is one, and target of a sample: nothing is opened yet."""
        record, facts = sample.record, sample.target
        # One cut for both: what the target's shape leaves out is left out of the source, too.
        aspect = facts.width / facts.height
        count, rate, extract = signature.frames, self.reading.rate, self.reading.extract
        common = common_frames(sample)
        numbers = frame_numbers(common, facts.fps, count, rate, extract)
        target = LazyClip(record.target, facts, [record.offset + n for n in numbers], signature.bucket, aspect)
        if record.source is None or sample.source is None:
            return None, target
        if sample.match == "time":
            numbers = [round(n * sample.source.fps / facts.fps) for n in numbers]
        last = sample.source.frames - 1
        at = [min(record.offset + n, last) for n in numbers]
        return LazyClip(record.source, sample.source, at, signature.bucket, aspect), target

    def prefixes(self, sample: Sample) -> list[str]:
        """The task prefixes that a sample can be shown with."""
        tasks = PRETEXT_TASKS.values() if sample.source is None and self.reading.pretext else ()
        return [EDIT_PREFIX, *(task.prefix for task in tasks)]

    def latents_key(self, clip: LazyClip) -> str:
        """The cache's key of a clip's latents; empty without a cache. Raises ClipError."""
        return self.cache.key("latents", *clip.content(len(clip.numbers))) if self.cache else ""

    def anchor_key(self, clip: LazyClip) -> str:
        """The cache's key of the anchors of a clip's first frame; empty without a cache. Raises ClipError."""
        return self.cache.key("anchor", *clip.content(1)) if self.cache else ""

    def _clip(self, lazy: LazyClip) -> ReadClip:
        key = self.latents_key(lazy)
        found = self.cache.load(key) if self.cache else None
        return ReadClip(lazy.pixels(), None, key) if found is None else ReadClip(None, found["latents"], key)

    def _add_anchor(self, read: ReadSample, lazy: LazyClip) -> None:
        read.anchor_key = self.anchor_key(lazy)
        found = self.cache.load(read.anchor_key) if self.cache else None
        if found is None:
            read.picture = lazy.first().permute(2, 0, 1).contiguous()
        else:
            read.anchor = found["anchor"]

    def _readable(self, draw: Draw, signature: Signature, replaced: list[Dropped]) -> ReadSample:
        """The sample of a draw, or the next readable one of its bucket; which one depends on nothing random."""
        tried = []
        for sample in self._row_of_neighbours(draw.sample, signature):
            try:
                return self.read(Draw(sample, draw.turn), signature)
            except ClipError as error:
                record = self.catalogue[sample].record
                tried.append(record.origin)
                replaced.append(Dropped(record.number, record.origin, "unreadable in training", str(error)))
                logger.warning("%s cannot be read, the next sample takes its place: %s", record.origin, error)
        raise DataError(f"{len(tried)} samples in a row cannot be read ({', '.join(tried)}): repair or remove them")

    def _row_of_neighbours(self, sample: int, signature: Signature) -> Iterator[int]:
        yield sample
        members = np.flatnonzero(self.chosen == self.known.index(signature))
        place = int(np.searchsorted(members, sample))
        for step in range(1, min(NEIGHBOURS + 1, len(members))):
            yield int(members[(place + step) % len(members)])


class LazyClip:
    """The frames of a clip that a sample shows, decoded when they are asked for and no sooner."""

    def __init__(self, media: Media, facts: Facts, numbers: list[int], bucket: Bucket, aspect: float) -> None:
        self.media, self.facts, self.numbers = media, facts, numbers
        self.bucket, self.aspect = bucket, aspect
        self._pixels: Tensor | None = None

    def pixels(self) -> Tensor:
        """(T, H, W, 3) uint8. Raises ClipError."""
        if self._pixels is None:
            self._pixels = read_frames(self.media, self.numbers, self.bucket, self.aspect)
        return self._pixels

    def first(self) -> Tensor:
        """The first frame, (H, W, 3) uint8. Raises ClipError."""
        if self._pixels is not None:
            return self._pixels[0]
        return read_frames(self.media, self.numbers[:1], self.bucket, self.aspect)[0]

    def content(self, count: int) -> tuple[Any, ...]:
        """What decides the first `count` frames: the file's content, the frames' numbers and the cut."""
        facts = self.facts
        unchanged = state(self.media) == (facts.size, facts.changed)
        digest = facts.digest if unchanged else digest_of(self.media)
        return digest, self.numbers[:count], list(self.bucket), round(self.aspect, 9)


def draw_task(random: Generator) -> PretextTask | None:
    """A pretext task, or none, in the paper's mixture none : cube : speed : tube = 1 : 2 : 3 : 4."""
    tasks = [None, *PRETEXT_TASKS.values()]
    weights = torch.tensor([float(task.weight if task else NO_PRETEXT_WEIGHT) for task in tasks])
    return tasks[int(torch.multinomial(weights, 1, generator=random))]


def _pinned(sample: ReadSample) -> ReadSample:
    def pin(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.pin_memory()

    target = ReadClip(pin(sample.target.pixels), pin(sample.target.latents), sample.target.key)
    source = target
    if sample.task != "none":
        source = ReadClip(pin(sample.source.pixels), pin(sample.source.latents), sample.source.key)
    return replace(sample, source=source, target=target, anchor=pin(sample.anchor), picture=pin(sample.picture))
