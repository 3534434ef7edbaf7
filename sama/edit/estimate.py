"""Estimates an edit before it runs: tokens, floating-point operations, memory and time.

Time is arithmetic divided by speed. The arithmetic is exact (a formula for the transformer, a count on tensors without
storage for the autoencoder); the speed is measured on this device for a moment, or comes from a table for known GPUs,
and the estimate says which.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sama.device.memory import MemoryMode, peak_bytes
from sama.device.placement import default_device
from sama.edit.request import EditRequest, plan_of, sampled
from sama.flops import Flops, block_flops, known_gpu, shared_flops, unread_flops
from sama.presets import PRESETS, WAN_GUIDANCE, WAN_STEPS, WAN_TEXT_TOKENS, canvas_of
from sama.shapes import NUM_SEMANTIC_TOKENS, TokenCounts, latent_shape, padded_frame_count, token_counts
from sama.video import VideoInfo

if TYPE_CHECKING:
    import torch

_BACKGROUND_BYTES = 0.7e9  # Python, torch, diffusers and a decoder
_STARTUP_SECONDS = 8.0  # importing torch and diffusers, reading a small model
_CPU_SIZE = 4  # bytes of an element on a CPU
_ACTIVATION_COPIES = 16  # tensors of (tokens, width) alive in a block
_VAE_BYTES_PER_PIXEL = 20e3  # of one frame, with 96 base channels; encoding and decoding go frame by frame
# What norms, rotation and modulation take, as FLOP of a matrix product in the same time, for each element of the tokens
# and each block; from a 14B on an H200 (docs/performance.md).
_BETWEEN, _BETWEEN_COMPILED = 76e3, 24e3
_WRITE_SECONDS = 40e-9  # reading twice, composing and encoding, per pixel of the result
_COUNTED = (9, 96, 96)  # frames, height, width on which the autoencoder is counted and timed
_PROBED_TOKENS = 4096  # a few thousand reach a device's full speed; more would only make the probe slow
_PROBE_RUNS = 8
_PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class Architecture:
    """The numbers that the arithmetic depends on."""

    width: int
    ffn: int
    blocks: int
    heads: int
    text_tokens: int
    text_parameters: float
    vae: Mapping[str, Any]
    steps: int
    guidance: float
    shift: float = 5.0
    text_width: int = 4096
    vae_parameters: float = 127e6

    @property
    def parameters(self) -> float:
        """Weights of the transformer's blocks."""
        return self.blocks * (8 * self.width**2 + 2 * self.width * self.ffn)


@dataclass(frozen=True)
class Speed:
    """FLOP per second of a device for linear layers, attention and convolutions, and where the figures come from.

    kernels_only: the figures are those of single kernels, so that what stands between them (norms, rotation,
    modulation) comes on top.
    """

    linear: float
    attention: float
    convolution: float
    basis: str
    kernels_only: bool = False


@dataclass(frozen=True)
class Estimate:
    """The cost of an edit.

    tokens: length of one window's sequence. forward_flops: FLOPs of one evaluation of the transformer. forwards:
    evaluations in the whole edit. vae_flops: FLOPs of the autoencoder in the whole edit. memory_bytes: on the device,
    at the peak. seconds: from start to file.
    startup_seconds: the part of `seconds` that a process with a loaded model does not need.
    step_seconds: one denoising step of one window, all its forwards.
    encode_seconds, decode_seconds: what the autoencoder takes in the whole edit before the steps and after them.
    write_seconds: reading, composing and writing the frames of the whole edit.
    """

    tokens: TokenCounts
    windows: int
    steps: int
    forwards: int
    forward_flops: float
    vae_flops: float
    memory_bytes: float
    seconds: float
    startup_seconds: float
    step_seconds: float
    encode_seconds: float
    decode_seconds: float
    write_seconds: float
    device: str
    basis: str

    @property
    def total_flops(self) -> float:
        return self.forwards * self.forward_flops + self.vae_flops


_WAN_VAE = {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
_WAN_TEXT_PARAMETERS = 5.7e9
_WAN_VAE_PARAMETERS = 127e6


def architecture_of(preset: str, model: str | os.PathLike[str] | None = None) -> Architecture:
    """A model's numbers: from its folder, or published ones. Raises ValueError when the folder is incomplete."""
    folder = PRESETS[preset].folder if model is None else Path(model)
    if folder is None:
        return _architecture(PRESETS[preset].transformer, _WAN_VAE, {}, _WAN_TEXT_PARAMETERS)
    try:
        return _architecture(
            _config(folder / "transformer" / "config.json"),
            _config(folder / "vae" / "config.json"),
            _config(folder / "model_index.json"),
            _stored_bytes(folder / "text_encoder") / 2,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"The model in {folder} is incomplete ({error}); get it again.") from error


def _architecture(
    transformer: Mapping[str, Any], vae: Mapping[str, Any], index: Mapping[str, Any], text_parameters: float
) -> Architecture:
    """transformer, vae, index: the configurations of a saved pipeline's parts and of the pipeline itself."""
    heads = transformer["num_attention_heads"]
    return Architecture(
        width=heads * transformer["attention_head_dim"],
        ffn=transformer["ffn_dim"],
        blocks=transformer["num_layers"],
        heads=heads,
        text_tokens=index.get("max_sequence_length", WAN_TEXT_TOKENS),
        text_parameters=text_parameters,
        vae=vae,
        steps=index.get("default_steps", WAN_STEPS),
        guidance=index.get("default_guidance", WAN_GUIDANCE),
        shift=index.get("shift", 5.0),
        text_width=transformer.get("text_dim", 4096),
        vae_parameters=_WAN_VAE_PARAMETERS * ((vae.get("decoder_base_dim") or vae["base_dim"]) / 96) ** 2,
    )


def estimate(
    request: EditRequest,
    info: VideoInfo,
    speed: Speed | None = None,
) -> Estimate:
    """The cost of editing the clip `info` on the request's device (None: CUDA where there is any, else the CPU).

    Without `speed`, a known GPU's figures are looked up and anything else is measured, which takes about a second.
    Raises EditError for a start beyond the clip's end, ValueError for a preset whose weights are not there.
    """
    request = sampled(request)
    plan = plan_of(request, info, canvas_of(request.preset, request.model))
    model = architecture_of(request.preset, request.model)
    steps = request.steps or model.steps
    guidance = model.guidance if request.guidance is None else request.guidance
    passes = 1 + (guidance != 1) + (request.source_guidance not in (None, 1))
    length = padded_frame_count(plan.windows[0][1] - plan.windows[0][0])
    pixels = plan.bucket.width * plan.bucket.height
    tokens = token_counts(latent_shape(length, plan.bucket.height, plan.bucket.width))
    linear, attention = block_flops(tokens.total, model.text_tokens, model.width, model.ffn, model.blocks)
    encode, decode = _vae_flops_per_pixel(_as_key(model.vae))
    decodes = 1 if request.keep_source == "off" and request.detail == "off" else 2
    shared = sum(stop - start for (_, stop), (start, _) in pairwise(plan.windows))
    handed_on = shared * (2 * encode + decode)  # see sama.edit.windows.faithful_latents
    encoding = pixels * (len(plan.windows) * length * encode + handed_on)
    decoding = pixels * len(plan.windows) * length * decodes * decode
    device = request.device or default_device()
    speed = speed or known_speed(device) or measure_speed(device, tokens.total, model)
    share = guided_share(steps, model.shift, request)
    alone = step_seconds(model, tokens.total, speed)
    step = share * step_seconds(model, tokens.total, speed, passes, guidance != 1) + (1 - share) * alone
    forwards = len(plan.windows) * round(steps * (share * passes + 1 - share))
    painting = len(plan.windows) * steps * step + (encoding + decoding) / speed.convolution
    writing = _WRITE_SECONDS * plan.frames * info.width * info.height
    return Estimate(
        tokens=tokens,
        windows=len(plan.windows),
        steps=steps,
        forwards=forwards,
        forward_flops=linear + attention,
        vae_flops=encoding + decoding,
        memory_bytes=memory_bytes(model, length, plan.bucket.height, plan.bucket.width, device),
        seconds=_STARTUP_SECONDS + painting + writing,
        startup_seconds=_STARTUP_SECONDS,
        step_seconds=step,
        encode_seconds=encoding / speed.convolution,
        decode_seconds=decoding / speed.convolution,
        write_seconds=writing,
        device=device,
        basis=speed.basis,
    )


def guided_share(steps: int, shift: float, request: EditRequest) -> float:
    """The share of the steps on which guidance acts."""
    if request.guidance_interval is None:
        return 1.0
    from sama.pipeline.schedule import guided_at, shifted_sigmas

    sigmas = shifted_sigmas(steps, shift)
    return sum(guided_at(sigma, request.guidance_interval) for sigma in sigmas) / steps


def step_seconds(
    model: Architecture, tokens: int, speed: Speed, passes: int = 1, guided: bool = False, compiled: bool = False
) -> float:
    """Seconds of one denoising step of `passes` evaluations of the transformer's blocks. guided: whether two of them
    differ in their text alone, and so share what comes before the text."""
    linear, attention = block_flops(tokens, model.text_tokens, model.width, model.ffn, model.blocks)
    source = (tokens - NUM_SEMANTIC_TOKENS) // 2
    unread = unread_flops(source, tokens, model.text_tokens, model.width, model.ffn)
    shared = shared_flops(tokens, model.width) if guided else Flops(0, 0)
    linear = passes * (linear - unread.linear) - shared.linear
    attention = passes * (attention - unread.attention) - shared.attention
    between = 0.0
    if speed.kernels_only:
        cost = _BETWEEN_COMPILED if compiled else _BETWEEN
        between = passes * cost * tokens * model.width * model.blocks / speed.linear
    return linear / speed.linear + attention / speed.attention + between


def memory_bytes(model: Architecture, frames: int, height: int, width: int, device: str) -> float:
    """Peak memory on a device for one window.

    On a CPU or an Apple GPU that is the process: libraries, all weights, and the larger of the transformer's and the
    autoencoder's working memory. With CUDA it is the GPU's, while the text encoder waits in main memory;
    `sama.edit.outlook` has the other modes.
    """
    from sama.edit.outlook import weights_of_architecture, work_of_architecture

    if device.startswith("cuda"):
        work = work_of_architecture(model, frames, height, width, compiled=False)
        return peak_bytes(MemoryMode.OFFLOAD, weights_of_architecture(model), work)
    tokens = token_counts(latent_shape(frames, height, width)).total
    patch = int(model.vae.get("patch_size") or 1)
    activations = _ACTIVATION_COPIES * tokens * model.width * _CPU_SIZE
    autoencoder = _VAE_BYTES_PER_PIXEL * height * width * model.vae["base_dim"] / _WAN_VAE["base_dim"] / patch**2
    weights = _CPU_SIZE * (model.parameters + model.text_parameters)
    return weights + max(activations, autoencoder) + _BACKGROUND_BYTES


def known_speed(device: str) -> Speed | None:
    """The speed of a GPU whose rates `sama.flops` knows, else None."""
    if not device.startswith("cuda"):
        return None
    import torch

    gpu = known_gpu(torch.cuda.get_device_name(device))
    return (
        None
        if gpu is None or gpu.rates is None
        else Speed(*gpu.rates, basis=f"known figures for {gpu.name}", kernels_only=True)
    )


def measure_speed(device: str, tokens: int, model: Architecture) -> Speed:
    """Run one block of the transformer and the autoencoder, of the model's own sizes and type, for a moment."""
    import torch

    tokens = min(tokens, _PROBED_TOKENS)
    linear, attention = block_flops(tokens, model.text_tokens, model.width, model.ffn)
    encode, decode = _vae_flops_per_pixel(_as_key(model.vae))
    with torch.inference_mode():
        block_rate = (linear + attention) / _best_seconds(_block_run(device, tokens, model), device)
        vae_rate = math.prod(_COUNTED) * (encode + decode) / _best_seconds(_vae_run(device, model.vae), device)
    return Speed(block_rate, block_rate, vae_rate, basis="measured on this machine just now")


def _block_run(device: str, tokens: int, model: Architecture) -> Callable[[], Any]:
    """One block on a sequence of `tokens`, norms, rotary embedding and cross-attention included."""
    import torch
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock

    from sama.device.placement import fast_dtype

    dtype = fast_dtype(device)
    with torch.device("meta"):
        block = WanTransformerBlock(model.width, model.ffn, model.heads, cross_attn_norm=True)
    block = _filled(block, device, dtype)
    x = torch.randn(1, tokens, model.width, device=device).to(dtype)
    text = torch.randn(1, model.text_tokens, model.width, device=device).to(dtype)
    modulation = torch.randn(1, 6, model.width, device=device).to(dtype)
    angles = torch.randn(1, tokens, 1, model.width // model.heads, device=device)
    rotary = (angles.cos(), angles.sin())
    return lambda: block(x, text, modulation, rotary)


def _vae_run(device: str, config: Mapping[str, Any]) -> Callable[[], Any]:
    """Encodes and decodes a clip of `_COUNTED` size."""
    import torch
    from diffusers import AutoencoderKLWan

    from sama.device.placement import vae_dtype

    with torch.device("meta"):
        vae = AutoencoderKLWan.from_config(dict(config)).eval()
    dtype = vae_dtype(device)
    vae = _filled(vae, device, dtype)
    clip = torch.rand(1, 3, *_COUNTED, device=device).to(dtype)
    return lambda: vae.decode(vae.encode(clip).latent_dist.mode())


def _filled(module: Any, device: str, dtype: torch.dtype) -> Any:
    """A module without storage, on a device with weights of no meaning: initialising a large one takes too long."""
    from torch import nn

    # Not the model's own `to`, which warns about types that matter for real weights only.
    module = nn.Module.to(module.requires_grad_(False), dtype).to_empty(device=device)
    for parameter in module.parameters():
        parameter.fill_(0.01)
    return module


def _best_seconds(run: Callable[[], Any], device: str) -> float:
    """Seconds of the quickest of several runs after a warm one: other work on the machine can only make a run
    slower."""
    import torch

    def timed() -> float:
        began = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        elif device == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - began

    passed = timed()  # the first call chooses kernels
    runs: list[float] = []
    while not runs or (len(runs) < _PROBE_RUNS and passed < _PROBE_SECONDS):
        runs.append(timed())
        passed += runs[-1]
    return min(runs)


@lru_cache(maxsize=8)
def _vae_flops_per_pixel(config: str) -> tuple[float, float]:
    """FLOPs of encoding and of decoding, per pixel of the clip, counted on tensors without storage."""
    import torch
    from diffusers import AutoencoderKLWan
    from torch.utils.flop_counter import FlopCounterMode

    frames, height, width = _COUNTED
    with torch.device("meta"), torch.inference_mode():
        vae = AutoencoderKLWan.from_config(json.loads(config)).eval()
        with FlopCounterMode(display=False) as encoding:
            latents = vae.encode(torch.zeros(1, 3, frames, height, width)).latent_dist.mode()
        with FlopCounterMode(display=False) as decoding:
            vae.decode(latents)
    pixels = frames * height * width
    return encoding.get_total_flops() / pixels, decoding.get_total_flops() / pixels


def _as_key(vae: Mapping[str, Any]) -> str:
    return json.dumps(dict(vae), sort_keys=True)


def _config(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _stored_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
