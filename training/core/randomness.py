"""Random numbers as functions of where they are used: (seed, purpose, step, place ...), never of what was drawn before.

A run that is resumed, or whose workers are more or fewer, then draws what it would have drawn.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def derived_seed(purpose: str, *numbers: int) -> int:
    """A seed of 63 bits for one purpose and place. numbers: not negative."""
    mixed = np.random.SeedSequence((zlib.crc32(purpose.encode()), *numbers)).generate_state(1, np.uint64)
    return int(mixed[0] >> np.uint64(1))


def generator(device: torch.device | str, purpose: str, *numbers: int) -> torch.Generator:
    """A generator on `device`, seeded for one purpose and place. Seeding asks the device for nothing."""
    return torch.Generator(device).manual_seed(derived_seed(purpose, *numbers))


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """The generator, on the CPU, of one sample: a function of (seed, epoch, index), so that no worker, rank or epoch
    repeats another's perturbations. seed, epoch, index: 0 to 2**61 - 2."""
    return torch.Generator().manual_seed(_tuple_hash(seed, epoch, index) & 0x7FFF_FFFF_FFFF_FFFF)


def _tuple_hash(*numbers: int) -> int:
    """CPython's `hash` of a tuple of numbers on a 64-bit machine (xxHash), as 64 bits without a sign.

    Samples were seeded with it from the first: with another mixing, runs that go on would draw something else.
    """
    first, second, fifth, bits = 11400714785074694791, 14029467366897019727, 2870177450012600261, 2**64 - 1
    mixed = fifth
    for number in numbers:
        mixed = (mixed + number * second) & bits
        mixed = ((mixed << 31) | (mixed >> 33)) & bits
        mixed = mixed * first & bits
    return (mixed + (len(numbers) ^ fifth ^ 3527539)) & bits
