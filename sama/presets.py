"""The three models: what they are made of and where their weights come from. Names and numbers only."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sama.shapes import OFFICIAL_BUCKETS, Canvas

WAN_STEPS, WAN_GUIDANCE, WAN_TEXT_TOKENS = 50, 5.0, 512
"""Denoising steps, guidance, and tokens of a prompt, padding included, of a pipeline whose own configuration says
nothing else; as Wan2.1 was published."""

SIGLIP = "google/siglip-so400m-patch14-384"

WAN_CANVAS = Canvas(OFFICIAL_BUCKETS, window=81)
"""Sizes and window of the released model, whose files on the Hub do not name them."""

_CHECKOUT, _DATA_PACKAGE = Path(__file__).parents[1] / "assets" / "sama-tiny", "sama_editor_tiny"


def _tiny_folder() -> Path:
    """The embedded model: beside the package in a checkout, or an installed package of data."""
    if (_CHECKOUT / "model_index.json").is_file():
        return _CHECKOUT
    found = importlib.util.find_spec(_DATA_PACKAGE)
    places = found.submodule_search_locations if found is not None else None
    return Path(next(iter(places))) if places else _CHECKOUT


TINY_FOLDER = _tiny_folder()

QUALITIES = ("fast", "balanced", "best")

FEW_STEPS_FILE = "few_steps.safetensors"
"""A LoRA in the folder of a saved pipeline that makes few steps without guidance do: `training.stages.distill`."""


@dataclass(frozen=True)
class Sampling:
    """How an edit is sampled: how often the model is evaluated.

    steps, guidance: None is the default of the model's saved pipeline. guidance_interval: noise levels (low, high) in
    [0, 1] between which guidance acts, None for all. few_steps: whether the model's own LoRA for few steps is used,
    where it has one. said: what a user is told about it; docs/samplers.md measures it.
    """

    steps: int | None = None
    guidance: float | None = None
    scheduler: str = "euler"
    guidance_interval: tuple[float, float] | None = None
    few_steps: bool = False
    said: str = ""


FEW_STEPS = Sampling(4, 1.0, few_steps=True)
"""With a LoRA for few steps that a user names; those published for Wan2.1 are made for four without guidance."""

_UNTRIED = "not tried on real weights of this model"
WAN_QUALITIES: Mapping[str, Sampling] = MappingProxyType(
    {
        "fast": Sampling(12, None, "unipc", (0.7, 1.0), said=_UNTRIED),
        "balanced": Sampling(25, None, "unipc", said=_UNTRIED),
        "best": Sampling(said="as published"),
    }
)
TINY_QUALITIES: Mapping[str, Sampling] = MappingProxyType(
    {
        "fast": Sampling(4, 1.0, few_steps=True, said="four steps without guidance"),
        "balanced": Sampling(),
        "best": Sampling(20),
    }
)


@dataclass(frozen=True)
class Preset:
    """A model by name.

    folder: a saved pipeline that is complete in itself, or None.
    base_repo: the Hub repository of VAE, text encoder and tokenizer, in diffusers' layout, or None.
    weights_repo, weights_file, weights_revision: the released transformer on the Hub, or None where none is released.
    transformer: arguments of `SamaTransformer3DModel`; empty where the folder says it.
    canvas: sizes and window; None where the folder says it.
    tower: the Hub repository of the SigLIP model that made the anchors in training, fetched only when a plan is read;
        None where the folder holds the tower.
    qualities: ways to sample, by a name of `QUALITIES`. quality: the one where a user names none.
    """

    name: str
    folder: Path | None = None
    base_repo: str | None = None
    weights_repo: str | None = None
    weights_file: str | None = None
    weights_revision: str | None = None
    transformer: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    canvas: Canvas | None = None
    tower: str | None = None
    qualities: Mapping[str, Sampling] = field(default_factory=lambda: WAN_QUALITIES)
    quality: str = "best"


def _wan(dim: int, ffn_dim: int, num_layers: int, num_heads: int) -> Mapping[str, Any]:
    return MappingProxyType(
        {
            "num_attention_heads": num_heads,
            "attention_head_dim": dim // num_heads,
            "ffn_dim": ffn_dim,
            "num_layers": num_layers,
            "text_dim": 4096,
            "semantic_positions": "none",  # as the released checkpoint was trained
        }
    )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "tiny": Preset("tiny", folder=TINY_FOLDER, qualities=TINY_QUALITIES, quality="fast"),
        "14b": Preset(
            "14b",
            base_repo="Wan-AI/Wan2.1-T2V-14B-Diffusers",
            weights_repo="syxbb/SAMA-14B",
            weights_file="sama_14b_ema.safetensors",
            weights_revision="a91358332decca9adc7d0b77dc9345629cbf0852",
            transformer=_wan(dim=5120, ffn_dim=13824, num_layers=40, num_heads=40),
            canvas=WAN_CANVAS,
            tower=SIGLIP,
        ),
        "1.3b": Preset(
            "1.3b",
            base_repo="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
            transformer=_wan(dim=1536, ffn_dim=8960, num_layers=30, num_heads=12),
            canvas=WAN_CANVAS,
            tower=SIGLIP,
        ),
    }
)


def get_preset(name: str) -> Preset:
    """A preset by name. Raises ValueError that lists the names there are."""
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}: choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def transformer_config(name: str) -> dict[str, Any]:
    """Arguments of a preset's transformer. Raises ValueError for a preset whose folder holds them."""
    config = get_preset(name).transformer
    if not config:
        raise ValueError(f"The preset {name!r} keeps its configuration beside its weights: give no configuration.")
    return dict(config)


def saved_transformer(preset: Preset) -> Mapping[str, Any]:
    """The arguments of a preset's transformer, read from its folder where it has one. Raises OSError or ValueError
    where the folder's `transformer/config.json` cannot be read."""
    if preset.folder is None:
        return preset.transformer
    values: dict[str, Any] = json.loads((preset.folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    return values


def saved_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of a saved pipeline: what its `model_index.json` says beside the names of its parts. Raises OSError
    or ValueError where that file cannot be read."""
    index: dict[str, Any] = json.loads((Path(folder) / "model_index.json").read_text(encoding="utf-8"))
    if not isinstance(index, dict):
        raise ValueError("model_index.json holds no settings")
    return {name: value for name, value in index.items() if not name.startswith("_") and not _is_part(value)}


def _is_part(value: Any) -> bool:
    """Whether a value of the index is a part of the pipeline: [library, class]."""
    return isinstance(value, list) and len(value) == 2 and not any(isinstance(item, list) for item in value)


def canvas_of(preset: str, model: str | os.PathLike[str] | None = None) -> Canvas:
    """Sizes and window of a model that is not loaded.

    model: folder of a saved pipeline in place of the preset's own. One that was saved without its canvas has the
        preset's.
    Raises ValueError for a folder that cannot be read or names no canvas.
    """
    chosen = get_preset(preset)
    for folder in (model, chosen.folder):
        if folder is None:
            continue
        try:
            canvas = Canvas.of_settings(saved_settings(folder))
        except (OSError, ValueError) as error:
            raise ValueError(f"The model in {folder} is incomplete ({error}); get it again.") from error
        if canvas is not None:
            return canvas
    if chosen.canvas is None:
        raise ValueError(
            f"The model in {model or chosen.folder} does not name its sizes; add `buckets` and `window` to its "
            "model_index.json."
        )
    return chosen.canvas


def own_few_steps(preset: str, model: str | os.PathLike[str] | None = None) -> Path | None:
    """The file of the LoRA for few steps that a model carries, or None. model: as in `canvas_of`."""
    folder = model or get_preset(preset).folder
    file = None if folder is None else Path(folder) / FEW_STEPS_FILE
    return file if file is not None and file.is_file() else None


def missing_weights(preset: Preset) -> str:
    """The message for the user when a preset's folder is not there."""
    return (
        f"The weights of the preset {preset.name!r} are not in {str(preset.folder)!r}: install the package "
        "sama-editor-tiny, give their folder with --model (assets/sama-tiny of the project's repository), or train "
        "them there with `make train-tiny`."
    )
