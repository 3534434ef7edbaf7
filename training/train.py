"""Train a part of the model.

    python -m training.train --config training/configs/tiny_sft.yaml
    python -m training.train --config training/configs/tiny_sft.yaml --resume
    accelerate launch -m training.train --config training/configs/tiny_sft.yaml --set max_minutes=10

A run that is told to end (SIGTERM, Ctrl-C) finishes its step, saves and exits with 0; `--resume` goes on from there, as
after a crash. Exit status 2: something has to be put right first, and one sentence says what; so ends a run, too, that
skips most of its steps (`guard`), with its last good checkpoint and without an export.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FrameType

import cv2
import diffusers
import torch
import transformers
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from sama.files import disk_full
from training.config import TrainConfig, load_config
from training.core.batch import Feed
from training.core.loop import Stage, Trainer
from training.core.precision import choose_kernels
from training.core.tracking import Tracker
from training.data.encoders import Encoders
from training.errors import ConfigError, DataError, NotFiniteError, RunStoppedError
from training.parallel.processes import DataRank, ProcessGroups, process_groups
from training.stages.distill import DistillStage
from training.stages.editor import EditStage
from training.stages.model import build_transformer, empty_transformer, model_arguments
from training.values import Count, argument
from training.watch.validation import Validator

logger = logging.getLogger(__name__)

PATIENCE = timedelta(hours=1)
"""How long processes wait for one that reads large weights or a large manifest."""

SAME_SIGNAL_SECONDS = 2.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train a part of the model from one YAML file.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the output folder")
    parser.add_argument(
        "--dry-run",
        nargs="?",
        type=argument(Count),
        const=0,
        metavar="PROCESSES",
        help="show what would run, the memory and the data for so many processes (default: as few as can be), and end",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for library in (diffusers.utils.logging, transformers.utils.logging):  # what they tell of loading is no news here
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        config = load_config(options.config, options.overrides)
        if options.dry_run is not None:
            from training.dry_run import preview

            sys.stdout.write(preview(config, options.dry_run or config.parallel.sequence))
            return 0
        return train(config, options.resume)
    except (ConfigError, DataError, NotFiniteError, RunStoppedError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except Exception as error:
        if not disk_full(error):
            raise
        sys.stderr.write("the disk is full: make room, then go on with --resume from the newest checkpoint\n")
        return 2


def train(config: TrainConfig, resume: bool = False) -> int:
    """Run a configuration. Returns 0 at its end, and when it was told to end before. Raises ConfigError for one that
    cannot be run; DataError, NotFiniteError or RunStoppedError for one that has begun and cannot go on."""
    rendered = config.data.rendered
    if config.data.source == "rendered" and not Path(rendered.pack).is_dir():
        raise ConfigError(
            f"{rendered.pack} is not here: python -m training.synth.ingredients --out {rendered.pack} makes it"
        )
    cv2.setNumThreads(1)  # its pool of threads does not survive the fork of workers, who would wait for it
    choose_kernels(config.deterministic)
    # Precision is the loop's: see training.core.precision. Several processes without a GPU have to be told that it
    # is so.
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision="no",
        kwargs_handlers=[
            # Gradients are the exchange's own memory. Without anchors their layers get no gradients.
            DistributedDataParallelKwargs(
                gradient_as_bucket_view=True, find_unused_parameters=not config.objective.semantic_weight
            ),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )
    if not accelerator.is_main_process:
        logging.getLogger().setLevel(logging.WARNING)
    stage, groups = build_stage(config, accelerator)
    trainer = Trainer(config, stage, accelerator, groups, build_watcher(config, stage))
    trainer.checkpoints.claim()
    if resume:
        found = trainer.resume()
        logger.info("going on from step %d" if found else "nothing to resume: beginning at step %d", trainer.step)
    elif trainer.checkpoints.newest() is not None:
        raise ConfigError(f"{config.output} holds a run already: add --resume, or choose another output")
    stop_on_signals(trainer)
    for line in stage.summary().splitlines():
        logger.info("%s", line)
    try:
        if not trainer.run():
            logger.info("stopped at step %d; the same command with --resume goes on from there", trainer.step)
    except RunStoppedError:  # in every process alike
        accelerator.end_training()
        raise
    accelerator.end_training()
    return 0


def build_stage(config: TrainConfig, accelerator: Accelerator) -> tuple[Stage, ProcessGroups]:
    """The stage that a configuration names, and how its processes share the work. Raises ConfigError for what cannot
    be built."""
    if config.stage == "vae":
        from training.tiny.vae import VaeStage

        return VaeStage(config, accelerator), process_groups(config, accelerator)
    if config.stage == "tower":
        from training.tiny.tower import TowerStage

        return TowerStage(config, accelerator), process_groups(config, accelerator)
    encoders = Encoders(config.base, config.tower, accelerator.device, config.precision)
    count = sum(weight.numel() for weight in empty_transformer(model_arguments(config, encoders)).parameters())
    groups = process_groups(config, accelerator, count)
    transformer = build_transformer(config, encoders, empty=groups.sharded and not accelerator.is_main_process)
    feed = build_feed(config, encoders, groups.data_rank)
    kind = DistillStage if config.distill.steps else EditStage
    return kind(config, accelerator, feed, encoders, groups.data_rank, transformer), groups


def build_feed(config: TrainConfig, encoders: Encoders, data_rank: DataRank) -> Feed:
    """The feed that `data.source` names. The drawing generator is imported only where it is needed."""
    if config.data.source == "manifest":
        from training.data.files.feed import ManifestFeed

        return ManifestFeed(config, encoders, data_rank)
    from training.data.drawn.feed import RenderedFeed

    return RenderedFeed(config, encoders, data_rank)


def build_watcher(config: TrainConfig, stage: Stage) -> Callable[[Tracker], Validator] | None:
    """A function that makes the validator of a run, given its tracker; None where the configuration asks for none."""
    wanted = config.watch.validate_every or config.watch.sample_every_minutes
    if not wanted or not isinstance(stage, EditStage):
        return None
    return partial(Validator, config, stage, stage.encoders, data_rank=stage.data_rank)


def stop_on_signals(trainer: Trainer) -> None:
    """SIGTERM and SIGINT end the run after the present step; one more ends it at once, unless it comes so soon that it
    is the same one: a launcher passes on what the whole job was told already."""
    owner, asked = os.getpid(), 0.0

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the interface of handlers
        nonlocal asked
        if os.getpid() != owner:
            # A worker, which inherited this: the step that is being finished may need another sample of it.
            signal.alarm(30)
        elif not asked:
            asked = time.monotonic()
            logger.info("told to end: finishing the step")
            trainer.stop()
        elif time.monotonic() - asked > SAME_SIGNAL_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


if __name__ == "__main__":
    raise SystemExit(main())
