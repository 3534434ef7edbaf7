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
