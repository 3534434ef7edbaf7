"""Stages `pretrain` and `sft`: what the transformer is shown, and what it is asked for.

`pretrain` is the paper's stage 0: image edits (one-frame clips) with pretext restorations of videos. `sft` is its
stage 1: video edits; the embedded model keeps a share of restorations in it, so that both abilities stay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, BertModel, SiglipVisionModel

from sama.pretext import EDIT_PREFIX
from sama.prompts import model_prompt
from sama.semantics import anchor_tokens
from sama.transformer import SamaTransformer3DModel
from training.config import TrainConfig
from training.data.latents import EditBatch, LatentStore
from training.data.rendered import PairedClips, RenderedGroups, stream
from training.loop import autocast
from training.objective import add_noise, edit_weights, losses, sample_sigmas
from training.one_pass import OnePassVAE
from training.storage import rewrite_compact
from training.vae import WEIGHTS_FILE

logger = logging.getLogger(__name__)

TEXT_LENGTH = 64
SIGMA_BANDS = 4


class EditStage:
    """Flow matching on target latents and anchors, given source latents and an instruction."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        device, base = accelerator.device, Path(config.base)
        torch.manual_seed(config.seed)
        vae = AutoencoderKLWan.from_pretrained(base / "vae", torch_dtype=torch.float32)
        self.vae = OnePassVAE(vae).to(device).eval().requires_grad_(False)
        self.tower = SiglipVisionModel.from_pretrained(base / "semantic_tower", dtype=torch.float32)
        self.tower.to(device).eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
        self.text = BertModel.from_pretrained(base / "text_encoder", dtype=torch.float32, add_pooling_layer=False)
        self.text.to(device).eval().requires_grad_(False)
        statistics = torch.tensor([vae.config.latents_mean, vae.config.latents_std], device=device)
        self.mean, self.std = statistics.view(2, 1, -1, 1, 1, 1)
        transformer = SamaTransformer3DModel(
            **config.model,
            in_channels=vae.config.z_dim,
            out_channels=vae.config.z_dim,
            text_dim=self.text.config.hidden_size,
            semantic_dim=self.tower.config.hidden_size,
        )
        start = base / "transformer" / WEIGHTS_FILE
        if config.start_from_base and start.is_file():
            transformer.load_state_dict({name: tensor.float() for name, tensor in load_file(start).items()})
        self.transformer = transformer.to(device)
        self.model: nn.Module = self.transformer
        if config.compile:
            self.transformer.compile_repeated_blocks(dynamic=True)  # buckets have two sequence lengths
        seed = config.seed + 1000 * (1 + accelerator.process_index)
        self.random = torch.Generator(device).manual_seed(seed)
        bare = self._tokenise([model_prompt("", EDIT_PREFIX)])[0]
        self.bare_ids = torch.tensor((bare + [0] * TEXT_LENGTH)[:TEXT_LENGTH], device=device)

    def batches(self) -> Iterator[EditBatch]:
        data = self.config.data
        store = self._encoded()
        return store.batches(self.config.batch_size, data.pretext_share, self.random)

    def loss(self, model: nn.Module, batch: EditBatch) -> tuple[Tensor, dict[str, Tensor]]:
        objective = self.config.objective
        target, source = batch.target.float(), batch.source.float()
        with torch.no_grad():
            text = self._text_states(self._dropped(batch.token_ids))
            anchors = anchor_tokens(self.tower, batch.anchors.float() / 255).float()
            sigmas = sample_sigmas(len(target), objective.sigma_shift, self.random)
            video = add_noise(target, sigmas, self._noise_like(target))
            plan = add_noise(anchors, sigmas, self._noise_like(anchors))
            weights = edit_weights(source, target, objective.edit_weight)
        velocity, semantic = model(
            hidden_states=video.state,
            timestep=sigmas * 1000,
            encoder_hidden_states=text,
            source_hidden_states=source,
            semantic_hidden_states=plan.state,
            return_dict=False,
        )
        loss, flow, anchor_loss = losses(velocity, video.velocity, semantic, plan.velocity, weights, objective)
        logs = {"flow": flow.mean().detach(), "semantic": anchor_loss.detach()}
        order = sigmas.argsort()
        for band, part in enumerate(flow.detach()[order].chunk(SIGMA_BANDS)):
            logs[f"flow_band_{band}"] = part.mean()  # from the least noise to the most
        return loss, logs

    def export(self, folder: Path) -> None:
        """Write `transformer`."""
        self.transformer.save_pretrained(folder / "transformer")
        rewrite_compact(folder / "transformer" / WEIGHTS_FILE)

    def _encoded(self) -> LatentStore:
        """Render and encode groups until there are `groups` of them, or for `encode_minutes`."""
        data, device = self.config.data, self.accelerator.device
        store = LatentStore(device, self._tokenise, TEXT_LENGTH, data.task_weights)
        dataset = RenderedGroups(
            data.pack, data.frames, PairedClips(data.paraphrases), self.config.seed, self.accelerator.process_index
        )
        count, start = 0, time.monotonic()
        for group in stream(dataset, data.workers, None):
            store.add(group, self._encode(group["clips"].to(device, non_blocking=True)), self._words)
            count += 1
            enough = count >= data.groups if data.groups else time.monotonic() - start > data.encode_minutes * 60
            if enough:
                break
        store.seal()
        logger.info("encoded %d groups in %.0f s: %s", count, time.monotonic() - start, store.counts())
        return store

    @torch.no_grad()
    def _encode(self, clips: Tensor) -> Tensor:
        """Clips (N, 3, T, H, W) uint8 to normalised latents (N, C, F, H/8, W/8)."""
        with autocast(self.config, self.accelerator.device):
            mean, _ = self.vae.encode(clips.float() / 127.5 - 1)
        return (mean.float() - self.mean) / self.std

    def _tokenise(self, prompts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(prompts), truncation=True, max_length=TEXT_LENGTH)["input_ids"]

    def _words(self, prefix: str, text: str) -> str:
        return model_prompt(text, prefix or EDIT_PREFIX, spell_quotes=True)

    def _dropped(self, token_ids: Tensor) -> Tensor:
        drop = torch.rand(len(token_ids), 1, generator=self.random, device=token_ids.device)
        return torch.where(drop < self.config.data.text_dropout, self.bare_ids, token_ids)

    def _text_states(self, token_ids: Tensor) -> Tensor:
        """States (B, L, text_dim); padded rows are zero and take part in the attention, as in the official code."""
        mask = token_ids != self.tokenizer.pad_token_id
        states = self.text(input_ids=token_ids, attention_mask=mask).last_hidden_state
        return states * mask.unsqueeze(-1)

    def _noise_like(self, tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=self.random, device=tensor.device)


def build_stage(config: TrainConfig, accelerator: Accelerator) -> Any:
    """The stage that a configuration names."""
    if config.stage == "vae":
        from training.vae import VaeStage

        return VaeStage(config, accelerator)
    if config.stage == "tower":
        from training.tower import TowerStage

        return TowerStage(config, accelerator)
    return EditStage(config, accelerator)
