"""Checkpoints: the whole state of a run, written whole or not at all, and read back bit for bit.

    <output>/checkpoints/step-00001234/
        tensors/         weights, averages and optimiser states (torch.distributed.checkpoint: sharded or not, one form)
        process-0.pt     of every process: the position of its feed, and what it has counted
        config.yaml      the configuration, overrides included
        run.json         step, clock, number of processes

Generators are not stored: what a step draws is seeded by its number (`training.core.randomness`).

A checkpoint is written into a hidden folder and takes its name when every process is done: a folder with a name is
complete, at whatever moment the run was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import yaml
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from training.config import TrainConfig, deciding, load_config
from training.core.ema import Ema
from training.core.optim import state_tensors
from training.errors import ConfigError
from training.parallel.processes import ProcessGroups

RUN_FILE, CONFIG_FILE = "run.json", "config.yaml"
NAMES = "step-*"
MODEL, AVERAGE = "model.", "ema."
"""The prefixes of the names of weights and of their averages, before the parameter's own name."""


class Checkpoints:
    """The checkpoints of one run in `folder`; every process has one and makes the same calls.

    rank, count: of this process among all. keep: the newest that stay.
    """

    def __init__(self, folder: Path, groups: ProcessGroups, rank: int, count: int, keep: int) -> None:
        self.folder, self.groups = Path(folder), groups
        self.rank, self.count, self.keep = rank, count, keep

    def claim(self) -> None:
        """Keep other runs out of the folder as long as this process lives. Raises ConfigError where one is there
        already, such as the processes of a launcher that was killed."""
        if self.rank != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim = (self.folder / ".claim").open("w")
        try:
            fcntl.lockf(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by workers, who may live longer
        except OSError as error:
            raise ConfigError(f"another process is training in {self.folder.parent}: end it first") from error

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        return _newest(self.folder)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        process: Mapping[str, Any],
        run: Mapping[str, Any],
        config: TrainConfig,
    ) -> Path:
        """Write a checkpoint and remove those that are too old.

        tensors: on the device, replicated or sharded; every process gives its own. process: what this process alone
        has, in types that `torch.load` reads without running code. run: what all share, in types of JSON. Raises
        ConfigError in every process where one could not write, such as to a full disk: the earlier checkpoints stay,
        and nothing is left of the new one.
        """
        path = self.folder / f"step-{step:08d}"
        part = self.folder / f".{path.name}"

        def begin() -> None:
            if self.rank == 0:
                self._clear()
                part.mkdir(parents=True)

        def write() -> None:
            with _alone():
                dcp.save(dict(tensors), **self._store(part))
            torch.save(dict(process), part / f"process-{self.rank}.pt")

        def finish() -> None:
            if self.rank != 0:
                return
            described = {**run, "step": step, "processes": self.count}
            (part / CONFIG_FILE).write_text(yaml.safe_dump(config.plain(), sort_keys=False), encoding="utf-8")
            (part / RUN_FILE).write_text(json.dumps(described, indent=1), encoding="utf-8")
            if path.exists():
                self._remove(path)
            part.rename(path)
            for old in sorted(self.folder.glob(NAMES))[: -self.keep]:
                self._remove(old)

        for action in (begin, write, finish):
            self._together(action, step)
        return path

    def load(self, path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Overwrite `tensors` by what is stored, and return what this process stored for itself.

        Tensors may be sharded in another way than they were. Written by n processes, this one gets what number
        `rank % n` stored.
        """
        with _alone():
            dcp.load(dict(tensors), **self._store(path))
        stored = self.rank % run_facts(path)["processes"]
        own: dict[str, Any] = torch.load(path / f"process-{stored}.pt", map_location="cpu", weights_only=True)
        return own

    def _together(self, action: Callable[[], None], step: int) -> None:
        """Do a part of the work of saving in every process, and wait for all of them. Raises ConfigError as `save`."""
        problem: BaseException | None = None
        try:
            action()
        except (OSError, RuntimeError, CheckpointException) as error:
            problem = error
        if not self.groups.agree([float(problem is not None)])[0]:
            return
        if self.rank == 0:
            with contextlib.suppress(OSError):
                self._clear()
        newest = self.newest()
        reason = "in another process" if problem is None else _reason(problem)
        free = shutil.disk_usage(self.folder if self.folder.exists() else self.folder.parent).free / 2**30
        raise ConfigError(
            f"the checkpoint of step {step} could not be written to {self.folder} ({reason}; {free:.1f} GiB are free "
            f"there): make room, then go on with --resume from {newest.name if newest else 'the beginning'}"
        ) from problem

    def _store(self, path: Path) -> dict[str, Any]:
        """Arguments of `torch.distributed.checkpoint`: the folder, and the processes that write and read together."""
        group = self.groups.control
        return {"checkpoint_id": path / "tensors", "process_group": group, "no_dist": group is None}

    def _clear(self) -> None:
        """Remove what a killed run has left."""
        for left in self.folder.glob(".step-*"):
            shutil.rmtree(left)

    def _remove(self, path: Path) -> None:
        hidden = path.with_name(f".{path.name}.old")
        path.rename(hidden)  # from here on nobody takes it for complete
        shutil.rmtree(hidden)


def run_facts(path: Path) -> dict[str, Any]:
    """The part of a checkpoint that all processes share: `step`, `processes` and what was given as `run`."""
    described: dict[str, Any] = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
    return described


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint at `path`, or the newest one where `path` is a run's folder; None where it is neither."""
    if (path / RUN_FILE).is_file():
        return path
    return _newest(path / "checkpoints")


def stored_config(path: Path) -> TrainConfig:
    """The configuration that a checkpoint was written with. Raises ConfigError where this version cannot read it."""
    return load_config(path / CONFIG_FILE)


def read_weights(path: Path, averaged: bool | None = None) -> tuple[dict[str, Tensor], bool]:
    """The trained weights of a checkpoint by the model's own names, whole and on the host, whatever processes wrote
    them; and whether they are the averages. Takes the memory of one model.

    averaged: the averages, or the weights themselves; None: the averages where there are any. Raises ConfigError where
    they are missing, or the checkpoint cannot be read.
    """
    folder = path / "tensors"
    try:
        found = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        if averaged is None:
            averaged = any(name.startswith(AVERAGE) for name in found)
        prefix = AVERAGE if averaged else MODEL
        weights = {
            name: torch.empty(stored.size, dtype=stored.properties.dtype)
            for name, stored in found.items()
            if name.startswith(prefix) and isinstance(stored, TensorStorageMetadata)
        }
        if not weights:
            raise ConfigError(f"{path} holds no {'averages' if averaged else 'weights'}")
        with _alone():
            dcp.load(weights, checkpoint_id=folder, no_dist=True)
    except (OSError, RuntimeError, CheckpointException) as error:
        raise ConfigError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error
    return {name.removeprefix(prefix): weight for name, weight in weights.items()}, averaged


def run_tensors(model: nn.Module, ema: Ema, optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All tensors of a run by name, sharing memory. Frozen weights are left out: they come from where the run
    started."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    tensors = {f"{MODEL}{name}": value for name, value in model.state_dict().items() if name not in frozen}
    tensors |= {f"{AVERAGE}{name}": value for name, value in ema.shadow.items()}
    for number, optimiser in enumerate(optimisers):
        tensors |= {f"optimiser.{number}.{name}": value for name, value in state_tensors(optimiser).items()}
    return tensors


def require_same(path: Path, config: TrainConfig, except_for: Sequence[str] = ()) -> None:
    """Raises ConfigError where a checkpoint's configuration differs from the present one in keys that decide what a
    step computes; the message shows each. except_for: keys that may differ."""
    file = path / CONFIG_FILE
    if not file.is_file():
        raise ConfigError(f"{path} has no {CONFIG_FILE}: it is of an earlier version, which can go on with it")
    old = _flat(deciding(yaml.safe_load(file.read_text(encoding="utf-8"))))
    new = _flat(config.deciding())
    lines = [
        f"  {key}: {old.get(key, 'not there')} -> {new.get(key, 'not there')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, ...) != new.get(key, ...) and key not in except_for
    ]
    if lines:
        changes = "\n".join(lines)
        raise ConfigError(
            f"{path} belongs to another configuration: set these back, or choose another output and start from these "
            f"weights (start_from).\n{changes}"
        )


def _newest(folder: Path) -> Path | None:
    found = sorted(folder.glob(NAMES))
    return found[-1] if found else None


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Without torch's warning that one process is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _reason(error: BaseException) -> str:
    """The first line of an error; where several processes failed, of the first one's."""
    if isinstance(error, CheckpointException):
        error = next((failure[0] for failure in error.failures.values()), error)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
