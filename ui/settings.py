"""The settings that the app is started with."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sama.edit.request import NO_FEW_STEPS, EditRequest, sampled
from sama.presets import WAN_GUIDANCE, WAN_STEPS, get_preset, own_few_steps
from ui.loras import Lora, named_by_environment, offered

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

ASSETS = Path(__file__).resolve().parent.parent / "assets"


class PresetInfo(NamedTuple):
    """The part of a preset that the page shows before its weights are loaded. steps, guidance: defaults of a pipeline
    that stores none; `Settings.info` has those of the preset's saved pipeline."""

    label: str
    max_frames: int
    steps: int = WAN_STEPS
    guidance: float = WAN_GUIDANCE


PRESETS: dict[str, PresetInfo] = {
    "tiny": PresetInfo("SAMA tiny, the embedded model", 121),
    "1.3b": PresetInfo("SAMA on Wan2.1 1.3B", 81),
    "14b": PresetInfo("SAMA 14B", 81),
}


class Source(NamedTuple):
    """The source of the pipeline: a preset, or a function in its place; and the LoRAs that it is loaded with."""

    preset: str
    loader: Callable[[], SamaPipeline] | None
    loras: tuple[str, ...]
    """Those that visitors may choose, then the model's own for few steps, if it has one."""
    memory: str = "auto"
    compile: str = "auto"


class VisitorLimits(NamedTuple):
    """What one visitor may do, told apart by network address: see `ui.web.visitors`.

    jobs: that run or wait at the same time. uploads, requests: in a minute. stored: bytes of uploads in an hour.
    """

    jobs: int = 3
    uploads: int = 20
    requests: int = 600
    stored: int = 500_000_000


@dataclass(frozen=True)
class Settings:
    """Settings of one app.

    preset: the model, a key of PRESETS.
    pipeline_loader: gives the pipeline instead of the preset's; used by tests and by people with their own weights.
    on_spaces: whether the app runs on a Hugging Face Space; zero_gpu: on one whose GPU is lent per call.
    memory, compile: see `EditRequest`.
    lora: LoRAs that visitors may choose, the first one chosen at the start: files or folders, each optionally followed
        by `@` and a strength; those of the environment's SAMA_LORA (separated like paths in PATH) if left out.
    warm: load the model and run it once in the background, so that the first edit is quick.
    limits: for each visitor. proxies: trusted servers in front of this one, which add the visitor's address to the
        header X-Forwarded-For; without any, the header is not read.
    queue_size: people who may wait; the next one is told that the queue is full.
    gpus: worker processes that share every job, one per GPU (or all on the CPU, where `device` says so); with 1 the app
        runs the model itself. With more, `pipeline_loader` must be picklable.
    time_limit: seconds that one job may take; None for any time.
    tower: folder or Hub name of the SigLIP model that reads plans of a model without a vision tower of its own; the
        preset's if left out.
    """

    preset: str = "tiny"
    host: str | None = None
    port: int | None = None
    share: bool = False
    device: str | None = None
    memory: str = "auto"
    compile: str = "auto"
    lora: tuple[str, ...] = field(default_factory=named_by_environment)
    warm: bool = True
    limits: VisitorLimits = field(default_factory=VisitorLimits)
    proxies: int | None = None
    queue_size: int = 12
    gpus: int = 1
    time_limit: float | None = None
    tower: str | None = None
    examples: Path = ASSETS / "examples"
    pipeline_loader: Callable[[], SamaPipeline] | None = None
    on_spaces: bool = field(default_factory=lambda: "SPACE_ID" in os.environ)
    zero_gpu: bool = field(default_factory=lambda: bool(os.environ.get("SPACES_ZERO_GPU")))

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"the preset {self.preset!r} does not exist: choose one of {', '.join(PRESETS)}")
        if self.gpus < 1:
            raise ValueError(f"the number of GPUs cannot be {self.gpus}: give a whole number of at least 1")
        if self.gpus > 1 and self.zero_gpu:
            raise ValueError("ZeroGPU lends one GPU at a time: leave the number of GPUs out")
        if self.proxies is not None and self.proxies < 0:
            raise ValueError(f"the number of proxies cannot be {self.proxies}: give a whole number, or leave it out")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError("the time limit must be longer than nothing")
        offered(self.lora)  # files that cannot be used are refused at the start

    @cached_property
    def loras(self) -> dict[str, Lora]:
        """The LoRAs by name. Raises EditError for one that cannot be used."""
        return offered(self.lora)

    @property
    def source(self) -> Source:
        """The source of the pipeline."""
        return Source(self.preset, self.pipeline_loader, tuple(map(str, self.lora_files)), self.memory, self.compile)

    @property
    def lora_files(self) -> list[Path]:
        """The files of the LoRAs that the pipeline is loaded with, in their order."""
        own = None if self.pipeline_loader is not None else own_few_steps(self.preset)
        return [*(lora.path for lora in self.loras.values()), *(() if own is None else (own,))]

    @property
    def quality(self) -> str:
        """The quality that is chosen at the start: what an edit has that names none."""
        few_steps = None if self.pipeline_loader is None else NO_FEW_STEPS
        quality = sampled(EditRequest("", "", "", preset=self.preset, few_steps=few_steps, lora=self.lora)).quality
        assert quality is not None
        return quality

    @property
    def vision_tower(self) -> str | None:
        """The SigLIP model that reads plans, fetched when somebody asks; None where none is known."""
        return self.tower or get_preset(self.preset).tower

    @cached_property
    def info(self) -> PresetInfo:
        """The preset, with the steps and the guidance that its weights were saved with, where they are here."""
        from sama.edit.estimate import architecture_of

        info = PRESETS[self.preset]
        try:
            model = architecture_of(self.preset)
        except ValueError:  # not fetched yet, or in a place of the user's own
            return info
        return info._replace(steps=model.steps, guidance=model.guidance)

    @property
    def trusted_proxies(self) -> int:
        """`proxies`, or what the place that the app runs at has: a Space is behind one."""
        return (1 if self.on_spaces else 0) if self.proxies is None else self.proxies

    @property
    def address(self) -> str:
        """The interface to listen on: this machine only, unless a Space has to be reached from outside."""
        return self.host or ("0.0.0.0" if self.on_spaces else "127.0.0.1")
