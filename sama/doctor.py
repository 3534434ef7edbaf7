"""Checks whether this machine can run edits. Each check gives a finding, and a problem comes with advice."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from sama.presets import PRESETS, Preset

_PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "av", "numpy")
"""What every edit imports. The minimum versions are in requirements.txt only."""
_DISTRIBUTION = "sama-editor"
_ROOT = Path(__file__).parents[1]
# By hand, because `packaging` may be among what is missing where a doctor is needed.
_MINIMUM = re.compile(r"([\w.-]+) *(?:\[[^]]*\])? *[^#;]*?>= *(\d+(?:\.\d+)*)")
_ENCODERS = {"libx264": "the picture", "aac": "sound that must be re-encoded"}
_FREE_BYTES = 1e9
_HUB_BYTES = 75e9
_SHORT_OF_MEMORY = 3e9


@dataclass(frozen=True)
class Finding:
    """Result of one check. name: what was checked. ok: whether edits can run. detail: what was found. advice: what to
    do, "" if nothing."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


def diagnose(preset: str = "tiny", folder: str | os.PathLike[str] = ".") -> Iterator[Finding]:
    """Run all checks for a preset; results of edits would be written to `folder`. The slow checks come last."""
    yield _python()
    oldest = minimum_versions()
    for package in _PACKAGES:
        yield _package(package, oldest.get(package, ""))
    yield _opencv()
    yield from _encoders()
    yield _writable(Path(folder))
    yield _disk(Path(folder))
    yield _memory()
    yield from _weights(PRESETS[preset])
    yield from _devices(preset)


def usable_cores() -> int:
    """The number of cores that this process may use, by its affinity and its container's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, affinity if quota is None else min(affinity, round(quota)))


def minimum_versions() -> dict[str, str]:
    """The minimum version of each required package, such as {"torch": "2.11"}: from requirements.txt in a checkout,
    from the metadata of the installed package otherwise. Empty if neither exists."""
    file = _ROOT / "requirements.txt"
    if (_ROOT / "pyproject.toml").is_file() and file.is_file():
        lines = file.read_text(encoding="utf-8").splitlines()
    else:
        try:
            lines = metadata.requires(_DISTRIBUTION) or []
        except metadata.PackageNotFoundError:
            return {}
    return {found[1].lower(): found[2] for line in lines if (found := _MINIMUM.match(line))}


def _quota() -> float | None:
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit, period = (Path(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError):
        return None


def _python() -> Finding:
    version = platform.python_version()
    ok = sys.version_info >= (3, 11)
    return Finding("Python", ok, version, "" if ok else "Install Python 3.11 or newer, and the requirements in it.")


def _package(name: str, oldest: str) -> Finding:
    install = f"Run: python -m pip install '{name}{oldest and '>='}{oldest}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", install)
    ok = _release(version) >= _release(oldest)
    return Finding(name, ok, version if ok else f"{version} is too old", "" if ok else install)


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, at least three: (2, 11, 0) for `2.11.0a1+cpu`."""
    numbers = re.match(r"(\d+(?:\.\d+)*)?", version)
    parts = [int(part) for part in (numbers[1] or "0").split(".")] if numbers else [0]
    return (*parts, *[0] * (3 - len(parts)))


def _opencv() -> Finding:
    try:
        import cv2
    except ImportError as error:
        advice = "Run: python -m pip install opencv-python-headless"
        return Finding("opencv", False, str(error).splitlines()[0], advice)
    return Finding("opencv", True, cv2.__version__)


def _encoders() -> Iterator[Finding]:
    try:
        from av.codec import Codec
    except ImportError:
        return  # reported as a package already
    for name, purpose in _ENCODERS.items():
        try:
            Codec(name, "w")
        except ValueError:
            advice = "Install PyAV from its wheel, which brings it: python -m pip install --force-reinstall av"
            yield Finding(f"encoder {name}", False, f"missing, needed for {purpose}", advice)
        else:
            yield Finding(f"encoder {name}", True, f"there, for {purpose}")


def _writable(folder: Path) -> Finding:
    name, where = "write permission", f"in {folder.resolve()}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding(name, True, where)
    except OSError as error:
        advice = "Give another place for results with -o, or change the folder's permissions."
        return Finding(name, False, f"none {where}: {error.strerror}", advice)


def _disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", False, f"cannot be measured: {error.strerror}", "Choose another folder for results.")
    ok = free >= _FREE_BYTES
    return Finding("disk", ok, f"{free / 1e9:.1f} GB free", "" if ok else "Free at least 1 GB for results.")


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return Finding("memory", True, "size unknown on this system")
    ok = total >= _SHORT_OF_MEMORY
    advice = "" if ok else "Close other programs, or use a machine with at least 4 GB."
    return Finding("memory", ok, f"{total / 1e9:.1f} GB, {usable_cores()} cores to use", advice)


def _weights(preset: Preset) -> Iterator[Finding]:
    name = f"weights of {preset.name}"
    if preset.folder is None:
        yield _hub_weights(name, preset)
        return
    if not (preset.folder / "model_index.json").is_file():
        advice = "Get the whole repository again, its assets included, or train them with: make train-tiny"
        yield Finding(name, False, f"not in {preset.folder}", advice)
        return
    from safetensors import SafetensorError, safe_open

    files = sorted(preset.folder.rglob("*.safetensors"))
    for file in files:
        try:
            with safe_open(file, framework="numpy") as opened:  # checks the header against the file's length
                count = len(list(opened.keys()))
        except (SafetensorError, OSError):
            advice = "The file is cut off or a Git LFS pointer: run `git lfs pull`, or get it again."
            yield Finding(name, False, f"{file.relative_to(preset.folder)} cannot be read", advice)
        else:
            yield Finding(name, True, f"{file.relative_to(preset.folder)}: {count} tensors")
    if not files:
        yield Finding(name, False, f"no .safetensors in {preset.folder}", "Get the whole repository again.")


def _hub_weights(name: str, preset: Preset) -> Finding:
    from huggingface_hub import constants, try_to_load_from_cache

    if preset.weights_repo is None or preset.weights_file is None:
        return Finding(name, False, "none are released", "Train them first.")
    found = try_to_load_from_cache(preset.weights_repo, preset.weights_file, revision=preset.weights_revision)
    if isinstance(found, str):
        return Finding(name, True, f"downloaded, {Path(found).stat().st_size / 1e9:.1f} GB")
    cache = Path(constants.HF_HUB_CACHE)
    existing = next((folder for folder in (cache, *cache.parents) if folder.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    ok = free >= _HUB_BYTES
    advice = "" if ok else f"Free {_HUB_BYTES / 1e9:.0f} GB, or point HF_HOME at a larger disk."
    return Finding(name, ok, f"not downloaded yet; {free / 1e9:.0f} GB free in {cache}", advice)


def _devices(preset: str) -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("devices", False, f"torch does not start: {error}", "Install torch again for this machine.")
        return
    count = torch.cuda.device_count()
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(f"cuda:{index}", True, f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
    from sama.device.placement import mps_works

    if count == 0:
        ok, where = preset == "tiny", "Apple GPU" if mps_works() else "CPU"
        advice = "" if ok else "Use a machine with an NVIDIA GPU and torch's CUDA build, or --preset tiny."
        yield Finding("devices", ok, f"no CUDA; edits run on the {where}", advice)
