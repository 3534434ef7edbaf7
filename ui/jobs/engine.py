"""Holds the pipeline of an app: loads it once, warms it up and activates LoRAs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sama.edit.request import parse_lora
from sama.errors import CheckpointError, EditError
from ui.settings import Settings, Source

if TYPE_CHECKING:
    from sama.edit.estimate import Speed
    from sama.pipeline import SamaPipeline
    from sama.pipeline.prompts import Spelling

logger = logging.getLogger(__name__)

Work = Callable[["SamaPipeline"], Generator[Any, None, None]]


@dataclass(frozen=True)
class PromptReader:
    """How a model reads prompts: its tokenizer, how many tokens it reads, and what stands before every prompt."""

    tokenizer: Any
    max_tokens: int
    prefix: str
    spelling: Spelling

    @classmethod
    def of(cls, pipeline: SamaPipeline) -> PromptReader:
        config = pipeline.config
        return cls(
            pipeline.tokenizer, int(config["max_sequence_length"]), config["prompt_prefix"], config["spell_quotes"]
        )

    def unread(self, prompt: str) -> str:
        """The end of a prompt that the model does not read."""
        from sama.pipeline.prompts import unread

        return unread(prompt, self.tokenizer, self.max_tokens, self.prefix, self.spelling)


class Engine:
    """Loads the pipeline at the first use, from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self.busy = threading.Lock()
        """Held while a job runs: a stopped job may still be in its last step when the next one begins."""
        self._pipeline: SamaPipeline | None = None

    @property
    def loaded(self) -> bool:
        return self._pipeline is not None

    def pipeline(self) -> SamaPipeline:
        """The pipeline; the first call loads it, and others wait for that."""
        if self._pipeline is not None:  # without the lock, which a process forked at a bad moment would find taken
            return self._pipeline
        with self._lock:
            if self._pipeline is None:
                self._pipeline = self._load()
            return self._pipeline

    def load(self) -> None:
        """Load the pipeline now."""
        self.pipeline()

    @property
    def reader(self) -> PromptReader:
        """How the model reads prompts. Loads the model."""
        return PromptReader.of(self.pipeline())

    def speed(self, preset: str, device: str) -> Speed:
        """How fast a device computes a preset's model, from a table or measured when nothing else is at work."""
        from sama.edit.estimate import known_speed

        known = known_speed(device)
        if known is not None:
            return known
        self.pipeline()  # a model that is being loaded, or is at work, would slow the measurement
        with self.busy:
            return device_speed(preset, device)

    def run(self, work: Work, lora: Sequence[str] = ()) -> Generator[Any, None, None]:
        """Run `work` on the pipeline, with exactly these LoRAs, and yield its items. One job at a time.

        Not on ZeroGPU: a lock that is held during a fork stays locked in the job's process, which has the pipeline to
        itself anyway.
        """
        pipeline = self.pipeline()
        with nullcontext() if self._settings.zero_gpu else self.busy:
            wear(lora, self._settings.lora_files, pipeline)
            yield from work(pipeline)

    @property
    def workers(self) -> tuple[int, int]:
        """How many worker processes there are, and how many there should be."""
        return 0, 0

    def close(self) -> None:
        """Nothing: the pipeline ends with its process."""

    def warm(self) -> None:
        """Load the model and run it once on a grey clip, so that the first visitor does not pay for it."""
        run_ahead(self.run(warm_up), "the model could not be loaded ahead of time")

    def _load(self) -> SamaPipeline:
        device = "cuda" if self._settings.zero_gpu else self._settings.device
        return load_source(self._settings.source, device)


def load_source(source: Source, device: str | None, texts: bool = True) -> SamaPipeline:
    """The pipeline with all LoRAs that may be chosen; a preset's on a device, a loader's where that puts it.

    texts: whether a preset's is to encode prompts.
    """
    if source.loader is not None:
        return _with_loras(source.loader(), source.loras)
    from sama.edit import load_pipeline

    return load_pipeline(source.preset, device, source.loras, memory=source.memory, compile=source.compile, texts=texts)


def wear(lora: Sequence[str], offered: Sequence[Path], pipeline: SamaPipeline) -> None:
    """Activate exactly these LoRAs (`FILE[@SCALE]`), or none.

    offered: those that were loaded, in this order. Raises EditError for one that is not among them.
    """
    chosen = [parse_lora(spec) for spec in lora]
    names = dict(zip(offered, getattr(pipeline.transformer, "peft_config", {}), strict=False))
    check_offered(lora, names)
    if chosen:
        pipeline.enable_lora()
        pipeline.set_adapters([names[path] for path, _ in chosen], [scale for _, scale in chosen])
    elif getattr(pipeline.transformer, "peft_config", {}):
        pipeline.disable_lora()


def check_offered(lora: Sequence[str], offered: Collection[Path]) -> None:
    """Raise EditError for a LoRA (`FILE[@SCALE]`) that is not among those that an app offers."""
    if any(parse_lora(spec)[0] not in offered for spec in lora):
        raise EditError("This app was not started with that LoRA; choose one that it offers.")


def run_ahead(items: Generator[Any, None, None], failed: str) -> None:
    """Run a job that nobody waits for. One that fails is logged, with `failed` before the reason: the first real job
    meets the same failure and tells its user."""
    try:
        for _ in items:
            pass
    except Exception as error:
        logger.warning("%s: %s", failed, error)


def warm_up(pipeline: SamaPipeline) -> Generator[Any, None, None]:
    """One step on a grey clip."""
    grey = np.full((5, 64, 64, 3), 127, np.uint8)
    yield from pipeline.stream(video=grey, prompt="", num_inference_steps=1, guidance_scale=1.0, output_type="latent")


def device_speed(preset: str, device: str) -> Speed:
    """How fast a device computes a preset's model, from a table or measured now."""
    from sama.edit.estimate import architecture_of, known_speed, measure_speed

    return known_speed(device) or measure_speed(device, 1000, architecture_of(preset))


def _with_loras(pipeline: SamaPipeline, paths: Sequence[str]) -> SamaPipeline:
    try:
        for path in paths:
            pipeline.load_lora_weights(path)
    except CheckpointError as error:
        raise EditError(str(error)) from error
    return pipeline
