"""Holds the pipeline of an app: loads it once, warms it up and activates LoRAs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sama.edit.request import parse_lora
from sama.errors import CheckpointError, EditError
from ui.settings import Settings

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

logger = logging.getLogger(__name__)


class Engine:
    """Loads the pipeline at the first use, from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self.busy = threading.Lock()
        """Held while a job runs: a stopped job may still be in its last step when the next one begins."""
        self._pipeline: SamaPipeline | None = None
        self._adapters: dict[Path, str] = {}

    @property
    def loaded(self) -> bool:
        return self._pipeline is not None

    def pipeline(self) -> SamaPipeline:
        """The pipeline; the first call loads it, and others wait for that."""
        if self._pipeline is not None:  # without the lock, which a process forked at a bad moment would find taken
            return self._pipeline
        with self._lock:
            if self._pipeline is None:
                pipeline = self._load()
                names = getattr(pipeline.transformer, "peft_config", {})  # in the order in which they were loaded
                self._adapters = dict(zip((lora.path for lora in self._settings.loras.values()), names, strict=False))
                self._pipeline = pipeline
            return self._pipeline

    def wear(self, lora: Sequence[str]) -> None:
        """Activate exactly these LoRAs (`FILE[@SCALE]`), or none. Raises EditError for one that the app was not started
        with."""
        pipeline = self.pipeline()
        chosen = [parse_lora(spec) for spec in lora]
        if any(path not in self._adapters for path, _ in chosen):
            raise EditError("This app was not started with that LoRA; choose one that it offers.")
        if chosen:
            pipeline.enable_lora()
            pipeline.set_adapters([self._adapters[path] for path, _ in chosen], [scale for _, scale in chosen])
        elif self._adapters:
            pipeline.disable_lora()

    def _load(self) -> SamaPipeline:
        paths = [str(lora.path) for lora in self._settings.loras.values()]
        if self._settings.pipeline_loader is not None:
            return _with_loras(self._settings.pipeline_loader(), paths)
        from sama.edit import load_pipeline

        device = "cuda" if self._settings.zero_gpu else self._settings.device
        return load_pipeline(self._settings.preset, device=device, lora=paths)

    def warm(self) -> None:
        """Load the model and run it once on a grey clip, so that the first visitor does not pay for it."""
        try:
            pipeline = self.pipeline()
            grey = np.full((5, 64, 64, 3), 127, np.uint8)
            with self.busy:
                self.wear(())
                pipeline(video=grey, prompt="", num_inference_steps=1, guidance_scale=1.0)
        except Exception as error:  # the first real job meets the same failure and tells its user
            logger.warning("the model could not be loaded ahead of time: %s", error)


def _with_loras(pipeline: SamaPipeline, paths: Sequence[str]) -> SamaPipeline:
    try:
        for path in paths:
            pipeline.load_lora_weights(path)
    except CheckpointError as error:
        raise EditError(str(error)) from error
    return pipeline
