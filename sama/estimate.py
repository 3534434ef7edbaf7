"""What an edit will take, told before it runs: tokens, arithmetic, memory and time.

Time is arithmetic divided by speed. The arithmetic is exact (a formula for the transformer, a count on tensors without
storage for the autoencoder); the speed is measured on this device for a moment, or comes from a table for known GPUs,
and the estimate says which.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sama.presets import PRESETS
from sama.request import Canvas, EditRequest, plan_of
from sama.shapes import TokenCounts, latent_shape, padded_frame_count, token_counts
from sama.video import VideoInfo

TEXT_TOKENS = 512
_WAN_DEFAULTS = {"default_steps": 50, "default_guidance": 5.0, "max_sequence_length": TEXT_TOKENS}
_BACKGROUND_BYTES = 0.7e9  # Python, torch, diffusers and a decoder
_STARTUP_SECONDS = 6.0  # importing torch and diffusers, reading a small model
_ACTIVATION_COPIES = 16  # tensors of (tokens, width) alive in a block; 39.8 GB measured for 65,585 tokens of the 14B
_VAE_BYTES_PER_PIXEL = 20e3  # of one frame, with 96 base channels; encoding and decoding go frame by frame
_COUNTED = (9, 64, 64)  # frames, height, width on which the autoencoder's arithmetic is counted
_PROBE_SECONDS = 0.15


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

    @property
    def parameters(self) -> float:
        """Weights of the transformer's blocks."""
        return self.blocks * (8 * self.width**2 + 2 * self.width * self.ffn)


@dataclass(frozen=True)
class Speed:
    """FLOP per second of a device for linear layers, attention and convolutions, and where the figures come from."""

    linear: float
    attention: float
    convolution: float
    basis: str


@dataclass(frozen=True)
class Estimate:
    """What an edit will take.

    tokens: of one window's sequence. forward_flops: of one evaluation of the transformer. forwards: of the whole edit.
    vae_flops: of the whole edit. memory_bytes: on the device, at the peak. seconds: start to file.
    """

    tokens: TokenCounts
    windows: int
    steps: int
    forwards: int
    forward_flops: float
    vae_flops: float
    memory_bytes: float
    seconds: float
    device: str
    basis: str

    @property
    def total_flops(self) -> float:
        return self.forwards * self.forward_flops + self.vae_flops


# Dense bf16, measured or published for long sequences: linear, attention, convolution.
KNOWN_GPUS: Mapping[str, tuple[float, float, float]] = {
    "H200": (730e12, 566e12, 250e12),
    "H100": (730e12, 566e12, 250e12),
    "A100": (250e12, 195e12, 100e12),
    "L40S": (200e12, 150e12, 80e12),
    "RTX 4090": (160e12, 150e12, 70e12),
    "RTX 3090": (65e12, 55e12, 30e12),
}

_WAN_VAE = {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}
_PUBLISHED = {
    "14b": Architecture(5120, 13824, 40, 40, TEXT_TOKENS, 5.7e9, _WAN_VAE, 50, 5.0),
    "1.3b": Architecture(1536, 8960, 30, 12, TEXT_TOKENS, 5.7e9, _WAN_VAE, 50, 5.0),
}


def transformer_flops(tokens: int, width: int, ffn: int, blocks: int, text_tokens: int) -> tuple[float, float]:
    """FLOPs of one forward, a multiply-add as two: (linear layers, attention).

    Together n L (12 d^2 + 4 d f) + 4 n L^2 d + 4 n L T d + 4 n T d^2 for n blocks, L tokens, width d, FFN width f and
    T text tokens.
    """
    linear = blocks * (tokens * (12 * width**2 + 4 * width * ffn) + 4 * text_tokens * width**2)
    attention = blocks * 4 * tokens * width * (tokens + text_tokens)
    return float(linear), float(attention)


def architecture_of(preset: str, model: str | os.PathLike[str] | None = None) -> Architecture:
    """A model's numbers: from its folder, or published ones. Raises ValueError when the folder is incomplete."""
    folder = PRESETS[preset].folder if model is None else Path(model)
    if folder is None:
        return _PUBLISHED[preset]
    try:
        transformer = _config(folder / "transformer" / "config.json")
        vae = _config(folder / "vae" / "config.json")
        index = _WAN_DEFAULTS | _config(folder / "model_index.json")
        return Architecture(
            width=transformer["num_attention_heads"] * transformer["attention_head_dim"],
            ffn=transformer["ffn_dim"],
            blocks=transformer["num_layers"],
            heads=transformer["num_attention_heads"],
            text_tokens=index["max_sequence_length"],
            text_parameters=_stored_bytes(folder / "text_encoder") / 2,
            vae=vae,
            steps=index["default_steps"],
            guidance=index["default_guidance"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"The model in {folder} is incomplete ({error}); get it again.") from error


def estimate(
    request: EditRequest,
    info: VideoInfo,
    speed: Speed | None = None,
    canvas: Canvas | None = None,
) -> Estimate:
    """What editing the clip `info` will take on the request's device (None: CUDA where there is any, else the CPU).

    Without `speed`, a known GPU's figures are looked up and anything else is measured, which takes about a second.
    Raises EditError for a start beyond the clip's end, ValueError for a preset whose weights are not there.
    """
    plan = plan_of(request, info, canvas)
    model = architecture_of(request.preset, request.model)
    steps = request.steps or model.steps
    guidance = model.guidance if request.guidance is None else request.guidance
    passes = 1 + (guidance != 1) + (request.source_guidance not in (None, 1))
    length = padded_frame_count(plan.windows[0][1] - plan.windows[0][0])
    pixels = plan.bucket.width * plan.bucket.height
    tokens = token_counts(latent_shape(length, plan.bucket.height, plan.bucket.width))
    linear, attention = transformer_flops(tokens.total, model.width, model.ffn, model.blocks, model.text_tokens)
    encode, decode = _vae_flops_per_pixel(json.dumps(dict(model.vae), sort_keys=True))
    decodes = 1 if request.keep_source == "off" else 2
    vae = len(plan.windows) * length * pixels * (encode + decodes * decode)
    device = request.device or default_device()
    speed = speed or known_speed(device) or measure_speed(device, tokens.total, model)
    forwards = len(plan.windows) * steps * passes
    seconds = (
        _STARTUP_SECONDS + forwards * (linear / speed.linear + attention / speed.attention) + vae / speed.convolution
    )
    return Estimate(
        tokens=tokens,
        windows=len(plan.windows),
        steps=steps,
        forwards=forwards,
        forward_flops=linear + attention,
        vae_flops=vae,
        memory_bytes=memory_bytes(model, tokens.total, pixels, device),
        seconds=seconds,
        device=device,
        basis=speed.basis,
    )


def memory_bytes(model: Architecture, tokens: int, pixels: int, device: str) -> float:
    """Peak memory on a device: weights, and the larger of the transformer's and the autoencoder's working memory.

    On a CPU that is the process, libraries and text encoder included; on a GPU the text encoder has left by then.
    """
    on_cpu = device.startswith("cpu")
    size = 4 if on_cpu else 2
    patch = int(model.vae.get("patch_size") or 1)
    activations = _ACTIVATION_COPIES * tokens * model.width * size
    autoencoder = _VAE_BYTES_PER_PIXEL * pixels * model.vae["base_dim"] / _WAN_VAE["base_dim"] / patch**2
    weights = size * (model.parameters + (model.text_parameters if on_cpu else 0))
    return weights + max(activations, autoencoder) + (_BACKGROUND_BYTES if on_cpu else 0)


def default_device() -> str:
    """CUDA where there is any, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def known_speed(device: str) -> Speed | None:
    """The speed of a GPU that the table knows by name, else None."""
    if not device.startswith("cuda"):
        return None
    import torch

    name = torch.cuda.get_device_name(device)
    rates = next(((key, figures) for key, figures in KNOWN_GPUS.items() if key in name), None)
    return None if rates is None else Speed(*rates[1], basis=f"known figures for {rates[0]}")


def measure_speed(device: str, tokens: int, model: Architecture) -> Speed:
    """Run a layer, an attention and a convolution of the model's own sizes for a moment."""
    import torch
    import torch.nn.functional as F

    from sama.placement import fast_dtype

    on_cpu = device.startswith("cpu")
    dtype = fast_dtype(device)
    # A few thousand tokens reach a device's full speed; more would only make the probe slow.
    length = min(tokens, 4096)
    head = model.width // model.heads
    channels, side = int(model.vae["base_dim"]), 64 if on_cpu else 256

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    x, weight = random(length, model.width), random(model.ffn, model.width)
    q = random(1, model.heads, length, head)
    image, kernel = random(1, channels, 3, side, side), random(channels, channels, 3, 3, 3)
    with torch.inference_mode():
        return Speed(
            linear=_rate(lambda: F.linear(x, weight), 2 * length * model.width * model.ffn, device),
            attention=_rate(lambda: F.scaled_dot_product_attention(q, q, q), 4 * length**2 * model.width, device),
            convolution=_rate(lambda: F.conv3d(image, kernel), 2 * 27 * channels**2 * (side - 2) ** 2, device),
            basis="measured on this machine just now",
        )


def _rate(run: Callable[[], Any], flops: int, device: str) -> float:
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    run()  # the first call chooses kernels
    wait()
    start, count, passed = time.perf_counter(), 0, 0.0
    while passed < _PROBE_SECONDS:
        run()
        wait()
        count += 1
        passed = time.perf_counter() - start
    return count * flops / passed


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


def _config(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _stored_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
