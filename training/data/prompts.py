"""Prompts as token ids, for the feeds of files and of drawn scenes alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

TEXT_LENGTH = 64
"""Tokens of a prompt of the embedded model, padding included."""


def tokenise(words: PreTrainedTokenizerBase, prompts: Sequence[str], length: int = TEXT_LENGTH) -> Tensor:
    """Prompts as (N, length) int32, cut or padded."""
    rows = words(list(prompts), truncation=True, max_length=length, padding="max_length")["input_ids"]
    return torch.tensor(rows, dtype=torch.int32)
