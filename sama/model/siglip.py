"""Reads plans of a model that is loaded without its vision tower: a SigLIP model, fetched when somebody asks.

Its vision side turns the first frames into anchors as in training; its text side names anchors. A local anchor is not
in the space of the words: it goes through the tower's pooling head alone, as if the picture had no other place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sama.errors import EditError
from sama.model.named import NEAREST, Named, short_name
from sama.model.semantics import NUM_LOCAL_TOKENS, picture_tokens
from sama.model.vocabulary import SMALL_WORDS, WORDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import SiglipModel, SiglipVisionModel

SURE = 0.5
"""The share of all words' probability that a name needs to be shown."""
NOTE = "Names come from the text side of the model's own vision tower; how often they are right is not measured."


class SiglipReader:
    """A SigLIP model that reads pictures and names anchors. `names` needs both of its sides."""

    def __init__(self, tower: SiglipVisionModel, whole: SiglipModel | None, tokenizer: Any) -> None:
        self.tower, self._whole, self._tokenizer = tower, whole, tokenizer

    @property
    def width(self) -> int:
        """The width of its anchors."""
        return int(self.tower.config.hidden_size)

    @property
    def names_tokens(self) -> bool:
        """Whether it has a text side."""
        return self._whole is not None

    def tokens(self, picture: NDArray[np.uint8]) -> Tensor:
        """Anchors (65, C) of a picture (H, W, 3)."""
        return picture_tokens(self.tower, picture)

    @torch.inference_mode()
    def names(self, tokens: Tensor, words: Sequence[str]) -> Named:
        """The nearest of `words` for tokens (sets, 65, C), with the share of the probability that each has."""
        assert self._whole is not None  # see names_tokens
        states = F.normalize(self._embedded(words), dim=-1)
        local = self.tower.head(tokens[:, :NUM_LOCAL_TOKENS].float().flatten(0, 1).unsqueeze(1))
        pooled = torch.cat([local.view(len(tokens), NUM_LOCAL_TOKENS, -1), tokens[:, NUM_LOCAL_TOKENS:].float()], dim=1)
        logits = F.normalize(pooled, dim=-1) @ states.T * self._whole.logit_scale.exp()
        scores, places = logits.softmax(dim=-1).topk(NEAREST, dim=-1)
        found = scores.numpy()
        return Named(tuple(words), places.short().numpy(), found, found[..., 0] >= SURE, NOTE)

    def _embedded(self, words: Sequence[str]) -> Tensor:
        assert self._whole is not None
        length = self._whole.config.text_config.max_position_embeddings
        phrases = [f"a photo of {word}." for word in words]  # lower case: SigLIP's own captions were
        ids = self._tokenizer(
            phrases, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        parts = [self._whole.text_model(input_ids=part).pooler_output for part in ids.split(64)]
        return torch.cat(parts).float()


def siglip_reader(name: str) -> SiglipReader:
    """A reader in main memory, gigabytes for a large model: drop it when the plan is read.

    name: folder or Hub name of a SigLIP model, or of its vision side alone. What is not on this machine is fetched.
    Raises EditError with one sentence where that fails.
    """
    try:
        return _load(name)
    except (OSError, ValueError) as error:
        raise EditError(
            f"The vision tower that reads this plan, {short_name(name)}, is not on this machine and could not be "
            "fetched. Connect to the internet and try again, or start the app with --tower and the folder of a copy."
        ) from error


def words_for(instruction: str) -> list[str]:
    """Words to choose names from: everyday ones, and those of the instruction."""
    own = [word for word in re.findall(r"[a-z]{3,}", instruction.lower()) if word not in SMALL_WORDS]
    return list(dict.fromkeys([*own, *WORDS]))


def _load(name: str) -> SiglipReader:
    from transformers import AutoConfig, AutoTokenizer, SiglipModel, SiglipVisionModel

    kind = AutoConfig.from_pretrained(name).model_type
    if kind == "siglip_vision_model":
        return SiglipReader(SiglipVisionModel.from_pretrained(name, dtype=torch.float32).eval(), None, None)
    if kind != "siglip":
        raise ValueError(f"{name} is a {kind}, not a SigLIP model")
    whole = SiglipModel.from_pretrained(name, dtype=torch.float32).eval()
    return SiglipReader(whole.vision_model, whole, AutoTokenizer.from_pretrained(name))
