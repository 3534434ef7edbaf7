"""Names of anchors as arrays, that travel and are kept with a run. Without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EMBEDDED = "the embedded model's tower"
"""How a record names the tower of `assets/sama-tiny`."""
NAMING_FILE = "naming.safetensors"
"""The file of a tower's naming probe, beside the weights of the tower that it reads."""
NEAREST = 3
"""Names that are kept for each token."""


@dataclass(frozen=True)
class Named:
    """Names of tokens (..., 65), best first.

    words: every name that occurs. indices: (..., 65, 3) int16, into words; scores: (..., 65, 3) float32, 0 to 1.
    sure: (..., 65) bool, whether the first name is sure enough to be shown. note: how far the names can be trusted, one
        sentence for people.
    """

    words: tuple[str, ...]
    indices: NDArray[np.int16]
    scores: NDArray[np.float32]
    sure: NDArray[np.bool_]
    note: str

    def word(self, *place: int) -> str:
        """The nearest name of one token, sure or not."""
        return self.words[self.indices[(*place, 0)]]

    def sure_words(self, which: int) -> list[str]:
        """The names of the 65 tokens of a set; "" where none is sure."""
        return [self.word(which, token) if self.sure[which, token] else "" for token in range(self.sure.shape[-1])]

    def placed(self, order: Sequence[int], first: int) -> Named:
        """The names after the tokens of the sets from `first` on were put in another order."""
        indices, scores, sure = self.indices.copy(), self.scores.copy(), self.sure.copy()
        for array in (indices, scores, sure):
            array[first:] = array[first:, list(order)]
        return Named(self.words, indices, scores, sure, self.note)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields as arrays, for a file."""
        text = {"words": np.array(self.words), "note": np.array(self.note)}
        return text | {"indices": self.indices, "scores": self.scores.astype(np.float16), "sure": self.sure}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Named:
        """The names that `arrays` gave."""
        words = tuple(str(word) for word in arrays["words"])
        return cls(words, arrays["indices"], arrays["scores"].astype(np.float32), arrays["sure"], str(arrays["note"]))


def short_name(tower: str) -> str:
    """A tower's folder or Hub name without where it lies on this machine: "google/siglip-so400m-patch14-384"."""
    return "/".join(tower.rstrip("/").split("/")[-2:])
