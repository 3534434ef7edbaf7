"""Speed and memory of training, with random weights and random latents: nothing has to be downloaded.

    python -m benchmarks.training_speed --out runs/speed                       # every setting, most important first
    python -m benchmarks.training_speed --out runs/speed 14b_lora_81 1.3b_full_81:checkpointing=full
    torchrun --nproc-per-node 4 -m benchmarks.training_speed --out runs/speed 1.3b_full_81 1.3b_full_81:sequence=2
    accelerate launch -m benchmarks.training_speed --out runs/speed 1.3b_full_81
    python -m benchmarks.training_speed --out runs/speed --keep docs/training/speed.json     # its results, in one file
    python -m benchmarks.training_speed --table docs/training/speed.json       # a folder or a file as a Markdown table
    python -m benchmarks.training_speed --out /tmp/toy --toy                   # every setting's code, on a CPU

What is timed is `training.core.loop.Trainer` on a `training.stages.editor.EditStage`, from the encoded batch on:
forward, backward, clipping, optimiser and averaging, as `python -m training.train` runs them. `NAME:key=value:...`
varies a setting; the keys are the fields of `benchmarks.training_settings.TrainingSetting`. Each setting runs in a
process of its own with a time limit. Its JSON file is rewritten after every timed step, so that little is lost with a
machine. A setting that fails leaves a file that says why, and the next one runs.

In one call of ten minutes on one GPU:

    python -m benchmarks.training_speed --out runs/speed --minutes 9.5 \\
        14b_lora_81 1.3b_full_81 14b_lora_49 14b_lora_81:checkpointing=attention_offload

What to try first if a figure disappoints: the attention's share of a step (`attention` has the seconds of one layer for
each backend), `checkpointing` (`attention` spares most of the recomputation), `every=2` where memory is left,
`compile=false` to see what compilation brings, a larger `batch` for short clips.

MFU is by the formula of `training.core.meter`: three forward passes of model FLOPs (two for frozen layers), without
recomputation, over the dense bfloat16 peak. `memory_gib` is the peak of what tensors took in the timed steps,
`reserved_gib` of what the allocator held, `used_gib` what was taken on the device altogether.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.machinery
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import now, write_result
from benchmarks.random_training import RandomFeed, random_transformer
from benchmarks.training_settings import SETTINGS, TrainingSetting, keep_results, parse_setting, results_table

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from training.config import TrainConfig
    from training.core.meter import Cost
    from training.parallel.processes import ProcessGroups

GIB = 2**30
OPTIONAL_PACKAGES = ("cv2", "av", "ftfy")
"""Packages for reading clips and cleaning prompts, which is not measured: they may be missing."""


def stand_in_for_missing_packages() -> None:
    """Let `training` be imported without the packages that are not used here."""
    import diffusers  # noqa: F401 - the libraries look for these packages themselves, and shall not find stand-ins
    import transformers  # noqa: F401

    for name in OPTIONAL_PACKAGES:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)


def setting_arguments(setting: TrainingSetting, toy: bool) -> dict[str, Any]:
    """Arguments of the transformer; `toy`: the same kind of model, small enough for a test."""
    from sama.presets import TINY_FOLDER, transformer_config

    if setting.model == "tiny":
        stored = json.loads((TINY_FOLDER / "transformer/config.json").read_text(encoding="utf-8"))
        arguments = {name: value for name, value in stored.items() if not name.startswith("_") and value is not None}
    else:
        arguments = {"in_channels": 16, "out_channels": 16, "semantic_dim": 1152} | transformer_config(setting.model)
    small = {"num_attention_heads": 4, "attention_head_dim": 12, "ffn_dim": 64, "num_layers": 2, "text_dim": 32}
    return arguments | small | {"semantic_dim": 16, "semantic_hidden_dim": 32} if toy else arguments


def setting_config(setting: TrainingSetting, arguments: dict[str, Any], out: Path) -> TrainConfig:
    """The configuration that a YAML file with this setting would give."""
    from training.config import LoraConfig, OptimiserConfig, ParallelConfig, TrainConfig

    return TrainConfig(
        stage=setting.stage,  # type: ignore[arg-type]
        output=str(out / "run"),
        model=arguments,
        batch_size=setting.batch,
        compile=setting.compile,
        optimiser=OptimiserConfig() if setting.model == "tiny" else OptimiserConfig("adamw", 2e-5),
        parallel=ParallelConfig(
            setting.weights,  # type: ignore[arg-type]
            setting.sequence,
            setting.checkpointing,  # type: ignore[arg-type]
            setting.every,
        ),
        lora=LoraConfig(setting.rank, setting.rank),
    )


def attention_seconds(shape: tuple[int, int, int, int], backend: str, device: torch.device) -> list[float]:
    """Seconds of one self-attention forward and backward on (B, N, H, head_dim), bfloat16: the best of two."""
    import torch
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    query, key, value = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    gradient = torch.randn_like(query)
    times = []
    for _ in range(3):
        start = now(device)
        out = dispatch_attention_fn(query, key, value, backend=backend)
        middle = now(device)
        out.backward(gradient)
        times.append((middle - start, now(device) - middle))
    return [min(part) for part in zip(*times[1:], strict=True)]


def choose_attention(shape: tuple[int, int, int, int], wanted: str, device: torch.device) -> dict[str, Any]:
    """The attention backend to use, and for each backend its seconds or why it cannot be used."""
    gpu = ("native", "_native_cudnn", "_native_flash", "_flash_3", "flash") if device.type == "cuda" else ("native",)
    taken: dict[str, Any] = {}
    for backend in gpu if wanted == "auto" else (wanted,):
        try:
            taken[backend] = attention_seconds(shape, backend, device)
        except Exception as error:  # whatever a missing or unfitting kernel raises
            taken[backend] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    times = {backend: sum(seconds) for backend, seconds in taken.items() if isinstance(seconds, list)}
    if not times:
        raise RuntimeError(f"no attention backend works: {taken}")
    chosen = min(times, key=lambda name: times[name])
    # The plain call is the surest one under compilation; it need not be worse by more than noise.
    if "native" in times and times["native"] <= 1.03 * times[chosen]:
        chosen = "native"
    return {"chosen": chosen, "seconds": taken}


def measure_setting(name: str, setting: TrainingSetting, out: Path, toy: bool) -> dict[str, Any]:
    """Train for a few steps, writing what is known after each."""
    stand_in_for_missing_packages()
    import torch
    from accelerate import Accelerator

    from sama.shapes import latent_shape, token_counts
    from training.core.meter import batch_cost
    from training.parallel.processes import process_groups
    from training.stages.editor import EditStage
    from training.stages.lora import add_adapter

    began = time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = True
    accelerator = Accelerator(cpu=toy)
    device = accelerator.device
    limit_memory(setting.limit_gib, device)
    frozen, arguments = setting.stage == "lora", setting_arguments(setting, toy)
    config = setting_config(setting, arguments, out)
    model = random_transformer(arguments, frozen, device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if frozen:
        add_adapter(model, config.lora)
    groups = process_groups(config, accelerator, parameters)
    feed = RandomFeed(setting, arguments, device)
    tokens = token_counts(latent_shape(setting.frames, setting.height, setting.width)).total
    heads = arguments["num_attention_heads"] // setting.sequence
    attention = choose_attention(
        (setting.batch, tokens, heads, arguments["attention_head_dim"]), setting.attention, device
    )
    model.set_attention_backend(attention["chosen"])
    stage = EditStage(config, accelerator, feed, None, groups.data_rank, model)  # type: ignore[arg-type]
    trainer = timed_trainer(config, stage, accelerator, groups)

    cost = batch_cost(model.config, feed.batch, frozen)
    result: dict[str, Any] = {
        "name": name,
        "setting": dataclasses.asdict(setting),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "devices": accelerator.num_processes,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "sharded": groups.sharded,
        "parameters": parameters,
        "trained": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "tokens": tokens,
        "attention": attention,
        "model_tflop": cost.flops / 1e12,
        "first_step_seconds": trainer.timed_step(),
        "seconds": [],
    }
    time_steps(trainer, result, cost, setting.steps, began + setting.minutes * 60, out)
    return result


def timed_trainer(config: TrainConfig, stage: Any, accelerator: Accelerator, groups: ProcessGroups) -> Any:
    """A `Trainer` with `timed_step`, which takes an optimiser step and returns its seconds."""
    from training.core.loop import Trainer

    class Timed(Trainer):
        def timed_step(self) -> float:
            start = now(self.groups.device)
            logs = self._optimise(self.stage.batches(), 0.5)
            seconds = now(self.groups.device) - start
            self.last_loss = float(logs[-1]["loss"])
            return seconds

    return Timed(config, stage, accelerator, groups)


def time_steps(trainer: Any, result: dict[str, Any], cost: Cost, steps: int, end: float, out: Path) -> None:
    """Time `steps` steps, fewer where another one would last beyond `end` (of `time.monotonic`), and write `result`
    with their figures after each. cost: of one process's step."""
    import torch

    from sama.flops import peak_flops

    groups, device = trainer.groups, trainer.groups.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    while len(result["seconds"]) < steps:
        left = end - time.monotonic()
        short = bool(result["seconds"]) and left < 1.2 * max(result["seconds"])
        if groups.agree([float(short)])[0]:
            break
        result["seconds"].append(trainer.timed_step())
        add_figures(result, cost.tokens * groups.data_rank.count, cost.flops * groups.data_rank.count, device)
        result |= {"loss": trainer.last_loss, "skipped_steps": int(trainer.skipped)}
        peak = peak_flops(result["device"])
        result["mfu"] = None if peak is None else result["tflops_per_device"] * 1e12 / peak
        if trainer.accelerator.is_main_process:
            write_result(out, result)


def limit_memory(gib: float, device: torch.device) -> None:
    """Limit the process to `gib` of device memory (0: no limit), as on a smaller device."""
    import torch

    if device.type == "cuda" and gib:
        total = torch.cuda.mem_get_info(device)[1]
        index = torch.cuda.current_device() if device.index is None else device.index  # one process has plain "cuda"
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total), index)


def add_figures(result: dict[str, Any], tokens: int, flops: int, device: torch.device) -> None:
    """The median step and what follows from it. tokens, flops: of all devices in a step."""
    import torch

    seconds = statistics.median(result["seconds"])
    result["step_seconds"] = seconds
    result["tokens_per_second"] = tokens / seconds
    result["tflops_per_device"] = flops / seconds / result["devices"] / 1e12
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        result["memory_gib"] = torch.cuda.max_memory_allocated(device) / GIB
        result["reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
        result["used_gib"] = (total - free) / GIB


def result_name(text: str) -> str:
    """The name of a setting's result file: its text, and how many processes ran."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return text.replace(":", "-").replace("=", "_") + (f"-{count}_processes" if count > 1 else "")


def write_failure(out: Path, name: str, setting: TrainingSetting, reason: str) -> None:
    """Write the reason of a failure as the result, unless there is a result already."""
    if not (out / f"{name}.json").exists():
        write_result(out, {"name": name, "setting": dataclasses.asdict(setting), "error": reason})


def run_here(text: str, out: Path, toy: bool) -> bool:
    """Measure a setting in this process. Returns whether it succeeded."""
    name, setting = result_name(text), parse_setting(text, toy)
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        result = measure_setting(name, setting, out, toy)
    except Exception as error:
        result = {"name": name, "error": f"{type(error).__name__}: {error}"}
        if is_first:
            write_failure(out, name, setting, result["error"])
        if toy:
            raise
    if is_first:
        sys.stdout.write(json.dumps({key: value for key, value in result.items() if key != "setting"}) + "\n")
        sys.stdout.flush()
    return "error" not in result


def run_apart(texts: list[str], out: Path, toy: bool, minutes: float) -> bool:
    """Measure each setting in a process of its own, as long as there is time."""
    end = time.monotonic() + minutes * 60
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "TOKENIZERS_PARALLELISM": "false"}
    good = True
    for text in texts:
        limit = min(parse_setting(text).minutes * 60 + 60, end - time.monotonic())
        if limit < 20:
            sys.stdout.write(f"no time is left for {text}\n")
            return False
        command = [sys.executable, "-m", "benchmarks.training_speed", "--here", "--out", str(out), text]
        command += ["--toy"] if toy else []
        try:
            done = subprocess.run(command, env=environment | os.environ, timeout=limit, check=False)
            good &= done.returncode == 0
        except subprocess.TimeoutExpired:
            reason = f"stopped after {limit:.0f} s"
            write_failure(out, result_name(text), parse_setting(text, toy), reason)
            sys.stdout.write(f"{text}: {reason}; what it measured is in {out}\n")
            good = False
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the speed and the memory of training.")
    parser.add_argument("settings", nargs="*", default=list(SETTINGS), metavar="NAME[:key=value...]")
    parser.add_argument("--out", type=Path, default=Path("runs/speed"), help="folder of the JSON files")
    parser.add_argument("--minutes", type=float, default=30.0, help="for all settings together")
    parser.add_argument("--toy", action="store_true", help="small models on the CPU: to try the code, not the speed")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="put the results in --out into one file, and end")
    parser.add_argument("--table", type=Path, metavar="PLACE", help="print the results of a folder or a file, and end")
    parser.add_argument("--here", action="store_true", help="in this process, as under torchrun and accelerate launch")
    options = parser.parse_args()
    try:
        if options.keep:
            sys.stdout.write(f"{keep_results(options.out, options.keep)} results in {options.keep}\n")
        if options.table:
            sys.stdout.write(results_table(options.table))
        if options.keep or options.table:
            return 0
        for text in options.settings:
            parse_setting(text)
    except ValueError as error:
        parser.error(str(error))
    if not options.here and "RANK" not in os.environ:
        return int(not run_apart(options.settings, options.out, options.toy, options.minutes))
    good = [run_here(text, options.out, options.toy) for text in options.settings]
    return int(not all(good))


if __name__ == "__main__":
    raise SystemExit(main())
