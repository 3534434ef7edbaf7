"""SamaPipeline: a clip and an instruction in, the edited clip and the plan behind it out.

Two streams are denoised together, with one guidance scale and one schedule: the video's latents, and the 65 semantic
anchors that plan the edit. The anchors are kept step by step, because they show how the edit was planned.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from collections.abc import Generator as Stream
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, SiglipVisionModel

from sama.device.placement import part_fits, stripes_that_fit
from sama.device.streaming import release
from sama.model.lora import SamaLoraMixin
from sama.model.pretext import EDIT_PREFIX
from sama.model.processes import OneProcess, Processes
from sama.model.transformer import SamaTransformer3DModel
from sama.model.vae_parallel import largest_share
from sama.pipeline.batch import BatchShape
from sama.pipeline.caching import first_block_cache
from sama.pipeline.conditioning import decode_clips, encode_clips, text_states, tokenise
from sama.pipeline.frames import as_frames, as_output
from sama.pipeline.inputs import CALLBACK_TENSORS, SamaInputs, taking
from sama.pipeline.parallel_runs import ParallelRunsMixin
from sama.pipeline.prompts import SPELLINGS, Spelling, model_prompt, unread
from sama.pipeline.run_state import RunStateMixin
from sama.pipeline.schedule import TIMESTEPS, denoised, guide, guided_at, run_scheduler, shifted_sigmas
from sama.pipeline.types import SamaPipelineOutput, SamaRun, SamaStep, Velocity
from sama.presets import WAN_GUIDANCE, WAN_STEPS, WAN_TEXT_TOKENS
from sama.shapes import Canvas, LatentShape, latent_shape

logger = logging.getLogger(__name__)


class SamaPipeline(SamaLoraMixin, ParallelRunsMixin, RunStateMixin, DiffusionPipeline):
    """Instruction-guided video editing with SAMA.

    transformer: the model. vae: Wan's. text_encoder, tokenizer: UMT5, BERT or any other of transformers with a
        `last_hidden_state`. scheduler: flow-matching Euler (official) or UniPC.
    semantic_tower: the vision tower that the anchors were trained on, for showing outcomes; not needed to edit.
    prompt_prefix: the task's token, put before every prompt and negative prompt.
    max_sequence_length: text tokens; shorter prompts are padded with zero states, which take part in attention.
    spell_quotes: whether and where quoted texts are spelled, see `sama.pipeline.prompts.model_prompt`.
    shift: of the noise schedule. default_steps, default_guidance: where the caller names none.
    round_timestep_to_bf16: evaluates the model at timesteps rounded to bfloat16, as the official code does.
    buckets, window, window_overlap: sizes (width, height) and frames that the model was trained on, and the frames that
        neighbouring windows of a longer clip share; see `sama.shapes.Canvas`. None where nobody said.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["semantic_tower"]  # noqa: RUF012 - diffusers' interface
    _callback_tensor_inputs = CALLBACK_TENSORS

    transformer: SamaTransformer3DModel
    vae: AutoencoderKLWan
    text_encoder: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    scheduler: FlowMatchEulerDiscreteScheduler | UniPCMultistepScheduler
    semantic_tower: SiglipVisionModel | None

    def __init__(
        self,
        transformer: SamaTransformer3DModel,
        vae: AutoencoderKLWan,
        text_encoder: PreTrainedModel | None,
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
        buckets: Sequence[Sequence[int]] | None = None,
        window: int | None = None,
        window_overlap: int | None = None,
    ) -> None:
        super().__init__()
        if spell_quotes not in SPELLINGS:
            raise ValueError(f"spell_quotes must be one of {SPELLINGS}, not {spell_quotes!r}")
        canvas = Canvas.of_settings({"buckets": buckets, "window": window, "window_overlap": window_overlap})
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
            **(canvas.settings() if canvas else {}),
        )
        self.share_attention = True  # between the evaluations of a step; False saves a tensor of all tokens
        self._processes: Processes | OneProcess = OneProcess()
        self._vae_lock = threading.Lock()  # Wan's VAE keeps its frame cache in the module

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

    # --- What the model was made for ---------------------------------------------------------------------------------

    @property
    def canvas(self) -> Canvas | None:
        """Sizes and window that the model was trained on; None for a pipeline that was saved without them."""
        return Canvas.of_settings(self.config)

    @property
    def transformer_arguments(self) -> dict[str, Any]:
        """The arguments that the transformer was made with."""
        return {name: value for name, value in self.transformer.config.items() if not name.startswith("_")}

    # --- Video and text ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_video(self, frames: Tensor) -> Tensor:
        """Frames (B, T, H, W, 3) in [0, 1], T = 4k+1 and sides divisible by 16, as normalised latents
        (B, C, F, H / 8, W / 8), float32. Raises ValueError for other sizes."""
        self._latent_shape(frames)
        with self._vae_lock:
            frames = frames.to(self._execution_device)
            return encode_clips(self.vae, frames, **self._coding(frames.shape[:4]))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, F, h, w) as frames (B, T, H, W, 3) in [0, 1], float32."""
        with self._vae_lock:
            scale = self.vae.config["scale_factor_spatial"]
            clip = (len(latents), 4 * latents.shape[2] - 3, *(scale * side for side in latents.shape[3:]))
            latents = latents.to(self._execution_device, torch.float32)
            return decode_clips(self.vae, latents, **self._coding(clip))

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str], prefix: str | None = None) -> Tensor:
        """Prompts as text states (B, max_sequence_length, text_dim), float32, padded rows zero.

        prefix: the task's token in place of the pipeline's.
        Raises ValueError for a pipeline that was loaded without a text encoder.
        """
        if self.text_encoder is None:
            raise ValueError(
                "this pipeline was loaded without its text encoder: give prompt_embeds in place of prompts"
            )
        prefix = self.config["prompt_prefix"] if prefix is None else prefix
        texts = [model_prompt(prompt, prefix, self.config["spell_quotes"]) for prompt in prompts]
        room = self.config["max_sequence_length"]
        tokens = tokenise(self.tokenizer, texts, room)
        needed = max(map(len, self.tokenizer(texts, verbose=False).input_ids))
        if needed > room:
            logger.warning("the prompt has %d tokens and the model reads %d: its end is lost", needed, room)
        return text_states(self.text_encoder, self.tokenizer, tokens.to(self._execution_device)).float()

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_prefix: str | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Text states of prompts and of negative prompts, (B, max_sequence_length, text_dim) each, to be given to a
        call as `prompt_embeds` and `negative_prompt_embeds`. As in diffusers' pipelines; arguments as a call's.

        do_classifier_free_guidance: False leaves out the second ones, which are then None.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        negatives = [negative_prompt or ""] if isinstance(negative_prompt, str | None) else negative_prompt
        counts = [len(prompts if prompt_embeds is None else prompt_embeds)]
        if do_classifier_free_guidance:
            counts.append(len(negatives if negative_prompt_embeds is None else negative_prompt_embeds))
        batch = BatchShape(max(counts), num_videos_per_prompt)
        prompt_embeds = self._text(prompt_embeds, prompts, prompt_prefix, batch)
        if do_classifier_free_guidance:
            negative_prompt_embeds = self._text(negative_prompt_embeds, negatives, prompt_prefix, batch)
        else:
            negative_prompt_embeds = None
        return prompt_embeds, negative_prompt_embeds

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

    def _coding(self, clip: Sequence[int]) -> dict[str, Any]:
        """How the VAE takes a clip (B, T, H, W): on several processes, or in how many stripes. What waits for the
        transformer makes room."""
        release(self.transformer)
        coder = self._processes.coder(clip)
        if coder is not None and part_fits(self, clip, largest_share(self.vae, clip, self._processes.size)):
            return {"coder": coder}
        return {"stripes": stripes_that_fit(self, clip)}

    # --- The run -----------------------------------------------------------------------------------------------------

    @taking(SamaInputs)
    def __call__(self, inputs: SamaInputs) -> SamaPipelineOutput | tuple[Any, Tensor]:
        """Edits a clip."""
        steps = self._events(inputs)
        output: SamaPipelineOutput | None = None
        with self.progress_bar(total=inputs.num_inference_steps or self.config["default_steps"]) as bar:
            for event in steps:
                if isinstance(event, SamaPipelineOutput):
                    output = event
                else:
                    bar.update()
        assert output is not None  # the last event of every stream that ends
        return output if inputs.return_dict else output.to_tuple()

    @taking(SamaInputs)
    def stream(self, inputs: SamaInputs) -> Stream[SamaStep | SamaPipelineOutput, None, None]:
        """The same edit as a generator: one `SamaStep` per denoising step, then the `SamaPipelineOutput`.

        Inputs are checked at once. Closing the generator stops the work and leaves the pipeline ready for the next run.
        """
        return self._events(inputs)

    def _events(self, inputs: SamaInputs) -> Stream[SamaStep | SamaPipelineOutput, None, None]:
        """The run, with everything checked that needs no model."""
        frames = None if inputs.video is None else as_frames(inputs.video)
        if frames is not None:
            self._latent_shape(frames)
        scale = self.config["default_guidance"] if inputs.guidance_scale is None else inputs.guidance_scale
        steps = self.config["default_steps"] if inputs.num_inference_steps is None else inputs.num_inference_steps
        shifted_sigmas(steps, self.config["shift"])
        batch = BatchShape.of(inputs, frames)

        def prepare() -> SamaRun:
            source = inputs.source_latents if frames is None else self.encode_video(frames)
            embeds = self._text(inputs.prompt_embeds, inputs.prompt, inputs.prompt_prefix, batch)
            negative = None
            if scale != 1:
                negative = self._text(
                    inputs.negative_prompt_embeds, inputs.negative_prompt, inputs.prompt_prefix, batch
                )
            source = None if source is None else batch.expand(source).to(self._execution_device, torch.float32)
            noise = self._noise(batch, source, inputs)
            source_scale = 1.0 if inputs.source_guidance_scale is None else inputs.source_guidance_scale
            return SamaRun(
                *noise, source, embeds, negative, steps, scale, source_scale, inputs.attention_kwargs,
                inputs.guidance_interval,
            )  # fmt: skip

        return self._denoise(prepare, inputs)

    @torch.no_grad()
    def _denoise(
        self, prepare: Callable[[], SamaRun], inputs: SamaInputs
    ) -> Stream[SamaStep | SamaPipelineOutput, None, None]:
        scheduler, callback = inputs.scheduler or self.scheduler, inputs.callback_on_step_end
        self._interrupt = False
        plan: list[Tensor] = []
        processes = self._processes
        if inputs.cache_threshold is not None and isinstance(processes, Processes):
            raise ValueError("a cache works in one process only: each would decide for itself what it computes")
        stack = ExitStack()
        try:
            if inputs.cache_threshold is not None:
                stack.enter_context(first_block_cache(self.transformer, inputs.cache_threshold))
            self.transformer._reset_stateful_cache()  # a run that was stopped may have left its own
            run, scheduler = stack.enter_context(processes.run(lambda: (prepare(), scheduler), self._execution_device))
            self._num_timesteps, self._guidance_scale = run.num_steps, run.guidance_scale
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
                    changed: dict[str, Any] = {}
                    if callback is not None:
                        given = {name: getattr(run, name) for name in inputs.callback_tensors}
                        changed = dict(callback(self, index, timestep, given) or {}) | self._guided_anew(run)
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
            stack.close()  # the run is over: processes that follow this one are free to decode with it
            frames: Any = run.latents
            if inputs.output_type != "latent":
                frames = as_output(self.decode_latents(run.latents), inputs.output_type)
            yield SamaPipelineOutput(frames=frames, semantic_tokens=torch.stack(plan, dim=1))
        finally:  # also when the generator is closed
            self._current_timestep = None
            stack.close()
            self.maybe_free_model_hooks()

    def _velocity(self, run: SamaRun, index: int, sigma: float) -> Velocity:
        """The guided velocity: one pass of the model per text and source that the scales ask for."""
        negative = None if run.guidance_scale == 1 else run.negative_prompt_embeds
        reference = run.prompt_embeds if negative is None else negative
        passes = {"cond": (run.prompt_embeds, run.source_latents)}
        guided = guided_at(sigma, run.guidance_interval)
        if guided and negative is not None:
            passes["uncond"] = (negative, run.source_latents)
        if guided and run.source_guidance_scale != 1 and run.source_latents is not None:
            passes["without_source"] = (reference, None)
        context = {"step_index": index, "sigma": sigma, "num_inference_steps": run.num_steps}
        attended: list[Tensor] | None = [] if "uncond" in passes and self.share_attention else None

        def evaluate(name: str) -> Velocity:
            with self.transformer.cache_context(name, **context):
                return self._evaluate(run, sigma, *passes[name], None if name == "without_source" else attended)

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

    def _evaluate(
        self, run: SamaRun, sigma: float, text: Tensor, source: Tensor | None, attended: list[Tensor] | None = None
    ) -> Velocity:
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
            attended=attended,
        )
        return Velocity(out.sample.float(), out.semantic.float())

    def _text(
        self, embeds: Tensor | None, prompt: str | Sequence[str] | None, prefix: str | None, batch: BatchShape
    ) -> Tensor:
        if embeds is None:
            embeds = self.encode_text([prompt] if isinstance(prompt, str) else list(prompt or ()), prefix)
        return batch.expand(embeds).to(self._execution_device)

    def _noise(self, batch: BatchShape, source: Tensor | None, inputs: SamaInputs) -> tuple[Tensor, Tensor]:
        """Video noise, then semantic noise: the order is part of what a seed means."""
        device, config = self._execution_device, self.transformer.config
        generator = list(inputs.generator) if isinstance(inputs.generator, Sequence) else inputs.generator
        latents, semantic_latents = inputs.latents, inputs.semantic_latents
        if latents is None:
            assert source is not None  # checked at the door
            latents = randn_tensor(tuple(source.shape), generator=generator, device=device, dtype=torch.float32)
        if semantic_latents is None:
            shape = (batch.size, config["num_semantic_tokens"], config["semantic_dim"])
            semantic_latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        return latents.to(device, torch.float32), semantic_latents.to(device, torch.float32)
