"""The settings that `benchmarks.training_speed` measures, and the table of its results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import read_results, write_results


@dataclass(frozen=True)
class TrainingSetting:
    """One measurement.

    model: a preset of `sama.presets`. stage: `sft` (all weights) or `lora`. checkpointing: none, full, offload,
    attention or attention_offload (see `training.parallel.processes` and `training.parallel.activations`), of each
    `every`-th block.
    attention: a backend of diffusers, or `auto` for the fastest. weights, sequence: see
    `training.config.ParallelConfig`. limit_gib: device memory that the process may take (0: all). steps: timed ones.
    minutes: for all of it.
    """

    model: str
    stage: str
    frames: int
    height: int = 480
    width: int = 832
    batch: int = 1
    checkpointing: str = "attention"
    every: int = 1
    compile: bool = True
    attention: str = "auto"
    rank: int = 32
    weights: str = "auto"
    sequence: int = 1
    limit_gib: float = 0.0
    steps: int = 4
    minutes: float = 6.0


SETTINGS = {
    # Most important first. 78 GiB is what a card of 80 GB leaves to a process.
    "14b_lora_81": TrainingSetting("14b", "lora", 81, checkpointing="full", limit_gib=78, steps=2),
    "1.3b_full_81": TrainingSetting("1.3b", "sft", 81),
    "14b_lora_49": TrainingSetting("14b", "lora", 49, limit_gib=78),
    "1.3b_full_49": TrainingSetting("1.3b", "sft", 49),
    "tiny": TrainingSetting("tiny", "sft", 17, 192, 192, batch=96, checkpointing="none", steps=20, minutes=3.0),
}
TOY: dict[str, Any] = {
    "frames": 5,
    "height": 32,
    "width": 48,
    "batch": 1,
    "steps": 2,
    "compile": False,
    "limit_gib": 0.0,
    "rank": 4,
}


_READERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: text in ("1", "true"),
}


def parse_setting(text: str, toy: bool = False) -> TrainingSetting:
    """Parse `NAME:key=value:...` into a setting. Raises ValueError for an unknown name or key."""
    name, *changes = text.split(":")
    if name not in SETTINGS:
        raise ValueError(f"there is no setting {name!r}: choose from {', '.join(SETTINGS)}")
    setting: Any = dataclasses.replace(SETTINGS[name], **(TOY if toy else {}))
    kinds = {field.name: _READERS[str(field.type)] for field in dataclasses.fields(setting)}
    for change in changes:
        key, _, value = change.partition("=")
        if key not in kinds:
            raise ValueError(f"{name} has no {key!r}: choose from {', '.join(kinds)}")
        setting = dataclasses.replace(setting, **{key: kinds[key](value)})
    return setting


COLUMNS = ("setting", "devices", "tokens", "kept", "attention", "s / step", "tokens / s", "MFU", "memory")


def keep_results(folder: Path, file: Path) -> int:
    """Add a folder's results to one file, by name; those of the same name are replaced. Returns how many it then holds.
    Raises ValueError when the folder has none."""
    kept = {result["name"]: result for result in (read_results(file) if file.is_file() else [])}
    kept |= {result["name"]: result for result in read_results(folder)}
    write_results([kept[name] for name in sorted(kept)], file)
    return len(kept)


def results_table(place: Path) -> str:
    """The results of a folder, or of a file that keeps them, as Markdown."""
    results = sorted(read_results(place), key=lambda result: str(result["name"]))
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(_row, results)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    setting = result["setting"]
    what = f"{setting['model']} {setting['stage']}, {setting['frames']} x {setting['height']} x {setting['width']}"
    what += f", batch {setting['batch']}" if setting["batch"] > 1 else ""
    what += "" if setting["compile"] else ", not compiled"
    kept = setting["checkpointing"] + (f", each {setting['every']}." if setting["every"] > 1 else "")
    if "step_seconds" not in result:
        reason = result.get("error", "no step was finished").splitlines()[0][:90]
        return (what, *["-"] * 2, kept, reason.replace("|", "/"), *["-"] * 4)
    shared = f", {setting['sequence']} to a sequence" if setting["sequence"] > 1 else ""
    return (
        what,
        f"{result['devices']} x {result['device']}{shared}",
        f"{result['tokens']:,}",
        kept,
        result["attention"]["chosen"],
        f"{result['step_seconds']:.2f}",
        f"{result['tokens_per_second']:,.0f}",
        "-" if result["mfu"] is None else f"{100 * result['mfu']:.1f} %",
        f"{result['memory_gib']:.1f} GiB" if "memory_gib" in result else "-",
    )
