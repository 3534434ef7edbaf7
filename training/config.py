"""One YAML per run: typed and closed. A key that does not exist is an error that suggests the right one."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

Stage = Literal["vae", "tower", "pretrain", "sft"]
Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


@dataclass(frozen=True)
class DataConfig:
    """Where the material comes from and how much of it is made."""

    pack: str = "data/pack"
    frames: int = 17
    workers: int = 8
    """Processes that render and tokenise, for each training process."""
    groups: int = 0
    """Scenes to render and encode before training (0: as many as fit into `encode_minutes`)."""
    encode_minutes: float = 2.0
    capacity_groups: int = 2000
    """Scenes held on each device (about 4 MB each); when they are all there, a new one replaces the oldest."""
    refresh_per_step: float = 0.0
    """New scenes rendered and encoded in each training step, a whole number or a share of one (0: never)."""
    paraphrases: int = 6
    """Wordings drawn for each pair of clips."""
    pretext_share: float = 0.15
    """Share of training samples that restore a perturbed clip instead of following an instruction."""
    task_weights: dict[str, float] = field(default_factory=dict)
    """How often each editing task is drawn, relative to 1."""
    text_dropout: float = 0.1
    """Share of instructions replaced by the bare prefix, for guidance."""


@dataclass(frozen=True)
class OptimiserConfig:
    """Muon for matrices, AdamW for everything else, one trapezoidal schedule for both."""

    learning_rate: float = 2e-3
    adam_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_share: float = 0.4
    """The last part of the run, over which the rate falls to zero."""
    clip_norm: float = 1.0
    ema_decay: float = 0.9998


@dataclass(frozen=True)
class ObjectiveConfig:
    """Flow matching plus L1 on the anchors (paper, section 3.2)."""

    semantic_weight: float = 0.1
    edit_weight: float = 1.0
    """Weight of latent positions where source and target differ; 1 is the paper's plain mean."""
    sigma_shift: float = 3.0
    """Noise levels are uniform in (0, 1), then shifted: s u / (1 + (s - 1) u)."""


@dataclass(frozen=True)
class TrainConfig:
    """One run."""

    stage: Stage
    output: str
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of the model class that the stage trains."""
    base: str = "assets/sama-tiny"
    """Folder with the frozen parts of the pipeline (`vae`, `text_encoder`, `tokenizer`, `semantic_tower`)."""
    start_from_base: bool = False
    """Start the transformer from `base`/transformer instead of random weights."""
    seed: int = 0
    batch_size: int = 16
    """Samples a process and step."""
    max_steps: int = 1000
    max_minutes: float = 0.0
    """End, with the schedule run to its end, after this many minutes (0: by steps alone)."""
    float8_share: float = 0.15
    """The last part of the run goes through the float8 rounding of the stored weights."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    compile: bool = False
    log_every: int = 20
    save_minutes: float = 2.0
    data: DataConfig = field(default_factory=DataConfig)
    optimiser: OptimiserConfig = OptimiserConfig()
    objective: ObjectiveConfig = ObjectiveConfig()

    def fingerprint(self) -> str:
        """A hash of everything that decides what the run computes."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def load_config(path: Path, overrides: typing.Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file and apply `a.b=value` overrides. Raises ConfigError naming the key at fault."""
    if not path.is_file():
        raise ConfigError(f"there is no configuration {path}: see training/configs for those that are shipped")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no keys")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"{override!r} is no override: write key=value, with dots for nested keys")
        place = values
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = yaml.safe_load(value)
    return _build(TrainConfig, values, "")


def _build(kind: type[Config], values: dict[str, Any], prefix: str) -> Config:
    assert is_dataclass(kind)
    known = {item.name: item for item in fields(kind)}
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key {prefix}{key}: {hint}")
    for name, item in known.items():
        missing = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if missing and name not in values:
            raise ConfigError(f"the key {prefix}{name} is missing")
    hints = get_type_hints(kind)
    return kind(**{key: _convert(hints[key], value, prefix + key) for key, value in values.items()})


def _convert(kind: Any, value: Any, key: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} must be a section of keys")
        return _build(kind, value, f"{key}.")
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{key} must be one of {', '.join(map(str, get_args(kind)))}, not {value!r}")
        return value
    plain = get_origin(kind) or kind
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(plain, types.UnionType) or not isinstance(plain, type):
        return value
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise ConfigError(f"{key} must be a {plain.__name__}, not {value!r}")
    return value
