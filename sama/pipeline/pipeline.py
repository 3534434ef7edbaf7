"""SamaPipeline: a clip and an instruction in, the edited clip and the plan behind it out.

Two streams are denoised together, with one guidance scale and one schedule: the video's latents, and the 65 semantic
anchors that plan the edit. The anchors are kept step by step, because they show how the edit was planned.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from collections.abc import Generator as Stream
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, SiglipVisionModel

from sama.model.lora import SamaLoraMixin
from sama.model.pretext import EDIT_PREFIX
from sama.model.processes import Dismissed, OneProcess, Processes, RunLeft
from sama.model.transformer import SamaTransformer3DModel
from sama.pipeline.batch import Batch
from sama.pipeline.frames import OUTPUT_TYPES, as_frames, as_output
from sama.pipeline.prompts import SPELLINGS, Spelling, model_prompt, unread
from sama.pipeline.schedule import TIMESTEPS, FlowScheduler, denoised, guide, run_scheduler, shifted_sigmas
from sama.pipeline.types import SamaPipelineOutput, SamaRun, SamaStep, Velocity
from sama.presets import WAN_GUIDANCE, WAN_STEPS, WAN_TEXT_TOKENS
from sama.shapes import LatentShape, latent_shape

logger = logging.getLogger(__name__)

StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]


class SamaPipeline(SamaLoraMixin, DiffusionPipeline):
    """Instruction-guided video editing with SAMA.

    transformer: the model. vae: Wan's. text_encoder, tokenizer: UMT5, BERT or any other of transformers with a
        `last_hidden_state`. scheduler: flow-matching Euler (official) or UniPC.
    semantic_tower: the vision tower that the anchors were trained on, for showing outcomes; not needed to edit.
    prompt_prefix: the task's token, put before every prompt and negative prompt.
    max_sequence_length: text tokens; shorter prompts are padded with zero states, which take part in attention.
    spell_quotes: whether and where quoted texts are spelled, see `sama.pipeline.prompts.model_prompt`.
    shift: of the noise schedule. default_steps, default_guidance: where the caller names none.
    round_timestep_to_bf16: evaluates the model at timesteps rounded to bfloat16, as the official code does.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["semantic_tower"]  # noqa: RUF012 - diffusers' interface
    _callback_tensor_inputs = (
        "latents", "semantic_latents", "source_latents", "prompt_embeds", "negative_prompt_embeds",
    )  # fmt: skip

    transformer: SamaTransformer3DModel
    vae: AutoencoderKLWan
    text_encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    scheduler: FlowMatchEulerDiscreteScheduler | UniPCMultistepScheduler
    semantic_tower: SiglipVisionModel | None

    def __init__(
        self,
        transformer: SamaTransformer3DModel,
        vae: AutoencoderKLWan,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        scheduler: FlowMatchEulerDiscreteScheduler | UniPCMultistepScheduler,
        semantic_tower: SiglipVisionModel | None = None,
        prompt_prefix: str = EDIT_PREFIX,
        max_sequence_length: int = WAN_TEXT_TOKENS,
        spell_quotes: Spelling = "",
        shift: float = 5.0,
        default_steps: int = WAN_STEPS,
        default_guidance: float = WAN_GUIDANCE,
        round_timestep_to_bf16: bool = False,
    ) -> None:
        super().__init__()
        if spell_quotes not in SPELLINGS:
            raise ValueError(f"spell_quotes must be one of {SPELLINGS}, not {spell_quotes!r}")
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            semantic_tower=semantic_tower,
        )
        self.register_to_config(
            prompt_prefix=prompt_prefix,
            max_sequence_length=max_sequence_length,
            spell_quotes=spell_quotes,
            shift=shift,
            default_steps=default_steps,
            default_guidance=default_guidance,
            round_timestep_to_bf16=round_timestep_to_bf16,
        )
        self._processes: Processes | OneProcess = OneProcess()
        self._vae_lock = threading.Lock()  # Wan's VAE keeps its frame cache in the module
        self._interrupt = False
        self._num_timesteps = 0
        self._current_timestep: Tensor | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> SamaPipeline:
        """A saved pipeline, from a folder or the Hub; arguments as diffusers', `torch_dtype` or `dtype` alike.

        Weights may be stored in any type, float8 included. They are computed with in `dtype`, float32 if none is
        given: left to themselves, transformers' models would keep the type of the file.
        """
        torch_dtype = kwargs.pop("torch_dtype", None)
        dtype = kwargs.pop("dtype", None)
        kwargs["dtype"] = next((chosen for chosen in (dtype, torch_dtype) if chosen is not None), torch.float32)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def register_modules(self, **kwargs: Any) -> None:
        """As diffusers', but saved pipelines name the package as the transformer's home: loading looks there for the
        class and for its base."""
        super().register_modules(**kwargs)
        if isinstance(kwargs.get("transformer"), SamaTransformer3DModel):
            self.register_to_config(transformer=("sama", SamaTransformer3DModel.__name__))

    # --- State that diffusers' callbacks and caches look for ---------------------------------------------------------

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` from a callback to stop after this step; what there is then is decoded and returned. To
        stop without a result, close `stream`."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        return self._current_timestep

    @property
    def transformer_arguments(self) -> dict[str, Any]:
        """The arguments that the transformer was made with."""
        return {name: value for name, value in self.transformer.config.items() if not name.startswith("_")}

    # --- Several processes -------------------------------------------------------------------------------------------

    def enable_parallel(self, group: dist.ProcessGroup | None = None) -> Processes:
        """Let the processes of `group` (None: all) compute every run together. Each of them calls this, with the same
        weights, after the pipeline has been placed on its device.

        From then on either every process calls the pipeline, with the same arguments, and gets the same result; or the
        first one calls it and the others `follow`. The first process's inputs, noise and callbacks count; any process
        may set `_interrupt`. Guidance passes are spread over the processes first, see `sama.model.split`.
        """
        self.disable_parallel()
        self._processes = Processes(self.transformer, group)
        return self._processes

    def disable_parallel(self) -> None:
        """Let this process compute its runs alone again."""
        if isinstance(self._processes, Processes):
            self._processes.remove()
        self._processes = OneProcess()

    def follow(self) -> None:
        """Take part in the runs of the first process, until it calls `dismiss` on what `enable_parallel` gave it.

        Raises what fails here; the processes cannot work together after that.
        """
        while True:
            try:
                for _ in self._denoise(_nothing, self.scheduler, "latent", None, ()):
                    pass
            except RunLeft:
                continue
            except Dismissed:
                return

    # --- Video and text ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_video(self, frames: Tensor) -> Tensor:
        """Frames (B, T, H, W, 3) in [0, 1], T = 4k+1 and sides divisible by 16, as normalised latents
        (B, C, F, H / 8, W / 8), float32. Raises ValueError for other sizes."""
        self._latent_shape(frames)
        pixels = frames.movedim(-1, 1).to(self._execution_device, self.vae.dtype) * 2 - 1
        with self._vae_lock:
            latents = self.vae.encode(pixels).latent_dist.mode().float()
        mean, std = self._latent_statistics(latents)
        return (latents - mean) / std

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, F, h, w) as frames (B, T, H, W, 3) in [0, 1], float32."""
        latents = latents.to(self._execution_device, torch.float32)
        mean, std = self._latent_statistics(latents)
        with self._vae_lock:
            pixels = self.vae.decode((latents * std + mean).to(self.vae.dtype), return_dict=False)[0].float()
        return (pixels.clamp(-1, 1) / 2 + 0.5).movedim(1, -1)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str], prefix: str | None = None) -> Tensor:
        """Prompts as text states (B, max_sequence_length, text_dim), float32, padded rows zero.

        prefix: the task's token in place of the pipeline's.
        """
        prefix = self.config["prompt_prefix"] if prefix is None else prefix
        texts = [model_prompt(prompt, prefix, self.config["spell_quotes"]) for prompt in prompts]
        room = self.config["max_sequence_length"]
        tokens = self.tokenizer(texts, padding="max_length", max_length=room, truncation=True, return_tensors="pt")
        needed = max(map(len, self.tokenizer(texts, verbose=False).input_ids))
        if needed > room:
            logger.warning("the prompt has %d tokens and the model reads %d: its end is lost", needed, room)
        ids, mask = tokens.input_ids.to(self._execution_device), tokens.attention_mask.to(self._execution_device)
        states = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return torch.where(mask.bool().unsqueeze(-1), states, 0.0)

    def unread(self, prompt: str, prefix: str | None = None) -> str:
        """The end of a prompt that is beyond `max_sequence_length` tokens, "" if there is none; see
        `sama.pipeline.prompts.unread`.

        prefix: the task's token in place of the pipeline's.
        """
        prefix = self.config["prompt_prefix"] if prefix is None else prefix
        room, spelling = self.config["max_sequence_length"], self.config["spell_quotes"]
        return unread(prompt, self.tokenizer, room, prefix, spelling)

    def _latent_shape(self, frames: Tensor) -> LatentShape:
        _, num_frames, height, width, _ = frames.shape
        return latent_shape(num_frames, height, width, self.vae.config["scale_factor_spatial"])

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1, 1)
        mean, std = (latents.new_tensor(self.vae.config[name]) for name in ("latents_mean", "latents_std"))
        return mean.view(shape), std.view(shape)

    # --- The run -----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        video: Any = None,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        source_guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generator | Sequence[Generator] | None = None,
        latents: Tensor | None = None,
        semantic_latents: Tensor | None = None,
        source_latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "np",
        prompt_prefix: str | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: StepCallback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
        scheduler: FlowScheduler | None = None,
    ) -> SamaPipelineOutput | tuple[Any, Tensor]:
        """Edits a clip.

        video: the source, as `sama.pipeline.frames.as_frames` takes it: frames of uint8 or floats in [0, 1], arrays,
        tensors or
            pictures, one clip or a batch. The number of frames has the form 4k+1 and sides are divisible by 16.
        prompt: the instruction; for a restoration (`prompt_prefix` of a pretext task) the caption, or "".
        negative_prompt: what to avoid; the prefix stands before it, and before "" too.
        num_inference_steps, guidance_scale: the pipeline's defaults if None. A guidance scale of 1 saves the negative
            pass, which keeps the source.
        source_guidance_scale: guidance towards the source on top, at the price of one more pass without it; None or 1
            for none. The formula stands in `sama.pipeline.schedule.guide`.
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
        callback_on_step_end_tensor_inputs: which tensors the callback gets: latents, semantic_latents,
            source_latents, prompt_embeds, negative_prompt_embeds.
        scheduler: for this run in place of the pipeline's; it is copied and stays as it is.
        Raises ValueError, with one sentence, for inputs that do not fit.
        """
        steps = self.stream(
            video, prompt, negative_prompt, num_inference_steps, guidance_scale, source_guidance_scale,
            num_videos_per_prompt, generator, latents, semantic_latents, source_latents, prompt_embeds,
            negative_prompt_embeds, output_type, prompt_prefix, attention_kwargs, callback_on_step_end,
            callback_on_step_end_tensor_inputs, scheduler,
        )  # fmt: skip
        output: SamaPipelineOutput | None = None
        with self.progress_bar(total=num_inference_steps or self.config["default_steps"]) as bar:
            for event in steps:
                if isinstance(event, SamaPipelineOutput):
                    output = event
                else:
                    bar.update()
        assert output is not None  # the last event of every stream that ends
        return output if return_dict else output.to_tuple()

    def stream(
        self,
        video: Any = None,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        source_guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generator | Sequence[Generator] | None = None,
        latents: Tensor | None = None,
        semantic_latents: Tensor | None = None,
        source_latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "np",
        prompt_prefix: str | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: StepCallback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        scheduler: FlowScheduler | None = None,
    ) -> Stream[SamaStep | SamaPipelineOutput, None, None]:
        """The same edit as a generator: one `SamaStep` per denoising step, then the `SamaPipelineOutput`.

        Arguments and errors are those of `__call__`; inputs are checked at once. Closing the generator stops the work
        and leaves the pipeline ready for the next run.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}")
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise ValueError(f"callbacks can get {', '.join(self._callback_tensor_inputs)}, not {', '.join(unknown)}")
        if prompt is None and prompt_embeds is None:
            raise ValueError("an edit needs a prompt; give an empty one to restore a clip without a caption")
        frames = None if video is None else as_frames(video)
        if frames is not None:
            self._latent_shape(frames)
        elif source_latents is None and latents is None:
            raise ValueError("an edit needs a video; to generate without one, give latents, which say the size")
        scale = self.config["default_guidance"] if guidance_scale is None else guidance_scale
        steps = self.config["default_steps"] if num_inference_steps is None else num_inference_steps
        shifted_sigmas(steps, self.config["shift"])
        batch = Batch.of(frames, source_latents, prompt, prompt_embeds, num_videos_per_prompt, generator)

        def prepare() -> SamaRun:
            source = source_latents if frames is None else self.encode_video(frames)
            embeds = self._text(prompt_embeds, prompt, prompt_prefix, batch)
            negative = self._text(negative_prompt_embeds, negative_prompt, prompt_prefix, batch) if scale != 1 else None
            source = None if source is None else batch.expand(source).to(self._execution_device, torch.float32)
            noise = self._noise(batch, source, generator, latents, semantic_latents)
            return SamaRun(
                *noise, source, embeds, negative, steps, scale,
                1.0 if source_guidance_scale is None else source_guidance_scale, attention_kwargs,
            )  # fmt: skip

        inputs = tuple(callback_on_step_end_tensor_inputs)
        return self._denoise(prepare, scheduler or self.scheduler, output_type, callback_on_step_end, inputs)

    @torch.no_grad()
    def _denoise(
        self,
        prepare: Callable[[], SamaRun],
        scheduler: FlowScheduler,
        output_type: str,
        callback: Any,
        callback_inputs: tuple[str, ...],
    ) -> Stream[SamaStep | SamaPipelineOutput, None, None]:
        self._interrupt = False
        plan: list[Tensor] = []
        processes = self._processes
        try:
            self.transformer._reset_stateful_cache()  # a run that was stopped may have left its own
            run, scheduler = processes.share(lambda: (prepare(), scheduler), self._execution_device)
            self._num_timesteps = run.num_steps
            video_scheduler, semantic_scheduler = (
                run_scheduler(scheduler, run.num_steps, self.config["shift"], run.latents.device) for _ in range(2)
            )
            for index, timestep in enumerate(video_scheduler.timesteps):
                self._current_timestep = timestep
                sigma = float(video_scheduler.sigmas[index])
                with processes.computing():
                    velocity = self._velocity(run, index, sigma)
                clean = denoised(run.latents, velocity.video, sigma)
                tokens = denoised(run.semantic_latents, velocity.semantic, sigma)
                plan.append(tokens.cpu())
                run.latents = video_scheduler.step(velocity.video, timestep, run.latents, return_dict=False)[0]
                run.semantic_latents = semantic_scheduler.step(
                    velocity.semantic, timestep, run.semantic_latents, return_dict=False
                )[0]
                with processes.handing_out():
                    changed: dict[str, Tensor] = {}
                    if callback is not None:
                        given = {name: getattr(run, name) for name in callback_inputs}
                        changed = callback(self, index, timestep, given) or {}
                        run.replace(changed)
                    yield SamaStep(
                        index + 1, run.num_steps, sigma * TIMESTEPS, sigma, run.latents, run.semantic_latents, clean,
                        tokens,
                    )  # fmt: skip
                self._interrupt, agreed = processes.agree(self._interrupt, changed)
                run.replace(agreed)
                if self._interrupt:
                    break
            self._current_timestep = None
            frames: Any = run.latents
            if output_type != "latent":
                frames = as_output(self.decode_latents(run.latents), output_type)
            yield SamaPipelineOutput(frames=frames, semantic_tokens=torch.stack(plan, dim=1))
        finally:  # also when the generator is closed
            self._current_timestep = None
            self.maybe_free_model_hooks()

    def _velocity(self, run: SamaRun, index: int, sigma: float) -> Velocity:
        """The guided velocity: one pass of the model per text and source that the scales ask for."""
        reference = run.prompt_embeds if run.negative_prompt_embeds is None else run.negative_prompt_embeds
        passes = {"cond": (run.prompt_embeds, run.source_latents)}
        if run.negative_prompt_embeds is not None:
            passes["uncond"] = (run.negative_prompt_embeds, run.source_latents)
        if run.source_guidance_scale != 1 and run.source_latents is not None:
            passes["without_source"] = (reference, None)
        context = {"step_index": index, "sigma": sigma, "num_inference_steps": run.num_steps}

        def evaluate(name: str) -> Velocity:
            with self.transformer.cache_context(name, **context):
                return self._evaluate(run, sigma, *passes[name])

        like = Velocity(run.latents, run.semantic_latents)
        answers = self._processes.evaluate({name: partial(evaluate, name) for name in passes}, like)
        scales = (run.guidance_scale, run.source_guidance_scale)

        def part(name: str, stream: int) -> Tensor | None:
            return answers[name][stream] if name in answers else None

        return Velocity(
            *(
                guide(answers["cond"][stream], part("uncond", stream), part("without_source", stream), *scales)
                for stream in range(len(Velocity._fields))
            )
        )

    def _evaluate(self, run: SamaRun, sigma: float, text: Tensor, source: Tensor | None) -> Velocity:
        dtype = self.transformer.dtype
        # From the noise level: UniPC's own timesteps are whole numbers.
        timesteps = torch.full((len(run.latents),), sigma * TIMESTEPS, device=run.latents.device)
        if self.config["round_timestep_to_bf16"]:
            timesteps = timesteps.bfloat16().float()
        out = self.transformer(
            hidden_states=run.latents.to(dtype),
            timestep=timesteps,
            encoder_hidden_states=text.to(dtype),
            source_hidden_states=None if source is None else source.to(dtype),
            semantic_hidden_states=run.semantic_latents.to(dtype),
            attention_kwargs=run.attention_kwargs,
        )
        return Velocity(out.sample.float(), out.semantic.float())

    def _text(
        self, embeds: Tensor | None, prompt: str | Sequence[str] | None, prefix: str | None, batch: Batch
    ) -> Tensor:
        if embeds is None:
            embeds = self.encode_prompt([prompt] if isinstance(prompt, str) else list(prompt or ()), prefix)
        return batch.expand(embeds).to(self._execution_device)

    def _noise(
        self,
        batch: Batch,
        source: Tensor | None,
        generator: Any,
        latents: Tensor | None,
        semantic_latents: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Video noise, then semantic noise: the order is part of what a seed means."""
        device, config = self._execution_device, self.transformer.config
        generator = list(generator) if isinstance(generator, Sequence) else generator
        if latents is None:
            assert source is not None  # checked at the door
            latents = randn_tensor(tuple(source.shape), generator=generator, device=device, dtype=torch.float32)
        if semantic_latents is None:
            shape = (batch.size, config["num_semantic_tokens"], config["semantic_dim"])
            semantic_latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        return latents.to(device, torch.float32), semantic_latents.to(device, torch.float32)


def _nothing() -> SamaRun:
    raise AssertionError("the first process prepares the run")
