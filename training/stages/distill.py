"""Distillation of guidance and steps: K steps without guidance learn what K x m steps with guidance give.

The teacher is the model that training starts from: for an adapter the same model with the adapter off, else a frozen
copy. It samples from pure noise with guidance, as the pipeline does, in K x m Euler steps. At each of the K noise
levels of inference the student, in one evaluation without guidance, learns the mean velocity of the teacher's next m
steps, of video and anchors alike. States lie on the teacher's own trajectory, because that is where the student is at
inference; a noised target lies elsewhere: it knows the truth. Only clips and instructions are needed, no targets.

Where the truth is the only right answer, `distill.truth_weight` moves the learned velocity towards the one that leads
to it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sama.model.transformer import SamaTransformer3DModel
from sama.pipeline import SamaPipeline
from sama.pipeline.schedule import TIMESTEPS, guide, shifted_sigmas
from training.config import TrainConfig
from training.core.batch import EncodedBatch, Feed
from training.core.meter import Cost, distillation_cost
from training.data.encoders import Encoders
from training.errors import ConfigError
from training.parallel.processes import DataRank
from training.stages.editor import EditStage
from training.stages.objective import add_noise, edit_weights, losses


class Streams(NamedTuple):
    """The two streams: states, or velocities, of the video (B, C, F, H, W) and of the anchors (B, 65, D), float32. plan
    is None where the objective has no anchors."""

    video: Tensor
    plan: Tensor | None

    def moved(self, velocity: Streams, by: float) -> Streams:
        """The states after a step along a velocity. by: the change of the noise level, negative towards clean."""
        plan = None if self.plan is None or velocity.plan is None else self.plan + by * velocity.plan
        return Streams(self.video + by * velocity.video, plan)


class DistillStage(EditStage):
    """Few steps without guidance, learned from many with it. Batches, weights and export are `EditStage`'s."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        feed: Feed,
        encoders: Encoders,
        data_rank: DataRank,
        transformer: SamaTransformer3DModel,
    ) -> None:
        """transformer: the student, with the weights that it starts from, which are the teacher's. Raises ConfigError
        for a configuration that has no teacher."""
        if not (config.start_from or config.start_from_base):
            raise ConfigError("distill: there is no teacher: set start_from or start_from_base")
        self._teacher: SamaTransformer3DModel | None = None
        if config.stage != "lora":
            if next(transformer.parameters()).is_meta or config.parallel.weights == "shard":
                raise ConfigError("distill: the teacher of all weights is a copy: set parallel.weights=replicate")
            self._teacher = copy.deepcopy(transformer).requires_grad_(False).to(data_rank.device)
        super().__init__(config, accelerator, feed, encoders, data_rank, transformer)
        self.steps, self.substeps = config.distill.steps, config.distill.substeps
        self.shift = float(encoders.settings.get("shift", config.objective.sigma_shift))
        self.sigmas = [*shifted_sigmas(self.steps * self.substeps, self.shift), 0.0]
        """The teacher's noise levels, from 1 to 0; every m-th of them is one of the student's."""
        self._bare = encoders.text_states([encoders.prompt("")])

    def loss(self, model: nn.Module, batch: EncodedBatch, random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, in which each sample counts at all of the student's steps, and its parts, for the log.
        random: draws the noise."""
        noise = self._noise(batch, random)
        states, taught = [noise], []
        for number in range(self.steps):
            after = self._after(batch, states[-1], number)
            taught.append(self._wanted(batch, states[-1], after, number))
            states.append(after)
        flow, semantic = self._student_errors(model, batch, states[:-1], taught, range(self.steps))
        lengths = torch.tensor([self._level(number) - self._level(number + 1) for number in range(self.steps)])
        share = (self.steps * lengths / lengths.sum()).to(flow.device)  # what an error of a step does to the result
        parts = {f"flow_step_{number + 1}": value for number, value in enumerate(flow.mean(1).detach())}
        loss = (share * flow.mean(1)).mean()
        parts["flow"] = loss.detach()
        if semantic is not None:
            plan = (share * semantic.mean(1)).mean()
            loss, parts["semantic"] = loss + self.config.objective.semantic_weight * plan, plan.detach()
        return loss, parts

    def errors(
        self, model: nn.Module, batch: EncodedBatch, sigmas: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Flow and semantic loss of each sample, (B,) float32 each, at the student's next noise level above `sigmas`
        (B,), which are all the same. The states are noised targets: there are such at every level, without the steps
        before. For watching a run."""
        level = float(sigmas.max())
        number = max(number for number in range(self.steps) if self._level(number) >= level - 1e-6)
        levels = torch.full_like(sigmas, self._level(number))
        noise = self._noise(batch, random)
        video = add_noise(batch.target.float(), levels, noise.video).state
        plan = None if noise.plan is None else add_noise(_given(batch.anchors), levels, noise.plan).state
        state = Streams(video, plan)
        wanted = self._wanted(batch, state, self._after(batch, state, number), number)
        flow, semantic = self._student_errors(model, batch, [state], [wanted], [number])
        return flow[0], None if semantic is None else semantic[0]

    def cost(self, batch: EncodedBatch) -> Cost:
        own = super().cost(batch)
        return distillation_cost(self.transformer.config, batch, own, self.steps, self.substeps)

    def pipeline(self) -> SamaPipeline:
        """As `EditStage`'s, sampling as the student does."""
        pipeline = super().pipeline()
        pipeline.register_to_config(default_guidance=1.0, default_steps=self.steps, shift=self.shift)
        return pipeline

    def _level(self, number: int) -> float:
        """The noise level at which the student's step `number` begins; that of the last one's end is 0."""
        return self.sigmas[number * self.substeps]

    def _noise(self, batch: EncodedBatch, random: torch.Generator) -> Streams:
        def like(tensor: Tensor) -> Tensor:
            return torch.randn(tensor.shape, generator=random, device=tensor.device)

        anchored = bool(self.config.objective.semantic_weight) and batch.anchors is not None
        return Streams(like(batch.target), like(_given(batch.anchors)) if anchored else None)

    @torch.no_grad()
    def _after(self, batch: EncodedBatch, state: Streams, number: int) -> Streams:
        """The teacher's state at the end of the student's step `number`."""
        with self._teaching() as teacher:
            for place in range(number * self.substeps, (number + 1) * self.substeps):
                velocity = self._guided(teacher, batch, state, self.sigmas[place])
                state = state.moved(velocity, self.sigmas[place + 1] - self.sigmas[place])
        return state

    def _guided(self, teacher: nn.Module, batch: EncodedBatch, state: Streams, sigma: float) -> Streams:
        """The teacher's guided velocity at one noise level: prompt and bare prompt in one batch."""
        count = len(state.video)

        def twice(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else torch.cat([tensor, tensor])

        text = torch.cat([batch.text, self._bare.to(batch.text.dtype).expand(count, -1, -1)])
        both = _evaluated(teacher, Streams(_given(twice(state.video)), twice(state.plan)), sigma, text,
                          twice(batch.source))  # fmt: skip

        def guided(part: Tensor) -> Tensor:
            prompt, bare = part.chunk(2)
            return guide(prompt, bare, guidance_scale=self.config.distill.guidance)

        return Streams(guided(both.video), None if both.plan is None else guided(both.plan))

    def _wanted(self, batch: EncodedBatch, state: Streams, after: Streams, number: int) -> Streams:
        """The velocity to learn at the state that step `number` begins with, which the teacher took to `after`."""
        sigma, weight = self._level(number), self.config.distill.truth_weight
        length = sigma - self._level(number + 1)

        def mixed(now: Tensor, then: Tensor, clean: Tensor) -> Tensor:
            velocity = (now - then) / length
            if not weight:
                return velocity
            exact = now.new_ones(len(now)) if batch.exact is None else batch.exact.to(now.dtype)
            return torch.lerp(velocity, (now - clean) / sigma, weight * exact.view(-1, *[1] * (now.ndim - 1)))

        if state.plan is None:
            return Streams(mixed(state.video, after.video, batch.target.float()), None)
        plan = mixed(state.plan, _given(after.plan), _given(batch.anchors).float())
        return Streams(mixed(state.video, after.video, batch.target.float()), plan)

    def _student_errors(
        self, model: nn.Module, batch: EncodedBatch, states: list[Streams], wanted: list[Streams],
        numbers: list[int] | range,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Flow and semantic loss (steps, B) of the student at some of its steps, in one forward pass."""
        times = len(states)
        source = None if batch.source is None else batch.source.float()
        weights = edit_weights(source, batch.target.float(), self.config.objective.edit_weight)
        count = len(batch.target)
        sigmas = torch.tensor([self._level(number) for number in numbers], device=batch.target.device)
        found = _evaluated(
            model, _joined(states), sigmas.repeat_interleave(count), batch.text.repeat(times, 1, 1),
            None if source is None else source.repeat(times, 1, 1, 1, 1),
        )  # fmt: skip
        target = _joined(wanted)
        flow, semantic = losses(found.video, target.video, weights.repeat(times, 1, 1, 1, 1), found.plan, target.plan)
        return flow.view(times, count), None if semantic is None else semantic.view(times, count)

    @contextmanager
    def _teaching(self) -> Iterator[nn.Module]:
        """The teacher, inside the block: the student itself with its adapter off, or the frozen copy."""
        if self._teacher is not None:
            yield self._teacher
            return
        self.transformer.disable_adapters()
        try:
            yield self.transformer
        finally:
            self.transformer.enable_adapters()


def _evaluated(model: nn.Module, state: Streams, sigma: float | Tensor, text: Tensor, source: Tensor | None) -> Streams:
    """The model's velocities at a noise level, or at one for each sample."""
    sigmas = torch.as_tensor(sigma, device=state.video.device, dtype=torch.float32)
    video, plan = model(
        hidden_states=state.video,
        timestep=sigmas.expand(len(state.video)) * TIMESTEPS,
        encoder_hidden_states=text,
        source_hidden_states=None if source is None else source.float(),
        semantic_hidden_states=state.plan,
        return_dict=False,
    )
    return Streams(video.float(), None if plan is None else plan.float())


def _joined(streams: list[Streams]) -> Streams:
    plans = [_given(one.plan) for one in streams if one.plan is not None]
    return Streams(torch.cat([one.video for one in streams]), torch.cat(plans) if plans else None)


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
