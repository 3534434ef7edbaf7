"""What is asked for: the request, and its check at the door.

Nothing here imports torch, so that bad input is refused at once.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sama.device.memory import COMPILE, MEMORY_MODES
from sama.edit.composing.user_mask import MaskError, check_mask
from sama.errors import EditError, VideoError
from sama.model.lora_keys import Stored, complaint
from sama.presets import (
    FEW_STEPS,
    FEW_STEPS_FILE,
    PRESETS,
    QUALITIES,
    Sampling,
    canvas_of,
    missing_weights,
    own_few_steps,
)
from sama.shapes import Bucket, Canvas, nearest_bucket, windows
from sama.video import VideoInfo, VideoLimits, probe
from sama.video.codecs import check_codec
from sama.video.timeline import Timeline, read_timeline

OUTPUT_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
MAX_INSTRUCTION = 600
MAX_STEPS = 200
MAX_GUIDANCE = 100.0
MAX_SEED = 2**32 - 1
KEEP_SOURCE = ("auto", "on", "off")
DETAIL = ("auto", "on", "off")
OWN_FEW_STEPS, NO_FEW_STEPS = "own", "off"
SCHEDULERS = ("euler", "unipc")

SETTINGS_MARK = "sama_version"
"""The field by which a file of settings is known."""


@dataclass(frozen=True)
class EditRequest:
    """One edit, from file to file.

    video, output: paths; the output's suffix is one of `OUTPUT_SUFFIXES`, its settings go beside it as `.json`.
    instruction: 1 to 600 characters, of which the model may read fewer: `EditResult.unread` is the rest.
    preset: a name in `sama.presets.PRESETS`.
    seed: 0 to 2**32 - 1; the same seed gives the same file.
    quality: "fast", "balanced" or "best": steps, guidance, scheduler and guidance interval, where they are not given,
        as the preset's `Sampling` of that name says. None is the preset's own choice, and
        "balanced" in place of one that rests on a LoRA for few steps where anything of how to sample, a negative prompt
        or a LoRA is given.
    steps: denoising steps, 1 to 200; None is the model's default.
    guidance, source_guidance: 0 to 100; how strongly the text and the source clip steer. None is the model's default.
    start, frames: the range of the source, in frames; None is everything from `start`. Fewer are edited when the clip
        ends earlier.
    keep_source: whether places that the edit leaves alone show the source's own pixels: "on", "off", or "auto", which
        is "on" unless most of the picture changes.
    detail: whether the edit gets the source's detail, which the model's size and its autoencoder lose: "on", "off", or
        "auto", which is "on" where the clip is larger than the model's size.
    mask: path of a picture or a clip that is white where the edit may show, stretched to the clip's size; grey shows it
        in part. Black places show the source's own pixels, whatever `keep_source` says. A picture is for all frames; a
        clip's frame is for the source's frame of the same number, and its last one for all that follow. Inside the
        mask `keep_source` chooses between edit and source as ever; "off" shows there all that the model painted.
    lora: paths of LoRA weights (.safetensors), each optionally followed by `@` and a scale: `snow.safetensors@0.8`.
    scheduler: "euler" or "unipc". guidance_interval: noise levels (low, high) in [0, 1] between which guidance acts; a
        step elsewhere takes one evaluation of the model. None is the quality's.
    cache: threshold of the cache over steps, such as 0.1, see `sama.pipeline.caching`; None is no cache.
    codec: of the result: "prores" (10 bits, for editing programs; .mov, .mkv) or "ffv1" (lossless; .mkv), both with the
        source's transparency; None is the suffix's own, H.264 or VP9.
    few_steps: a LoRA made for few steps without guidance: "own" for the one that the model carries, "off" for none, or
        a file, or `owner/name/file.safetensors` on the Hub. None: "own" where the quality says so and how to
        sample is not given otherwise by hand; a quality that is not named is then one without it.
    device: "cpu", "cuda", "cuda:1", "mps"; None takes the best there is: CUDA, else MPS where it works, else the CPU.
    memory: where the weights wait, see `sama.device.memory.MemoryMode`; "auto" chooses from what is free.
    compile: whether the transformer's blocks are compiled: "on", "off", or "auto", which is "on" where that pays.
    model: folder of a saved pipeline, such as training writes, in place of the preset's weights. Where it was saved
        without its sizes and window, the preset's hold.
    """

    video: str | os.PathLike[str]
    instruction: str
    output: str | os.PathLike[str]
    preset: str = "tiny"
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    source_guidance: float | None = None
    negative_prompt: str = ""
    start: int = 0
    frames: int | None = None
    keep_source: str = "auto"
    detail: str = "auto"
    mask: str | os.PathLike[str] | None = None
    lora: tuple[str, ...] = ()
    device: str | None = None
    memory: str = "auto"
    compile: str = "auto"
    scheduler: str | None = None
    model: str | os.PathLike[str] | None = None
    quality: str | None = None
    guidance_interval: tuple[float, float] | None = None
    cache: float | None = None
    codec: str | None = None
    few_steps: str | None = None


def sampled(request: EditRequest) -> EditRequest:
    """The request with what its quality means put in for what it leaves open. What is still None then is the model's
    own default. Raises `EditError` for a preset or a quality that does not exist."""
    check_preset(request.preset)
    quality = _default_quality(request) if request.quality is None else request.quality
    _check_choice(quality, QUALITIES, "quality")
    sampling, interval = PRESETS[request.preset].qualities[quality], request.guidance_interval
    few_steps = request.few_steps
    if few_steps is None:
        by_hand = _by_hand(request, sampling if request.quality else None)
        own = sampling.few_steps and not by_hand and own_few_steps(request.preset, request.model)
        few_steps = OWN_FEW_STEPS if own else NO_FEW_STEPS
    if few_steps not in (OWN_FEW_STEPS, NO_FEW_STEPS):
        sampling = FEW_STEPS
    interval = sampling.guidance_interval if interval is None else (interval[0], interval[1])
    return replace(
        request,
        quality=quality,
        steps=sampling.steps if request.steps is None else request.steps,
        guidance=sampling.guidance if request.guidance is None else request.guidance,
        scheduler=request.scheduler or sampling.scheduler,
        guidance_interval=interval,
        few_steps=few_steps,
    )


def _default_quality(request: EditRequest) -> str:
    """The quality of a request that names none: the preset's own, but where that rests on a LoRA for few steps which is
    not there or not wanted, the best one without it."""
    preset = PRESETS[request.preset]
    if request.few_steps not in (None, NO_FEW_STEPS):
        return "fast"
    if not preset.qualities[preset.quality].few_steps:
        return preset.quality
    without = request.few_steps == NO_FEW_STEPS or own_few_steps(request.preset, request.model) is None
    return "balanced" if without or _by_hand(request) or request.negative_prompt or request.lora else preset.quality


def _by_hand(request: EditRequest, sampling: Sampling | None = None) -> bool:
    """Whether a request says itself how to sample, other than `sampling` does: a LoRA for few steps is made for one way
    only."""
    own = sampling or Sampling()
    given = (
        (request.steps, own.steps), (request.guidance, own.guidance), (request.source_guidance, 1.0),
        (request.scheduler, sampling and own.scheduler), (request.guidance_interval, own.guidance_interval),
        (request.cache, None),
    )  # fmt: skip
    return any(value is not None and value != usual for value, usual in given)


def loras_of(request: EditRequest) -> tuple[str, ...]:
    """All LoRAs of an edit as `FILE[@SCALE]`, that for few steps first."""
    file = few_steps_of(request)
    return request.lora if file is None else (str(file), *request.lora)


def few_steps_of(request: EditRequest) -> str | None:
    """The LoRA for few steps of an edit, a file or one of the Hub; None without. Raises `EditError` where the model
    should carry one and does not."""
    few_steps = sampled(request).few_steps
    if few_steps != OWN_FEW_STEPS:
        return None if few_steps == NO_FEW_STEPS else few_steps
    file = own_few_steps(request.preset, request.model)
    if file is None:
        raise EditError(f"The model carries no LoRA for few steps ({FEW_STEPS_FILE}); name one, or leave it out.")
    return str(file)


@dataclass(frozen=True)
class Plan:
    """How a clip is cut for the model: `frames` frames from `start`, in windows `[start, stop)` within that range, each
    frame scaled to `bucket`."""

    bucket: Bucket
    start: int
    frames: int
    windows: list[tuple[int, int]]


@dataclass(frozen=True)
class Job:
    """A request that passed the check, as `sampled` completes it, with what follows from it and the clip.

    timeline: of the clip, whose packets are walked once for the whole edit.
    """

    request: EditRequest
    info: VideoInfo
    timeline: Timeline
    plan: Plan
    output: Path
    settings: Path


def check_request(
    request: EditRequest, with_weights: bool = True, canvas: Canvas | None = None, limits: VideoLimits | None = None
) -> Job:
    """Everything that can be refused before a model is loaded, cheapest first. Raises `EditError`.

    with_weights: whether the preset's own weights will be used, and must be there.
    canvas: what the model sees at once, of a pipeline that is loaded already; None reads it where the model is saved.
    """
    check_values(request)
    request = sampled(request)
    _check_text(request.instruction, "instruction", required=True)
    _check_text(request.negative_prompt, "negative prompt", required=False)
    with _usable_paths():
        few_steps = few_steps_of(request)
        for spec in request.lora if few_steps is None or is_on_hub(Path(few_steps)) else loras_of(request):
            check_lora(parse_lora(spec)[0])
        info, timeline = _looked_at(request.video, limits)
        plan = plan_of(request, info, canvas or _saved_canvas(request))
        if request.mask is not None:
            _check_mask(request.mask, plan)
        output = check_output(request.output, request.video)
        _check_codec(request)
        if with_weights:
            check_weights(request.preset, request.model)
    return Job(request, info, timeline, plan, output, output.with_suffix(".json"))


def wants_detail(job: Job) -> bool:
    """Whether an edit gets the source's detail."""
    larger = job.info.width * job.info.height > job.plan.bucket.width * job.plan.bucket.height
    return larger if job.request.detail == "auto" else job.request.detail == "on"


def _check_mask(mask: str | os.PathLike[str], plan: Plan) -> None:
    try:
        check_mask(mask, plan.start, plan.frames)
    except MaskError as error:
        raise EditError(str(error)) from error


def check_values(request: EditRequest) -> None:
    """Everything about a request that needs no file. Raises `EditError`."""
    check_preset(request.preset)
    _check_choice(request.keep_source, KEEP_SOURCE, "way to keep the source")
    _check_choice(request.detail, DETAIL, "way to keep detail")
    if request.scheduler is not None:
        _check_choice(request.scheduler, SCHEDULERS, "scheduler")
    if request.quality is not None:
        _check_choice(request.quality, QUALITIES, "quality")
    check_ways(request.memory, request.compile)
    _check_numbers(request)
    if not isinstance(request.lora, (tuple, list)):
        raise EditError("The LoRAs must be a list of files; put the one you have into a list.")
    if request.few_steps is not None and not (isinstance(request.few_steps, str) and request.few_steps):
        raise EditError(f"There is no LoRA for few steps {request.few_steps!r}; give a file, own or off.")


def check_video(video: str | os.PathLike[str], limits: VideoLimits | None = None) -> VideoInfo:
    """Facts about a clip. Raises `EditError` when it cannot be read."""
    return _looked_at(video, limits)[0]


def _looked_at(video: str | os.PathLike[str], limits: VideoLimits | None) -> tuple[VideoInfo, Timeline]:
    with _usable_paths():
        try:
            timeline = read_timeline(video, limits or VideoLimits())
            return probe(video, limits, timeline), timeline
        except VideoError as error:
            raise EditError(str(error)) from error


def _check_codec(request: EditRequest) -> None:
    try:
        check_codec(request.codec, request.output)
    except VideoError as error:
        raise EditError(str(error)) from error


def _saved_canvas(request: EditRequest) -> Canvas:
    _check_folder(request.preset, request.model)
    try:
        return canvas_of(request.preset, request.model)
    except ValueError as error:
        raise EditError(str(error)) from error


def plan_of(request: EditRequest, info: VideoInfo, canvas: Canvas) -> Plan:
    """How the clip will be cut. Raises `EditError` for a start beyond its end."""
    if request.start >= info.frames:
        raise EditError(
            f"The start, frame {request.start}, lies beyond the clip's {info.frames} frames; "
            f"choose a start from 0 to {info.frames - 1}."
        )
    frames = min(info.frames - request.start, request.frames or info.frames)
    bucket = nearest_bucket(info.width, info.height, canvas.buckets)
    return Plan(bucket, request.start, frames, windows(frames, canvas.window, canvas.overlap))


def check_preset(name: str) -> None:
    """Raise `EditError` unless there is a preset of this name."""
    _check_choice(name, PRESETS, "preset")


def check_ways(memory: str, compile: str) -> None:
    """Raise `EditError` unless there are such a memory mode and such a way to compile."""
    _check_choice(memory, MEMORY_MODES, "memory mode")
    _check_choice(compile, COMPILE, "way to compile")


def check_weights(preset: str, model: str | os.PathLike[str] | None = None) -> None:
    """Raise `EditError` when the weights can be neither found nor fetched."""
    _check_folder(preset, model)
    chosen = PRESETS[preset]
    if model is None and chosen.folder is None and chosen.weights_repo is None:
        raise EditError(f"No weights are released for the preset {preset!r}; give the folder of trained ones.")


def _check_folder(preset: str, model: str | os.PathLike[str] | None) -> None:
    """Raise `EditError` when the folder of the model, which need not have one, holds no saved pipeline."""
    chosen = PRESETS[preset]
    if model is not None and not (Path(model) / "model_index.json").is_file():
        raise EditError(f"There is no saved pipeline in {str(model)!r}; give the folder with model_index.json.")
    if model is None and chosen.folder is not None and not (chosen.folder / "model_index.json").is_file():
        raise EditError(missing_weights(chosen))


def check_output(output: str | os.PathLike[str], video: str | os.PathLike[str]) -> Path:
    """`output` as a path that a result and its settings can be written to. Raises `EditError`."""
    path = Path(output)
    if path.is_dir():
        raise EditError(f"The output {path.name or path} is a folder; give a file name such as result.mp4.")
    if path.suffix.lower() not in OUTPUT_SUFFIXES:
        raise EditError(f"The output {path.name!r} must end in one of {', '.join(OUTPUT_SUFFIXES)}.")
    if not path.parent.is_dir():
        raise EditError(f"The folder {str(path.parent)!r} for the output does not exist; create it first.")
    if not os.access(path.parent, os.W_OK):
        raise EditError(f"The folder {str(path.parent)!r} cannot be written to; choose another place with -o.")
    if path.exists() and path.samefile(video):
        raise EditError("The output is the source video itself; choose another name for the result.")
    settings = path.with_suffix(".json")
    if settings.exists() and not is_settings(settings):
        raise EditError(
            f"{settings.name} beside the output is a file of yours that the settings would replace; "
            "choose another name for the result."
        )
    return path


def free_output(video: str | os.PathLike[str], suffix: str = ".mp4") -> Path:
    """`<stem>-edited` and the suffix beside the video, with a number when that name is taken: no result is lost. A stem
    that would make the name too long for the disk is shortened. Raises `EditError` for a path that cannot be used."""
    path = Path(video)
    number = 1
    with _usable_paths():
        longest = _longest_name(path.parent)
        while True:
            end = "-edited" if number == 1 else f"-edited-{number}"
            candidate = path.with_name(f"{_shortened(path.stem, longest - len(end) - len('.json'))}{end}{suffix}")
            if not candidate.exists():
                return candidate
            number += 1


def _longest_name(folder: Path) -> int:
    """Bytes that the name of a file in a folder may have."""
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return 255


def _shortened(name: str, limit: int) -> str:
    """`name` cut to `limit` bytes, between characters."""
    return os.fsencode(name)[:limit].decode(errors="ignore") if len(os.fsencode(name)) > limit else name


def parse_lora(spec: str) -> tuple[Path, float]:
    """`path` or `path@scale` as path and scale. Raises `EditError` for a scale that is not finite."""
    if not str(spec):
        raise EditError("The LoRA has no name; give a file such as snow.safetensors.")
    path, separator, scale = str(spec).rpartition("@")
    if not separator or Path(spec).exists():
        return Path(spec), 1.0
    try:
        value = float(scale)
    except ValueError:
        return Path(spec), 1.0
    if not math.isfinite(value):
        raise EditError(f"The LoRA scale {scale!r} is no number; write for example {path}@0.8.")
    return Path(path), value


def is_on_hub(path: Path) -> bool:
    """Whether what looks like a path, and is none here, names a file of weights on the Hub: owner/name/file."""
    parts = path.parts
    return (
        len(parts) >= 3
        and path.suffix == ".safetensors"
        and not path.is_absolute()
        and not path.exists()
        and ".." not in parts
        and not Path(parts[0]).exists()
    )


def check_lora(path: Path) -> None:
    """Raise `EditError` unless `path` is a safetensors file with a LoRA, or a folder with one. Reads its header only:
    names, types and shapes of what it holds."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if len(files) > 1:
        raise EditError(f"The folder {str(path)!r} holds several files of weights; give the LoRA's own file.")
    if not files or not files[0].is_file():
        raise EditError(f"There is no LoRA file {str(path)!r}; check the path.")
    try:
        with safe_open(files[0], framework="numpy") as opened:
            tensors = {name: _stored(opened.get_slice(name)) for name in opened.keys()}  # noqa: SIM118 - no dictionary
    except (SafetensorError, OSError) as error:
        raise EditError(f"{path.name} is not a safetensors file; choose a LoRA saved as .safetensors.") from error
    said = complaint(tensors)
    if said is not None:
        raise EditError(f"{path.name} {said}")


def _stored(tensor: Any) -> Stored:
    return Stored.of_header(tensor.get_dtype(), tensor.get_shape())


@contextmanager
def _usable_paths() -> Iterator[None]:
    """A path that the system refuses to look at (too long, a loop of links, a folder that may not be entered)."""
    try:
        yield
    except OSError as error:
        place = Path(os.fsdecode(error.filename)).name if error.filename else "A path"
        raise EditError(f"{place} cannot be used: {error.strerror or error}; choose another place or name.") from error


def _check_choice(value: str, choices: Sequence[str] | Mapping[str, Any], name: str) -> None:
    if not isinstance(value, str) or value not in choices:
        raise EditError(f"There is no {name} {value!r}; choose one of {', '.join(choices)}.")


def _check_text(text: str, name: str, required: bool) -> None:
    if not isinstance(text, str):
        raise EditError(f"The {name} must be text, for example 'Make it snowy'.")
    if required and not text.strip():
        raise EditError(f"The {name} is empty; say what should change, for example 'Make it snowy'.")
    if len(text) > MAX_INSTRUCTION:
        raise EditError(f"The {name} has {len(text):,} characters; say it in at most {MAX_INSTRUCTION}.")


def _check_numbers(request: EditRequest) -> None:
    for name, value, low, high in (
        ("seed", request.seed, 0, MAX_SEED),
        ("steps", request.steps, 1, MAX_STEPS),
        ("start", request.start, 0, None),
        ("frames", request.frames, 1, None),
    ):
        if value is None and name in ("steps", "frames"):
            continue
        bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= (high or math.inf)
        if not fits:
            raise EditError(f"The {name} cannot be {value!r}; give a whole number {bounds}.")
    for name, scale in (("guidance", request.guidance), ("source guidance", request.source_guidance)):
        if scale is not None and not (_is_number(scale) and 0 <= scale <= MAX_GUIDANCE):  # NaN fails every comparison
            raise EditError(f"The {name} cannot be {scale!r}; give a number from 0 to {MAX_GUIDANCE:g}.")
    if request.guidance_interval is not None:
        _check_interval(request.guidance_interval)
    if request.cache is not None and not (_is_number(request.cache) and 0 <= request.cache <= 1):
        raise EditError(f"The cache's threshold cannot be {request.cache!r}; give a number from 0 to 1, such as 0.1.")


def _check_interval(interval: Any) -> None:
    fits = isinstance(interval, (tuple, list)) and len(interval) == 2 and all(map(_is_number, interval))
    if not (fits and 0 <= interval[0] <= interval[1] <= 1):
        raise EditError(
            f"The guidance interval cannot be {interval!r}; give two numbers from 0 to 1, the lower one first."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_settings(path: Path) -> bool:
    """Whether a file is the settings of a result."""
    try:
        return SETTINGS_MARK in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False
