"""Stages `pretrain` and `sft`: what the transformer is shown, and what it is asked for.

Both show video edits and pretext restorations on rendered clips; the mixture (`data.pretext_share`,
`data.task_weights`) tells them apart. The embedded model is trained in one `sft` run with a share of restorations, so
that both abilities stay. The paper's stage 0 also has image edits, which are not drawn yet.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import SiglipVisionModel

from sama.pretext import EDIT_PREFIX
from sama.prompts import model_prompt
from sama.semantics import anchor_tokens
from sama.shapes import TINY_BUCKETS
from sama.transformer import SamaTransformer3DModel
from training.config import ConfigError, TrainConfig
from training.data.latents import EditBatch, LatentStore
from training.data.rendered import TEXT_LENGTH, PairedClips, RenderedGroups, stream, tokenise, tokenizer
from training.loop import autocast
from training.objective import add_noise, edit_weights, losses, sample_sigmas
from training.one_pass import OnePassVAE
from training.storage import rewrite_compact
from training.text_encoder import load_frozen
from training.vae import WEIGHTS_FILE

logger = logging.getLogger(__name__)

SIGMA_BANDS = 4
CLIPS_AT_ONCE = 4
"""Clips that the VAE encodes at a time, a group's last ones padded to it: one shape for each bucket. Kernels are tuned
(`cudnn.benchmark`) for every shape that a convolution meets, which takes seconds."""


class EditStage:
    """Flow matching on target latents and anchors, given source latents and an instruction."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        device, base = accelerator.device, Path(config.base)
        torch.manual_seed(config.seed)
        vae = AutoencoderKLWan.from_pretrained(base / "vae", torch_dtype=torch.float32)
        # Autocast would round these weights anew for every clip; rounded once, they give the same latents, bit for bit.
        stored = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        self.vae = OnePassVAE(vae).to(device, stored).eval().requires_grad_(False)
        self.tower = SiglipVisionModel.from_pretrained(base / "semantic_tower", dtype=torch.float32)
        self.tower.to(device).eval().requires_grad_(False)
        words = tokenizer(str(base / "tokenizer"))
        self.pad_token = words.pad_token_id
        self.bare_ids = tokenise(words, [model_prompt("", EDIT_PREFIX)])[0].long().to(device)
        self.text = load_frozen(base, device)
        statistics = torch.tensor([vae.config.latents_mean, vae.config.latents_std], device=device)
        self.mean, self.std = statistics.view(2, 1, -1, 1, 1, 1)
        transformer = SamaTransformer3DModel(
            **config.model,
            in_channels=vae.config.z_dim,
            out_channels=vae.config.z_dim,
            text_dim=self.text.config.hidden_size,
            semantic_dim=self.tower.config.hidden_size,
        )
        if config.start_from_base:
            _load_stored(transformer, base / "transformer" / WEIGHTS_FILE)
        self.transformer = transformer.to(device)
        self.model: nn.Module = self.transformer
        if config.compile:
            # Buckets have two sequence lengths: two fixed compilations make better kernels than one for any length.
            self.transformer.compile_repeated_blocks(dynamic=False)
        self.seed = config.seed + 1000 * (1 + accelerator.process_index)
        self.random = torch.Generator(device).manual_seed(self.seed)

    def batches(self) -> Iterator[EditBatch]:
        """Fill the store, then draw from it; `refresh_per_step` new groups are encoded before each batch."""
        data = self.config.data
        groups = self._groups()
        store = self._filled(groups)
        if not data.refresh_per_step:
            del groups  # and with it the workers
        due = 0.0
        while True:
            due += data.refresh_per_step
            while due >= 1:
                store.add(*next(groups))
                due -= 1
            yield store.draw(self.config.batch_size, data.pretext_share)

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

    def _filled(self, groups: Iterator[tuple[dict[str, Any], Tensor]]) -> LatentStore:
        """A store with the first `groups` groups, or with those that come within `encode_minutes`."""
        data = self.config.data
        capacity = -(-data.capacity_groups // len(TINY_BUCKETS))
        store = LatentStore(self.accelerator.device, capacity, data.task_weights, self.seed)
        count, start = 0, time.monotonic()
        for group, latents in groups:
            store.add(group, latents)
            count += 1
            enough = count >= data.groups if data.groups else time.monotonic() - start > data.encode_minutes * 60
            if enough:
                break
        logger.info("encoded %d groups in %.0f s: %s", count, time.monotonic() - start, store.counts())
        return store

    def _groups(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Groups with their latents, without end. While one is encoded, the next one's clips travel to the device."""
        data, device = self.config.data, self.accelerator.device
        transform = PairedClips(str(Path(self.config.base) / "tokenizer"), data.paraphrases)
        dataset = RenderedGroups(data.pack, data.frames, transform, self.config.seed, self.accelerator.process_index)
        travel = torch.cuda.Stream(device) if device.type == "cuda" else None
        ahead: tuple[dict[str, Any], Tensor] | None = None
        for group in stream(dataset, data.workers, None, pin=travel is not None):
            with torch.cuda.stream(travel):  # None: does nothing
                clips = group.pop("clips")
                room = -(-len(clips) // CLIPS_AT_ONCE) * CLIPS_AT_ONCE
                moved = torch.zeros(room, *clips.shape[1:], dtype=torch.uint8, device=device)
                moved[: len(clips)].copy_(clips, non_blocking=True)
            group["count"] = len(clips)
            if ahead:
                yield ahead[0], self._encode(ahead[1])[: ahead[0]["count"]]
            if travel is not None:
                torch.cuda.current_stream(device).wait_stream(travel)
                moved.record_stream(torch.cuda.current_stream(device))
            ahead = group, moved

    @torch.no_grad()
    def _encode(self, clips: Tensor) -> Tensor:
        """Clips (N, T, H, W, 3) uint8 to normalised latents (N, C, F, H/8, W/8)."""
        means = []
        with autocast(self.config, self.accelerator.device):
            for some in clips.permute(0, 4, 1, 2, 3).split(CLIPS_AT_ONCE):
                means.append(self.vae.encode(some.float() / 127.5 - 1)[0])
        return (torch.cat(means).float() - self.mean) / self.std

    def _dropped(self, token_ids: Tensor) -> Tensor:
        drop = torch.rand(len(token_ids), 1, generator=self.random, device=token_ids.device)
        return torch.where(drop < self.config.data.text_dropout, self.bare_ids, token_ids)

    def _text_states(self, token_ids: Tensor) -> Tensor:
        """States (B, L, text_dim); padded rows are zero and take part in the attention, as in the official code."""
        mask = token_ids != self.pad_token
        # With four dimensions it is taken as it is; of two, the encoder would first ask the device for padding.
        wide = mask[:, None, None].expand(-1, 1, TEXT_LENGTH, -1)
        states = self.text(input_ids=token_ids, attention_mask=wide).last_hidden_state
        return states * mask.unsqueeze(-1)

    def _noise_like(self, tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=self.random, device=tensor.device)


def _load_stored(transformer: SamaTransformer3DModel, path: Path) -> None:
    """Load compactly stored weights. ConfigError: there are none, or they are another model's."""
    if not path.is_file():
        raise ConfigError(f"start_from_base: there is no {path}; train with start_from_base=false first")
    try:
        transformer.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except RuntimeError as error:
        raise ConfigError(f"start_from_base: {path} does not fit the section `model`: {error}") from error


def build_stage(config: TrainConfig, accelerator: Accelerator) -> Any:
    """The stage that a configuration names."""
    if config.stage == "vae":
        from training.vae import VaeStage

        return VaeStage(config, accelerator)
    if config.stage == "tower":
        from training.tower import TowerStage

        return TowerStage(config, accelerator)
    return EditStage(config, accelerator)
