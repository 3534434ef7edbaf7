"""The clock and the result files that the benchmarks share."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sama.files import whole_file

if TYPE_CHECKING:
    import torch


def now(device: torch.device) -> float:
    """The time in seconds, after the device has finished its work."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write a result as `folder`/NAME.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / f"{result['name']}.json") as part:
        part.write_text(json.dumps(result, indent=1), encoding="utf-8")


def read_results(place: Path) -> list[dict[str, Any]]:
    """Read the results of a folder, or of a file that holds a list of them. Raises ValueError when there are none."""
    if place.is_file():
        results = list(json.loads(place.read_text(encoding="utf-8")))
    else:
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(place.glob("*.json"))]
    if not results:
        raise ValueError(f"there are no results in {place}")
    return results


def write_results(results: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write results into one file, a line each, whole or not at all."""
    lines = [json.dumps(result, separators=(",", ":")) for result in results]
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part:
        part.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def join_run(wanted: str, rank: int, count: int, folder: str) -> torch.device:
    """Device of process `rank` of `count`; "cuda" is one GPU each. Several become a group that meets in `folder`."""
    import torch
    import torch.distributed as dist

    device = torch.device(wanted, rank) if wanted == "cuda" else torch.device(wanted)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if count > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meeting{count}", rank=rank, world_size=count)
    return device
