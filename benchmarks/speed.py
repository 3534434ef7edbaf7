"""What an edit costs on this machine: speed against what its kernels allow, and memory in every mode.

    make bench                                                    # the machine it runs on, about five minutes
    python -m benchmarks.speed --out runs/bench                   # the same
    python -m benchmarks.speed --out runs/bench floor resident:compile=on streamed:limit=8:compile=on
    python -m benchmarks.speed --table runs/bench                 # the tables of what was measured

On a GPU the model has random weights at the true sizes of the 14B, or of the 1.3B where main memory has no room for it;
nothing is downloaded. On a CPU it is the embedded model. Each result is written as soon as it is there. A limit in GiB
makes the card as small as another (torch.cuda.set_per_process_memory_fraction); its speed stays.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import now, read_results, write_result, write_results
from benchmarks.speed_settings import (
    CPU_CLIP,
    CPU_SETTINGS,
    GPU_SETTINGS,
    QUICK_SETTINGS,
    TOY,
    EditSetting,
    parse_edit_setting,
)
from benchmarks.speed_table import tables

if TYPE_CHECKING:
    import torch

    from benchmarks.random_model import RandomModel
    from sama.pipeline import SamaPipeline

GIB = 2**30


class Bench:
    """Measures settings one after another on one device, with one set of weights."""

    def __init__(self, device: str, model: str, out: Path) -> None:
        self.device, self.model, self.out = device, model, out
        self._weights: RandomModel | None = None
        self._first: dict[tuple[Any, ...], torch.Tensor] = {}

    def pipeline(self) -> SamaPipeline:
        """The pipeline of `model`, in main memory."""
        if self.model == "tiny":
            from sama.loading import assemble

            pipeline = assemble("tiny", self.device)
            pipeline.set_progress_bar_config(disable=True)
            return pipeline
        from benchmarks.random_model import RandomModel

        if self._weights is None:
            self._weights = RandomModel.draw(self.model, self.device)
        return self._weights.pipeline()

    def run(self, setting: EditSetting) -> dict[str, Any]:
        """Measure a setting and write what was found, a failure too."""
        result = {
            "name": setting.name,
            "setting": dataclasses.asdict(setting),
            "model": self.model,
            **machine_facts(self.device),
        }
        began = time.monotonic()
        try:
            measures = {"floor": self.floor, "vae": self.vae, "gpus": self.gpus}
            result |= measures.get(setting.what, self.edit)(setting)
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        result["minutes"] = round((time.monotonic() - began) / 60, 2)
        write_result(self.out, result)
        self._empty()
        return result

    # --- Measurements --------------------------------------------------------------------------------------------

    def floor(self, setting: EditSetting) -> dict[str, Any]:
        """Seconds of the kernels alone for one evaluation: attention and matrix products at the model's sizes."""
        import torch
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        from sama.device.placement import fast_dtype, work_of
        from sama.flops import block_flops

        pipeline = self.pipeline()
        config, dtype = pipeline.transformer.config, fast_dtype(self.device)
        tokens = work_of(pipeline, setting.frames, setting.height, setting.width).tokens
        heads, side, ffn = config["num_attention_heads"], config["attention_head_dim"], config["ffn_dim"]
        parts = [torch.randn(1, tokens, heads, side, device=self.device, dtype=dtype) for _ in range(3)]
        backends = ("native", "_native_cudnn", "_native_flash", "_flash_3") if self._on_cuda else ("native",)
        attention: dict[str, float | str] = {}
        for backend in backends:
            try:
                attention[backend] = self._seconds(partial(dispatch_attention_fn, *parts, backend=backend))
            except Exception as error:  # whatever a missing or unfitting kernel raises
                attention[backend] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        best = min(value for value in attention.values() if isinstance(value, float))
        x = torch.randn(tokens, heads * side, device=self.device, dtype=dtype)
        up = torch.randn(heads * side, ffn, device=self.device, dtype=dtype)
        product = self._seconds(lambda: x @ up)
        rates = (4 * tokens**2 * heads * side / best, 2 * tokens * heads * side * ffn / product)
        text = pipeline.config["max_sequence_length"]
        linear, attended = block_flops(tokens, text, heads * side, ffn, config["num_layers"])
        return {
            "tokens": tokens,
            "attention_seconds": attention,
            "attention_flops": rates[0],
            "linear_flops": rates[1],
            "forward_flops": linear + attended,
            "floor_seconds": attended / rates[0] + linear / rates[1],
        }

    def edit(self, setting: EditSetting) -> dict[str, Any]:
        """An edit of a random clip from loading to decoded frames: seconds, and peaks of the device's memory."""
        import torch

        from sama.device.memory import MemoryMode
        from sama.device.placement import place, put

        window = (setting.frames, setting.height, setting.width)
        pipeline = self.pipeline()
        self._limit(setting.limit)
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        began = time.perf_counter()
        placement = place(pipeline, self.device, setting.what if self._on_cuda else "auto", setting.compile, window)
        if not self._on_cuda and setting.what != "auto":
            put(pipeline, self.device, MemoryMode(setting.what))
        placed = self._now() - began
        random = torch.Generator().manual_seed(1)
        clip = torch.rand(1, *window, 3, generator=random)
        result: dict[str, Any] = {
            "mode": placement.choice.mode.value if self._on_cuda else setting.what,
            "reason": placement.choice.reason,
            "compiled": placement.compiled,
            "predicted_gib": placement.choice.needs / GIB if self._on_cuda else None,
            "place_seconds": placed,
            "peaks_gib": {"place": self._peak()},
        }
        latents, times = self._painted(pipeline, clip, setting, result)
        result["step_seconds"] = statistics.median(times[1:] or times)
        result["predicted_step_seconds"] = self._predicted(setting, result["mode"], placement.compiled)
        result["steps_seconds"] = times
        result["finite"] = bool(torch.isfinite(latents).all())
        same = (self.model, window, setting.steps, setting.guidance)
        reference = self._first.setdefault(same, latents)
        result["difference"] = float((latents - reference).norm() / reference.norm())
        if self._on_cuda:
            result["allocated_gib"] = max(peak[0] for peak in result["peaks_gib"].values())
            result["reserved_gib"] = max(peak[1] for peak in result["peaks_gib"].values())
        return result

    def _predicted(self, setting: EditSetting, mode: str, compiled: bool) -> float | None:
        """Seconds of a step as `sama info` would tell them; None for a model that it does not know."""
        from sama.device.memory import MemoryMode
        from sama.device.placement import host_memory
        from sama.edit.estimate import architecture_of, known_speed, measure_speed, step_seconds
        from sama.edit.outlook import slowed, weights_of_architecture
        from sama.shapes import latent_shape, token_counts

        if self.model == "toy":
            return None
        model = architecture_of(self.model)
        tokens = token_counts(latent_shape(setting.frames, setting.height, setting.width)).total
        speed = known_speed(self.device) or measure_speed(self.device, tokens, model)
        passes = 1 if setting.guidance == 1 else 2
        step = step_seconds(model, tokens, speed, passes, passes == 2, compiled)
        if not self._on_cuda:
            return step
        return slowed(MemoryMode(mode), step, passes, weights_of_architecture(model), host_memory())

    def _painted(
        self, pipeline: SamaPipeline, clip: torch.Tensor, setting: EditSetting, result: dict[str, Any]
    ) -> tuple[torch.Tensor, list[float]]:
        import torch

        from sama.pipeline import SamaPipelineOutput

        peaks = result["peaks_gib"]

        def stage(name: str, run: Callable[[], Any]) -> Any:
            start = self._now()
            value = run()
            result[f"{name}_seconds"] = self._now() - start
            peaks[name] = self._peak()
            return value

        texts = stage("text", lambda: [pipeline.encode_text([text]) for text in ("make it snowy", "")])
        source = stage("encode", lambda: pipeline.encode_video(clip))
        steps = pipeline.stream(
            source_latents=source, prompt_embeds=texts[0], negative_prompt_embeds=texts[1],
            num_inference_steps=setting.steps, guidance_scale=setting.guidance,
            generator=torch.Generator().manual_seed(2), output_type="latent",
        )  # fmt: skip
        times, start = [], self._now()
        for event in steps:
            if isinstance(event, SamaPipelineOutput):
                latents = torch.as_tensor(event.frames)
                break
            times.append(self._now() - start)
            start = self._now()
        steps.close()
        peaks["paint"] = self._peak()
        stage("decode", lambda: pipeline.decode_latents(latents).cpu())
        return latents.float().cpu(), times

    def vae(self, _: EditSetting) -> dict[str, Any]:
        """The error that bfloat16 adds to the embedded autoencoder, in levels of 255."""
        import torch

        from sama.loading import assemble

        pipeline = assemble("tiny", "cpu")
        clip = drawn_clip()
        decoded = {}
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            pipeline.vae.to(dtype=dtype)
            pipeline.to(self.device)
            decoded[name] = (255 * pipeline.decode_latents(pipeline.encode_video(clip))).cpu()
        error = decoded["bfloat16"] - decoded["float32"]
        own = decoded["float32"] - 255 * clip
        return {
            "bfloat16_rms_levels": float(error.square().mean().sqrt()),
            "bfloat16_max_levels": float(error.abs().max()),
            "vae_rms_levels": float(own.square().mean().sqrt()),
        }

    def gpus(self, setting: EditSetting) -> dict[str, Any]:
        """A denoising step on 1, 2, 4 and 8 GPUs, as far as there are, by `benchmarks.parallel_steps`."""
        import torch

        from benchmarks.parallel_steps import Sweep, measure_steps

        count = torch.cuda.device_count()
        if count < 2 or self.model == "toy":
            return {"devices": count, "steps": []}
        sizes = tuple(size for size in (1, 2, 4, 8) if size <= count)
        size = (setting.width, setting.height)
        sweep = Sweep(
            sizes, self.model, frames=(setting.frames,), size=size, passes=(2,), modes=("compiled",), repeats=2
        )
        return {"devices": count, "steps": measure_steps(sweep, self.out / "steps.rows")}

    # --- Measuring -----------------------------------------------------------------------------------------------

    @property
    def _on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def _now(self) -> float:
        import torch

        return now(torch.device(self.device))

    def _seconds(self, run: Callable[[], Any]) -> float:
        """The median of five, after two that warm up."""
        times = []
        for _ in range(7):
            start = self._now()
            run()
            times.append(self._now() - start)
        return statistics.median(times[2:])

    def _peak(self) -> tuple[float, float]:
        """GiB allocated and reserved at most since the last call."""
        import torch

        if not self._on_cuda:
            return 0.0, 0.0
        peak = torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak[0] / GIB, peak[1] / GIB

    def _limit(self, gib: float) -> None:
        import torch

        if self._on_cuda:
            device = torch.device(self.device)
            index = torch.cuda.current_device() if device.index is None else device.index
            total = torch.cuda.get_device_properties(index).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total) if gib else 1.0, index)

    def _empty(self) -> None:
        import torch

        gc.collect()
        if self._on_cuda:
            torch.cuda.empty_cache()
            self._limit(0)


def drawn_clip() -> torch.Tensor:
    """A clip (1, 5, 192, 192, 3) in [0, 1] of edges, gradients and texture that moves."""
    import torch
    from torch.nn import functional as F

    random = torch.Generator().manual_seed(4)
    coarse, fine = (torch.rand(1, 3, side, side, generator=random) for side in (6, 48))
    picture = 0.45 * F.interpolate(coarse, 224, mode="nearest") + 0.4 * F.interpolate(
        coarse.flip(2), 224, mode="bicubic"
    )
    picture = (picture + 0.15 * F.interpolate(fine, 224, mode="bilinear")).clamp(0, 1)
    frames = [picture[0, :, 3 * shift : 3 * shift + 192, 2 * shift : 2 * shift + 192] for shift in range(5)]
    return torch.stack(frames).movedim(1, -1).unsqueeze(0)


def machine_facts(device: str) -> dict[str, Any]:
    """Device, memory, cores and torch version of this machine, for the results."""
    import os

    import torch

    told: dict[str, Any] = {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "device": device}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        told |= {"device": properties.name, "memory_gib": round(properties.total_memory / GIB, 1)}
    return told | {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()}


def chosen_model(device: str) -> str:
    """The largest model that main memory has room for, with its text encoder; the embedded one on a CPU."""
    if not device.startswith("cuda"):
        return "tiny"
    from sama.device.placement import host_memory

    free = host_memory()
    return "1.3b" if free is not None and free < 90e9 else "14b"  # each weight twice: drawn, and page-locked


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what an edit costs on this machine.")
    parser.add_argument("settings", nargs="*", metavar="NAME[:key=value...]", help="what to measure; the usual if none")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the JSON files")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; the best there is if left out")
    parser.add_argument("--model", choices=("14b", "1.3b", "tiny", "toy"), help="what suits the machine if left out")
    parser.add_argument("--all", action="store_true", help="every mode and limit, not only what takes five minutes")
    parser.add_argument("--minutes", type=float, default=30.0, help="begin nothing new after that")
    parser.add_argument("--toy", action="store_true", help="a small model on the CPU: to try the code, not the speed")
    parser.add_argument("--table", type=Path, metavar="PLACE", help="print the results of a folder or file, and end")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="put the results in --out into one file, and end")
    options = parser.parse_args()
    if options.keep:
        results = read_results(options.out)
        write_results(results, options.keep)
        sys.stdout.write(f"{len(results)} results in {options.keep}\n")
        return 0
    if options.table:
        sys.stdout.write(tables(options.table))
        return 0
    from sama.device.placement import default_device, use_growing_segments

    use_growing_segments()
    device = "cpu" if options.toy else options.device or default_device()
    model = "toy" if options.toy else options.model or chosen_model(device)
    on_gpu = device.startswith("cuda")
    usual = (GPU_SETTINGS if options.all else QUICK_SETTINGS) if on_gpu else CPU_SETTINGS
    defaults = TOY if model == "toy" else CPU_CLIP if model == "tiny" else {}
    try:
        settings = [parse_edit_setting(text, defaults) for text in options.settings or usual]
    except ValueError as error:
        parser.error(str(error))
    bench, end, good = Bench(device, model, options.out), time.monotonic() + 60 * options.minutes, True
    for setting in settings:
        if time.monotonic() > end:
            sys.stderr.write(f"no time is left for {setting.name}\n")
            break
        result = bench.run(setting)
        good &= "error" not in result
        sys.stderr.write(f"{setting.name}: {result.get('error', 'done')} in {result['minutes']} min\n")
    sys.stdout.write(tables(options.out))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
