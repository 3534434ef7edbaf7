"""How many results a call makes, and which inputs each of them gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from sama.pipeline.inputs import SamaInputs


class BatchShape(NamedTuple):
    """How many different inputs there are, and how often each is used."""

    inputs: int
    repeats: int

    @property
    def size(self) -> int:
        return self.inputs * self.repeats

    @staticmethod
    def of(asked: SamaInputs, frames: Tensor | None) -> BatchShape:
        """What a call asks for. frames: (B, T, H, W, 3) of its video. Raises ValueError for numbers that differ."""
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        all_given = (frames, asked.source_latents, prompts, asked.prompt_embeds)
        counts = {len(given) for given in all_given if given is not None} - {1}
        if len(counts) > 1:
            raise ValueError(f"clips and prompts must be equally many, or one, not {' and '.join(map(str, counts))}")
        inputs, repeats, generator = counts.pop() if counts else 1, asked.num_videos_per_prompt, asked.generator
        if inputs < 1 or repeats < 1:
            raise ValueError("an edit needs at least one clip, one prompt and one result")
        if isinstance(generator, Sequence):
            if repeats == 1 and len(generator) % inputs == 0:
                repeats = max(1, len(generator) // inputs)
            if len(generator) != inputs * repeats:
                raise ValueError(f"{len(generator)} generators cannot seed {inputs * repeats} results: give one each")
        return BatchShape(inputs, repeats)

    def expand(self, tensor: Tensor) -> Tensor:
        """One row per result, from one row or one per input. Raises ValueError for any other number."""
        if len(tensor) == self.size:
            return tensor
        if len(tensor) not in (1, self.inputs):
            raise ValueError(f"{len(tensor)} inputs cannot be spread over {self.size} results")
        return tensor.expand(self.inputs, *tensor.shape[1:]).repeat_interleave(self.repeats, dim=0)
