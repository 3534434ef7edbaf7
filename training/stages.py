"""Stages `pretrain`, `sft` and `lora`: what the transformer is asked for. What it is shown is the feed's matter.

Stage 0 (`pretrain`) shows image edits and clips to restore, stage 1 (`sft`) video edits; the objective is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file
from torch import Tensor, nn

from sama.pipeline import SamaPipeline
from sama.transformer import SamaTransformer3DModel
from training.batch import Batch, Feed, Place
from training.config import ConfigError, TrainConfig
from training.data.rendered_feed import RenderedFeed
from training.encoders import Encoders
from training.objective import add_noise, edit_weights, losses, sample_sigmas
from training.storage import rewrite_compact
from training.vae import WEIGHTS_FILE

SIGMA_BANDS = 4


class EditStage:
    """Flow matching on target latents and anchors, given source latents and text states."""

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, feed: Feed, encoders: Encoders, place: Place
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.feed, self.encoders, self.place = feed, encoders, place
        torch.manual_seed(config.seed)
        transformer = SamaTransformer3DModel(
            **config.model,
            in_channels=encoders.latent_channels,
            out_channels=encoders.latent_channels,
            text_dim=encoders.text_dim,
            semantic_dim=encoders.semantic_dim,
        )
        if config.start_from_base:
            _load_stored(transformer, Path(config.base) / "transformer" / WEIGHTS_FILE)
        self.transformer = transformer.to(place.device)
        self.model: nn.Module = self.transformer
        if config.compile:
            # Buckets have two sequence lengths: two fixed compilations make better kernels than one for any length.
            self.transformer.compile_repeated_blocks(dynamic=False)

    def batches(self) -> Iterator[Batch]:
        return self.feed.batches()

    def loss(self, model: nn.Module, batch: Batch, random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts, for the log. random: of noise levels and noise, on the batch's device."""
        sigmas = sample_sigmas(len(batch.target), self.config.objective, random)
        flow, semantic = self.errors(model, batch, sigmas, random)
        loss = flow.mean()
        logs = {"flow": flow.mean().detach()}
        order = sigmas.argsort()
        for band, part in enumerate(flow.detach()[order].chunk(SIGMA_BANDS)):
            logs[f"flow_band_{band}"] = part.mean()  # from the least noise to the most
        if semantic is not None:
            loss = loss + self.config.objective.semantic_weight * semantic.mean()
            logs["semantic"] = semantic.mean().detach()
            for band, part in enumerate(semantic.detach()[order].chunk(SIGMA_BANDS)):
                logs[f"semantic_band_{band}"] = part.mean()
        return loss, logs

    def errors(
        self, model: nn.Module, batch: Batch, sigmas: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Flow and semantic loss of each sample, (B,) float32 each, at noise levels `sigmas` (B,) and noise drawn from
        `random`; None without anchors or with `objective.semantic_weight` 0."""
        target = batch.target.float()
        source = None if batch.source is None else batch.source.float()
        anchors = batch.anchors if self.config.objective.semantic_weight else None
        with torch.no_grad():
            video = add_noise(target, sigmas, _noise_like(target, random))
            plan = None if anchors is None else add_noise(anchors, sigmas, _noise_like(anchors, random))
            weights = edit_weights(source, target, self.config.objective.edit_weight)
        velocity, semantic = model(
            hidden_states=video.state,
            timestep=sigmas * 1000,
            encoder_hidden_states=batch.text,
            source_hidden_states=source,
            semantic_hidden_states=None if plan is None else plan.state,
            return_dict=False,
        )
        return losses(velocity, video.velocity, weights, semantic, None if plan is None else plan.velocity)

    def state_dict(self) -> dict[str, Any]:
        """The feed's position."""
        return self.feed.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.feed.load_state_dict(state)

    def summary(self) -> str:
        return self.feed.summary()

    def pipeline(self) -> SamaPipeline:
        """The live transformer with the frozen parts, for samples."""
        encoders, small = self.encoders, self.encoders.small
        return SamaPipeline(
            transformer=self.transformer,
            vae=encoders.vae,
            text_encoder=encoders.text,
            tokenizer=encoders.tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            max_sequence_length=encoders.text_length,
            spell_quotes=small,
            shift=self.config.objective.sigma_shift,
            default_steps=self.config.watch.sample_steps,
            default_guidance=2.0 if small else 5.0,
        )

    def export(self, folder: Path) -> None:
        """Write `transformer`."""
        self.transformer.save_pretrained(folder / "transformer")
        rewrite_compact(folder / "transformer" / WEIGHTS_FILE)


def _noise_like(tensor: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=random, device=tensor.device)


def _load_stored(transformer: SamaTransformer3DModel, path: Path) -> None:
    """Load compactly stored weights. ConfigError: there are none, or they are another model's."""
    if not path.is_file():
        raise ConfigError(f"start_from_base: there is no {path}; train with start_from_base=false first")
    try:
        transformer.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except RuntimeError as error:
        raise ConfigError(f"start_from_base: {path} does not fit the section `model`: {error}") from error


def build_feed(config: TrainConfig, encoders: Encoders, place: Place) -> Feed:
    """The feed that a configuration names."""
    if config.data.source == "manifest":
        from training.data.manifest_feed import ManifestFeed

        return ManifestFeed(config, encoders, place)
    return RenderedFeed(config, encoders, place)


def build_stage(config: TrainConfig, accelerator: Accelerator) -> Any:
    """The stage that a configuration names."""
    if config.stage == "vae":
        from training.vae import VaeStage

        return VaeStage(config, accelerator)
    if config.stage == "tower":
        from training.tower import TowerStage

        return TowerStage(config, accelerator)
    place = Place(accelerator.process_index, accelerator.num_processes, accelerator.device)
    encoders = Encoders(config.base, config.tower, place.device, config.precision)
    return EditStage(config, accelerator, build_feed(config, encoders, place), encoders, place)
