"""Stage `tower`: teach a small SigLIP-type tower to see names on the 8 x 8 grid.

SigLIP's own weights are too large to ship and see drawings poorly. The generator knows what stands where, so the tower
learns it directly: each cell's token must pick the embedding of its cell's name among all names of the batch, the
pooled token its picture's description, and every cell must also tell its mean colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoTokenizer, SiglipVisionConfig, SiglipVisionModel

from training.config import TrainConfig
from training.core.float8 import rewrite_compact
from training.core.meter import Cost
from training.data.drawn.scenes import LabelledAnchors, RenderedGroups
from training.stages.model import require_arguments
from training.tiny.stage import RenderedStage
from training.tiny.text_encoder import load_frozen

CLIPS_PER_GROUP = 6
TEMPERATURE = 0.05
COLOUR_WEIGHT = 2.0


class NamedTower(nn.Module):
    """The tower with the probes of its training, which are thrown away."""

    def __init__(self, config: SiglipVisionConfig, text_dim: int) -> None:
        super().__init__()
        self.tower = SiglipVisionModel(config)
        self.name_probe = nn.Linear(config.hidden_size, text_dim)
        self.caption_probe = nn.Linear(config.hidden_size, text_dim)
        self.colour_probe = nn.Linear(config.hidden_size, 3)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (B, 3, S, S) in [-1, 1] to names (B, 64, text_dim), captions (B, text_dim), colours (B, 64, 3)."""
        out = self.tower(pixel_values=pixels)
        tokens = out.last_hidden_state
        return self.name_probe(tokens), self.caption_probe(out.pooler_output), self.colour_probe(tokens)


class TowerStage(RenderedStage):
    """Contrastive naming of cells and captions, and colour regression."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        torch.manual_seed(config.seed)
        base = Path(config.base)
        self.tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
        self.text = load_frozen(base, accelerator.device)
        require_arguments(config.model, SiglipVisionConfig)
        siglip = SiglipVisionConfig(**config.model)
        self.model: nn.Module = NamedTower(siglip, self.text.config.hidden_size).to(accelerator.device)
        self.embeddings: dict[str, Tensor] = {}

    def batches(self) -> Iterator[dict[str, Any]]:
        data, rank = self.config.data.rendered, self.accelerator.process_index
        batch = (max(1, self.config.batch_size // CLIPS_PER_GROUP), _collate)
        labelled = LabelledAnchors(CLIPS_PER_GROUP)
        groups = RenderedGroups(data.pack, 1, labelled, self.config.seed, rank, batch, self.taken)
        yield from self._taking(groups)

    def cost(self, batch: dict[str, Any]) -> Cost:
        return Cost(len(batch["anchors"]), 0, 0)

    def summary(self) -> str:
        return f"first frames of scenes rendered from {self.config.data.rendered.pack}"

    def loss(
        self,
        model: nn.Module,
        batch: dict[str, Any],
        random: torch.Generator,  # noqa: ARG002 - one signature
    ) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.accelerator.device
        pixels = batch["anchors"].to(device).float() / 127.5 - 1
        names, captions, colours = model(pixels)
        known = sorted({name for cells in batch["cells"] for name in cells})
        index = {name: i for i, name in enumerate(known)}
        wanted = torch.tensor([[index[name] for name in cells] for cells in batch["cells"]], device=device)
        logits = F.normalize(names.float(), dim=-1) @ self._embed(known).T / TEMPERATURE
        naming = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        described = sorted(set(batch["captions"]))
        place = {caption: i for i, caption in enumerate(described)}
        right = torch.tensor([place[caption] for caption in batch["captions"]], device=device)
        caption_logits = F.normalize(captions.float(), dim=-1) @ self._embed(described, keep=False).T / TEMPERATURE
        captioning = F.cross_entropy(caption_logits, right)
        cell_colours = F.adaptive_avg_pool2d(pixels, 8).flatten(2).transpose(1, 2)
        colour = F.mse_loss(colours.float(), cell_colours)
        accuracy = (logits.argmax(-1) == wanted).float().mean()
        loss = naming + captioning + COLOUR_WEIGHT * colour
        logs = {"naming": naming, "captioning": captioning, "colour": colour, "accuracy": accuracy}
        return loss, {name: value.detach() for name, value in logs.items()}

    @torch.no_grad()
    def _embed(self, phrases: list[str], keep: bool = True) -> Tensor:
        """Unit vectors (N, text_dim): mean token states. Names recur and are kept; captions do not."""
        new = [phrase for phrase in phrases if phrase not in self.embeddings]
        found: dict[str, Tensor] = {}
        for start in range(0, len(new), 512):
            some = new[start : start + 512]
            tokens = self.tokenizer(some, padding=True, truncation=True, return_tensors="pt").to(self.text.device)
            mask = tokens["attention_mask"].unsqueeze(-1)
            states = self.text(**tokens).last_hidden_state.float()
            found |= zip(some, F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1), strict=True)
        if keep:
            self.embeddings |= found
        return torch.stack([self.embeddings.get(phrase, found.get(phrase)) for phrase in phrases])  # type: ignore[misc]

    def export(self, folder: Path) -> None:
        """Write `semantic_tower`."""
        if not self.accelerator.is_main_process:
            return
        assert isinstance(self.model, NamedTower)
        self.model.tower.save_pretrained(folder / "semantic_tower")
        rewrite_compact(folder / "semantic_tower" / "model.safetensors")


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "anchors": torch.cat([sample["anchors"] for sample in samples]),
        "cells": [cells for sample in samples for cells in sample["cells"]],
        "captions": [caption for sample in samples for caption in sample["captions"]],
    }
