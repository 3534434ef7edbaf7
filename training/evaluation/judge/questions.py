"""The questions to a judge: criteria on a scale, and how the two pictures or clips are shown."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Show = Literal["source first", "edited first", "side by side"]


@dataclass(frozen=True)
class Criterion:
    """name: the key in the answer. meaning: the question. levels: (score or range, what it stands for)."""

    name: str
    meaning: str
    levels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Question:
    """One request: some criteria, all on the scale `low` to `high`.

    zero_if_unchanged: an edit that did nothing gets 0 on every criterion, and that is the only way to a 0.
    """

    name: str
    criteria: tuple[Criterion, ...]
    low: float = 1
    high: float = 10
    show: Show = "source first"
    rules: tuple[str, ...] = ()
    zero_if_unchanged: bool = False

    def text(self, instruction: str) -> str:
        """The words of the request, to follow the pictures."""
        lines = [
            "You grade edits of videos and images. The instruction of this edit was:",
            f"<instruction>{instruction}</instruction>",
            f"Grade each criterion with a number from {self.low:g} to {self.high:g}.",
        ]
        for criterion in self.criteria:
            lines.append(f"\n{criterion.name}: {criterion.meaning}")
            lines += [f"  {score}: {meaning}" for score, meaning in criterion.levels]
        lines += ["", *self.rules] if self.rules else [""]
        keys = ", ".join(f'"{criterion.name}": <number>' for criterion in self.criteria)
        lines.append(f'Answer with one JSON object and nothing else: {{{keys}, "explanation": "<one short sentence>"}}')
        return "\n".join(lines)

    def fingerprint(self) -> str:
        """A hash of the question: answers to different wordings must not be mixed."""
        return hashlib.sha256(f"{self.show}\n{self.text('')}".encode()).hexdigest()[:12]
