"""Stage `vae`: train the small `AutoencoderKLWan` on rendered clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from training.config import TrainConfig
from training.core.float8 import RoundedWeights, rewrite_compact
from training.core.meter import Cost
from training.core.precision import autocast
from training.data.drawn.scenes import ClipCrops, RenderedGroups
from training.data.whole_clip_vae import OnePassVAE
from training.stages.model import require_arguments, told_by_section
from training.tiny.stage import RenderedStage

CROP = 144
CLIPS_PER_GROUP = 4
KL_WEIGHT = 1e-4
GRADIENT_WEIGHT = 0.5
SQUARE_WEIGHT = 4.0
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


class VaeStage(RenderedStage):
    """Reconstruction by L1 and squared error, the same on spatial differences (it is what keeps small text legible),
    and a weak KL term, under which the latents carry noise that a diffusion model's small errors resemble."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        torch.manual_seed(config.seed)
        require_arguments(config.model, AutoencoderKLWan, ("z_dim",))
        z_dim = config.model["z_dim"]
        neutral = {"latents_mean": [0.0] * z_dim, "latents_std": [1.0] * z_dim}
        with told_by_section():
            self.vae = AutoencoderKLWan(**config.model, **neutral)
        self.model: nn.Module = OnePassVAE(self.vae).to(accelerator.device)

    def batches(self) -> Iterator[Tensor]:
        """Clips (B, 3, T, 144, 144) uint8, on the host."""
        data, rank = self.config.data.rendered, self.accelerator.process_index
        batch = (max(1, self.config.batch_size // CLIPS_PER_GROUP), _collate)
        crops = ClipCrops(CROP, CLIPS_PER_GROUP)
        groups = RenderedGroups(data.pack, data.frames, crops, self.config.seed, rank, batch, self.taken)
        yield from self._taking(groups)

    def loss(self, model: nn.Module, batch: Tensor, random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        frames = self._pixels(batch)
        shape = (len(frames), self.config.model["z_dim"], (frames.shape[2] - 1) // 4 + 1, CROP // 8, CROP // 8)
        output, mean, logvar = model(frames, torch.randn(shape, generator=random, device=frames.device))
        error = output.float() - frames
        absolute, square = error.abs().mean(), error.square().mean()
        gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = 0.5 * (mean.float().square() + logvar.float().exp() - 1 - logvar.float()).mean()
        loss = absolute + SQUARE_WEIGHT * square + GRADIENT_WEIGHT * gradient + KL_WEIGHT * kl
        psnr = -10 * torch.log10(F.mse_loss(output.float().clamp(-1, 1), frames) / 4)
        return loss, {"l1": absolute.detach(), "psnr": psnr.detach(), "kl": kl.detach()}

    def cost(self, batch: Tensor) -> Cost:
        return Cost(len(batch), 0, 0)

    def summary(self) -> str:
        data = self.config.data.rendered
        return f"crops of {CROP} x {CROP} from clips of {data.frames} frames, rendered from {data.pack}"

    def _pixels(self, batch: Tensor) -> Tensor:
        return batch.to(self.accelerator.device, non_blocking=True).float() / 127.5 - 1

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Measure the latents' mean and deviation through the stored weights, and write `vae`."""
        if not self.accelerator.is_main_process:
            return
        with RoundedWeights(self.vae):
            latents = self._latents()  # (z, everything)
            self.vae.register_to_config(latents_mean=latents.mean(1).tolist(), latents_std=latents.std(1).tolist())
            self.vae.save_pretrained(folder / "vae")
        rewrite_compact(folder / "vae" / WEIGHTS_FILE)

    def _latents(self) -> Tensor:
        """Latents of eight batches, (z, positions)."""
        batches, means = self.batches(), []
        for _ in range(8):
            with autocast(self.config.precision, self.accelerator.device):
                mean, _ = self.model.encode(self._pixels(next(batches)))  # type: ignore[operator]
            means.append(mean.float().transpose(0, 1).flatten(1))
        return torch.cat(means, dim=1)


def _collate(samples: list[dict[str, Any]]) -> Tensor:
    return torch.cat([sample["frames"] for sample in samples])
