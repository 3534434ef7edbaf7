"""Training and examining the runs of a plan in one process, one after another, as long as the budget lasts."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from sama.files import whole_file
from training.config import TrainConfig
from training.core.loop import UNTIMED_STEPS, Trainer
from training.core.precision import choose_kernels
from training.data.encoders import Encoders
from training.errors import ConfigError
from training.evaluation.ablation.examine import Bench, Judges, judged
from training.evaluation.ablation.feed import SharedStoreFeed, fill_store
from training.evaluation.ablation.models import build_variant
from training.evaluation.ablation.plan import (
    CASES_FOLDER,
    REFERENCES,
    RESULT_FILE,
    VARIANTS,
    Plan,
    Run,
    common_config,
    is_finished,
    run_config,
    stage0_config,
    write_plan,
)
from training.evaluation.held_out.cases import CaseLine
from training.parallel.processes import DataRank
from training.stages.editor import EditStage
from training.synth.material.pack import Pack

logger = logging.getLogger(__name__)

TRIAL_STEPS, TRIAL_SECONDS = 30, 20.0
"""How long the speed is measured, whichever is over first."""

TRAINING_SHARE = 0.7
"""The share of a budget in minutes that is spent on training; the rest is for held-out losses, samples
and the last scores."""


class UnwrittenStage(EditStage):
    """The editor's stage for weights that are examined where they are."""

    def export(self, folder: Path) -> None:
        """Nothing is written."""


class Session:
    """One device, and what all runs on it share: the frozen parts, the encoded groups, the held-out cases."""

    def __init__(self, config: TrainConfig, groups: int, lines: Sequence[CaseLine], out: Path, judges: int) -> None:
        """groups: to encode. judges: processes that score results while the device trains. ConfigError: see
        `common_config`."""
        self.began = time.monotonic()
        self.common, self.out, self.lines = common_config(config, groups), out, list(lines)
        choose_kernels()
        torch._dynamo.config.recompile_limit = 64  # every variant brings sequence lengths of its own
        self.accelerator = Accelerator()
        if self.accelerator.num_processes > 1:
            raise ConfigError("a run of the ablation is one process: give each GPU its part of the runs with --share")
        self.place = DataRank(0, 1, self.accelerator.device)
        pack = config.data.rendered.pack
        self.judges = Judges(pack, judges)
        self.bench = Bench(lines, Pack.load(pack))
        self.encoders = Encoders(config.base, config.tower, self.place.device, config.precision)
        self.store = fill_store(self.common, self.encoders, self.place)
        self._unwritten: list[tuple[Run, dict[str, Any]]] = []

    def seconds(self) -> float:
        """Since the session began."""
        return time.monotonic() - self.began

    def fix_steps(self, plan: Plan, runs: int, minutes: float) -> Plan:
        """The plan with as many steps as let `runs` runs end within the minutes, by the time that steps of the method
        itself take here; written to the output folder."""
        per_step = self._seconds_per_step()
        steps = max(1, int(TRAINING_SHARE * (minutes * 60 - self.seconds()) / runs / per_step))
        logger.info("%.3f s a step: %d steps for each of %d runs", per_step, steps, runs)
        plan = replace(plan, steps=steps)
        write_plan(plan, self.out)
        return plan

    def _seconds_per_step(self) -> float:
        method = next(variant for variant in VARIANTS if variant.name == "both")
        trainer = self._trainer(Run(method, 0), UNTIMED_STEPS + TRIAL_STEPS)
        batches = trainer.stage.batches()
        for _ in range(UNTIMED_STEPS):
            trainer._optimise(batches, 0.0)
        self._wait()
        begun, steps = time.monotonic(), 0
        while steps < TRIAL_STEPS and time.monotonic() - begun < TRIAL_SECONDS:
            trainer._optimise(batches, 0.0)
            steps += 1
        self._wait()
        return (time.monotonic() - begun) / steps

    def run_all(self, plan: Plan, runs: Sequence[Run], minutes: float = 0.0) -> int:
        """Train and examine those runs that are not finished; returns how many are left. minutes: no run is begun that
        would not end within them, judging by the longest before it (0: no limit)."""
        longest = 0.0
        for number, run in enumerate(runs):
            if is_finished(self.out, run):
                continue
            if minutes and longest and self.seconds() + longest > minutes * 60:
                logger.info("the budget is over with %d of %d runs to do", len(runs) - number, len(runs))
                break
            start = time.monotonic()
            self._train_and_edit(run, plan.steps)
            longest = max(longest, time.monotonic() - start)
            self._write_results()
        self._give_references()
        self.judges.close()
        self._write_results()
        return sum(not is_finished(self.out, run) for run in runs)

    def _train_and_edit(self, run: Run, steps: int) -> None:
        folder = self.out / run.name
        start = time.monotonic()
        first = stage0_config(self.common, run, steps, self.out)
        weights, first_samples = (None, 0) if first is None else self._averaged_weights(first, run)
        trainer = self._trainer(run, steps, weights)
        stage = trainer.stage
        assert isinstance(stage, EditStage)
        trainer.run()
        self._wait()
        trained = time.monotonic()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # a run is short, and begun again if it was stopped
        with trainer.ema.swapped_in():
            stage.transformer.eval()
            for line, clip in self.bench.results(stage.pipeline(), self.common.precision, self.place.device):
                self.judges.give(folder / CASES_FOLDER, line, clip)
        facts = {
            "variant": run.variant.name,
            "seed": run.seed,
            "steps": steps,
            "first_steps": run.variant.first_steps(steps),
            "samples": trainer.samples + first_samples,
            "training_seconds": round(trained - start, 1),
            "editing_seconds": round(time.monotonic() - trained, 1),
            "skipped_steps": int(trainer.skipped),
            "device": self._device_name(),
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
        }
        logger.info("%s: %s", run.name, facts)
        self._unwritten.append((run, facts))
        del trainer, stage
        self._free_memory()

    def _averaged_weights(self, config: TrainConfig, run: Run) -> tuple[dict[str, Tensor], int]:
        """Train a stage 0; returns its averaged weights, which the next stage goes on from, and its samples."""
        trainer = self._trainer_of(config, run)
        stage = trainer.stage
        assert isinstance(stage, EditStage)
        trainer.run()
        shutil.rmtree(Path(config.output) / "checkpoints", ignore_errors=True)
        with trainer.ema.swapped_in():
            weights = {name: value.detach().clone() for name, value in stage.transformer.state_dict().items()}
        samples = trainer.samples
        del trainer, stage
        self._free_memory()
        return weights, samples

    def _free_memory(self) -> None:
        gc.collect()
        if self.place.device.type == "cuda":
            torch.cuda.empty_cache()

    def _device_name(self) -> str:
        return torch.cuda.get_device_name(self.place.device) if self.place.device.type == "cuda" else "CPU"

    def _trainer(self, run: Run, steps: int, weights: Mapping[str, Tensor] | None = None) -> Trainer:
        return self._trainer_of(run_config(self.common, run, steps, self.out), run, weights)

    def _trainer_of(self, config: TrainConfig, run: Run, weights: Mapping[str, Tensor] | None = None) -> Trainer:
        """weights: to start from in place of random ones."""
        feed = SharedStoreFeed(config, self.encoders, self.place, self.store)
        transformer = build_variant(config, self.encoders, run.variant)
        if weights is not None:
            transformer.load_state_dict(weights)
        stage = UnwrittenStage(config, self.accelerator, feed, self.encoders, self.place, transformer)
        return Trainer(config, stage, self.accelerator)

    def _give_references(self) -> None:
        """Have source and truth scored as if they were results: they bound what a run can reach."""
        for name, clips in zip(REFERENCES, (self.bench.sources, self.bench.targets), strict=True):
            folder = self.out / name / CASES_FOLDER
            if not judged(folder, self.lines):
                for line in self.lines:
                    self.judges.give(folder, line, clips[line.id])

    def _write_results(self) -> None:
        """A run is finished when its last case is judged."""
        waiting = []
        for run, facts in self._unwritten:
            if judged(self.out / run.name / CASES_FOLDER, self.lines):
                with whole_file(self.out / run.name / RESULT_FILE) as part:
                    part.write_text(json.dumps(facts, indent=1), encoding="utf-8")
            else:
                waiting.append((run, facts))
        self._unwritten = waiting

    def _wait(self) -> None:
        if self.place.device.type == "cuda":
            torch.cuda.synchronize(self.place.device)
