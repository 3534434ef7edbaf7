"""Seconds of a denoising step on one and on several GPUs, against what the GPU's own kernels allow.

    python -m benchmarks.parallel_steps --gpus 1 2 4 --out runs/steps.json      # the 14B's sizes, random weights
    python -m benchmarks.parallel_steps --gpus 1 2 --preset tiny --device cpu --frames 17 --size 256x192 --modes eager

A step is the model's two guidance passes and the exchange between them, by `sama.model.processes`; with `--passes 1`
one pass, so that two GPUs must share its sequence. Weights and inputs are random and seeded. Each setting is warmed up
once, then timed `--repeats` times; the median counts. `floor_seconds` is the arithmetic of a step divided by the rates
that attention and matrix products of these very shapes reach alone in the same run; `of_floor` compares a single GPU
with it. `difference` is the largest one between the velocity of several GPUs and that of one, in the same mode, over
the largest value; 0 means the same bits. Every setting is one line of JSON, printed and saved as soon as it is known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import join_run, now

if TYPE_CHECKING:
    import torch

    from sama.model.transformer import SamaTransformer3DModel

GIB = 2**30
MODES = ("eager", "compiled")


@dataclass(frozen=True)
class Sweep:
    """What is measured. size: (width, height) in pixels. passes: guidance passes of a step, one after another."""

    gpus: tuple[int, ...] = (1, 2)
    preset: str = "14b"
    device: str = "cuda"
    frames: tuple[int, ...] = (81, 17)
    size: tuple[int, int] = (832, 480)
    passes: tuple[int, ...] = (2, 1)
    modes: tuple[str, ...] = MODES
    repeats: int = 3


def measure_steps(sweep: Sweep, out: Path) -> list[dict[str, Any]]:
    """Measures every setting of a sweep: a row for each, also written to `out` as JSON. A failed one has an `error`."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        for count in sweep.gpus:
            try:
                torch.multiprocessing.start_processes(
                    _process, args=(count, sweep, folder), nprocs=count, start_method="spawn"
                )
            except Exception as error:
                _note(Path(folder), {"gpus": count, "error": str(error).strip().splitlines()[-1]})
            rows = _rows(Path(folder))
            out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def steps_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown: seconds of a step, how much faster than one GPU, and the share of the floor."""
    lines = ["| frames | passes | mode | GPUs (split) | seconds | faster | of the floor | difference | reserved GiB |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        if "error" in row:
            lines.append(f"| {row.get('frames', '')} | | | {row['gpus']} | {row['error'][:80]} | | | | |")
            continue
        split = "x".join(map(str, row["split"]))
        cells = [row["frames"], row["passes"], row["mode"], f"{row['gpus']} ({split})", f"{row['seconds']:.3f}"]
        cells += ["" if row[name] is None else f"{row[name]:.3g}" for name in ("faster", "of_floor", "difference")]
        lines.append("| " + " | ".join(map(str, [*cells, f"{row['reserved_gib']:.1f}"])) + " |")
    return "\n".join(lines)


# --- One process -----------------------------------------------------------------------------------------------------


def _process(rank: int, count: int, sweep: Sweep, folder: str) -> None:
    import torch.distributed as dist

    from sama.model.processes import OneProcess, Processes

    device = join_run(sweep.device, rank, count, folder)
    model = preset_of_random_weights(sweep.preset, device)
    for mode in sweep.modes:
        if mode == "compiled":
            model.compile_repeated_blocks(dynamic=False)
        processes: Any = Processes(model) if count > 1 else OneProcess()
        for frames in sweep.frames:
            for passes in sweep.passes:
                row = _setting(model, processes, sweep, frames, passes, device)
                shape = {"gpus": count, "mode": mode, "frames": frames, "passes": passes}
                if rank == 0:
                    _finish(Path(folder), sweep, shape | row, device)
        if count > 1:
            processes.remove()
    if count > 1:
        dist.destroy_process_group()


def _setting(
    model: SamaTransformer3DModel, processes: Any, sweep: Sweep, frames: int, passes: int, device: torch.device
) -> dict[str, Any]:
    """Seconds of each repetition, memory, and the velocity."""
    import torch

    step = _step(model, processes, sweep, frames, passes, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = now(device)
    with torch.no_grad():
        velocity = step()
        first = now(device) - began
        taken = []
        for _ in range(sweep.repeats):
            began = now(device)
            step()
            taken.append(now(device) - began)
    reserved = torch.cuda.max_memory_reserved(device) / GIB if device.type == "cuda" else 0.0
    current = getattr(processes, "current", (1, 1))
    return {"first_seconds": first, "taken": taken, "reserved_gib": reserved, "split": list(current), "got": velocity}


def _step(
    model: SamaTransformer3DModel, processes: Any, sweep: Sweep, frames: int, passes: int, device: torch.device
) -> Any:
    import torch

    from sama.shapes import NUM_SEMANTIC_TOKENS, latent_shape

    random = torch.Generator(device).manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=random, device=device)

    config = model.config
    shape = (config["in_channels"], *latent_shape(frames, sweep.size[1], sweep.size[0]))
    latents, source = noise(*shape), noise(*shape)
    anchors = noise(NUM_SEMANTIC_TOKENS, config["semantic_dim"])
    texts = [noise(text_tokens(sweep.preset), config["text_dim"]) for _ in range(passes)]
    dtype = model.dtype

    def evaluate(text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = model(
            hidden_states=latents.to(dtype),
            timestep=torch.full((1,), 500.0, device=device),
            encoder_hidden_states=text.to(dtype),
            source_hidden_states=source.to(dtype),
            semantic_hidden_states=anchors.to(dtype),
        )
        return out.sample.float(), out.semantic.float()

    def step() -> torch.Tensor:
        named = {str(index): partial(evaluate, text) for index, text in enumerate(texts)}
        found = [answer[0] for answer in processes.evaluate(named, (latents, anchors)).values()]
        return found[-1] + 5.0 * (found[0] - found[-1])

    return step


def _finish(folder: Path, sweep: Sweep, row: dict[str, Any], device: torch.device) -> None:
    """Compare a setting with one GPU's and with the floor, and note it."""
    import torch

    velocity = row.pop("got")
    if not torch.isfinite(velocity).all():
        raise RuntimeError("the velocity is not finite")
    row["seconds"] = statistics.median(row["taken"])
    kept = folder / f"velocity-{row['mode']}-{row['frames']}-{row['passes']}.pt"
    alone = next((other for other in _rows(folder) if _same(other, row) and other["gpus"] == 1), None)
    row |= {"faster": None, "difference": None, "of_floor": None, "pass_floor_seconds": None}
    if row["gpus"] == 1:
        torch.save(velocity.cpu(), kept)
        known = (other["pass_floor_seconds"] for other in _rows(folder) if other.get("frames") == row["frames"])
        row["pass_floor_seconds"] = next(known, None) or floor_seconds(sweep, row["frames"], device)
        row["floor_seconds"] = row["passes"] * row["pass_floor_seconds"]
        row["of_floor"] = row["floor_seconds"] / row["seconds"]
    elif alone is not None:
        expected = torch.load(kept, weights_only=True)
        row["faster"] = alone["seconds"] / row["seconds"]
        row["difference"] = float((velocity.cpu() - expected).abs().max() / expected.abs().max())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    row |= {"preset": sweep.preset, "size": list(sweep.size), "device": name, "torch": torch.__version__}
    _note(folder, row)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(key) == other[key] for key in ("mode", "frames", "passes")) and "error" not in one


def _note(folder: Path, row: dict[str, Any]) -> None:
    line = json.dumps(row)
    with (folder / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "rows.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


# --- The model and the floor -----------------------------------------------------------------------------------------


def preset_of_random_weights(preset: str, device: torch.device) -> SamaTransformer3DModel:
    """A preset's transformer with seeded random weights, made on its device: bfloat16 on a GPU, but for what diffusers
    keeps in float32, else float32."""
    import torch
    from accelerate import init_empty_weights

    from sama.checkpoints import load_transformer
    from sama.model.transformer import SamaTransformer3DModel
    from sama.presets import get_preset, saved_transformer

    config = {name: value for name, value in saved_transformer(get_preset(preset)).items() if not name.startswith("_")}
    with init_empty_weights():
        shapes = {name: value.shape for name, value in SamaTransformer3DModel(**config).state_dict().items()}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    random = torch.Generator(device).manual_seed(0)

    def drawn(name: str, shape: torch.Size) -> torch.Tensor:
        if len(shape) == 1:
            return torch.full(shape, float(name.endswith("weight")), device=device, dtype=dtype)  # norms; biases
        std = shape[-1] ** -0.5 if name.endswith("scale_shift_table") else 0.02
        return torch.empty(shape, device=device, dtype=dtype).normal_(std=std, generator=random)

    weights = {name: drawn(name, shape) for name, shape in shapes.items()}
    return load_transformer(weights, config, dtype, device).eval()


def text_tokens(preset: str) -> int:
    """Tokens of a preset's prompts, padding included."""
    from sama.presets import WAN_TEXT_TOKENS

    return 128 if preset == "tiny" else WAN_TEXT_TOKENS


def floor_seconds(sweep: Sweep, frames: int, device: torch.device) -> float:
    """One pass at the rates that its attention and its matrix products reach alone: cuDNN's attention or PyTorch's
    choice, whichever is quicker."""
    import torch

    from sama.flops import block_flops
    from sama.presets import get_preset, saved_transformer
    from sama.shapes import latent_shape, token_counts

    config = saved_transformer(get_preset(sweep.preset))
    heads, head_dim, ffn = config["num_attention_heads"], config["attention_head_dim"], config["ffn_dim"]
    width, dtype = heads * head_dim, torch.bfloat16 if device.type == "cuda" else torch.float32
    tokens = token_counts(latent_shape(frames, sweep.size[1], sweep.size[0])).total
    flops = block_flops(tokens, text_tokens(sweep.preset), width, ffn, config["num_layers"])
    query, key, value = (torch.randn(1, heads, tokens, head_dim, device=device, dtype=dtype) for _ in range(3))
    attention = min(_quickest(attend, query, key, value, device=device) for attend in _attentions(device))
    rows = torch.randn(tokens, ffn, device=device, dtype=dtype)

    def product(inner: int, outer: int) -> float:
        weight = torch.randn(outer, inner, device=device, dtype=dtype)
        bias = torch.randn(outer, device=device, dtype=dtype)
        return _quickest(torch.nn.functional.linear, rows[:, :inner].contiguous(), weight, bias, device=device)

    linear = 6 * product(width, width) + product(width, ffn) + product(ffn, width)  # a block's, without the text's
    rates = (4 * tokens**2 * width / attention, 2 * tokens * (6 * width**2 + 2 * width * ffn) / linear)
    return flops.attention / rates[0] + flops.linear / rates[1]


def _attentions(device: torch.device) -> Iterator[Any]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    attend = torch.nn.functional.scaled_dot_product_attention

    def cudnn(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return attend(query, key, value)

    yield attend
    if device.type == "cuda":
        yield cudnn


def _quickest(compute: Any, *given: torch.Tensor, device: torch.device) -> float:
    """Seconds of the median of five, after one to warm up; infinite for what this device cannot do."""
    import torch

    taken = []
    try:
        with torch.no_grad():
            for _ in range(6):
                began = now(device)
                compute(*given)
                taken.append(now(device) - began)
    except RuntimeError:
        return float("inf")
    return statistics.median(taken[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description="Seconds of a denoising step on one and on several GPUs.")
    defaults = asdict(Sweep())
    for name, kind in (("gpus", int), ("frames", int), ("passes", int), ("modes", str)):
        parser.add_argument(f"--{name}", type=kind, nargs="+", default=defaults[name])
    parser.add_argument("--preset", default="14b")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", default="832x480", help="width x height in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("steps.json"))
    options = vars(parser.parse_args())
    out, size = options.pop("out"), options.pop("size")
    lists = {name: tuple(value) for name, value in options.items() if isinstance(value, (list, tuple))}
    width, height = (int(side) for side in size.split("x"))
    rows = measure_steps(Sweep(**(options | lists | {"size": (width, height)})), out)
    sys.stdout.write(steps_table(rows) + "\n")
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
