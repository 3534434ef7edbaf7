"""The two texts of an edit, instruction and negative prompt: their states, and what of them the model does not read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sama.edit.request import EditRequest

if TYPE_CHECKING:
    from torch import Tensor

    from sama.pipeline import SamaPipeline


@dataclass(frozen=True)
class Texts:
    """Text states (1, L, D) of one edit, the same for every window; `negative` is None where no pass needs it."""

    positive: Tensor
    negative: Tensor | None

    @staticmethod
    def of(request: EditRequest, pipeline: SamaPipeline) -> Texts:
        guidance = pipeline.config["default_guidance"] if request.guidance is None else request.guidance
        positive = pipeline.encode_text([request.instruction])
        return Texts(positive, None if guidance == 1 else pipeline.encode_text([request.negative_prompt]))


@dataclass(frozen=True)
class Unread:
    """The ends of the two texts that are beyond the tokens that the model reads; "" where all is read."""

    instruction: str
    negative: str
    max_tokens: int

    @staticmethod
    def of(request: EditRequest, pipeline: SamaPipeline) -> Unread:
        room = pipeline.config["max_sequence_length"]
        return Unread(pipeline.unread(request.instruction), pipeline.unread(request.negative_prompt), room)

    def sentences(self) -> Iterator[str]:
        """A sentence for the user about each text that is too long."""
        for name, text in (("instruction", self.instruction), ("negative prompt", self.negative)):
            if text:
                yield f"The {name} is longer than the {self.max_tokens} tokens the model reads; not read is: {text}"
