"""Decides which samples make which batch: a pure function of (seed, epoch), with a position of two integers.

Each set's samples of one bucket are a *group*. A group is drawn from an endless stream: one permutation of it after
another, so that no sample comes again before all have come. An epoch takes a slice of each group's stream, in the
proportions that weights and `image_share` set, shuffles the slices of a bucket together, and appends them to the
bucket's stream; the bucket's stream is cut into micro-steps of `batch` samples for each place.

    group a   7 2 5 1 ... | 3 7 1 ...        bucket   7 b 2 5 | a 1 c ... | ...
    group b   b a c ...   | c b a ...                 place 0 takes the first half of a cut, place 1 the second

What does not fill a micro-step at an epoch's end begins the next epoch's: nothing is lost, nothing comes twice, every
place gets the same number of batches, and all places have one bucket in one micro-step. A place is a data rank
(`training.parallel.processes.DataRank`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from training.core.randomness import derived_seed
from training.data.files.buckets import Signature
from training.errors import ConfigError


class Draw(NamedTuple):
    """A sample to read. turn: how many times it was drawn before; (sample, turn) never recurs and seeds what is random
    about the sample."""

    sample: int
    turn: int


class MicroStep(NamedTuple):
    """The samples that one place reads in one micro-step."""

    epoch: int
    number: int
    """Index of the micro-step in its epoch, from 0."""
    signature: Signature
    draws: tuple[Draw, ...]


@dataclass(frozen=True)
class SampleGroup:
    """The samples of one set in one bucket. rate: how often each is drawn in an epoch, above 0."""

    signature: Signature
    samples: np.ndarray
    rate: Fraction


def make_groups(
    numbers: np.ndarray,
    chosen: np.ndarray,
    known: Sequence[Signature],
    weights: Sequence[float],
    image_share: float,
) -> list[SampleGroup]:
    """Groups with their rates.

    numbers: (N,) the set of each sample; chosen: (N,) its signature's number in `known`, -1 for none. weights: of the
    sets. Where there are images and clips, the plentiful kind is drawn less than once an epoch, so that images are
    `image_share` of all samples; the other kind is drawn by its weights.
    """
    exact = [Fraction(weight).limit_denominator(10_000) for weight in weights]
    found = [
        (known[place], np.flatnonzero((numbers == number) & (chosen == place)), exact[number])
        for number in range(len(weights))
        for place in range(len(known))
    ]
    found = [(signature, samples, rate) for signature, samples, rate in found if len(samples) and rate]
    amount = {True: Fraction(0), False: Fraction(0)}
    for signature, samples, rate in found:
        amount[signature.is_image] += len(samples) * rate
    factors = _factors(amount[True], amount[False], Fraction(image_share).limit_denominator(10_000))
    return [
        SampleGroup(signature, samples, rate * factors[signature.is_image])
        for signature, samples, rate in found
        if factors[signature.is_image]
    ]


def _factors(images: Fraction, clips: Fraction, share: Fraction) -> dict[bool, Fraction]:
    """The factors by which the rates of images (True) and clips (False) are multiplied."""
    if not images or not clips or share in (0, 1):
        alone = not images or not clips
        return {True: Fraction(int(alone or share == 1)), False: Fraction(int(alone or share == 0))}
    if images / (images + clips) > share:
        return {True: clips * share / (1 - share) / images, False: Fraction(1)}
    return {True: Fraction(1), False: images * (1 - share) / share / clips}


class Sampler:
    """The micro-steps of one place, epoch after epoch.

    places: how many there are; rank: which one this is. `steps(epoch)` is a function of its arguments and the seed.
    """

    def __init__(
        self, groups: Sequence[SampleGroup], sizes: Mapping[Signature, int], seed: int, rank: int = 0, places: int = 1
    ) -> None:
        """sizes: samples of a batch. Raises ConfigError if there is nothing to draw."""
        if not groups:
            raise ConfigError("no sample is left to train on: see the report of what was dropped and why")
        self.groups, self.sizes = list(groups), dict(sizes)
        self.seed, self.rank, self.places = seed, rank, places
        self.buckets: dict[Signature, list[int]] = {}
        for number, group in enumerate(self.groups):
            self.buckets.setdefault(group.signature, []).append(number)
        self.epoch, self.taken = 0, 0
        """The position: how many micro-steps of which epoch were taken."""
        self.offsets = dict.fromkeys(self.buckets, 0)
        """Where in each bucket's stream the micro-steps of this number of places begin: behind what was drawn with
        another number."""

    def __iter__(self) -> Iterator[MicroStep]:
        """Micro-steps from the present position on, without end. Only `take` moves the position, since loaders read
        ahead."""
        taken = self.taken
        for epoch in itertools.count(self.epoch):
            for number, (signature, draws) in enumerate(self._ordered(epoch)[taken:], taken):
                yield _step(epoch, number, signature, draws)
            taken = 0

    def take(self, step: MicroStep) -> None:
        """Note that a micro-step was used."""
        self.epoch, self.taken = step.epoch, step.number + 1

    def state_dict(self) -> dict[str, Any]:
        """The position, the number of places that it counts for and, where any is not 0, the buckets' offsets, in
        order."""
        state: dict[str, Any] = {"epoch": self.epoch, "taken": self.taken, "places": self.places}
        offsets = [self.offsets[signature] for signature in sorted(self.offsets)]
        return state | ({"offsets": offsets} if any(offsets) else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a stored position.

        Stored with another number of places, every bucket's stream goes on behind the last sample that was drawn from
        it, cut for the present places: no sample comes twice and none is left out, but the order of buckets differs.
        """
        offsets = state.get("offsets") or [0] * len(self.offsets)
        self.offsets = dict(zip(sorted(self.buckets), map(int, offsets), strict=True))
        self.epoch, self.taken = int(state["epoch"]), int(state["taken"])
        if state["places"] != self.places:
            before = Sampler(self.groups, self.sizes, self.seed, 0, int(state["places"]))
            before.offsets = self.offsets
            self.offsets = before._drawn(self.epoch, self.taken)
            self.taken = 0

    def steps(self, epoch: int) -> list[MicroStep]:
        """The micro-steps of an epoch for this place. May be empty where samples are fewer than places need."""
        return [_step(epoch, number, *cut) for number, cut in enumerate(self._ordered(epoch))]

    def samples_an_epoch(self) -> dict[Signature, int]:
        """About how many samples of each bucket are drawn in an epoch."""
        counts: dict[Signature, Fraction] = {}
        for group in self.groups:
            counts[group.signature] = counts.get(group.signature, Fraction(0)) + len(group.samples) * group.rate
        return {signature: round(count) for signature, count in counts.items()}

    def _ordered(self, epoch: int) -> list[tuple[Signature, np.ndarray]]:
        """An epoch's micro-steps: their buckets and this place's draws, (size, 2) each. Those of one bucket keep the
        order of its (shuffled) stream, so that at any position a first part of every stream has been drawn."""
        ordered: list[tuple[float, Signature, np.ndarray]] = []
        for kind in (True, False):
            cuts = {
                signature: list(self._cuts(signature, epoch))
                for signature in sorted(self.buckets)
                if signature.is_image == kind
            }
            turns = [signature for signature, own in cuts.items() for _ in own]
            following = {signature: iter(own) for signature, own in cuts.items()}
            random = self._random("mixture", epoch, int(kind))
            # Both kinds are spread evenly over the epoch, so that every few micro-steps hold the mixture.
            moments = (np.arange(len(turns)) + random.random(len(turns))) / max(1, len(turns))
            order = [turns[place] for place in random.permutation(len(turns))]
            ordered += [
                (float(moment), signature, next(following[signature]))
                for moment, signature in zip(moments, order, strict=True)
            ]
        ordered.sort(key=lambda item: item[0])
        return [(signature, draws) for _, signature, draws in ordered]

    def _cuts(self, signature: Signature, epoch: int) -> Iterator[np.ndarray]:
        """This place's part of every micro-step of a bucket that ends in `epoch`."""
        size, together = self.sizes[signature], self._together(signature)
        begin, end = (self._cuts_end(signature, number) for number in (epoch, epoch + 1))
        stream = self._bucket_stream(signature, begin, end, epoch)
        for start in range(self.rank * size, end - begin, together):
            yield stream[start : start + size]

    def _together(self, signature: Signature) -> int:
        """Samples of a micro-step over all places."""
        return self.sizes[signature] * self.places

    def _cuts_end(self, signature: Signature, epoch: int) -> int:
        """Position in a bucket's stream where the micro-steps that are filled before `epoch` end."""
        offset, together = self.offsets[signature], self._together(signature)
        return offset + max(0, self._amount(signature, epoch) - offset) // together * together

    def _drawn(self, epoch: int, taken: int) -> dict[Signature, int]:
        """How much of each bucket's stream all places have drawn at a position."""
        ends = {signature: self._cuts_end(signature, epoch) for signature in self.buckets}
        for signature, _ in self._ordered(epoch)[:taken]:
            ends[signature] += self._together(signature)
        return ends

    def _amount(self, signature: Signature, epoch: int) -> int:
        """Draws of a bucket in all epochs before `epoch`."""
        return sum(_slice_end(self.groups[number], epoch) for number in self.buckets[signature])

    def _bucket_stream(self, signature: Signature, begin: int, end: int, epoch: int) -> np.ndarray:
        """Places [begin, end) of a bucket's stream, (draws, 2), which end in `epoch` and begin in it or before."""
        first = epoch
        while begin < self._amount(signature, first):
            first -= 1
        draws = np.concatenate([self._bucket_epoch(signature, number) for number in range(first, epoch + 1)])
        offset = self._amount(signature, first)
        return draws[begin - offset : end - offset]

    def _bucket_epoch(self, signature: Signature, epoch: int) -> np.ndarray:
        """The draws that an epoch adds to a bucket's stream, (draws, 2)."""
        pairs = np.concatenate([self._slice(number, epoch) for number in self.buckets[signature]])
        return self._random("bucket", epoch, *signature).permutation(pairs)

    def _slice(self, number: int, epoch: int) -> np.ndarray:
        """(draws, 2) index and turn: what an epoch takes of a group's stream."""
        group = self.groups[number]
        begin, end = _slice_end(group, epoch), _slice_end(group, epoch + 1)
        length = len(group.samples)
        pieces = []
        for turn in range(begin // length, -(-end // length)):
            order = self._random("group", number, turn).permutation(length)
            low, high = max(begin - turn * length, 0), min(end - turn * length, length)
            chosen = group.samples[order[low:high]]
            pieces.append(np.stack([chosen, np.full(len(chosen), turn)], axis=1))
        return np.concatenate(pieces) if pieces else np.zeros((0, 2), dtype=np.int64)

    def _random(self, purpose: str, *numbers: int) -> np.random.Generator:
        return np.random.default_rng(derived_seed(purpose, self.seed, *numbers))


def _step(epoch: int, number: int, signature: Signature, draws: np.ndarray) -> MicroStep:
    return MicroStep(epoch, number, signature, tuple(Draw(sample, turn) for sample, turn in draws.tolist()))


def _slice_end(group: SampleGroup, epoch: int) -> int:
    """Draws of a group in all epochs before `epoch`."""
    return math.floor(epoch * len(group.samples) * group.rate)
