"""How many results a call makes, and which inputs each of them gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """How many different inputs there are, and how often each is used."""

    inputs: int
    repeats: int

    @property
    def size(self) -> int:
        return self.inputs * self.repeats

    @staticmethod
    def of(
        frames: Tensor | None,
        source_latents: Tensor | None,
        prompt: str | Sequence[str] | None,
        prompt_embeds: Tensor | None,
        repeats: int,
        generator: Any,
    ) -> Batch:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        counts = {len(given) for given in (frames, source_latents, prompts, prompt_embeds) if given is not None} - {1}
        if len(counts) > 1:
            raise ValueError(f"clips and prompts must be equally many, or one, not {' and '.join(map(str, counts))}")
        inputs = counts.pop() if counts else 1
        if inputs < 1 or repeats < 1:
            raise ValueError("an edit needs at least one clip, one prompt and one result")
        if isinstance(generator, Sequence):
            if repeats == 1 and len(generator) % inputs == 0:
                repeats = max(1, len(generator) // inputs)
            if len(generator) != inputs * repeats:
                raise ValueError(f"{len(generator)} generators cannot seed {inputs * repeats} results: give one each")
        return Batch(inputs, repeats)

    def expand(self, tensor: Tensor) -> Tensor:
        """One row per result, from one row or one per input. Raises ValueError for any other number."""
        if len(tensor) == self.size:
            return tensor
        if len(tensor) not in (1, self.inputs):
            raise ValueError(f"{len(tensor)} inputs cannot be spread over {self.size} results")
        return tensor.expand(self.inputs, *tensor.shape[1:]).repeat_interleave(self.repeats, dim=0)
