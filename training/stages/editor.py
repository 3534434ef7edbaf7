"""The objective of the stages `pretrain`, `sft` and `lora`. The data comes from a feed.

Stage 0 (`pretrain`) shows image edits and clips to restore, stage 1 (`sft`) video edits; the objective is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from sama.model.transformer import SamaTransformer3DModel
from sama.pipeline import SamaPipeline
from training.config import TrainConfig
from training.core.batch import EncodedBatch, Feed
from training.core.meter import Cost, batch_cost
from training.data.encoders import Encoders
from training.parallel.activations import checkpoint_activations
from training.parallel.processes import DataRank, full_state_dict
from training.stages.export import write_weights
from training.stages.model import build_transformer, empty_transformer
from training.stages.objective import BandMeans, add_noise, edit_weights, losses, sample_sigmas

SIGMA_BANDS = 4


class EditStage:
    """Flow matching on target latents and anchors, given source latents and text states."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        feed: Feed,
        encoders: Encoders,
        data_rank: DataRank,
        transformer: SamaTransformer3DModel | None = None,
    ) -> None:
        """transformer: what to train, where it was built already."""
        self.config, self.accelerator = config, accelerator
        self.feed, self.encoders, self.data_rank = feed, encoders, data_rank
        self.bands = BandMeans(SIGMA_BANDS, data_rank.device)
        self.transformer = transformer or build_transformer(config, encoders)
        self.model: nn.Module = self.transformer
        if config.compile:
            # Rendered batches have few sequence lengths: a fixed compilation of each makes better kernels than one for
            # any length, which is what the many buckets of manifests get when the second comes.
            self.transformer.compile_repeated_blocks(dynamic=False if config.data.source == "rendered" else None)
        checkpoint_activations(self.transformer, config.parallel, preserve_rng=config.lora.dropout > 0)

    def batches(self) -> Iterator[EncodedBatch]:
        return self.feed.batches()

    def loss(self, model: nn.Module, batch: EncodedBatch, random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts, for the log. random: draws noise levels and noise, on the batch's
        device."""
        sigmas = sample_sigmas(len(batch.target), self.config.objective, random)
        flow, semantic = self.errors(model, batch, sigmas, random)
        self.bands.add(sigmas, flow, semantic)
        if semantic is None:
            return flow.mean(), {"flow": flow.mean().detach()}
        loss = flow.mean() + self.config.objective.semantic_weight * semantic.mean()
        return loss, {"flow": flow.mean().detach(), "semantic": semantic.mean().detach()}

    def errors(
        self, model: nn.Module, batch: EncodedBatch, sigmas: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Flow and semantic loss of each sample, (B,) float32 each, at noise levels `sigmas` (B,) and noise drawn from
        `random`. The semantic loss is None without anchors or with `objective.semantic_weight` 0."""
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
        """The feed's position, and the losses by noise level since the last call of `figures`."""
        return {"feed": self.feed.state_dict(), "bands": self.bands.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.feed.load_state_dict(state["feed"])
        self.bands.load_state_dict(state["bands"])

    def cost(self, batch: EncodedBatch) -> Cost:
        return batch_cost(self.transformer.config, batch, frozen=self.config.stage == "lora")

    def figures(self) -> dict[str, float]:
        """Losses by noise level."""
        return self.bands.read()

    def summary(self) -> str:
        return self.feed.summary()

    def pipeline(self) -> SamaPipeline:
        """A pipeline of the live transformer and the frozen parts, for samples. A large text encoder is left out, since
        it may have been released: such a pipeline takes prompts as states."""
        encoders = self.encoders
        own = {"shift": self.config.objective.sigma_shift, "default_steps": self.config.watch.sample_steps}
        return SamaPipeline(
            transformer=self.transformer,
            vae=encoders.vae,
            text_encoder=encoders.text if encoders.small else None,
            tokenizer=encoders.tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            **{**encoders.settings, **own},
        )

    def export(self, folder: Path) -> None:
        """Write what the run gives: see `training.stages.export`."""
        weights = full_state_dict(self.transformer)
        if not self.accelerator.is_main_process:
            return
        transformer = self.transformer
        if isinstance(transformer, FSDPModule):
            arguments = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
            transformer = empty_transformer(arguments)
            transformer.load_state_dict(weights, assign=True)
        write_weights(transformer, self.config, folder)


def _noise_like(tensor: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(tensor.shape, generator=random, device=tensor.device)
