"""Where a run's figures go: always `metrics.jsonl` in its folder, and the trackers that the configuration names.

Each line of `metrics.jsonl` is an object with `step` and some figures, as written at that step. One step may have
several lines, each with figures of its own (training, validation): `read_metrics` joins them. Tensorboard reads
`<folder>/tensorboard`; wandb and trackio keep their own stores.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker
from PIL import Image

from sama.files import whole_file
from training.errors import ConfigError
from training.parallel.processes import is_first_process

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


class Tracker:
    """Writes figures and pictures of one run. In a process that is not the first it does nothing.

    folder: the run's. names: tensorboard, wandb or trackio. config: the whole configuration, shown beside the curves.
    step: the step that the run goes on from (None: the one before the first that is logged); what an earlier session
    wrote about later steps is cut. Raises ConfigError for a tracker that is not installed, before anything is written.
    """

    def __init__(self, folder: Path, names: Sequence[str], config: Mapping[str, Any], step: int | None = None) -> None:
        for name in names:
            if importlib.util.find_spec(name) is None:
                raise ConfigError(f"watch.trackers: {name} is not installed: pip install {name}, or leave it out")
        self.folder, self._names, self._config, self._resumed = Path(folder), tuple(names), dict(config), step
        self._trackers: list[GeneralTracker] | None = None
        self._writes = is_first_process()

    def log(self, record: Mapping[str, float | int], step: int) -> None:
        """Write figures of one step. Those that are not finite are left out."""
        if not self._writes:
            return
        trackers = self._opened(step)
        values = {name: value if isinstance(value, int) else float(value) for name, value in record.items()}
        values = {name: value for name, value in values.items() if name != "step" and math.isfinite(value)}
        with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for tracker in trackers:
            tracker.log(values, step=step)

    def image(self, name: str, path: Path, step: int) -> None:
        """Show a picture file in the trackers that can; it stays where it is."""
        if not self._writes:
            return
        for tracker in self._opened(step):
            if isinstance(tracker, TrackioTracker):  # accelerate's has no pictures
                import trackio

                tracker.log({name: trackio.Image(str(path))}, step=step)
                continue
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            if isinstance(tracker, TensorBoardTracker):
                tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")
            else:
                tracker.log_images({name: [pixels]}, step=step)

    def close(self) -> None:
        """Finish the trackers. What is logged afterwards is ignored."""
        for tracker in self._trackers or ():
            tracker.finish()
        self._trackers, self._writes = [], False

    def _opened(self, step: int) -> list[GeneralTracker]:
        """The trackers, started at the first figure: a run that dies before it leaves the records as they were."""
        if self._trackers is None:
            first = step if self._resumed is None else self._resumed + 1
            self.folder.mkdir(parents=True, exist_ok=True)
            _cut(self.folder / METRICS_FILE, first)
            self._trackers = []
            PartialState()  # accelerate's trackers ask it who writes; an Accelerator has made it already
            for name in self._names:
                tracker = self._build(name, first)
                tracker.start()
                self._trackers.append(tracker)
                if isinstance(tracker, TensorBoardTracker):
                    # As text: accelerate's way of storing it adds a second run to the board for every session.
                    lines = json.dumps(self._config, indent=2, default=str).splitlines()
                    tracker.writer.add_text("configuration", "\n".join(f"    {line}" for line in lines), first)
        return self._trackers

    def _build(self, name: str, first: int) -> GeneralTracker:
        if name == "tensorboard":
            return TensorBoardTracker("tensorboard", self.folder, purge_step=first)
        # Its place names the run, so that a resumed one goes on in the same curves.
        place = str(self.folder.resolve())
        title = f"{self.folder.name}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
        if name == "wandb":
            return WandBTracker(
                "sama", id=title, name=self.folder.name, dir=str(self.folder), config=self._config, resume="allow"
            )
        return TrackioTracker("sama", name=title, config=self._config, resume="allow")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The figures of a run, one object per step, in order. A last line that was cut off by a crash is left out."""
    path = Path(folder) / METRICS_FILE
    joined: dict[int, dict[str, Any]] = {}
    for record in _records(path) if path.is_file() else []:
        joined.setdefault(record["step"], {}).update(record)
    return [joined[step] for step in sorted(joined)]


def _records(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("%s: a line that was never finished is left out", path)
    return records


def _cut(path: Path, first: int) -> None:
    """Take the lines of step `first` and later out of a metrics file, and those that were never finished."""
    if not path.is_file():
        return
    lines = [json.dumps(record) for record in _records(path) if record["step"] < first]
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
