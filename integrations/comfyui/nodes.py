"""The nodes: what each shows, and what it does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from sama.device.memory import MEMORY_MODES
from sama.edit import EditRequest
from sama.edit.request import DETAIL, KEEP_SOURCE, MAX_GUIDANCE, MAX_SEED, MAX_STEPS
from sama.errors import EditError
from sama.model.pretext import PRETEXT_TASKS
from sama.presets import PRESETS, QUALITIES
from sama.shapes import nearest_bucket, padded_frame_count

from . import host, media
from .described import Field, Node, Result
from .models import SamaModel, Weights
from .running import edit_file, edit_frames, plan_strength, restore_frames

MODEL = "SAMA_MODEL"
RELEASED = "released"
"""The choice of weights that takes the preset's own."""
MODELS_OWN = "model's own"
"""The choice of quality that leaves it to the preset."""

# --- What they do ----------------------------------------------------------------------------------------------------


def load(preset: str, weights: str, folder: str, memory: str) -> tuple[SamaModel]:
    """A model, read when a node first needs it."""
    file = None if weights == RELEASED else host.weight_path(weights)
    return (SamaModel(Weights(preset, folder.strip() or None, file, memory)),)


def load_lora(model: SamaModel, lora_name: str, strength: float) -> tuple[SamaModel]:
    return (model.with_lora(host.lora_path(lora_name), strength),)


def edit_images(model: SamaModel, images: Tensor, mask: Tensor | None, **options: Any) -> tuple[Tensor, str]:
    """The edited pictures, with the transparency that they had."""
    with _as_file(images, mask) as (source, output, masked):
        frames, notices = edit_frames(_request(model, source, output, masked, options), model)
    edited = media.to_image(frames)
    return torch.cat([edited, images[..., 3:].float().cpu()], dim=-1), "\n".join(notices)


def edit_clip(model: SamaModel, video: Any, mask: Tensor | None, **options: Any) -> tuple[Any, str]:
    """The edited video, with the source's sound, in ComfyUI's temporary folder."""
    output = host.temporary_file(".mp4")
    with tempfile.TemporaryDirectory() as folder:
        source = media.file_of_video(video, Path(folder))
        masked = None if mask is None else media.write_mask(mask, Path(folder))
        notices = edit_file(_request(model, source, output, masked, options), model)
    return host.video_of_file(output), "\n".join(notices)


def plan(model: SamaModel, images: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """The plan over the first picture, and as a mask of the pictures' size."""
    first = media.to_uint8(images[:1])[0]
    with _as_file(images, None) as (source, output, _):
        strength = plan_strength(_request(model, source, output, None, options), model, first)
    if strength is None:
        raise EditError("The plan of this model has no places that could be shown; use the preset tiny.")
    strength = cv2.resize(strength, (first.shape[1], first.shape[0]), interpolation=cv2.INTER_LINEAR)
    return media.to_image(media.heat(first, strength)[None]), torch.from_numpy(strength)[None]


def damage(images: Tensor, task: str, seed: int) -> tuple[Tensor]:
    frames = torch.from_numpy(media.to_uint8(images))
    perturbed = PRETEXT_TASKS[task].perturb(frames, torch.Generator().manual_seed(seed))
    return (media.to_image(perturbed.frames.numpy()),)


def restore(model: SamaModel, images: Tensor, task: str, caption: str, seed: int, steps: int) -> tuple[Tensor]:
    """The restored pictures, at the size of those given."""
    frames = media.to_uint8(images)
    count, height, width = frames.shape[:3]
    canvas = model.canvas(model.pipeline())
    if count > canvas.window:
        raise EditError(f"This model restores {canvas.window} pictures at once, not {count}; select fewer.")
    bucket = nearest_bucket(width, height, canvas.buckets)
    small = media.resized(frames, bucket.width, bucket.height)
    small = np.concatenate([small, np.repeat(small[-1:], padded_frame_count(count) - count, axis=0)])
    restored = restore_frames(small, model, PRETEXT_TASKS[task].prefix, caption, seed, steps or None)
    return (media.to_image(media.resized(restored[:count], width, height)),)


@contextmanager
def _as_file(images: Tensor, mask: Tensor | None) -> Iterator[tuple[Path, Path, Path | None]]:
    """Pictures as a clip without loss, the name of a result, and the mask's file, in a folder that goes away."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        media.write_lossless(media.to_uint8(images), folder / "source.mkv")
        yield folder / "source.mkv", folder / "result.mkv", None if mask is None else media.write_mask(mask, folder)


def _request(model: SamaModel, source: Path, output: Path, mask: Path | None, options: dict[str, Any]) -> EditRequest:
    """An edit; 0 steps or guidance stand for those of the quality, and `MODELS_OWN` for the preset's quality."""
    chosen: dict[str, Any] = {
        name: value or None if name in ("steps", "guidance") else value for name, value in options.items()
    }
    chosen["quality"] = None if chosen["quality"] == MODELS_OWN else chosen["quality"]
    return EditRequest(video=source, output=output, preset=model.preset, mask=mask, **chosen)


# --- What they show --------------------------------------------------------------------------------------------------

_MODEL = Field("model", MODEL, "From SAMA Load Model, or SAMA Load LoRA.")
_IMAGES = Field("images", "IMAGE", "The frames of one clip, in order; one picture will do.")
_INSTRUCTION = Field("instruction", "STRING", "What should change.", "Make it snowy", multiline=True)
_SEED = Field("seed", "INT", "The same seed gives the same edit.", 0, low=0, high=MAX_SEED, step=1, seed=True)
_STEPS = Field("steps", "INT", "Denoising steps; 0 takes the model's.", 0, True, 0, MAX_STEPS, 1)
_TASK = Field("task", "COMBO", "Frames missing, too fast, or cut up.", "cube", choices=lambda: list(PRETEXT_TASKS))
_SAMPLING = (
    Field("quality", "COMBO", "How much time an edit may take.", MODELS_OWN, choices=lambda: [MODELS_OWN, *QUALITIES]),
    _STEPS,
    Field("guidance", "FLOAT", "How strongly the text steers; 0 takes the model's.", 0.0, True, 0.0, MAX_GUIDANCE, 0.1),
)
_OPTIONS = (
    _INSTRUCTION,
    _SEED,
    *_SAMPLING,
    Field("negative_prompt", "STRING", "What should not appear.", "", True, multiline=True),
    Field("keep_source", "COMBO", "The source's pixels where none change.", "auto", True, choices=lambda: KEEP_SOURCE),
    Field("detail", "COMBO", "The source's detail in the edit.", "auto", True, choices=lambda: DETAIL),
    Field("mask", "MASK", "White where the edit may show; one for all frames, or one for each.", None, True),
)
_NOTES = Result("STRING", "notes", "What you should know about the edit; mostly empty.")

NODES = (
    Node(
        "SamaLoadModel",
        "SAMA Load Model",
        "A SAMA model: embedded, from the Hub, or from your files. It is read when it is first used.",
        (
            Field("preset", "COMBO", "tiny runs anywhere; 14b needs a GPU and about 50 GB from the Hub.", "tiny",
                  choices=lambda: list(PRESETS)),
            Field("weights", "COMBO", "The preset's own, or a SAMA transformer in models/diffusion_models.", RELEASED,
                  choices=lambda: [RELEASED, *host.weight_names()]),
            Field("folder", "STRING", "A saved pipeline (with model_index.json) in place of the preset's.", "", True),
            Field("memory", "COMBO", "Where weights wait on a GPU; auto takes what fits.", "auto", True,
                  choices=lambda: list(MEMORY_MODES)),
        ),
        (Result(MODEL, "model", "For the other nodes of SAMA."),),
        load,
    ),
    Node(
        "SamaLoadLora",
        "SAMA Load LoRA",
        "Adds a LoRA of models/loras to a SAMA model. Several nodes in a row add several.",
        (
            _MODEL,
            Field("lora_name", "COMBO", "A file in models/loras.", choices=host.lora_names),
            Field("strength", "FLOAT", "1 is as it was trained.", 1.0, low=-10.0, high=10.0, step=0.05),
        ),
        (Result(MODEL, "model", "The model with the LoRA."),),
        load_lora,
    ),
    Node(
        "SamaEditImages",
        "SAMA Edit Images",
        "Changes a clip, given as pictures, by an instruction. Size and number of pictures stay.",
        (_MODEL, _IMAGES, *_OPTIONS),
        (Result("IMAGE", "images", "The edited pictures."), _NOTES),
        edit_images,
    ),
    Node(
        "SamaEditVideo",
        "SAMA Edit Video",
        "Changes a video by an instruction. Size, length, frame rate and sound stay; a long one streams through.",
        (_MODEL, Field("video", "VIDEO", "The video to change."), *_OPTIONS),
        (Result("VIDEO", "video", "The edited video."), _NOTES),
        edit_clip,
    ),
    Node(
        "SamaPlan",
        "SAMA Plan",
        "Shows where an edit with these settings means to change the first picture, before anything is decoded.",
        (_MODEL, _IMAGES, _INSTRUCTION, _SEED, *_SAMPLING),
        (
            Result("IMAGE", "map", "The first picture, orange where it would change."),
            Result("MASK", "mask", "The same as numbers; from 0.5 on the plan means a change."),
        ),
        plan,
    ),
    Node(
        "SamaDamage",
        "SAMA Damage",
        "Damages a clip as in training, for SAMA Restore.",
        (_IMAGES, _TASK, _SEED),
        (Result("IMAGE", "images", "The damaged pictures."),),
        damage,
    ),
    Node(
        "SamaRestore",
        "SAMA Restore",
        "Restores a clip of at most one window (tiny: 17 pictures) whose frames are missing, too fast or cut up.",
        (
            _MODEL,
            _IMAGES,
            _TASK,
            Field("caption", "STRING", "What the clip shows; may be empty.", "", True, multiline=True),
            _SEED,
            _STEPS,
        ),
        (Result("IMAGE", "images", "The restored pictures."),),
        restore,
    ),
)  # fmt: skip
"""All nodes."""
