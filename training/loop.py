"""The loop that every stage runs through: forward, backward, clip, step, average, log, save.

A stage says what a batch is and what its loss is (`Stage`); the loop knows nothing else about it. Runs on a CPU, a GPU
or several (`accelerate launch`), each process with its own stream of samples.
"""

from __future__ import annotations

import contextlib
import json
import logging
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
from training.precision import autocast
from training.randomness import generator
from training.storage import RoundedWeights, whole

logger = logging.getLogger(__name__)

UNTIMED_STEPS = 6
"""The first steps of a session compile, tune kernels and wait for data: they do not count against `max_minutes`. There
are as many as the embedded model has buckets, and one more."""

STEPS_PER_LOOK = 10
"""Several processes agree on the time this often; each look waits for the devices."""


class Stage(Protocol):
    """What a stage brings to the loop."""

    model: nn.Module
    """The module under training, on its device."""

    def batches(self) -> Iterator[Any]:
        """An endless stream of batches of this process."""
        ...

    def loss(self, model: nn.Module, batch: Any, random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts, for the log. `model` is the wrapped module to call, `random` all the
        randomness there may be, on the model's device."""
        ...

    def export(self, folder: Path) -> None:
        """Write the module's present weights where the pipeline finds them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream of batches."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a stored position; called before `batches`."""
        ...

    def summary(self) -> str:
        """What will be seen, as lines for a person."""
        ...


class Clock:
    """How much of a run is over, by steps or by minutes, whichever is further. It stands still until it is started."""

    def __init__(self, max_steps: int, max_minutes: float) -> None:
        self._max_steps, self._seconds = max_steps, max_minutes * 60
        self.before = 0.0
        """Seconds of earlier sessions of the same run."""
        self._start: float | None = None

    def start(self) -> None:
        self._start = time.monotonic()

    def session(self) -> float:
        """Seconds since the start."""
        return 0.0 if self._start is None else time.monotonic() - self._start

    def elapsed(self) -> float:
        return self.before + self.session()

    def progress(self, step: int) -> float:
        by_time = self.elapsed() / self._seconds if self._seconds else 0.0
        return max(step / self._max_steps, by_time)


class Trainer:
    """One run of one stage."""

    def __init__(self, config: TrainConfig, stage: Stage, accelerator: Accelerator) -> None:
        self.config, self.stage, self.accelerator = config, stage, accelerator
        self.folder = Path(config.output)
        self.step = 0
        self.skipped = torch.zeros((), dtype=torch.long, device=accelerator.device)
        self.waited = 0.0
        """Seconds spent on getting batches since the last log: encoding's launches, and waiting for renderers."""
        self._agreed = 0.0
        self._timed_from = 0
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
        first, saved = self.step, time.monotonic()
        while (progress := self._shared_progress(self.step - first)) < 1.0:
            asked = time.monotonic()
            batch = next(batches)
            self.waited += time.monotonic() - asked
            logs = self._optimise(batch, progress)
            if self.step - first == UNTIMED_STEPS:
                self._start_clock()
            if self.step % config.watch.log_every == 0:
                self._log(logs, progress)
            if time.monotonic() - saved > config.save.minutes * 60:
                self.save()
                saved = time.monotonic()
        self.save()
        if accelerator.is_main_process:
            with self.ema.swapped_in():
                self.stage.export(self.folder)
        accelerator.wait_for_everyone()

    def _start_clock(self) -> None:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)
        self.clock.start()
        self._timed_from, self.waited = self.step, 0.0

    def _shared_progress(self, steps: int) -> float:
        """Progress after `steps` steps of this session. By time it differs between processes, and all must use the same
        rates and stop together: the first one's clock counts."""
        own = self.clock.progress(self.step)
        if self.accelerator.num_processes == 1 or not self.config.max_minutes:
            return own
        if steps % STEPS_PER_LOOK == 0:
            shared = torch.tensor(own, dtype=torch.float64, device=self.accelerator.device)
            torch.distributed.broadcast(shared, src=0)
            self._agreed = float(shared)
        return max(self._agreed, self.step / self.config.max_steps)

    def _optimise(self, batch: Any, progress: float) -> dict[str, Tensor]:
        config = self.config
        through_float8 = self.step > 0 and progress >= 1.0 - config.float8_share
        with (
            self.rounded if through_float8 else contextlib.nullcontext(),
            autocast(config.precision, self.accelerator.device),
        ):
            loss, logs = self.stage.loss(self.wrapped, batch, self._random())
            self.accelerator.backward(loss)
        norm = self._clip()
        set_rates(self.optimisers, rate_factor(self.step, progress, config.optimiser))
        for optimiser in self.optimisers:
            optimiser.step()
        self.ema.update()
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        self.stage.model.zero_grad(set_to_none=True)
        self.step += 1
        return {**logs, "loss": loss.detach(), "grad_norm": norm}

    def _random(self) -> torch.Generator:
        accelerator = self.accelerator
        return generator(accelerator.device, "loss", self.config.seed, self.step, 0, accelerator.process_index)

    @torch.no_grad()
    def _clip(self) -> Tensor:
        """Clip the gradients and return their norm. If it is not finite, they are all zero afterwards, and the step is
        counted as skipped. It is decided on the device: a host that asked for the norm would wait for the backward
        pass, and the device then for the host. DDP has averaged the gradients, so that every process decides alike."""
        gradients = [weight.grad for weight in self.stage.model.parameters() if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        broken = ~torch.isfinite(norm)
        scale = (self.config.optimiser.clip_norm / (norm + 1e-6)).clamp_max(1.0)
        torch._foreach_mul_(gradients, torch.where(broken, 0.0, scale))
        for gradient in gradients:
            gradient.masked_fill_(broken, 0.0)  # zero times infinity is not zero
        self.skipped += broken
        return norm

    def _log(self, logs: dict[str, Tensor], progress: float) -> None:
        if not self.accelerator.is_main_process:
            return
        record: dict[str, Any] = {name: round(float(value), 5) for name, value in logs.items()}
        per_step = self.config.batch_size * self.accelerator.num_processes
        timed = (self.step - self._timed_from) * per_step if self.clock.session() else 0
        record |= {
            "step": self.step,
            "progress": round(progress, 4),
            "samples": self.step * per_step,
            "samples_per_second": round(timed / max(self.clock.session(), 1e-9), 1),
            "waited": round(self.waited, 2),
            "skipped_steps": int(self.skipped),
            "seconds": round(self.clock.elapsed(), 1),
        }
        self.waited = 0.0
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        logger.info(" ".join(f"{name}={value}" for name, value in record.items()))

    def save(self) -> None:
        """Write `state.pt`: weights, averaged weights, optimisers and step, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "seconds": self.clock.elapsed(),
            "fingerprint": self.config.fingerprint(),
            "stage": self.stage.state_dict(),
            "model": self.stage.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        with whole(self.folder / "state.pt") as part:
            torch.save(state, part)

    def resume(self) -> bool:
        """Go on from the output folder's `state.pt`, if there is one. ValueError: it has another configuration."""
        path = self.folder / "state.pt"
        if not path.is_file():
            return False
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        if state["fingerprint"] != self.config.fingerprint():
            raise ValueError(f"{path} belongs to another configuration: choose another output, or remove it")
        self.stage.load_state_dict(state["stage"])
        self.stage.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.clock.before = state["step"], state["seconds"]
        return True
