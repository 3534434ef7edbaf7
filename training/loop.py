"""The loop that every stage runs through: forward, backward, clip, step, average, log, save.

A stage says what a batch is and what its loss is (`Stage`); the loop knows nothing else about it. Runs on a CPU, a GPU
or several (`accelerate launch`), each process with its own stream of samples.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.config import TrainConfig
from training.ema import Ema
from training.optim import build_optimisers, rate_factor, set_rates
from training.storage import RoundedWeights

logger = logging.getLogger(__name__)


class Stage(Protocol):
    """What a stage brings to the loop."""

    model: nn.Module
    """The module under training, on its device."""

    def batches(self) -> Iterator[Any]:
        """An endless stream of batches of this process."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts, for the log. `model` is the wrapped module to call."""
        ...

    def export(self, folder: Path) -> None:
        """Write the module's present weights where the pipeline finds them."""
        ...


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Forward passes in bfloat16 where the configuration says so; weights, gradients and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")


class Clock:
    """How much of a run is over, by steps or by minutes, whichever is further."""

    def __init__(self, max_steps: int, max_minutes: float) -> None:
        self._max_steps, self._seconds = max_steps, max_minutes * 60
        self._start = time.monotonic()

    def restart(self) -> None:
        """Forget the time spent so far (compiling, the first batch)."""
        self._start = time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def progress(self, step: int) -> float:
        by_time = self.elapsed() / self._seconds if self._seconds else 0.0
        return max(step / self._max_steps, by_time)


class Trainer:
    """One run of one stage."""

    def __init__(self, config: TrainConfig, stage: Stage, accelerator: Accelerator) -> None:
        self.config, self.stage, self.accelerator = config, stage, accelerator
        self.folder = Path(config.output)
        self.step = 0
        self.skipped = 0
        self.optimisers = build_optimisers(stage.model, config.optimiser)
        self.ema = Ema(stage.model, config.optimiser.ema_decay)
        self.rounded = RoundedWeights(stage.model)
        self.clock = Clock(config.max_steps, config.max_minutes)
        self.wrapped = accelerator.prepare(stage.model)
        if accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Train to the end of the schedule, then write the averaged weights."""
        config, accelerator = self.config, self.accelerator
        batches = self.stage.batches()
        first = next(batches)
        self._optimise(first, 0.0)
        self.clock.restart()  # the first step compiles and waits for data: it does not count against `max_minutes`
        saved = time.monotonic()
        while (progress := self._shared_progress()) < 1.0:
            logs = self._optimise(next(batches), progress)
            if self.step % config.log_every == 0:
                self._log(logs, progress)
            if time.monotonic() - saved > config.save_minutes * 60:
                self.save()
                saved = time.monotonic()
        self.save()
        if accelerator.is_main_process:
            with self.ema.swapped_in():
                self.stage.export(self.folder)
        accelerator.wait_for_everyone()

    def _shared_progress(self) -> float:
        """Progress by time differs between processes, and all must stop together: the first one's clock counts."""
        progress = torch.tensor(self.clock.progress(self.step), device=self.accelerator.device)
        if self.accelerator.num_processes > 1 and self.config.max_minutes:
            torch.distributed.broadcast(progress, src=0)
        return float(progress)

    def _optimise(self, batch: Any, progress: float) -> dict[str, Tensor]:
        config = self.config
        through_float8 = self.step > 0 and progress >= 1.0 - config.float8_share
        with self.rounded if through_float8 else contextlib.nullcontext(), autocast(config, self.accelerator.device):
            loss, logs = self.stage.loss(self.wrapped, batch)
            self.accelerator.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.stage.model.parameters(), config.optimiser.clip_norm)
        set_rates(self.optimisers, rate_factor(self.step, progress, config.optimiser))
        # DDP has averaged the gradients, so that every process finds the same norm and takes the same decision.
        if torch.isfinite(norm):
            for optimiser in self.optimisers:
                optimiser.step()
            self.ema.update()
        else:
            self.skipped += 1
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        self.stage.model.zero_grad(set_to_none=True)
        self.step += 1
        return {**logs, "loss": loss.detach(), "grad_norm": norm.detach()}

    def _log(self, logs: dict[str, Tensor], progress: float) -> None:
        if not self.accelerator.is_main_process:
            return
        seconds = self.clock.elapsed()
        record: dict[str, Any] = {name: round(float(value), 5) for name, value in logs.items()}
        record |= {
            "step": self.step,
            "progress": round(progress, 4),
            "samples": self.step * self.config.batch_size * self.accelerator.num_processes,
            "samples_per_second": round(
                (self.step - 1) * self.config.batch_size * self.accelerator.num_processes / max(seconds, 1e-9), 1
            ),
            "skipped_steps": self.skipped,
            "seconds": round(seconds, 1),
        }
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        logger.info(" ".join(f"{name}={value}" for name, value in record.items()))

    def save(self) -> None:
        """Write `state.pt`: weights, averaged weights, optimisers and step, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "fingerprint": self.config.fingerprint(),
            "model": self.stage.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        temporary = self.folder / f".state.{os.getpid()}"
        torch.save(state, temporary)
        temporary.replace(self.folder / "state.pt")

    def resume(self) -> bool:
        """Go on from the output folder's `state.pt`, if there is one. ValueError: it has another configuration."""
        path = self.folder / "state.pt"
        if not path.is_file():
            return False
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        if state["fingerprint"] != self.config.fingerprint():
            raise ValueError(f"{path} belongs to another configuration: choose another output, or remove it")
        self.stage.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = state["step"]
        return True
