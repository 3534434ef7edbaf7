"""The arguments of a call of the pipeline, and how they become a method's signature."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Generator, Tensor

from sama.pipeline.frames import OUTPUT_TYPES
from sama.pipeline.schedule import FlowScheduler

StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]

CALLBACK_TENSORS = ("latents", "semantic_latents", "source_latents", "prompt_embeds", "negative_prompt_embeds")
"""Tensors of a run that callbacks can get and replace."""


@dataclass(frozen=True)
class SamaInputs:
    """What an edit is made from.

    video: the source, as `sama.pipeline.frames.as_frames` takes it: frames of uint8 or floats in [0, 1], arrays,
        tensors or pictures, one clip or a batch. The number of frames has the form 4k+1 and sides are divisible by 16.
    prompt: the instruction; for a restoration (`prompt_prefix` of a pretext task) the caption, or "".
    negative_prompt: what to avoid; the prefix stands before it, and before "" too.
    num_inference_steps, guidance_scale: the pipeline's defaults if None. A guidance scale of 1 saves the negative
        pass, which keeps the source.
    source_guidance_scale: guidance towards the source on top, at the price of one more pass without it; None or 1
        for none. The formula stands in `sama.pipeline.schedule.guide`.
    guidance_interval: noise levels (low, high) in [0, 1] between which both kinds of guidance act, 0 and 1 being the
        clean clip and pure noise; elsewhere a step is one evaluation of the model. None for all.
    cache_threshold: reuses what the blocks after the first one added at an earlier step, where the first block's
        work on the target's tokens changed by less than this share (`sama.pipeline.caching`); None computes all.
    num_videos_per_prompt: results of one prompt next to each other in the batch.
    generator: the only source of randomness. Video noise (B, C, F, h, w) is drawn first, then the noise of the
        anchors (B, 65, D), both as float32 where the generator lives. A list holds one generator per result: the
        batch is then what single runs with each would give (and may be longer than the prompts, which repeat).
    latents, semantic_latents: noise to start from in place of the generator's.
    source_latents: normalised latents in place of `video`. With neither there is no source, and `latents` say the
        size.
    prompt_embeds, negative_prompt_embeds: text states in place of the prompts.
    output_type: "np", "pt", "pil" or "latent"; see `SamaPipelineOutput`.
    prompt_prefix: the task's token in place of the pipeline's.
    attention_kwargs: {"scale": s} sets the strength of LoRAs for this run.
    callback_on_step_end: called with (pipeline, step, timestep, tensors) after every step, counted from 0; tensors
        it returns replace those of the run.
    callback_on_step_end_tensor_inputs: which tensors the callback gets: latents, semantic_latents, source_latents,
        prompt_embeds, negative_prompt_embeds.
    return_dict: False makes the call return the tuple (frames, semantic_tokens); `stream` takes no notice.
    scheduler: for this run in place of the pipeline's; it is copied and stays as it is.
    Raises ValueError, with one sentence, for inputs that do not fit.
    """

    video: Any = None
    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] = ""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    source_guidance_scale: float | None = None
    num_videos_per_prompt: int = 1
    generator: Generator | Sequence[Generator] | None = None
    latents: Tensor | None = None
    semantic_latents: Tensor | None = None
    source_latents: Tensor | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    output_type: str = "np"
    prompt_prefix: str | None = None
    attention_kwargs: dict[str, Any] | None = None
    callback_on_step_end: StepCallback | PipelineCallback | MultiPipelineCallbacks | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    return_dict: bool = True
    scheduler: FlowScheduler | None = None
    guidance_interval: tuple[float, float] | None = None
    cache_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {self.output_type!r}")
        if self.guidance_interval is not None:
            low, high = self.guidance_interval
            if not 0 <= low <= high <= 1:
                raise ValueError(f"guidance acts between two noise levels from 0 to 1, not {low} and {high}")
        if self.cache_threshold is not None and not 0 <= self.cache_threshold < float("inf"):
            raise ValueError(f"the cache needs a threshold of at least 0, not {self.cache_threshold}")
        unknown = [name for name in self.callback_tensors if name not in CALLBACK_TENSORS]
        if unknown:
            raise ValueError(f"callbacks can get {', '.join(CALLBACK_TENSORS)}, not {', '.join(unknown)}")
        if self.prompt is None and self.prompt_embeds is None:
            raise ValueError("an edit needs a prompt; give an empty one to restore a clip without a caption")
        if self.video is None and self.source_latents is None and self.latents is None:
            raise ValueError("an edit needs a video; to generate without one, give latents, which say the size")

    @property
    def callback_tensors(self) -> tuple[str, ...]:
        """The tensors that the callback gets: diffusers' own callbacks name theirs."""
        callback = self.callback_on_step_end
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            return tuple(callback.tensor_inputs)
        return tuple(self.callback_on_step_end_tensor_inputs)


Arguments = ParamSpec("Arguments")
Owner = TypeVar("Owner")
Inputs = TypeVar("Inputs")
Result = TypeVar("Result")


def taking(
    record: Callable[Arguments, Inputs],
) -> Callable[[Callable[[Owner, Inputs], Result]], Callable[Concatenate[Owner, Arguments], Result]]:
    """Decorator of a method that takes one `record`: it is then called with the record's fields, which its signature
    and its documentation show. They are checked when the method is called."""

    def decorate(method: Callable[[Owner, Inputs], Result]) -> Callable[Concatenate[Owner, Arguments], Result]:
        @functools.wraps(method)
        def call(self: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            return method(self, record(*args, **kwargs))

        own, fields = inspect.signature(method), inspect.signature(record)
        parameters = [next(iter(own.parameters.values())), *fields.parameters.values()]
        call.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__doc__ = f"{inspect.getdoc(method)}\n\n{inspect.getdoc(record)}"
        return call

    return decorate
