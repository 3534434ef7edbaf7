"""Checkpoints: the whole state of a run, written whole or not at all, and read back bit for bit.

    <output>/checkpoints/step-00001234/
        tensors/         weights, averages and optimiser states (torch.distributed.checkpoint: sharded or not, one form)
        process-0.pt     of every process: its generators, and the position of its feed
        run.json         step, clock, configuration

A checkpoint is written into a hidden folder and takes its name when every process is done: a folder with a name is
complete, at whatever moment the run was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import random
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from training.closed_yaml import ConfigError
from training.config import TrainConfig
from training.distributed import Layout
from training.ema import Ema
from training.optim import state_tensors

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"


class Checkpoints:
    """The checkpoints of one run in `folder`; every process has one and makes the same calls.

    rank, count: of this process among all. keep: the newest that stay.
    """

    def __init__(self, folder: Path, layout: Layout, rank: int, count: int, keep: int) -> None:
        self.folder, self.layout = Path(folder), layout
        self.rank, self.count, self.keep = rank, count, keep

    def claim(self) -> None:
        """Keep other runs out of the folder as long as this process lives. ConfigError: one is there already, such as
        the processes of a launcher that was killed."""
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
        found = sorted(self.folder.glob("step-*"))
        return found[-1] if found else None

    def save(
        self, step: int, tensors: Mapping[str, Tensor], process: Mapping[str, Any], run: Mapping[str, Any]
    ) -> Path:
        """Write a checkpoint and remove those that are too old.

        tensors: on the device, replicated or sharded; every process gives its own. process: what this process alone
        has, in types that `torch.load` reads without running code. run: what all share, in types of JSON.
        """
        name = f"step-{step:08d}"
        part = self.folder / f".{name}"
        if self.rank == 0:
            self._clear()
            part.mkdir(parents=True)
        self.layout.wait()
        with self._tensors_of(part) as how:
            dcp.save(dict(tensors), **how)
        torch.save(dict(process), part / f"process-{self.rank}.pt")
        self.layout.wait()
        if self.rank == 0:
            described = {**run, "step": step, "processes": self.count}
            (part / RUN_FILE).write_text(json.dumps(described, indent=1), encoding="utf-8")
            if (self.folder / name).exists():
                self._remove(self.folder / name)
            part.rename(self.folder / name)
            for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
                self._remove(old)
        self.layout.wait()
        return self.folder / name

    def describe(self, path: Path) -> dict[str, Any]:
        """What all processes share of a checkpoint: `step`, `processes` and what was given as `run`."""
        described: dict[str, Any] = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
        return described

    def load(self, path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Overwrite `tensors` by what is stored, and return what this process stored for itself. ConfigError: the
        checkpoint is of another number of processes."""
        processes = self.describe(path)["processes"]
        if processes != self.count:
            raise ConfigError(
                f"{path} was written by {processes} processes, which saw certain samples: use as many, not {self.count}"
            )
        with self._tensors_of(path) as how:
            dcp.load(dict(tensors), **how)
        own: dict[str, Any] = torch.load(path / f"process-{self.rank}.pt", map_location="cpu", weights_only=True)
        return own

    @contextlib.contextmanager
    def _tensors_of(self, path: Path) -> Iterator[dict[str, Any]]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is no mistake
            group, alone = self.layout.control, self.layout.control is None
            yield {"checkpoint_id": path / "tensors", "process_group": group, "no_dist": alone}

    def _clear(self) -> None:
        """Remove what a killed run has left."""
        for left in self.folder.glob(".step-*"):
            shutil.rmtree(left)

    def _remove(self, path: Path) -> None:
        hidden = path.with_name(f".{path.name}.old")
        path.rename(hidden)  # from here on nobody takes it for complete
        shutil.rmtree(hidden)


def run_tensors(model: nn.Module, ema: Ema, optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """All tensors of a run by name, as they are at this moment. Frozen weights are left out: they come from where the
    run started."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    tensors = {f"model.{name}": value for name, value in model.state_dict().items() if name not in frozen}
    tensors |= {f"ema.{name}": value for name, value in ema.shadow.items()}
    for number, optimiser in enumerate(optimisers):
        tensors |= {f"optimiser.{number}.{name}": value for name, value in state_tensors(optimiser).items()}
    return tensors


def random_state(device: torch.device) -> dict[str, Any]:
    """Every generator that this process has: Python's, numpy's, torch's and the device's."""
    version, numbers, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, torch.tensor(np.asarray(keys, np.int64)), int(place), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Go on from a stored `random_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)


def require_same(stored: Mapping[str, Any], config: TrainConfig, path: Path) -> None:
    """Raise ConfigError that shows every key in which a checkpoint's configuration differs from the present one."""
    old, new = _flat(stored), _flat(config.deciding())
    lines = [
        f"  {key}: {old.get(key, 'not there')} -> {new.get(key, 'not there')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, ...) != new.get(key, ...)
    ]
    if lines:
        changes = "\n".join(lines)
        raise ConfigError(
            f"{path} belongs to another configuration: set these back, or choose another output.\n{changes}"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
