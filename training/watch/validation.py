"""Validates a model on held-out samples: losses at fixed noise and noise levels, and grids of samples.

Both are functions of the weights alone: the samples, their noise and the noise levels are the same at every look, and
nothing here draws from the random numbers of training. Losses are those of training (`EditStage.errors`), without the
scatter of random noise levels.

**Several processes.** A sharded model (FSDP2) gathers its weights in every forward pass, so that all processes must
make equally many. The work is split over the data ranks, and each makes the same number of forward passes: those
without work of their own repeat a sample and throw the result away. What depends on time is decided by the first
process for all. `losses` and `grid` must be called by every process at the same step.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from sama.pipeline import SamaPipeline
from sama.pipeline.types import SamaPipelineOutput
from training.config import TrainConfig
from training.core.ema import Ema
from training.core.precision import autocast
from training.core.randomness import generator
from training.core.tracking import Tracker
from training.data.encoders import Encoders
from training.parallel.processes import DataRank, is_first_process
from training.stages.editor import EditStage
from training.watch.grids import GridRow, draw_grid
from training.watch.held_out import held_out_samples

logger = logging.getLogger(__name__)

SIGMAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Noise levels of the held-out losses. They do not follow the shift of the run, so that runs can be compared."""


class Validator:
    """Held-out losses and grids of one run.

    The samples are encoded here, before the run begins: text encoder and tower may be released afterwards. `watch` says
    how many samples there are and how long a grid may take. Raises ConfigError where there is nothing held out.
    """

    def __init__(
        self, config: TrainConfig, stage: EditStage, encoders: Encoders, tracker: Tracker, data_rank: DataRank
    ) -> None:
        self.config, self.stage, self.tracker, self.data_rank = config, stage, tracker, data_rank
        count = max(config.watch.validation_samples, config.watch.sample_count)
        self.samples = held_out_samples(config, encoders, count)
        self._bare = encoders.text_states([encoders.prompt("")])
        if config.data.source == "manifest" and config.data.manifest.cache:
            encoders.release()  # the feed reads their work from the cache

    def losses(self, model: nn.Module, step: int, ema: Ema | None = None) -> dict[str, float]:
        """Held-out losses of the weights in use and, if given, of their averages. They are logged and returned.

        model: the wrapped module, as for training. Names: `validation/raw/flow` and `validation/raw/semantic` over all
        noise levels, `validation/raw/flow_0.1` and so on at one, and the same under `validation/ema`. The cost is
        (samples x 9) forward passes of one sample for each kind of weights, split over the data ranks.
        """
        record = self._named("raw", self._measure(model))
        if ema is not None:
            with ema.swapped_in():
                record |= self._named("ema", self._measure(model))
        self.tracker.log(record, step)
        return record

    def grid(self, step: int, ema: Ema | None = None) -> Path | None:
        """Sample the held-out clips, with the raw weights first and then with their averages, until
        `watch.sample_seconds` are over, and draw what is finished by then beside source and target. Returns the
        picture's path, `<output>/samples/step-00001234.jpg`, in the first process; None in the others."""
        start, seconds = time.monotonic(), self.config.watch.sample_seconds
        count = min(self.config.watch.sample_count, len(self.samples))
        rounds = math.ceil(count / self.data_rank.count)
        raw = self._sample_rounds(rounds, start + (seconds / 2 if ema is not None else seconds))
        averaged: dict[int, list[np.ndarray]] = {}
        if ema is not None:
            rounds = math.ceil(len(raw) / self.data_rank.count)  # of those that can be compared
            with ema.swapped_in():
                averaged = self._sample_rounds(rounds, start + seconds)
        if not is_first_process():
            return None
        if not raw:
            logger.warning(
                "no sample was ready within watch.sample_seconds=%g: raise it, or lower sample_steps", seconds
            )
        rows = []
        for number, sample in enumerate(self.samples[:count]):
            if number in raw or number == 0:
                clips = (sample.source, sample.target, raw.get(number), averaged.get(number))
                rows.append(GridRow(sample.words, sample.numbers, *clips))
        path = Path(self.config.output) / "samples" / f"step-{step:08d}.jpg"
        draw_grid(rows, path, title=f"step {step}")
        self.tracker.image("samples", path, step)
        return path

    # --- Losses ------------------------------------------------------------------------------------------------------

    def _measure(self, model: nn.Module) -> Tensor:
        """Flow and semantic loss of every sample at every noise level: (samples, 9, 2) float64 on the host, not a
        number where there are no anchors."""
        samples = self.samples[: self.config.watch.validation_samples]
        total = len(samples) * len(SIGMAS)
        sums = torch.zeros(total, 3, device=self.data_rank.device)  # flow, semantic, times counted
        with self._evaluating(model):
            for turn in range(math.ceil(total / self.data_rank.count)):
                row = turn * self.data_rank.count + self.data_rank.rank
                number, level = divmod(row % total, len(SIGMAS))
                random = generator(self.data_rank.device, "validation", number, level)
                sigmas = torch.full((1,), SIGMAS[level], device=self.data_rank.device)
                flow, semantic = self.stage.errors(model, samples[number].batch, sigmas, random)
                if row < total:
                    sums[row, 0] = flow[0]
                    sums[row, 1] = torch.nan if semantic is None else semantic[0]
                    sums[row, 2] = 1
        if dist.is_initialized():
            dist.all_reduce(sums)  # each row has one data rank's; its processes bring the same
        rows = sums.cpu().double()
        return (rows[:, :2] / rows[:, 2:]).view(len(samples), len(SIGMAS), 2)

    @staticmethod
    def _named(kind: str, errors: Tensor) -> dict[str, float]:
        record = {}
        for column, name in enumerate(("flow", "semantic")):
            by_level = errors[..., column].mean(0)
            if by_level.isnan().all() and name == "semantic":
                continue  # trained without anchors
            record[f"validation/{kind}/{name}"] = float(by_level.mean())
            for sigma, value in zip(SIGMAS, by_level.tolist(), strict=True):
                record[f"validation/{kind}/{name}_{sigma:g}"] = value
        return record

    # --- Samples -----------------------------------------------------------------------------------------------------

    def _sample_rounds(self, rounds: int, until: float) -> dict[int, list[np.ndarray]]:
        """The shown frames of samples by their number, of all data ranks, in every process; each data rank makes one
        sample in a round."""
        own: dict[int, list[np.ndarray]] = {}
        pipeline = self.stage.pipeline()
        with self._evaluating(self.stage.model):
            for turn in range(rounds):
                number = turn * self.data_rank.count + self.data_rank.rank
                frames = self._sample(pipeline, number % len(self.samples), until)
                if frames is None:
                    break
                if number < self.config.watch.sample_count:
                    own[number] = frames
        return _merged(own)

    def _sample(self, pipeline: SamaPipeline, number: int, until: float) -> list[np.ndarray] | None:
        """The shown frames of one sample, or None if the time was up before it was ready."""
        sample = self.samples[number]
        steps = pipeline.stream(
            source_latents=sample.batch.source,
            prompt_embeds=sample.batch.text,
            negative_prompt_embeds=self._bare,
            num_inference_steps=self.config.watch.sample_steps,
            generator=generator("cpu", "samples", number),
        )
        output: Any = None
        for output in steps:
            if isinstance(output, SamaPipelineOutput):
                break
            if self._agreed(time.monotonic() > until):
                steps.close()
                return None
        clip = np.asarray(output.frames[0])
        return [(clip[index] * 255).round().astype(np.uint8) for index in sample.numbers]

    def _agreed(self, late: bool) -> bool:
        """The decision of rank 0, in every process: their clocks differ."""
        if not dist.is_initialized():
            return late
        word = torch.tensor(late, dtype=torch.int32, device=self.data_rank.device)
        dist.broadcast(word, src=0)
        return bool(word)

    @contextmanager
    def _evaluating(self, model: nn.Module) -> Iterator[None]:
        """Without gradients and drop-out, in the run's types, and leaving the model as it was.

        Compiled blocks run uncompiled: every new shape and mode would be compiled, and count against the number of
        recompilations after which torch gives up on a function, training's own shapes included.
        """
        modes = {module: module.training for module in model.modules()}
        model.eval()
        device = self.data_rank.device
        try:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), autocast(self.config.precision, device):
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            reshard(model)


def reshard(model: nn.Module) -> None:
    """Let go of the gathered weights of a sharded model. Its outermost part keeps them after a forward pass, for the
    backward pass to come; where none comes and the weights are then changed (an average swapped in or out), the next
    forward pass would still use the old ones."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _merged(own: dict[int, list[np.ndarray]]) -> dict[int, list[np.ndarray]]:
    if not dist.is_initialized():
        return own
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return {number: frames for part in everyone for number, frames in part.items()}
