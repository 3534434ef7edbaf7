"""For an edit on a GPU: the memory that each mode needs, the mode that will be chosen, and the largest window."""

from __future__ import annotations

from dataclasses import dataclass

from sama.device.memory import Choice, MemoryMode, Weights, Work, choose, peak_bytes
from sama.device.placement import COMPILE_PAYS, channels_of, shares_of
from sama.edit.estimate import Architecture, Speed, architecture_of, step_seconds
from sama.edit.request import EditRequest, plan_of, sampled
from sama.flops import block_flops
from sama.presets import canvas_of
from sama.shapes import latent_shape, padded_frame_count, token_counts
from sama.video import VideoInfo

_SIZE = 2  # bytes of an element on a GPU
_EXACT = 4  # bytes of one that stays in float32
# Bytes per second to a GPU: from page-locked memory, from a file that main memory holds a copy of, from a disk.
_HOST_RATE, _CACHED_RATE, _DISK_RATE = 20e9, 5e9, 2e9


@dataclass(frozen=True)
class ModeOutlook:
    """A mode: device memory at the peak in bytes, seconds of a denoising step, whether it fits."""

    mode: MemoryMode
    needs: float
    step_seconds: float
    fits: bool


@dataclass(frozen=True)
class Outlook:
    """choice: the mode that an edit will use. compiled: whether its blocks will be. modes: all of them, the quickest
    first. largest: the most frames of a window (width, height) that fit in some exact mode; 0 where none does."""

    choice: Choice
    compiled: bool
    modes: tuple[ModeOutlook, ...]
    largest: int
    size: tuple[int, int]

    def sentences(self) -> list[str]:
        """The outlook as lines of text, for the user."""
        compiled = ", compiled" if self.compiled else ""
        lines = [f"Memory mode: {self.choice.mode.value}{compiled} ({self.choice.reason})"]
        for one in self.modes:
            fit = "" if one.fits else ", does not fit"
            lines.append(
                f"  {one.mode.value:<14}{one.needs / 1e9:6.1f} GB at the peak, {one.step_seconds:.3g} s a step{fit}"
            )
        width, height = self.size
        most = f"{self.largest} frames of {width} x {height}" if self.largest else f"none of {width} x {height} fits"
        return [*lines, f"Largest window that is safe on this card: {most}"]


def outlook(
    request: EditRequest,
    info: VideoInfo,
    speed: Speed,
    free: float,
    host_free: float | None = None,
    can_compile: bool = True,
) -> Outlook:
    """The outlook for an edit on a GPU.

    speed: of the GPU. free: its memory that is free, in bytes. host_free: main memory that is free; None where that is
    not known. can_compile: whether the blocks can be compiled there. Raises EditError for a start beyond the
    clip's end.
    """
    canvas = canvas_of(request.preset, request.model)
    plan = plan_of(request, info, canvas)
    model = architecture_of(request.preset, request.model)
    length = padded_frame_count(plan.windows[0][1] - plan.windows[0][0])
    bucket = plan.bucket
    request = sampled(request)
    guidance = model.guidance if request.guidance is None else request.guidance
    passes = 1 + (guidance != 1) + (request.source_guidance not in (None, 1))
    steps = (request.steps or model.steps) * len(plan.windows)
    weights = weights_of_architecture(model)
    compiled = can_compile and request.compile != "off" and request.memory != MemoryMode.FLOAT8
    work = work_of_architecture(model, length, bucket.height, bucket.width, compiled)
    if request.compile == "auto":
        total = block_flops(work.tokens, model.text_tokens, model.width, model.ffn, model.blocks).total
        compiled = compiled and total * passes * steps >= COMPILE_PAYS
        work = work_of_architecture(model, length, bucket.height, bucket.width, compiled)
    needs = {mode: peak_bytes(mode, weights, work, free) for mode in MemoryMode}
    choice = choose(request.memory, needs, free, weights.blocks + weights.text, host_free)
    step = step_seconds(model, work.tokens, speed, passes, guidance != 1, compiled)
    modes = tuple(
        ModeOutlook(mode, needs[mode], slowed(mode, step, passes, weights, host_free), needs[mode] <= free)
        for mode in MemoryMode
    )
    window = canvas.window
    largest = 0
    for frames in range(1, padded_frame_count(window) + 1, 4):
        one = work_of_architecture(model, frames, bucket.height, bucket.width, compiled)
        least = min(peak_bytes(mode, weights, one, free) for mode in MemoryMode if mode is not MemoryMode.FLOAT8)
        if least <= free:
            largest = min(frames, window)
    return Outlook(choice, compiled, modes, largest, (bucket.width, bucket.height))


def weights_of_architecture(model: Architecture) -> Weights:
    """Bytes of a model's weights on a GPU, by the formulas of its layers."""
    block = _SIZE * (8 * model.width**2 + 2 * model.width * model.ffn + 9 * model.width + model.ffn)
    block += _EXACT * 12 * model.width  # modulation and norms
    outside = _SIZE * (7 * model.width**2 + model.text_width * model.width) + _EXACT * (model.width**2)
    text = _SIZE * model.text_parameters
    return Weights(model.blocks * block, block, outside, text, text / 4, _EXACT * model.vae_parameters)


def work_of_architecture(model: Architecture, frames: int, height: int, width: int, compiled: bool) -> Work:
    """The work of one window on a GPU."""
    return Work(
        tokens=token_counts(latent_shape(frames, height, width)).total,
        width=model.width,
        size=_SIZE,
        pixels=height * width,
        frames=frames,
        vae_size=_EXACT,
        channels=channels_of(model.vae),
        compiled=compiled,
        shares=shares_of(model.vae, max(height, width)),
    )


def slowed(mode: MemoryMode, step: float, passes: int, weights: Weights, host_free: float | None) -> float:
    """Seconds of a step whose weights come from somewhere else: whichever takes longer, computing or bringing them.

    host_free: main memory that is free, in which the system keeps a file that it has read once; None where that is not
        known.
    """
    cached = host_free is not None and host_free > weights.blocks
    from_file = _CACHED_RATE if cached else _DISK_RATE
    rate = {MemoryMode.STREAMED: _HOST_RATE, MemoryMode.STREAMED_DISK: from_file}.get(mode)
    if mode is MemoryMode.FLOAT8:
        return 1.03 * step
    return step if rate is None else max(step, passes * weights.blocks / rate)
