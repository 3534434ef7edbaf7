"""Where a pipeline's weights lie: on one device, or brought to it part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sama.errors import EditError

if TYPE_CHECKING:
    import torch

    from sama.pipeline import SamaPipeline

_RESIDENT_BYTES = 70e9  # transformer, text encoder, VAE and activations of the 14B at once
_OFFLOAD_BYTES = 44e9  # one of them at a time


def default_device() -> str:
    """The best device there is: "cuda", else "mps" where it works, else "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if mps_works() else "cpu"


def mps_works() -> bool:
    """Whether there is an Apple GPU that computes what the models consist of, in the types that they get there."""
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
    """A device that is there; None takes the best one. Raises EditError for one that is not there, and where a model
    needs CUDA and there is none: another device may take days for it, so it must be named to be used."""
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
    """The type of a small model's autoencoder: on a CPU it is a third of the work, on a GPU precision is free."""
    import torch

    return torch.float32 if device.startswith("cuda") else fast_dtype(device)


def place(pipeline: SamaPipeline, device: str) -> None:
    """Onto the device, whole where it fits; else component by component, and below that block by block."""
    import torch

    if not device.startswith("cuda"):
        pipeline.to(device)
        return
    memory = torch.cuda.get_device_properties(device).total_memory
    weights = sum(
        parameter.numel() * parameter.element_size()
        for component in (pipeline.transformer, pipeline.vae, pipeline.text_encoder)
        for parameter in component.parameters()
    )
    if memory >= _RESIDENT_BYTES or weights < memory / 4:
        pipeline.to(device)
    elif memory >= _OFFLOAD_BYTES:
        pipeline.enable_model_cpu_offload(device=device)
    else:
        stream_weights(pipeline, device)


def decoding_evicts(pipeline: SamaPipeline) -> bool:
    """Whether the device holds one model at a time, so that decoding a picture sends the transformer away."""
    from accelerate.hooks import CpuOffload

    return isinstance(getattr(pipeline.vae, "_hf_hook", None), CpuOffload)


def stream_weights(pipeline: SamaPipeline, device: str) -> None:
    """Keep the weights in main memory and bring each block to the device when its turn comes, while the one before it
    computes."""
    import torch
    from diffusers.hooks import apply_group_offloading

    onload, streams = torch.device(device), device.startswith("cuda")
    apply_group_offloading(
        pipeline.transformer, onload, offload_type="block_level", num_blocks_per_group=1, use_stream=streams
    )
    # The encoder's blocks lie deeper than block level looks.
    apply_group_offloading(pipeline.text_encoder, onload, offload_type="leaf_level", use_stream=streams)
    pipeline.vae.to(onload)  # small, and entered by encode and decode, which no hook sees
