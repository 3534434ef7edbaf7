"""How the GPUs of one edit share a denoising step. Pure functions."""

from __future__ import annotations

from typing import NamedTuple


class Split(NamedTuple):
    """A step's forward passes spread over processes.

    branches: groups of processes, each of which evaluates its own guidance passes.
    sequence: processes of a group, which share the sequence of each pass (`sama.model.parallel.sequence_parallel`).
    """

    branches: int
    sequence: int

    @property
    def used(self) -> int:
        """How many processes compute."""
        return self.branches * self.sequence

    def rounds(self, branches: int) -> float:
        """How long `branches` guidance passes take, in passes of a single process, the exchanges not counted."""
        return -(-branches // self.branches) / self.sequence


def split(gpus: int, heads: int, branches: int) -> Split:
    """The quickest way to spread `branches` guidance passes of a model with `heads` attention heads over `gpus`.

    A sequence can be shared by any divisor of the heads. Where several splits are equally quick, the one with more
    branches is taken, because branches exchange almost nothing. It may need fewer GPUs than there are: 3 GPUs, 40 heads
    and 2 passes make `Split(2, 1)`. Raises ValueError for a number below 1.
    """
    if min(gpus, heads, branches) < 1:
        raise ValueError(f"GPUs, heads and guidance passes must be at least 1, not {gpus}, {heads} and {branches}")
    fitting = [
        Split(groups, degree)
        for groups in range(1, min(gpus, branches) + 1)
        for degree in range(1, gpus // groups + 1)
        if heads % degree == 0
    ]
    return min(fitting, key=lambda found: (found.rounds(branches), found.used, -found.branches))


def told_unused(gpus: int, heads: int, branches: int) -> str:
    """One sentence for the user where an edit cannot use all GPUs; "" where it uses them."""
    used = split(gpus, heads, branches).used
    if used == gpus:
        return ""
    passes = f"{branches} guidance passes" if branches > 1 else "1 pass"
    return f"This edit uses {used} of the {gpus} GPUs: {passes} with {heads} attention heads cannot be shared by more."


def not_a_number(gpus: int) -> str:
    """The error message for a number of GPUs that is below 1."""
    return f"The number of GPUs cannot be {gpus}; give a whole number of at least 1."
