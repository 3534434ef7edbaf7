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

from sama.model.pretext import EDIT_PREFIX, NO_PRETEXT_WEIGHT, PRETEXT_TASKS, PretextTask
from sama.shapes import Bucket
from training.core.randomness import sample_generator
from training.data.files.buckets import Signature
from training.data.files.cache import ContentCache
from training.data.files.checks import Catalogue, Sample, common_frames
from training.data.files.clips import ClipError, ClipFacts, Extract, digest_of, frame_numbers, read_frames, state
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
    """An encoder's input, pixels (T, H, W, 3) uint8, or its cached output, latents (C, F, H/8, W/8) or anchors. key: of
    the entry in the cache ("": do not keep it)."""

    pixels: Tensor | None
    encoded: Tensor | None
    key: str

    def pinned(self) -> ReadClip:
        """A copy in page-locked memory."""
        pixels, encoded = (None if tensor is None else tensor.pin_memory() for tensor in (self.pixels, self.encoded))
        return ReadClip(pixels, encoded, self.key)


@dataclass
class ReadSample:
    """One sample.

    task: `edit`, a pretext task's name, or `none` for a clip that was left as it is: `source` is `target` then. prefix
    and text make the prompt; the text is empty where it was dropped. first: the target's first frame, for the anchors;
    None where there are none. number: in the catalogue.
    """

    source: ReadClip
    target: ReadClip
    prefix: str
    text: str
    task: str
    first: ReadClip | None
    number: int

    def pinned(self) -> ReadSample:
        """A copy in page-locked memory."""
        target = self.target.pinned()
        source = target if self.source is self.target else self.source.pinned()
        return replace(self, source=source, target=target, first=self.first and self.first.pinned())


@dataclass
class ReadStep:
    """A micro-step, read. replaced: samples that could not be read, with why."""

    step: MicroStep
    samples: list[ReadSample]
    replaced: list[Dropped] = field(default_factory=list)

    def pin_memory(self) -> Self:
        """A copy in page-locked memory, from where it is copied to a GPU while that works."""
        self.samples = [sample.pinned() for sample in self.samples]
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
        target = self._read(lazy)
        prefix, name = EDIT_PREFIX, "none"
        if lazy_source is not None:
            name, source = "edit", self._read(lazy_source)
            if source.pixels is not None and target.pixels is not None and torch.equal(source.pixels, target.pixels):
                raise ClipError(f"{lazy_source.media} and {lazy.media} show the same frames")
        elif reading.pretext and (task := draw_task(random)):
            prefix, name = task.prefix, task.name
            source = ReadClip(task.perturb(lazy.pixels(), random).frames, None, "")
        else:
            source = target
        first = self._read(lazy, only_first=True) if reading.anchors else None
        return ReadSample(source, target, prefix, text, name, first, draw.sample)

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

    def key(self, clip: LazyClip, only_first: bool = False) -> str:
        """The cache's key of a clip's latents, or of the anchors of its first frame; empty without a cache. Raises
        ClipError."""
        kind, count = ("anchor", 1) if only_first else ("latents", len(clip.numbers))
        return self.cache.key(kind, *clip.content(count)) if self.cache else ""

    def _read(self, lazy: LazyClip, only_first: bool = False) -> ReadClip:
        """A clip for the VAE, or its first frame for the tower."""
        key = self.key(lazy, only_first)
        if self.cache and (found := self.cache.load(key)) is not None:
            return ReadClip(None, found["anchor" if only_first else "latents"], key)
        return ReadClip(lazy.first() if only_first else lazy.pixels(), None, key)

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

    def __init__(self, media: Media, facts: ClipFacts, numbers: list[int], bucket: Bucket, aspect: float) -> None:
        self.media, self.facts, self.numbers = media, facts, numbers
        self.bucket, self.aspect = bucket, aspect
        self._pixels: Tensor | None = None

    def pixels(self) -> Tensor:
        """(T, H, W, 3) uint8. Raises ClipError."""
        if self._pixels is None:
            self._pixels = read_frames(self.media, self.numbers, self.bucket, self.aspect)
        return self._pixels

    def first(self) -> Tensor:
        """The first frame, (1, H, W, 3) uint8. Raises ClipError."""
        if self._pixels is not None:
            return self._pixels[:1].clone()
        return read_frames(self.media, self.numbers[:1], self.bucket, self.aspect)

    def content(self, count: int) -> tuple[Any, ...]:
        """Key parts that decide the first `count` frames: the file's content, the frames' numbers and the cut. Raises
        ClipError."""
        facts = self.facts
        unchanged = state(self.media) == (facts.size, facts.changed)
        digest = facts.digest if unchanged else digest_of(self.media)
        return digest, self.numbers[:count], list(self.bucket), round(self.aspect, 9)


def draw_task(random: Generator) -> PretextTask | None:
    """A pretext task, or none, in the paper's mixture none : cube : speed : tube = 1 : 2 : 3 : 4."""
    tasks = [None, *PRETEXT_TASKS.values()]
    weights = torch.tensor([float(task.weight if task else NO_PRETEXT_WEIGHT) for task in tasks])
    return tasks[int(torch.multinomial(weights, 1, generator=random))]
