"""The pipeline of an app in worker processes, one per GPU: this process needs neither torch nor a GPU for it."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sama.edit.request import EditRequest
from sama.workers.edit import told_unused_gpus
from sama.workers.group import State, Workers
from ui.jobs.engine import PromptReader, Work, check_offered, device_speed, load_source, run_ahead, warm_up, wear
from ui.settings import Settings, Source

if TYPE_CHECKING:
    from sama.edit.estimate import Speed
    from sama.pipeline import SamaPipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PipelineFacts:
    """The facts that the app needs about the pipeline in the workers. speed: None for weights without known numbers."""

    reader: PromptReader
    speed: Speed | None


class WorkerEngine:
    """The interface of `ui.jobs.engine.Engine` over a group of workers that lives as long as the app."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._offered = settings.lora_files
        preset = None if settings.pipeline_loader is not None else settings.preset
        self._workers = Workers(
            settings.gpus, partial(load, settings.source), settings.device, describe=partial(pipeline_facts, preset)
        )

    @property
    def loaded(self) -> bool:
        return self._workers.state is State.READY

    def load(self) -> None:
        """Wait for the workers."""
        self._workers.wait()

    @property
    def reader(self) -> PromptReader:
        return self._facts.reader

    def speed(self, preset: str, device: str) -> Speed:  # noqa: ARG002 - the workers know both
        speed = self._facts.speed
        assert speed is not None  # asked for with a preset only
        return speed

    def run(self, work: Work, lora: Sequence[str] = ()) -> Generator[Any, None, None]:
        check_offered(lora, self._offered)
        yield from self._workers.run(work, partial(wear, tuple(lora), self._offered), self._settings.time_limit)

    def warm(self) -> None:
        run_ahead(self.run(warm_up), "the workers could not be started ahead of time")

    @property
    def workers(self) -> tuple[int, int]:
        return self._workers.alive, self._workers.count

    @property
    def worker_numbers(self) -> list[int]:
        """The workers' process numbers."""
        return self._workers.numbers

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    @property
    def _facts(self) -> PipelineFacts:
        self._workers.wait()
        found: PipelineFacts = self._workers.facts
        return found


def load(source: Source, device: str, leads: bool) -> SamaPipeline:
    """Load the pipeline; it runs in each worker."""
    pipeline = load_source(source, device, texts=leads)
    return pipeline if source.loader is None else pipeline.to(device)


def pipeline_facts(preset: str | None, pipeline: SamaPipeline) -> PipelineFacts:
    """The facts of a loaded pipeline; it runs in the first worker. Logs a warning where edits cannot use all GPUs."""
    if said := told_unused_gpus(EditRequest("", "", ""), pipeline):
        logger.warning("%s", said)
    speed = None if preset is None else device_speed(preset, str(pipeline._execution_device))
    return PipelineFacts(PromptReader.of(pipeline), speed)
