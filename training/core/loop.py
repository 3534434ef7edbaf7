"""The loop that every stage runs through: forward, backward, clip, step, average, log, save.

A stage says what a batch is and what its loss is (`Stage`); the loop knows nothing else about it. Runs on a CPU, a GPU
or several (`accelerate launch`, `torchrun`), each data rank with its own stream of samples.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.config import TrainConfig
from training.core.checkpoint import Checkpoints, require_same, run_facts, run_tensors
from training.core.ema import Ema
from training.core.float8 import RoundedWeights
from training.core.guard import Guard
from training.core.meter import Clock, Cost, Every, Meter
from training.core.optim import build_optimisers, rate_factor, set_rates, step_unless
from training.core.precision import autocast
from training.core.randomness import derived_seed, generator
from training.core.tracking import Tracker
from training.errors import RunStoppedError
from training.parallel.processes import ProcessGroups, clip_gradients, local, process_groups, without_sync

logger = logging.getLogger(__name__)

UNTIMED_STEPS = 6
"""Steps at the beginning of a session that do not count against `max_minutes`, because they compile, tune kernels and
wait for data: one for each bucket of the embedded model, and one more."""


class Stage(Protocol):
    """The interface of a stage for the loop."""

    model: nn.Module
    """The module under training, ready to be wrapped."""

    def batches(self) -> Iterator[Any]:
        """An endless stream of batches of this data rank, from the present position on."""
        ...

    def loss(self, model: nn.Module, batch: Any, random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its parts, for the log. model: the wrapped module to call. random: the generator of
        all that is drawn, on the model's device."""
        ...

    def cost(self, batch: Any) -> Cost:
        """The cost of a micro-step on the batch."""
        ...

    def figures(self) -> dict[str, float]:
        """The figures gathered since the last call, for the log. Every process calls it, at the same step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream of batches, and what `figures` has gathered."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a stored position; called before `batches`."""
        ...

    def summary(self) -> str:
        """The samples that will be seen, as lines for the user."""
        ...

    def export(self, folder: Path) -> None:
        """Write the module's present weights where the pipeline finds them. Every process calls it."""
        ...


class Watcher(Protocol):
    """Looks at held-out samples and logs what it sees (`training.watch.validation`)."""

    def losses(self, model: nn.Module, step: int, ema: Ema) -> object: ...

    def grid(self, step: int, ema: Ema) -> object: ...


class Moment(NamedTuple):
    """The decisions that all processes share before a step: how much of the run is over, and what is to be done.
    broken: too many steps were skipped for the run to go on."""

    progress: float
    stop: bool
    save: bool
    sample: bool
    broken: bool


class Trainer:
    """One run of one stage."""

    def __init__(
        self,
        config: TrainConfig,
        stage: Stage,
        accelerator: Accelerator,
        groups: ProcessGroups | None = None,
        build_watcher: Callable[[Tracker], Watcher] | None = None,
    ) -> None:
        """build_watcher: makes what looks at held-out samples, when the run begins; None: nothing does."""
        self.config, self.stage, self.accelerator = config, stage, accelerator
        self.groups = groups or process_groups(config, accelerator)
        self.folder, self.build_watcher = Path(config.output), build_watcher
        self.step = self.samples = 0
        self.skipped = torch.zeros((), dtype=torch.long, device=self.groups.device)
        self.wrapped = self.groups.wrap(stage.model, accelerator)
        self.optimisers = build_optimisers(stage.model, config.optimiser)
        self.ema = Ema(stage.model, config.optimiser.ema_decay)
        self.guard = Guard(config.guard)
        self.rounded = RoundedWeights(stage.model) if config.float8_share else None
        self.clock = Clock(config.max_steps, config.max_minutes)
        self.meter = Meter(self.groups.device, accelerator.num_processes, self.groups.data_rank.count)
        rank, count = accelerator.process_index, accelerator.num_processes
        self.checkpoints = Checkpoints(self.folder / "checkpoints", self.groups, rank, count, config.save.keep)
        self._stopping = False
        self._saved = 0
        self._save_owed = False
        self._save_every, self._sample_every = Every(config.save.minutes), Every(config.watch.sample_every_minutes)

    def run(self) -> bool:
        """Train to the end of the schedule and write the averaged weights. Returns False where it was told to stop
        before the end, and has saved what it takes to go on. Raises RunStoppedError for too many skipped steps, or
        weights that are not finite; the last checkpoint then stays as it is, and nothing is exported."""
        settings = dataclasses.asdict(self.config)
        self.tracker = Tracker(self.folder, self.config.watch.trackers, settings, self.step)
        try:
            finished = self._train()
            if finished:
                with self.ema.swapped_in():
                    self.stage.export(self.folder)
            self.groups.wait()
        finally:
            self.tracker.close()
        return finished

    def _train(self) -> bool:
        """Take the steps that are left and save. Returns whether the schedule is over."""
        self.watcher = self.build_watcher(self.tracker) if self.build_watcher else None
        batches, first = self.stage.batches(), self.step
        while (moment := self._look()).progress < 1.0:
            if moment.stop or moment.broken:
                break
            self._save_if_due(moment.save)
            logs = self._optimise(batches, moment.progress)
            if self.step - first == UNTIMED_STEPS:
                self.meter.read()  # waits for the device, and begins anew
                self.clock.start()
            if self.step % self.config.watch.log_every == 0:
                self._log(logs, moment.progress)
            self._watch(moment)
        finished = moment.progress >= 1.0
        self._require_sound(finished, moment.broken)
        self.save()
        return finished

    def stop(self) -> None:
        """Finish the present step, save and leave `run`. May be called from a signal handler."""
        self._stopping = True

    def _look(self) -> Moment:
        """The decisions before the next step. Clocks differ between processes, and all must act together: the
        first one's counts."""
        first = self.accelerator.is_main_process
        own = self.clock.progress(self.step)
        wishes = (own, self._save_every.due(), self._sample_every.due()) if first else (0.0, False, False)
        self.guard.settle()
        own_verdicts = (float(self._stopping), float(self.guard.too_many()))
        progress, save, sample, stop, broken = self.groups.agree([*map(float, wishes), *own_verdicts])
        by_steps = bool(self.config.save.steps) and self.step % self.config.save.steps == 0 and self.step > 0
        return Moment(progress, bool(stop), bool(save) or by_steps, bool(sample), bool(broken))

    def _save_if_due(self, due: bool) -> None:
        """Save, if the last step was not skipped; otherwise later. A run in which every step is skipped keeps its last
        good checkpoints."""
        if not (due or self._save_owed):
            return
        self.guard.settle(wait=True)  # saving waits for the device anyway
        self._save_owed = self.guard.last_was_bad
        if not self._save_owed:
            self.save()

    def _require_sound(self, ended: bool, broken: bool) -> None:
        """Raises RunStoppedError where too many steps were skipped, or weights or averages are not finite.

        ended: the schedule is over, so that fewer steps than a window are judged as well. broken: too many skipped
        steps are known already."""
        self.guard.settle(wait=True)
        last = self.checkpoints.newest()
        kept = f"the last good checkpoint, {last}, is kept" if last else "there is no checkpoint yet"
        advice = (
            "look at the clips that were named before, or start anew with a lower optimiser.learning_rate or "
            f"precision=float32; {kept}"
        )
        verdicts = (broken or self.guard.too_many(ended), not self._is_finite())
        skipped, poisoned = map(bool, self.groups.agree([*map(float, verdicts)]))
        if skipped:
            raise RunStoppedError(
                f"stopped at step {self.step}: {self.guard} steps had gradients that are not finite and were skipped, "
                f"more than guard.max_skipped_share={self.config.guard.max_skipped_share:g}; {advice}"
            )
        if poisoned:
            raise RunStoppedError(f"stopped at step {self.step}: the weights are not finite; {advice}")

    def _is_finite(self) -> bool:
        """Whether the trained weights and averages of this process are finite."""
        trained = [parameter for parameter in self.stage.model.parameters() if parameter.requires_grad]
        tensors = [*trained, *self.ema.shadow.values()]
        flags = [local(tensor.detach()).isfinite().all().to(self.groups.device) for tensor in tensors]
        return bool(torch.stack(flags).all())

    def _optimise(self, batches: Iterator[Any], progress: float) -> list[dict[str, Tensor]]:
        config, count = self.config, self.config.accumulate
        rounding = self.rounded if self.step > 0 and progress >= 1.0 - config.float8_share else None
        with self.meter.loading():
            micro_batches = [next(batches) for _ in range(count)]
        costs = [self.stage.cost(batch) for batch in micro_batches]
        together = sum(cost.samples for cost in costs)
        self.samples += together * self.groups.data_rank.count
        logs = []
        with rounding or contextlib.nullcontext():
            for micro, (batch, cost) in enumerate(zip(micro_batches, costs, strict=True)):
                self.meter.add(cost)
                here = (config.seed, self.step, micro)
                random = generator(self.groups.device, "loss", *here, self.groups.data_rank.rank)
                torch.manual_seed(derived_seed("drop-out", *here, self.accelerator.process_index))
                with without_sync(self.wrapped, self.accelerator, hold=micro < count - 1):
                    with autocast(config.precision, self.groups.device):
                        loss, parts = self.stage.loss(self.wrapped, batch, random)
                    (loss * (cost.samples / together)).backward()  # every sample counts alike
                logs.append({"loss": loss.detach(), **parts})
        norm, broken = clip_gradients(self.stage.model.parameters(), config.optimiser.clip_norm)
        self.skipped += broken
        set_rates(self.optimisers, rate_factor(self.step, progress, config.optimiser))
        step_unless(self.optimisers, broken)
        self.ema.update(broken)
        self.guard.note(broken)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        self.stage.model.zero_grad(set_to_none=True)
        self.step += 1
        return [parts | {"grad_norm": norm} for parts in logs]

    def _log(self, logs: list[dict[str, Tensor]], progress: float) -> None:
        """Log means over micro-steps and processes; a skipped step's losses and norm are left out. Waits for
        the device, as nothing else does in a step."""
        values = torch.stack([torch.stack([parts[name].float() for parts in logs]).mean() for name in logs[0]])
        values = self.accelerator.reduce(values, "mean")
        self.guard.settle(wait=True)
        figures = dict(zip(logs[0], values.tolist(), strict=True))
        record: dict[str, Any] = ({} if self.guard.last_was_bad else figures) | self.stage.figures()
        record |= {
            "progress": progress,
            "learning_rate": self.optimisers[0].param_groups[0]["lr"],
            "samples": self.samples,
            "skipped_steps": int(self.skipped),
            "seconds": self.clock.elapsed(),
        }
        record |= self.meter.read()
        self.tracker.log(record, self.step)
        if self.accelerator.is_main_process:
            shown = " ".join(f"{name}={value:.5g}" for name, value in record.items() if "_band_" not in name)
            logger.info("step %d: %s", self.step, shown)

    def _watch(self, moment: Moment) -> None:
        every = self.config.watch.validate_every
        validate = bool(every) and self.step % every == 0
        if self.watcher is None or not (validate or moment.sample):
            return
        with self.meter.paused():
            if validate:
                self.watcher.losses(self.wrapped, self.step, self.ema)
            if moment.sample:
                self.watcher.grid(self.step, self.ema)
                self._sample_every.restart()

    def save(self) -> None:
        """Write a checkpoint of the present step, if there is none yet."""
        if self._saved == self.step:
            return
        with self.meter.paused():
            tensors = run_tensors(self.stage.model, self.ema, self.optimisers)
            stage, skipped = self.stage.state_dict(), int(self.skipped)
            process = {"stage": stage, "skipped": skipped, "guard": self.guard.state_dict()}
            run: dict[str, Any] = {"seconds": self.clock.elapsed(), "samples": self.samples}
            run |= {"averaged": self.ema.updates, "fingerprint": self.config.fingerprint()}
            run |= {name: getattr(self.config, name) for name in ("accumulate", "max_steps", "max_minutes")}
            self.checkpoints.save(self.step, tensors, process, run, self.config)
        self._saved = self.step
        self._save_every.restart()

    def resume(self) -> bool:
        """Go on from the newest checkpoint of the output folder; returns whether there is one. Raises ConfigError where
        it belongs to another configuration.

        With the number of processes that it was written by, exactly as if there had been no break. With another one
        the tensors are divided anew, every feed goes on as its `load_state_dict` says, and `accumulate` may differ.
        """
        path = self.checkpoints.newest()
        if path is None:
            return False
        run, count = run_facts(path), self.accelerator.num_processes
        same = run["processes"] == count
        require_same(path, self.config, () if same else ("accumulate",))
        tensors = run_tensors(self.stage.model, self.ema, self.optimisers)
        process = self.checkpoints.load(path, tensors)
        self.step = self._saved = run["step"]
        self.samples, self.clock.before, self.ema.updates = run["samples"], run["seconds"], run["averaged"]
        self.skipped.fill_(process["skipped"])
        self.guard.load_state_dict(process.get("guard", ()))
        self.stage.load_state_dict(process["stage"])
        self._tell_changes(run)
        return True

    def _tell_changes(self, run: Mapping[str, Any]) -> None:
        """Log how this session differs from the one that wrote the checkpoint."""
        config, count = self.config, self.accelerator.num_processes
        if run["processes"] != count:
            micro_steps = count * config.accumulate / (run["processes"] * run["accumulate"])
            logger.info(
                "written by %d processes, going on with %d: tensors are divided anew, and samples seen in this epoch "
                "do not come again in it; a step has %g times as many micro-steps over all processes",
                run["processes"], count, micro_steps,
            )  # fmt: skip
        if (run["max_steps"], run["max_minutes"]) != (config.max_steps, config.max_minutes):
            logger.info(
                "its end was at %d steps or %g minutes (0: never) and is at %d or %g: the learning rate follows it",
                run["max_steps"], run["max_minutes"], config.max_steps, config.max_minutes,
            )  # fmt: skip
