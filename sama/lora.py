"""LoRA: key styles of diffusers and peft, ComfyUI, DiffSynth and kohya, and loading into a pipeline's transformer.

Every style becomes one plain form, a low-rank pair per module of ours with its scale multiplied in, and is checked
against the model before anything is changed.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders import WanLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from torch import Tensor, nn

from sama.checkpoints import (
    PREFIXES,
    CheckpointError,
    from_official_name,
    read_state_dict,
    some_of,
    strip_prefixes,
    to_official_name,
)

logger = logging.getLogger(__name__)

_PREFIXES = (*PREFIXES, "base_model.model.", "transformer.")
_KOHYA = "lora_unet_"
# `.lora_A.weight`, `.lora_A.<adapter>.weight`, `.lora_down.weight`, `.lora_B.bias`, `.alpha`, ...
_PART = re.compile(r"\.(?:(?P<matrix>lora_(?:A|B|down|up))(?:\.[^.]+)?\.(?P<leaf>weight|bias)|(?P<alpha>alpha))$")
_IGNORED = (".diff", ".diff_b")


@dataclass
class LoraPair:
    """The update of one linear layer: `weight + up @ down` (and `bias + up_bias`), the scale included in `up`.

    down: (rank, in), up: (out, rank), up_bias: (out,) or None.
    """

    down: Tensor
    up: Tensor
    up_bias: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def read_lora(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> dict[str, LoraPair]:
    """Low-rank pairs by the names of our modules.

    state_dict: any of the styles; an `.alpha` beside a pair scales it by alpha / rank.
    config: peft's adapter configuration (`lora_alpha`, `alpha_pattern`, `use_rslora`), for files without `.alpha`.
    Raises CheckpointError for a file that is no LoRA, or for half a pair.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    foreign: list[str] = []
    ignored: list[str] = []
    for key, tensor in state_dict.items():
        found = _PART.search(key)
        if found is None:
            (ignored if key.endswith(_IGNORED) else foreign).append(key)
            continue
        part = "alpha" if found["alpha"] else f"{_SIDES[found['matrix']]}.{found['leaf']}"
        parts.setdefault(_module_name(key[: found.start()]), {})[part] = tensor
    if foreign or not parts:
        example = f" ({some_of(foreign)})" if foreign else ""
        raise CheckpointError(f"This file is not a LoRA for SAMA or Wan: it holds other weights{example}.")
    if ignored:
        logger.warning("%d full-weight differences of the LoRA are left out, such as %s", len(ignored), ignored[0])
    return {module: _pair(module, part, config or {}) for module, part in parts.items()}


def write_official_lora(pairs: Mapping[str, LoraPair], prefix: str = "diffusion_model.") -> dict[str, Tensor]:
    """A LoRA under the official key names, which ComfyUI reads; with `prefix=""`, DiffSynth's. Raises CheckpointError
    for modules that the official model does not have."""
    out = {}
    for module, pair in pairs.items():
        name = to_official_name(f"{module}.weight")
        if name is None:
            raise CheckpointError(f"{module} has no official name.")
        name = name.removesuffix(".weight")
        out[f"{prefix}{name}.lora_A.weight"] = pair.down
        out[f"{prefix}{name}.lora_B.weight"] = pair.up
        if pair.up_bias is not None:
            out[f"{prefix}{name}.lora_B.bias"] = pair.up_bias
    return out


class SamaLoraMixin(WanLoraLoaderMixin):
    """diffusers' LoRA methods (`set_adapters`, `fuse_lora`, `unload_lora_weights`, ...) with strict loading."""

    transformer: Any

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike[str] | dict[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Adds an adapter to the transformer.

        pretrained_model_name_or_path_or_dict: a file, a folder, a state dict, or a repository on the Hub (with
            `weight_name`), in any style that `read_lora` knows.
        adapter_name: for `set_adapters`; given one if None.
        hotswap: put the weights in the place of those of the adapter of that name, as diffusers does.
        Raises CheckpointError, and leaves the model as it was, for a file that is no LoRA or belongs to another model.
        """
        state_dict, config = self._lora_source(pretrained_model_name_or_path_or_dict, **kwargs)
        pairs = read_lora(state_dict, config)
        _check_fit(pairs, self.transformer)
        weights = {}
        for module, pair in pairs.items():
            weights[f"transformer.{module}.lora_A.weight"] = pair.down
            weights[f"transformer.{module}.lora_B.weight"] = pair.up
            if pair.up_bias is not None:
                weights[f"transformer.{module}.lora_B.bias"] = pair.up_bias
        self.load_lora_into_transformer(
            weights,
            transformer=self.transformer,
            adapter_name=adapter_name,
            metadata={f"transformer.{name}": value for name, value in _peft_config(pairs).items()},
            _pipeline=self,
            hotswap=hotswap,
        )

    def _lora_source(self, source: Any, **kwargs: Any) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        if isinstance(source, Mapping):
            return source, {}
        path = Path(source)
        if kwargs.get("weight_name") and path.is_dir():
            path = path / kwargs["weight_name"]
        if path.exists():
            return read_state_dict(path), _stored_config(path)
        if path.is_absolute() or path.suffix or len(path.parts) != 2:
            raise CheckpointError(f"There is no LoRA at {path}.")
        state_dict, config = self.lora_state_dict(str(source), return_lora_metadata=True, **kwargs)
        return state_dict, _without_prefix(config or {})


_SIDES = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}


def _module_name(name: str) -> str:
    """A module's name in any style, as ours; a name that no style has is returned as it is."""
    if name.startswith(_KOHYA):
        name = _from_kohya(name.removeprefix(_KOHYA))
    name = strip_prefixes(name, _PREFIXES)
    ours = from_official_name(f"{name}.weight")
    # A name of ours is never an official one, but for a few that are the same in both.
    return name if ours is None else ours.removesuffix(".weight")


def _from_kohya(name: str) -> str:
    """kohya writes every dot as an underscore: `blocks_0_self_attn_q`."""
    found = re.fullmatch(r"blocks_(\d+)_(?:(self_attn|cross_attn)_([qkvo])|(ffn)_(\d))", name)
    if found is None:
        return name
    index, attention, projection, ffn, layer = found.groups()
    return f"blocks.{index}.{attention or ffn}.{projection or layer}"


def _pair(module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> LoraPair:
    if "down.weight" not in parts or "up.weight" not in parts:
        raise CheckpointError(f"This LoRA is incomplete: {module} has only one of its two matrices.")
    down, up = parts["down.weight"], parts["up.weight"]
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        raise CheckpointError(
            f"This LoRA does not fit itself: {module} has matrices {list(down.shape)} and {list(up.shape)}."
        )
    scale = 1.0
    if "alpha" in parts:
        scale = float(parts["alpha"]) / down.shape[0]
    elif config.get("lora_alpha") is not None:
        alpha = (config.get("alpha_pattern") or {}).get(module, config["lora_alpha"])
        scale = alpha / (down.shape[0] ** 0.5 if config.get("use_rslora") else down.shape[0])
    bias = parts.get("up.bias")
    if scale == 1.0:
        return LoraPair(down, up, bias)
    return LoraPair(down, up * scale, None if bias is None else bias * scale)


def _check_fit(pairs: Mapping[str, LoraPair], transformer: nn.Module) -> None:
    layers = {name.replace(".base_layer", ""): module for name, module in transformer.named_modules()}
    foreign = [module for module in pairs if not isinstance(getattr(layers.get(module), "weight", None), Tensor)]
    if foreign:
        raise CheckpointError(f"This LoRA is for another model: {some_of(foreign)} is not a layer of this one.")
    wrong = []
    for module, pair in pairs.items():
        weight = layers[module].weight
        if isinstance(weight, Tensor) and (pair.up.shape[0], pair.down.shape[1]) != tuple(weight.shape):
            wrong.append(f"{module} {[pair.up.shape[0], pair.down.shape[1]]} instead of {list(weight.shape)}")
    if wrong:
        raise CheckpointError(f"This LoRA is for a model of another size: {some_of(wrong)}.")


def _peft_config(pairs: Mapping[str, LoraPair]) -> dict[str, Any]:
    """An adapter whose alpha equals its rank in every layer: the scale is in the weights already."""
    ranks = {module: pair.rank for module, pair in pairs.items()}
    rank = max(ranks.values())
    patterns = {module: own for module, own in ranks.items() if own != rank}
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": patterns,
        "alpha_pattern": dict(patterns),
        "target_modules": list(pairs),
        "lora_bias": any(pair.up_bias is not None for pair in pairs.values()),
    }


def _stored_config(path: Path) -> dict[str, Any]:
    """The adapter's configuration, from peft's file beside the weights or diffusers' header in them."""
    folder = path if path.is_dir() else path.parent
    beside = folder / "adapter_config.json"
    if beside.is_file() and (path.is_dir() or path.stem == "adapter_model"):
        return json.loads(beside.read_text())
    file = next(iter(sorted(path.glob("*.safetensors"))), path) if path.is_dir() else path
    if file.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        header = (opened.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
    return _without_prefix(json.loads(header)) if header else {}


def _without_prefix(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("transformer."): value for name, value in config.items()}
