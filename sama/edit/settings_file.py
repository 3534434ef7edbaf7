"""The file of settings beside a result: everything that repeats the edit, written and read.

Reading it imports no torch, so that bad input is refused at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sama import fingerprint
from sama.edit.request import NO_FEW_STEPS, SETTINGS_MARK, EditRequest, Job, parse_lora
from sama.errors import EditError
from sama.files import whole_file

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline


def write_settings(job: Job, pipeline: SamaPipeline, facts: dict[str, Any]) -> None:
    """The JSON beside a result that repeats the edit; written whole or not at all.

    facts: further entries about how the edit went, beside the request's and the pipeline's defaults.
    """
    config, request = pipeline.config, job.request
    resolved = {
        "steps": request.steps or config["default_steps"],
        "guidance": config["default_guidance"] if request.guidance is None else request.guidance,
        "source_guidance": 1.0 if request.source_guidance is None else request.source_guidance,
        "device": request.device,
        "fingerprint": fingerprint.of_pipeline(pipeline),
    }
    text = json.dumps(settings_of(job, resolved | facts), indent=2, ensure_ascii=False) + "\n"
    with whole_file(job.settings) as part:
        part.write_text(text, encoding="utf-8")


def settings_of(job: Job, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """All settings that repeat an edit: every field of the request, and `resolved` facts about how it was done.

    Paths are stored relative to the settings file, so that a folder can be moved as a whole.
    """
    from sama import __version__

    values = {field.name: getattr(job.request, field.name) for field in fields(EditRequest)}
    folder = job.settings.parent
    values |= {
        "video": _relative(job.request.video, folder),
        "output": _relative(job.output, folder),
        "model": None if job.request.model is None else _relative(job.request.model, folder),
        "mask": None if job.request.mask is None else _relative(job.request.mask, folder),
        "few_steps": _named(job.request.few_steps, folder),
        "lora": [_relative(path, folder) + f"@{scale:g}" for path, scale in map(parse_lora, job.request.lora)],
        "frames": job.plan.frames,
        "fps": str(job.info.fps),
        "width": job.info.width,
        "height": job.info.height,
        "bucket": list(job.plan.bucket),
        "windows": len(job.plan.windows),
    }
    return {SETTINGS_MARK: __version__} | values | dict(resolved)


def load_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of `EditRequest` in a settings file; relative paths become paths from here. Raises `EditError`."""
    file = Path(path)
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise EditError(f"The settings {file.name or str(file)!r} cannot be read; check the path.") from error
    except ValueError as error:
        raise EditError(f"{file.name} is not a settings file; choose the .json that lies beside a result.") from error
    if not isinstance(stored, dict) or SETTINGS_MARK not in stored:
        raise EditError(f"{file.name} is not a settings file; choose the .json that lies beside a result.")
    values = {field.name: stored[field.name] for field in fields(EditRequest) if field.name in stored}
    for name in ("video", "output", "model", "mask"):
        if values.get(name) is not None:
            values[name] = str(file.parent / str(values[name]))
    if isinstance(values.get("guidance_interval"), list):
        values["guidance_interval"] = tuple(values["guidance_interval"])
    few_steps = values.setdefault("few_steps", NO_FEW_STEPS)  # an earlier version knew none
    if isinstance(few_steps, str) and (file.parent / few_steps).is_file():
        values["few_steps"] = str(file.parent / few_steps)
    if isinstance(values.get("lora"), list):
        values["lora"] = tuple(str(file.parent / str(spec)) for spec in values["lora"])
    return values


def _named(few_steps: str | None, folder: Path) -> str | None:
    """The LoRA for few steps of a request, a file of this machine relative to `folder`."""
    return _relative(few_steps, folder) if few_steps is not None and Path(few_steps).is_file() else few_steps


def _relative(path: str | os.PathLike[str], folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return Path(path).resolve().as_posix()
