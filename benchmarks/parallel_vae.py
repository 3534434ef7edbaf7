"""Seconds of encoding and decoding a clip on one and on several GPUs, by `sama.model.vae_parallel`.

    python -m benchmarks.parallel_vae --gpus 1 2 4 --out runs/vae.json               # Wan's autoencoder, random weights
    python -m benchmarks.parallel_vae --gpus 1 2 --device cpu --frames 9 --size 96x64 --repeats 1

Weights and clip are random and seeded; on one GPU the autoencoder takes the whole picture. The first run warms up, the
median of the others counts. `difference` is the largest one to one GPU's result, over the largest value. Each number of
GPUs is one line of JSON, printed and saved as soon as it is known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import join_run, now

if TYPE_CHECKING:
    import torch

GIB = 2**30


@dataclass(frozen=True)
class Clip:
    """What is measured. size: (width, height) in pixels."""

    device: str = "cuda"
    frames: int = 81
    size: tuple[int, int] = (832, 480)
    repeats: int = 3


def measure(gpus: list[int], clip: Clip, out: Path) -> list[dict[str, Any]]:
    """Measures each number of GPUs: a row for each, also written to `out` as JSON."""
    import torch

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in gpus:
            torch.multiprocessing.start_processes(
                _process, args=(count, clip, folder), nprocs=count, start_method="spawn"
            )
            rows.append(json.loads((Path(folder) / f"{count}.json").read_text(encoding="utf-8")))
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            sys.stdout.flush()
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [
        "| GPUs | encode | faster | decode | faster | difference | reserved on each |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [str(row["gpus"])]
        for name in ("encode", "decode"):
            cells += [f"{row[name]:.2f} s", f"{rows[0][name] / row[name]:.2f}"]
        cells += [f"{max(row['difference']):.0e}", f"{row['reserved_gib']:.1f} GiB"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _process(rank: int, count: int, clip: Clip, folder: str) -> None:
    import torch
    import torch.distributed as dist
    from diffusers import AutoencoderKLWan

    from sama.model import vae_parallel, vae_stripes

    device = join_run(clip.device, rank, count, folder)
    torch.manual_seed(0)
    vae = AutoencoderKLWan().to(device).eval()
    random = torch.Generator().manual_seed(1)
    pixels = 2 * torch.rand(1, 3, clip.frames, clip.size[1], clip.size[0], generator=random) - 1
    latents = torch.randn(1, 16, 1 + clip.frames // 4, *(side // 8 for side in clip.size[::-1]), generator=random)
    row: dict[str, Any] = {"gpus": count, "difference": []}
    with torch.no_grad():
        for name, given in (("encode", pixels), ("decode", latents)):
            given, taken = given.to(device), []
            for _ in range(1 + clip.repeats):
                began = now(device)
                if count > 1:
                    result = getattr(vae_parallel, name)(vae, given, dist.group.WORLD)
                else:
                    result = getattr(vae_stripes, name)(vae, given)
                taken.append(now(device) - began)
            row[name] = statistics.median(taken[1:])
            if rank == 0:
                row["difference"].append(_difference(result, Path(folder) / f"{name}.pt"))
    row["reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB if device.type == "cuda" else 0.0
    row |= {"frames": clip.frames, "size": list(clip.size), "torch": torch.__version__}
    row["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if rank == 0:
        (Path(folder) / f"{count}.json").write_text(json.dumps(row), encoding="utf-8")
    if count > 1:
        dist.destroy_process_group()


def _difference(result: torch.Tensor, kept: Path) -> float:
    """To the first result of this name, over the largest value. Raises RuntimeError for one that is not finite."""
    import torch

    result = result.float().cpu()
    if not result.isfinite().all():
        raise RuntimeError("the result is not finite")
    if not kept.exists():
        torch.save(result, kept)
    expected = torch.load(kept, weights_only=True)
    return float((result - expected).abs().max() / expected.abs().max())


def main() -> int:
    parser = argparse.ArgumentParser(description="Seconds of the autoencoder on one and on several GPUs.")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--size", default="832x480", help="width x height in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/vae.json"))
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    clip = Clip(options.device, options.frames, (width, height), options.repeats)
    sys.stdout.write(table(measure(options.gpus, clip, options.out)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
