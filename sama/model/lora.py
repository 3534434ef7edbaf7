"""LoRA: key styles of diffusers and peft, ComfyUI, DiffSynth, kohya and musubi, and loading into a transformer.

Every style becomes one plain form, a low-rank pair per module of ours with its scale multiplied in, and is checked
against the model before anything is changed. diffusers' own converters are used for files of the Hub only: they drop
differences of norms without a word, know no float8, and refuse some of the layers that we have.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import WanLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils.peft_utils import get_adapter_name
from torch import Tensor, nn

from sama.checkpoints import read_state_dict, some_of
from sama.errors import CheckpointError
from sama.model.lora_keys import CONVERTED, Stored, complaint, part_of, plain
from sama.model.names import PREFIXES, from_flat_name, from_official_name, strip_prefixes, to_official_name

logger = logging.getLogger(__name__)

_PREFIXES = (*PREFIXES, "base_model.model.", "transformer.")
_FLAT = re.compile(r"(?:lora_unet|lora_transformer|lycoris)_")
# Last parts of the names of modules and parameters that are not linear layers.
_NOT_LINEAR = (
    "norm", "norm1", "norm2", "norm3", "norm_q", "norm_k", "norm_out", "scale_shift_table", "patch_embedding",
    "segment_embedding",
)  # fmt: skip


@dataclass
class LoraPair:
    """The update of one linear layer: `weight + up @ down` (and `bias + up_bias`), the scale included in `up`.

    down: (rank, in), up: (out, rank), up_bias: (out,) or None. Where only the bias changes, the rank is 0, and `down`
    is of shape (0, 0).
    """

    down: Tensor
    up: Tensor
    up_bias: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def read_lora(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> dict[str, LoraPair]:
    """Low-rank pairs by the names of our modules.

    Differences of whole weights and biases of linear layers (`.diff`, `.diff_b`) become part of the pairs, exactly.
    Those of other layers, such as norms, are left out with a warning in the log.

    state_dict: any of the styles; an `.alpha` beside a pair scales it by alpha / rank. float8 becomes float32.
    config: peft's adapter configuration (`lora_alpha`, `alpha_pattern`, `use_rslora`), for files without `.alpha`.
    Raises CheckpointError for a file that is no LoRA, for half a pair, and for numbers that are no weights.
    """
    pairs, left_out = _read(state_dict, config or {})
    if left_out:
        logger.warning("The LoRA: %s", _left_out(left_out))
    return pairs


def write_official_lora(pairs: Mapping[str, LoraPair], prefix: str = "diffusion_model.") -> dict[str, Tensor]:
    """A LoRA under the official key names, which ComfyUI reads; with `prefix=""`, DiffSynth's.

    Each pair has an `.alpha` equal to its rank, because the scale is in the weights: readers then take every layer at
    its right strength, ranks mixed or not. Layers outside the blocks that Wan has too get none: diffusers' converter
    refuses an alpha there, and takes their strength right without one. With a bias in one pair, all have one, because
    diffusers fails where some lack it.

    Raises CheckpointError for modules that the official model does not have.
    """
    out = {}
    for module, pair in _with_biases(pairs).items():
        name = to_official_name(f"{module}.weight")
        if name is None:
            raise CheckpointError(f"{module} has no official name.")
        name = name.removesuffix(".weight")
        if pair.rank:
            out[f"{prefix}{name}.lora_A.weight"] = pair.down
            out[f"{prefix}{name}.lora_B.weight"] = pair.up
        if pair.rank and module.startswith(("blocks.", "semantic_")):
            out[f"{prefix}{name}.alpha"] = torch.tensor(float(pair.rank))
        if pair.up_bias is not None:
            out[f"{prefix}{name}.diff_b"] = pair.up_bias
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
        What of the file could not be applied is told by `lora_notices`.
        Raises CheckpointError, and leaves the model as it was, for a file that is no LoRA or belongs to another model.
        """
        source = pretrained_model_name_or_path_or_dict
        name = "This LoRA" if isinstance(source, Mapping) else plain(_file_name(source, kwargs))
        state_dict, config = self._lora_source(source, name, **kwargs)
        pairs, left_out = _read(state_dict, config, name)
        _check_fit(pairs, left_out, self.transformer, name)
        pairs = _with_biases({module: _with_rank(pair, self.transformer, module) for module, pair in pairs.items()})
        weights = {}
        for module, pair in pairs.items():
            weights[f"transformer.{module}.lora_A.weight"] = pair.down
            weights[f"transformer.{module}.lora_B.weight"] = pair.up
            if pair.up_bias is not None:
                weights[f"transformer.{module}.lora_B.bias"] = pair.up_bias
        adapter_name = adapter_name or get_adapter_name(self.transformer)
        self.load_lora_into_transformer(
            weights,
            transformer=self.transformer,
            adapter_name=adapter_name,
            metadata={f"transformer.{name}": value for name, value in _peft_config(pairs).items()},
            _pipeline=self,
            hotswap=hotswap,
        )
        said = f"{name}: {_left_out(left_out)}" if left_out else ""
        self.__dict__.setdefault("_left_out_of_loras", {})[adapter_name] = said
        if said:
            logger.warning("%s", said)

    @property
    def lora_notices(self) -> tuple[str, ...]:
        """A sentence for each adapter that acts now and of whose file a part could not be applied."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        said: dict[str, str] = self.__dict__.get("_left_out_of_loras", {})
        layer = next((module for module in self.transformer.modules() if isinstance(module, BaseTunerLayer)), None)
        if layer is None or layer.disable_adapters:
            return ()
        return tuple(said[adapter] for adapter in self.get_active_adapters() if said.get(adapter))

    def _lora_source(self, source: Any, name: str, **kwargs: Any) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        if isinstance(source, Mapping):
            return source, {}
        path = Path(source)
        if kwargs.get("weight_name") and path.is_dir():
            path = path / kwargs["weight_name"]
        if path.exists():
            return read_state_dict(path), _stored_config(path, name)
        if path.is_absolute() or path.suffix or len(path.parts) != 2:
            raise CheckpointError(f"There is no LoRA at {path}.")
        state_dict, config = self.lora_state_dict(str(source), return_lora_metadata=True, **kwargs)
        return state_dict, _without_prefix(config or {})


def _file_name(source: str | os.PathLike[str], options: Mapping[str, Any]) -> str:
    return str(options.get("weight_name") or Path(source).name or source)


def _module_name(name: str) -> str:
    """A module's name in any style, as ours; a name that no style has is returned as it is."""
    flat = _FLAT.match(name)
    if flat is not None:
        return from_flat_name(name[flat.end() :]) or name
    name = strip_prefixes(name, _PREFIXES)
    ours = from_official_name(f"{name}.weight")
    # A name of ours is never an official one, but for a few that are the same in both.
    return name if ours is None else ours.removesuffix(".weight")


def _read(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any], name: str = "This file"
) -> tuple[dict[str, LoraPair], dict[str, tuple[str, Tensor]]]:
    """Pairs by module, and by key what changes other than linear layers: module and difference."""
    stored = {key: Stored(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for key, tensor in
              state_dict.items()}  # fmt: skip
    said = complaint(stored)
    if said is not None:
        raise CheckpointError(f"{name} {said}")
    parts: dict[str, dict[str, Tensor]] = {}
    layers: dict[str, str] = {}
    left_out: dict[str, tuple[str, Tensor]] = {}
    for key, tensor in state_dict.items():
        part = part_of(key)
        assert part is not None  # the complaint would have named it
        tensor = tensor.float() if stored[key].dtype in CONVERTED else tensor
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{name} holds numbers that are not finite ({plain(key)}): use a save from before its training failed."
            )
        module = _module_name(part.layer)
        if part.role == "diff_m" or (part.role.startswith("diff") and module.rpartition(".")[2] in _NOT_LINEAR):
            left_out[key] = module, tensor
            continue
        of_module = parts.setdefault(module, {})
        if part.role in of_module:
            raise CheckpointError(f"{name} holds {module} twice, a second time as {plain(key)}; save it again.")
        of_module[part.role] = tensor
        layers[module] = strip_prefixes(part.layer, _PREFIXES)
    if not parts:
        raise CheckpointError(
            f"{name} changes only layers that are not linear ({some_of([plain(key) for key in left_out])}), "
            "and nothing of it can be applied here."
        )
    try:
        pairs = {module: _pair(name, module, part, config, layers[module]) for module, part in parts.items()}
    except (TypeError, ValueError, re.error, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{name} has an adapter configuration that cannot be used: {error}") from error
    return pairs, left_out


def _pair(name: str, module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], layer: str) -> LoraPair:
    """All that a file says of one layer. Raises CheckpointError where that does not fit together."""
    pair = _low_rank(name, module, parts, config, layer)
    if "diff_b" in parts:
        difference = parts["diff_b"].flatten()
        pair.up_bias = difference if pair.up_bias is None else pair.up_bias + difference
    if "diff" in parts:
        difference = parts["diff"]
        if difference.ndim != 2 or (pair.rank and (pair.up.shape[0], pair.down.shape[1]) != tuple(difference.shape)):
            raise CheckpointError(
                f"{name} does not fit itself: {module} has a difference of shape {list(difference.shape)}."
            )
        # A matrix is a pair of itself and the identity: exact, and of no higher rank than its smaller side.
        out, inner = difference.shape
        identity = torch.eye(min(out, inner), dtype=difference.dtype, device=difference.device)
        down, up = (identity, difference) if inner <= out else (difference, identity)
        pair.down = torch.cat([pair.down, down]) if pair.rank else down
        pair.up = torch.cat([pair.up, up], dim=1) if pair.rank else up
    return pair


def _low_rank(name: str, module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], layer: str) -> LoraPair:
    """The two matrices with their scale; of rank 0 where the file has whole differences alone."""
    matrices = [role for role in ("down.weight", "up.weight") if role in parts]
    difference = parts.get("diff", parts.get("diff_b"))
    if not matrices and difference is not None and not {"up.bias", "down.bias"} & parts.keys():
        return LoraPair(difference.new_zeros(0, 0), difference.new_zeros(difference.shape[0], 0))
    if len(matrices) < 2:
        raise CheckpointError(f"{name} is incomplete: {module} has only {_count(matrices)} of its two matrices.")
    if "down.bias" in parts:
        raise CheckpointError(f"{name} has a bias between the two matrices of {module}, which cannot be applied.")
    down, up = parts["down.weight"], parts["up.weight"]
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        raise CheckpointError(
            f"{name} does not fit itself: {module} has matrices {list(down.shape)} and {list(up.shape)}."
        )
    scale = _scale(module, parts, config, layer, down.shape[0])
    bias = parts.get("up.bias")
    if scale == 1.0:
        return LoraPair(down, up, bias)
    return LoraPair(down, up * scale, None if bias is None else bias * scale)


def _count(matrices: list[str]) -> str:
    return "one" if matrices else "none"


def _scale(module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], layer: str, rank: int) -> float:
    """alpha / rank. Raises ValueError or TypeError for a configuration without sense."""
    if "alpha" in parts:
        return float(parts["alpha"]) / rank
    if config.get("lora_alpha") is None:
        return 1.0
    # As peft does: a pattern is a regular expression for the end of a name, in the file's own style.
    patterns: Mapping[str, Any] = config.get("alpha_pattern") or {}
    fits = [pattern for pattern in patterns for name in (module, layer) if re.match(rf"(.*\.)?({pattern})$", name)]
    alpha = float(patterns[fits[0]] if fits else config["lora_alpha"])
    if not math.isfinite(alpha):
        raise ValueError(f"the alpha of {module} is {alpha}")
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _with_rank(pair: LoraPair, transformer: nn.Module, module: str) -> LoraPair:
    """The pair, for peft, which has no adapter of rank 0: one of zeros where only the bias changes."""
    if pair.rank:
        return pair
    inner = _layers(transformer)[module].weight.shape[1]
    return LoraPair(pair.up.new_zeros(1, inner), pair.up.new_zeros(pair.up.shape[0], 1), pair.up_bias)


def _with_biases(pairs: Mapping[str, LoraPair]) -> dict[str, LoraPair]:
    """The pairs, all with a bias if one has: zeros where there is none."""
    if all(pair.up_bias is None for pair in pairs.values()):
        return dict(pairs)
    return {
        module: pair if pair.up_bias is not None else LoraPair(pair.down, pair.up, pair.up.new_zeros(pair.up.shape[0]))
        for module, pair in pairs.items()
    }


def _left_out(differences: Mapping[str, tuple[str, Tensor]]) -> str:
    keys = [plain(key) for key in differences]
    lost = any(bool(tensor.any()) for _, tensor in differences.values())
    count = "1 difference is" if len(keys) == 1 else f"{len(keys)} differences are"
    return (
        f"{count} left out, because only linear layers can be changed ({some_of(keys)})"
        f"{'' if lost else '; they are zero, so nothing is lost'}."
    )


def _layers(transformer: nn.Module) -> dict[str, Any]:
    return {name.replace(".base_layer", ""): module for name, module in transformer.named_modules()}


def _check_fit(
    pairs: Mapping[str, LoraPair], left_out: Mapping[str, tuple[str, Tensor]], transformer: nn.Module, name: str
) -> None:
    layers = _layers(transformer)
    known = layers.keys() | {parameter for parameter, _ in transformer.named_parameters()}
    foreign = [module for module in pairs if not isinstance(getattr(layers.get(module), "weight", None), Tensor)]
    foreign += [plain(key) for key, (module, _) in left_out.items() if module not in known]
    if foreign:
        raise CheckpointError(f"{name} is for another model: {some_of(foreign)} is not a layer of this one.")
    wrong = []
    for module, pair in pairs.items():
        expected = tuple(layers[module].weight.shape)
        own = (pair.up.shape[0], pair.down.shape[1] if pair.rank else expected[-1])
        if own != expected:
            wrong.append(f"{module} {list(own)} instead of {list(expected)}")
        elif pair.up_bias is not None and tuple(pair.up_bias.shape) != expected[:1]:
            wrong.append(f"{module}, bias {list(pair.up_bias.shape)} instead of {list(expected[:1])}")
    if wrong:
        raise CheckpointError(f"{name} is for a model of another size: {some_of(wrong)}.")


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


def _stored_config(path: Path, name: str) -> dict[str, Any]:
    """The adapter's configuration, from peft's file beside the weights or diffusers' header in them."""
    folder = path if path.is_dir() else path.parent
    beside = folder / "adapter_config.json"
    if beside.is_file() and (path.is_dir() or path.stem == "adapter_model"):
        return _parsed(beside.read_bytes(), name)
    file = next(iter(sorted(path.glob("*.safetensors"))), path) if path.is_dir() else path
    if file.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        header = (opened.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
    return _without_prefix(_parsed(header, name)) if header else {}


def _parsed(text: str | bytes, name: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{name} has an adapter configuration that is no JSON: {error}.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{name} has an adapter configuration that is no table of settings.")
    return config


def _without_prefix(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("transformer."): value for name, value in config.items()}
