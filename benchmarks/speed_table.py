"""The tables of what `benchmarks.speed` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import read_results
from benchmarks.parallel_steps import steps_table

COLUMNS = (
    "mode", "limit", "compiled", "clip", "step", "step predicted", "of the floor", "against resident", "reserved",
    "allocated", "predicted", "encode / decode", "difference",
)  # fmt: skip


def tables(place: Path) -> str:
    """The results of a folder, or of a file that keeps them, as Markdown: the machine, the floor, the modes."""
    results = read_results(place)
    parts = [_machine(results[0])]
    found = {result["setting"]["what"]: result for result in results if "error" not in result}
    if "floor" in found:
        parts.append(_floor(found["floor"]))
    if "vae" in found:
        parts.append(_vae(found["vae"]))
    if "gpus" in found and found["gpus"]["steps"]:
        parts.append(steps_table(found["gpus"]["steps"]))
    edits = [result for result in results if result["setting"]["what"] not in ("floor", "vae", "gpus")]
    if edits:
        rows = sorted(edits, key=lambda result: (result["setting"]["frames"], *_order(result)))
        parts.append(_markdown([COLUMNS, *(_row(row, edits, found.get("floor")) for row in rows)]))
    return "\n\n".join(parts) + "\n"


def _order(result: Mapping[str, Any]) -> tuple[str, float, str]:
    setting = result["setting"]
    return setting["compile"], setting["limit"] or 1e9, setting["what"]


def _machine(result: Mapping[str, Any]) -> str:
    memory = f", {result['memory_gib']:g} GiB" if "memory_gib" in result else ""
    cores = f", {result['cores']} CPU cores"
    return f"{result['device']}{memory}{cores}, torch {result['torch']}, model {result['model']}, {result['date']}."


def _floor(result: Mapping[str, Any]) -> str:
    clip = result["setting"]
    attention, linear = (f"{result[name] / 1e12:,.3g}" for name in ("attention_flops", "linear_flops"))
    return (
        f"Floor of an evaluation of {clip['frames']} x {clip['height']} x {clip['width']} ({result['tokens']:,} "
        f"tokens, {result['forward_flops'] / 1e12:,.4g} TFLOP): {result['floor_seconds']:.3g} s, with attention at "
        f"{attention} and matrix products at {linear} TFLOP/s."
    )


def _vae(result: Mapping[str, Any]) -> str:
    return (
        f"The embedded autoencoder in bfloat16 instead of float32: {result['bfloat16_rms_levels']:.2f} levels of 255 "
        f"(root mean square), {result['bfloat16_max_levels']:.0f} at most; rounding to whole levels costs 0.29, the "
        f"autoencoder itself {result['vae_rms_levels']:.1f}."
    )


def _row(result: Mapping[str, Any], edits: Sequence[Mapping[str, Any]], floor: Mapping[str, Any] | None) -> list[str]:
    setting = result["setting"]
    mode = result.get("mode", setting["what"]) + (" (auto)" if setting["what"] == "auto" else "")
    limit = f"{setting['limit']:g} GiB" if setting["limit"] else "-"
    clip = f"{setting['frames']} x {setting['height']} x {setting['width']}"
    if "error" in result:
        return [mode, limit, setting["compile"], clip, result["error"][:80].replace("|", "/"), *["-"] * 8]
    forwards = 1 if setting["guidance"] == 1 else 2
    same = ("compile", "frames", "height", "width", "steps", "guidance")
    resident = [
        other["step_seconds"]
        for other in edits
        if other["setting"]["what"] == "resident" and "error" not in other
        and all(other["setting"][name] == setting[name] for name in same)
    ]  # fmt: skip
    fits = floor is not None and all(floor["setting"][name] == setting[name] for name in ("frames", "height", "width"))
    share = f"{forwards * floor['floor_seconds'] / result['step_seconds']:.3f}" if floor is not None and fits else "-"

    predicted = "-"
    if seconds := result.get("predicted_step_seconds"):
        predicted = f"{seconds:.3g} s ({100 * (seconds / result['step_seconds'] - 1):+.0f} %)"

    def gib(name: str) -> str:
        return f"{result[name]:.1f} GiB" if result.get(name) is not None else "-"

    return [
        mode,
        limit,
        "yes" if result["compiled"] else "no",
        clip,
        f"{result['step_seconds']:.3g} s",
        predicted,
        share,
        f"{100 * (result['step_seconds'] / resident[0] - 1):+.1f} %" if resident else "-",
        gib("reserved_gib"),
        gib("allocated_gib"),
        gib("predicted_gib"),
        f"{result['encode_seconds']:.2f} / {result['decode_seconds']:.2f} s",
        "0" if result["difference"] == 0 else f"{result['difference']:.1e}",
    ]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
