"""Where a pipeline's weights lie and how it runs there: device, types, memory mode, compiled blocks."""

from __future__ import annotations

import logging
import math
import os
import shutil
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sama.device.attention import choose_attention
from sama.device.memory import Choice, MemoryMode, Weights, Work, choose, painting_bytes, peak_bytes
from sama.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from sama.pipeline import SamaPipeline

logger = logging.getLogger(__name__)

_HOST_SHARE = 0.9  # of the free main memory; the rest is for the clip and everybody else
_COMFORT = 0.9  # of the free device memory; what needs more goes without savings that take memory
_VAE_SHARE = 0.92  # of the free device memory; kernels are tried out in the rest
_PLACEMENT = "_sama_placement"
COMPILE_PAYS = 5e16  # FLOP: a hundred evaluations of the 14B on 17 frames
_MANY = 100  # evaluations: one edit of a Wan model
_WAN_WINDOW = (81, 480, 832)  # frames, height, width


def default_device() -> str:
    """The best device there is: "cuda", else "mps" where it works, else "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if mps_works() else "cpu"


def mps_works() -> bool:
    """Whether there is an Apple GPU that runs the models' operations in the types that they have there."""
    import torch

    if not torch.backends.mps.is_available():
        return False
    try:  # convolutions over time came to this backend later than the rest of it
        for dtype in {fast_dtype("mps"), vae_dtype("mps")}:
            clip = torch.ones(1, 1, 3, 3, 3, device="mps", dtype=dtype)
            if torch.nn.functional.conv3d(clip, clip).item() != clip.numel():
                return False
    except (RuntimeError, TypeError, NotImplementedError, AssertionError):
        return False
    return True


def resolve_device(device: str | None, needs_gpu: bool = False) -> str:
    """The device of this name, checked; None takes the best one. Raises EditError for one that is
    not there, and where a model needs CUDA and there is none: another device may take days for it, so it must be named
    to be used."""
    import torch

    if device in (None, "auto"):
        if needs_gpu and not torch.cuda.is_available():
            raise EditError(
                "This preset needs a GPU with CUDA, and there is none; use the preset tiny, or name the device cpu."
            )
        return default_device()
    kind, _, index = str(device).partition(":")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(kind)
    if count is None or (index and not index.isdigit()):
        raise EditError(f"There is no device {device!r}; choose cpu, cuda, cuda:1 or mps.")
    if int(index or 0) >= count:
        raise EditError(f"The device {device!r} is not available here; leave it out to take the best one there is.")
    return str(device)


def fast_dtype(device: str) -> torch.dtype:
    """The type that a device multiplies fastest with enough precision: bfloat16 where the hardware has it, else
    float32, because emulated bfloat16 is slower than both."""
    import torch

    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities() if device == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    has_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if has_bf16 else torch.float32


def vae_dtype(device: str) -> torch.dtype:
    """The type of a small model's autoencoder: on a CPU it is a third of the work, on a GPU precision is free. The
    rounding of bfloat16 costs as much as that of the result to whole levels, see docs/performance.md."""
    import torch

    return torch.float32 if device.startswith("cuda") else fast_dtype(device)


@dataclass(frozen=True)
class Placement:
    """Where a pipeline is: device, memory mode and its reason, and whether its blocks are compiled."""

    device: str
    choice: Choice
    compiled: bool

    def sentence(self) -> str:
        """The placement in one sentence, for the user."""
        compiled = ", compiled" if self.compiled else ""
        return f"Memory: {self.choice.mode.value} on {self.device}{compiled} ({self.choice.reason})"


def place(
    pipeline: SamaPipeline,
    device: str,
    memory: str = "auto",
    compile: str = "auto",
    window: tuple[int, int, int] | None = None,
    forwards: int | None = None,
) -> Placement:
    """Put a pipeline on a device, in the memory mode that was asked for or that fits what is free.

    memory: one of `sama.device.memory.MEMORY_MODES`. A CPU, or an Apple GPU, holds everything, whatever is asked.
    compile: "on" compiles the transformer's blocks on a GPU, which takes half a minute at the first step ever; "auto"
        does so where it pays; "off".
    window: frames, height and width of the largest window; the model's own if None, and Wan's usual one at most.
    forwards: evaluations of the model that are to come; None for many.
    Raises ValueError for an unknown mode.
    """
    import torch

    if not device.startswith("cuda"):
        pipeline.to(device)
        reason = "all weights stay in main memory" if device == "cpu" else "this device holds everything"
        return _remember(pipeline, Placement(device, Choice(MemoryMode.RESIDENT, 0.0, reason), compiled=False))
    weights, window = weights_of(pipeline), window or usual_window(pipeline)
    compiled = memory != MemoryMode.FLOAT8 and can_compile() and compile != "off"
    compiled = compiled and (compile == "on" or compiling_pays(pipeline, window, forwards))
    work = work_of(pipeline, *window, compiled=compiled)
    free = free_bytes(device)
    host_room = _host_room(pipeline, weights)

    def chosen(weights: Weights, work: Work) -> Choice:
        needs = {mode: peak_bytes(mode, weights, work, free) for mode in MemoryMode}
        return choose(memory, needs, free, weights.blocks + weights.text, host_room)

    choice = chosen(weights, work)
    if not choice.fits and work.vae_size > 2:  # the last resort of a small card
        pipeline.vae.to(torch.bfloat16)
        work, weights = replace(work, vae_size=2), replace(weights, vae=weights.vae / 2)
        choice = chosen(weights, work)
    pipeline.share_attention = painting_bytes(choice.mode, weights, work) < _COMFORT * free
    if not pipeline.share_attention:  # a hundredth of the time is not worth an edit
        choice = chosen(weights, replace(work, shared=False))
    choose_attention(pipeline.transformer, device, work.tokens)
    put(pipeline, device, choice.mode)
    if compiled:
        compile_blocks(pipeline)
    return _remember(pipeline, Placement(device, choice, compiled))


def placement_of(pipeline: SamaPipeline) -> Placement | None:
    """The placement that `place` made for a pipeline; None before."""
    found = getattr(pipeline, _PLACEMENT, None)
    return found if isinstance(found, Placement) else None


def put(pipeline: SamaPipeline, device: torch.device | str, mode: MemoryMode) -> None:
    """Put a pipeline's weights where one memory mode keeps them."""
    import torch

    from sama.device.streaming import stream_blocks

    source: Any = "file" if mode is MemoryMode.STREAMED_DISK else "host"
    if mode is MemoryMode.RESIDENT:
        pipeline.to(device)
        return
    if (encoder := pipeline.text_encoder) is not None:
        stream_blocks(encoder, _text_blocks(encoder), device, source, rest="visits")
    if mode in (MemoryMode.STREAMED, MemoryMode.STREAMED_DISK):
        stream_blocks(pipeline.transformer, list(pipeline.transformer.blocks), device, source)
    elif mode is MemoryMode.FLOAT8:
        dtype = pipeline.transformer.dtype
        pipeline.transformer.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype, skip_modules_pattern=_kept_exact(pipeline)
        )
        pipeline.transformer.to(device)
    else:
        pipeline.transformer.to(device)
    pipeline.vae.to(device)


def compile_blocks(pipeline: SamaPipeline) -> None:
    """Compile the transformer's blocks; a second call does nothing.

    Each block's computation is compiled, not its call: what streaming hooks to the call stays outside, and one
    compilation serves all blocks. PyTorch keeps it on disk for the next process.
    """
    import torch

    for block in pipeline.transformer.blocks:
        if "forward" not in vars(block):
            block.forward = torch.compile(block.forward)


def can_compile() -> bool:
    """Whether PyTorch's compiler has what it needs for a GPU here: Triton, and a C compiler."""
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    return find_spec("triton") is not None and any(name and shutil.which(name) for name in compilers)


def free_bytes(device: torch.device | str) -> float:
    """Device memory that this process can still use, what it has reserved for itself included."""
    import torch

    index = torch.device(device).index
    index = torch.cuda.current_device() if index is None else index
    free, total = torch.cuda.mem_get_info(index)
    reserved, used = torch.cuda.memory_reserved(index), torch.cuda.memory_allocated(index)
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(index)
    return float(min(free, share * total - reserved) + reserved - used)


def compiling_pays(pipeline: SamaPipeline, window: tuple[int, int, int], forwards: int | None) -> bool:
    """Whether compiling, which takes half a minute and saves a tenth of each evaluation, pays for those to come."""
    from sama.flops import block_flops

    config = pipeline.transformer.config
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tokens = work_of(pipeline, *window).tokens
    one = block_flops(tokens, pipeline.config["max_sequence_length"], width, config["ffn_dim"], config["num_layers"])
    return one.total * (_MANY if forwards is None else forwards) >= COMPILE_PAYS


def stripes_that_fit(pipeline: SamaPipeline, clip: Sequence[int]) -> int:
    """The number of stripes in which a pipeline's autoencoder takes a clip (B, T, H, W) now: one unless a GPU is short
    of memory."""
    device = pipeline._execution_device
    if device.type != "cuda":
        return 1
    work = work_of(pipeline, clip[1], clip[2], clip[3])
    return replace(work, pixels=clip[0] * work.pixels).stripes(_VAE_SHARE * free_bytes(device))


def part_fits(pipeline: SamaPipeline, clip: Sequence[int], share: float) -> bool:
    """Whether a pipeline's autoencoder can take this share of the picture of a clip (B, T, H, W) at once now."""
    device = pipeline._execution_device
    if device.type != "cuda":
        return True
    work = work_of(pipeline, clip[1], clip[2], clip[3])
    return replace(work, pixels=clip[0] * work.pixels).coding(share) <= _VAE_SHARE * free_bytes(device)


def shares_of(vae: Any, side: int) -> tuple[float, ...]:
    """The shares of the picture in the largest stripe, see `Work.shares`. vae: the autoencoder's configuration. side:
    the picture's longer side in pixels."""
    from sama.model.vae_stripes import MAX_STRIPES, can_stripe, decoder_rim, stripe_share

    if not can_stripe(vae):
        return (1.0,)
    latents = side // vae.get("scale_factor_spatial", 8)
    return tuple(stripe_share(latents, count, decoder_rim(vae)) for count in range(1, MAX_STRIPES + 1))


def channels_of(vae: Any) -> float:
    """The width of a decoder's last blocks against Wan's, per pixel. vae: its configuration."""
    patch = int(vae.get("patch_size") or 1)
    return float(vae.get("decoder_base_dim") or vae["base_dim"]) / 96 / patch**2


def weights_of(pipeline: SamaPipeline) -> Weights:
    """Bytes of a pipeline's weights by part, in the types that they have now."""
    blocks = [_bytes(block) for block in pipeline.transformer.blocks]
    encoder = pipeline.text_encoder
    text = [] if encoder is None else [_bytes(block) for block in _text_blocks(encoder)]
    whole = 0 if encoder is None else _bytes(encoder)
    return Weights(
        blocks=sum(blocks),
        block=max(blocks),
        outside=_bytes(pipeline.transformer) - sum(blocks),
        text=whole,
        text_visit=whole - sum(text) + 2 * max(text, default=0),
        vae=_bytes(pipeline.vae),
    )


def work_of(pipeline: SamaPipeline, frames: int, height: int, width: int, compiled: bool = False) -> Work:
    """The work of one window with a pipeline."""
    from sama.shapes import latent_shape, token_counts

    config = pipeline.transformer.config
    return Work(
        tokens=token_counts(latent_shape(frames, height, width)).total,
        width=config["num_attention_heads"] * config["attention_head_dim"],
        size=pipeline.transformer.dtype.itemsize,
        pixels=height * width,
        frames=frames,
        vae_size=pipeline.vae.dtype.itemsize,
        channels=channels_of(pipeline.vae.config),
        compiled=compiled,
        shares=shares_of(pipeline.vae.config, max(height, width)),
    )


def previews_by_map(pipeline: SamaPipeline) -> bool:
    """Whether previews are drawn by a linear map: where decoding would send the transformer off the device, and where
    the weights are not all on it, so that its memory is short."""
    from accelerate.hooks import CpuOffload

    placement = placement_of(pipeline)
    if placement is not None and placement.choice.mode is not MemoryMode.RESIDENT:
        return True
    return isinstance(getattr(pipeline.vae, "_hf_hook", None), CpuOffload)


def host_memory() -> float | None:
    """Bytes of main memory that are free, or can be made free; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def use_growing_segments() -> None:
    """Let CUDA's allocator grow its pieces of memory, so that little is reserved and not used. Call it before the first
    tensor is on a GPU; whoever has set the allocator keeps what they set."""
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    if not any(name in os.environ for name in names):
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"


def usual_window(pipeline: SamaPipeline) -> tuple[int, int, int]:
    """Frames, height and width of a window that a pipeline must have room for where no clip is known yet."""
    from sama.shapes import padded_frame_count

    if (canvas := pipeline.canvas) is None:
        return _WAN_WINDOW
    largest = max(canvas.buckets, key=lambda bucket: bucket.height * bucket.width)
    own = (padded_frame_count(canvas.window), largest.height, largest.width)
    return min(own, _WAN_WINDOW, key=math.prod)


def _remember(pipeline: SamaPipeline, placement: Placement) -> Placement:
    setattr(pipeline, _PLACEMENT, placement)
    logger.info("%s", placement.sentence())
    return placement


def _bytes(module: torch.nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def _text_blocks(encoder: Any) -> list[torch.nn.Module]:
    """The layers of a text encoder of transformers: its longest list of modules."""
    import torch

    lists = [module for module in encoder.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(max(lists, key=lambda found: sum(map(_bytes, found))))


def _kept_exact(pipeline: SamaPipeline) -> tuple[str, ...]:
    """Layers that keep their type when the others are stored as float8: small ones, and adapters."""
    model = pipeline.transformer
    names = (*(model._skip_layerwise_casting_patterns or ()), *(model._keep_in_fp32_modules or ()))
    return (*names, "lora_", "segment_embedding", "semantic", "proj_out")


def _host_room(pipeline: SamaPipeline, weights: Weights) -> float | None:
    """Main memory for weights that wait: what is free, and what those take that are there already. None where the
    system does not tell."""
    from sama.device.streaming import are_in_files

    free = host_memory()
    if free is None:
        return None
    held = [
        size
        for part, size in ((pipeline.transformer, weights.blocks), (pipeline.text_encoder, weights.text))
        if part is not None and not are_in_files([weight.data for weight in part.parameters()])
    ]
    return _HOST_SHARE * free + sum(held)
