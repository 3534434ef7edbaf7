"""Checkpoints: reading and writing files of weights, under official or our key names, and strict loading.

Nothing is ever loaded in part: a missing key, a foreign key or a wrong shape is an error that names it.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sama.errors import CheckpointError
from sama.files import whole_file
from sama.model.names import from_official_name, strip_prefixes, to_official_name
from sama.presets import PRESETS, transformer_config

if TYPE_CHECKING:
    from sama.model.transformer import SamaTransformer3DModel

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_SHOWN = 3

_SEMANTIC = ("segment_embedding.", "semantic_projector.", "semantic_head.")


# --- Key names -------------------------------------------------------------------------------------------------------


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official key names to ours; the prefixes that trainers and ComfyUI put before them are recognised. Raises
    CheckpointError for keys that belong to no SAMA or Wan2.1 text-to-video transformer."""
    return _renamed(state_dict, from_official_name)


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our key names to the official ones: the inverse of `from_official`. Raises CheckpointError for foreign keys."""
    return _renamed(state_dict, to_official_name)


def _renamed(state_dict: Mapping[str, Tensor], rename: Any) -> dict[str, Tensor]:
    renamed, foreign = {}, []
    for name, tensor in state_dict.items():
        new = rename(name)
        if new is None or new in renamed:
            foreign.append(name)
        else:
            renamed[new] = tensor
    if foreign:
        raise CheckpointError(f"These are not the weights of a SAMA transformer: {some_of(foreign)} belong elsewhere.")
    return renamed


# --- Reading and writing ---------------------------------------------------------------------------------------------


def iterate_tensors(path: str | os.PathLike[str]) -> Iterator[tuple[str, Tensor]]:
    """Keys and tensors of a checkpoint, one at a time, so that no second copy of a 28 GB model is held.

    path: a file (.safetensors, or .pt/.pth/.bin/.ckpt, which are read without running code), a shard index
    (.index.json), or a folder with either; in a diffusers pipeline's folder, its `transformer`.
    """
    for file in checkpoint_files(Path(path)):
        try:
            if file.suffix == ".safetensors":
                yield from _iterate_safetensors(file)
            else:
                yield from _iterate_pickled(file)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise CheckpointError(f"{file.name} cannot be read as a checkpoint: {_first_line(error)}") from error


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a checkpoint, on the CPU, in the types they are stored in. See `iterate_tensors` for paths."""
    state_dict: dict[str, Tensor] = {}
    for name, tensor in iterate_tensors(path):
        if name in state_dict:
            raise CheckpointError(f"{name} is stored twice in {path}: keep the shards of one checkpoint only.")
        state_dict[name] = tensor
    return state_dict


def save_official(transformer: nn.Module, path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
    """Writes a transformer as one safetensors file under the official key names, whole or not at all."""
    from safetensors.torch import save_file

    weights = {
        name: tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in to_official(transformer.state_dict()).items()
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        save_file(weights, part, metadata={"format": "pt"})


def checkpoint_files(path: Path) -> list[Path]:
    """The files of a checkpoint, see `iterate_tensors`. Raises CheckpointError where there is none, or several."""
    if path.name.endswith(".index.json"):
        return _indexed(path)
    if path.is_file():
        if path.suffix not in (".safetensors", *_PICKLED):
            raise CheckpointError(f"{path.name} is not a checkpoint: give a .safetensors, .pt or .bin file.")
        return [path]
    if not path.is_dir():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    if (path / "transformer").is_dir():
        path = path / "transformer"
    indices = sorted(path.glob("*.index.json"))
    if len(indices) == 1:
        return _indexed(indices[0])
    for pattern in ("*.safetensors", *(f"*{suffix}" for suffix in _PICKLED)):
        found = sorted(path.glob(pattern))
        if len(found) == 1 or (found and all("-of-" in file.name for file in found)):
            return found
        if found:
            names = [file.name for file in found]
            raise CheckpointError(f"{path} holds several checkpoints ({some_of(names)}): give one of these files.")
    raise CheckpointError(f"There is no checkpoint in the folder {path}.")


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index.name} is not an index of shards: {_first_line(error)}") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index.name} names shards that are not there: {some_of(missing)}.")
    return [index.parent / name for name in names]


def _iterate_safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dictionary
                yield name, opened.get_tensor(name)
    except SafetensorError as error:
        raise CheckpointError(f"{file.name} cannot be read as a checkpoint: {_first_line(error)}") from error


def _iterate_pickled(file: Path) -> Iterator[tuple[str, Tensor]]:
    yield from read_pickled(file).items()


def read_pickled(file: Path) -> dict[str, Tensor]:
    """The tensors of a .pt, .pth, .bin or .ckpt file, which stay in the file until they are used where its format
    allows. Raises CheckpointError for a file that holds no state dict."""
    mapped = zipfile.is_zipfile(file)  # older files are one stream
    loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    for wrapper in ("state_dict", "model", "module"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{file.name} holds no state dict: give the file with the model's weights.")
    return loaded


# --- Models ----------------------------------------------------------------------------------------------------------


def load_transformer(
    path: str | os.PathLike[str] | Mapping[str, Tensor],
    config: str | Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SamaTransformer3DModel:
    """A SAMA transformer from a checkpoint under official or our key names.

    The model is built without memory and each tensor is put in its place as it is read, so the peak is one model. As
    diffusers does, norms, time embedder and modulation tables stay in float32 whatever `dtype` says.

    path: see `iterate_tensors`; or tensors by name, which the model takes over.
    config: a preset's name ("14b", "1.3b"), the model's arguments, or None for the `config.json` beside the weights;
        for tensors, None finds the preset by their shapes.
    Raises CheckpointError when a key is missing, foreign or of the wrong shape.
    """
    if isinstance(path, Mapping):
        model = empty_model(resolve_config(config, None, shapes_of(path)))
    else:
        model = empty_model(resolve_config(config, Path(path)))
    weights = _read_as_ours(path, model, dtype, device)
    _check_keys(model, shapes_of(weights), path)
    return _filled(model, weights, device)


def from_base_wan(
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    config: str | Mapping[str, Any],
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> SamaTransformer3DModel:
    """A fresh SAMA transformer on a base Wan2.1 checkpoint, to train from.

    The type embedding starts at zero; projector and head start from `seed`. The base may have official or diffusers'
    names. Raises CheckpointError when a backbone key is missing, foreign or of the wrong shape, and for a checkpoint
    that is a SAMA model already.
    """
    model = empty_model(resolve_config(config, None))
    weights = _read_as_ours(source, model, dtype, device)
    already = [name for name in weights if name.startswith(_SEMANTIC)]
    if already:
        raise CheckpointError(f"This is a SAMA checkpoint already ({some_of(already)}): load it with load_transformer.")
    weights |= {name: value.to(device, stored_dtype(model, name, dtype)) for name, value in _fresh(model, seed)}
    _check_keys(model, shapes_of(weights), source)
    return _filled(model, weights, device)


def resolve_config(
    config: str | Mapping[str, Any] | None, path: Path | None, shapes: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Any]:
    """The arguments of a model: of a preset's name, as given, from the `config.json` beside `path`, or of the preset
    whose weights have these shapes. Raises CheckpointError where nothing says them."""
    if isinstance(config, str):
        return transformer_config(config)
    if config is not None:
        return dict(config)
    if path is not None:
        folder = path if path.is_dir() else path.parent
        for file in (folder / "transformer" / "config.json", folder / "config.json"):
            if file.is_file():
                stored = json.loads(file.read_text())
                return {name: value for name, value in stored.items() if not name.startswith("_")}
    preset = None if shapes is None else _preset_of(shapes)
    if preset is not None:
        return transformer_config(preset)
    where = "these weights" if path is None else str(path)
    raise CheckpointError(f"There is no config.json beside {where}: name the preset, such as 14b.")


def _preset_of(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """The preset of a transformer of this width and depth, official or our key names."""
    names = [strip_prefixes(name) for name in shapes]
    width = next((shape[0] for name, shape in shapes.items() if name.endswith("patch_embedding.weight")), 0)
    depth = len({name.split(".")[1] for name in names if name.startswith("blocks.")})
    for name, preset in PRESETS.items():
        asked = preset.transformer
        if asked and (asked["num_attention_heads"] * asked["attention_head_dim"], asked["num_layers"]) == (
            width,
            depth,
        ):
            return name
    return None


def empty_model(config: Mapping[str, Any]) -> SamaTransformer3DModel:
    """A model of these arguments whose weights take no memory and have no values."""
    from accelerate import init_empty_weights

    from sama.model.transformer import SamaTransformer3DModel

    # Parameters only: the rotary tables are buffers and are not stored. Constructors draw a few random numbers anyway.
    with torch.random.fork_rng(devices=[]), init_empty_weights():
        return SamaTransformer3DModel(**config)


def _read_as_ours(
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    model: SamaTransformer3DModel,
    dtype: torch.dtype,
    device: torch.device | str,
) -> dict[str, Tensor]:
    pairs = source.items() if isinstance(source, Mapping) else iterate_tensors(source)
    known = model.state_dict()
    weights: dict[str, Tensor] = {}
    foreign = []
    for name, tensor in pairs:
        ours = _our_name(name, known)
        if ours is None or ours in weights:
            foreign.append(name)
            continue
        weights[ours] = tensor.to(device, stored_dtype(model, ours, dtype))
    _refuse_foreign(foreign)
    return weights


def source_names(model: SamaTransformer3DModel, shapes: Mapping[str, Sequence[int]], source: object) -> dict[str, str]:
    """The name that each weight of a model has in a checkpoint whose tensors have these shapes, by our name. Raises
    CheckpointError for a key that is missing, foreign or of the wrong shape."""
    known = model.state_dict()
    names: dict[str, str] = {}
    foreign = []
    for name in shapes:
        ours = _our_name(name, known)
        if ours is None or ours in names:
            foreign.append(name)
        else:
            names[ours] = name
    _refuse_foreign(foreign)
    _check_keys(model, {ours: shapes[name] for ours, name in names.items()}, source)
    return names


def _our_name(name: str, known: Mapping[str, Tensor]) -> str | None:
    """A checkpoint's key as our model's, or None for a foreign one."""
    stripped = strip_prefixes(name)
    # A few names are the same in both worlds, and none means two different things.
    ours = stripped if stripped in known else from_official_name(stripped)
    return ours if ours in known else None


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of tensors, by name."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _refuse_foreign(names: list[str]) -> None:
    if names:
        raise CheckpointError(
            f"The checkpoint does not fit this model: {some_of(names)} {_verb(names, 'is', 'are')} foreign to it."
        )


def _check_keys(model: SamaTransformer3DModel, shapes: Mapping[str, Sequence[int]], source: object) -> None:
    expected = model.state_dict()
    missing = [name for name in expected if name not in shapes]
    if missing:
        hint = ""
        if all(name.startswith(_SEMANTIC) for name in missing):
            hint = " It looks like a base Wan checkpoint, which from_base_wan turns into a SAMA model to train."
        where = "The checkpoint" if isinstance(source, Mapping) else str(source)
        raise CheckpointError(f"{where} lacks {some_of(missing)}.{hint}")
    wrong = [
        f"{name} {list(shape)} instead of {list(expected[name].shape)}"
        for name, shape in shapes.items()
        if tuple(shape) != tuple(expected[name].shape)
    ]
    if wrong:
        raise CheckpointError(f"The checkpoint has another size than this model: {some_of(wrong)}.")


def _filled(
    model: SamaTransformer3DModel, weights: dict[str, Tensor], device: torch.device | str
) -> SamaTransformer3DModel:
    model.load_state_dict(weights, strict=True, assign=True)
    return model.to(device).eval()  # the buffers


def stored_dtype(model: SamaTransformer3DModel, name: str, dtype: torch.dtype) -> torch.dtype:
    """The type of one weight in a model of type `dtype`: diffusers keeps norms and the like in float32."""
    kept = model._keep_in_fp32_modules or ()
    return torch.float32 if any(part in kept for part in name.split(".")) else dtype


def _fresh(model: SamaTransformer3DModel, seed: int) -> Iterator[tuple[str, Tensor]]:
    """New weights of the added modules, as their constructors would draw them."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not name.startswith(_SEMANTIC):
            continue
        value = torch.zeros(parameter.shape)
        if name == "semantic_head.proj.weight":
            nn.init.xavier_uniform_(value, generator=generator)
        elif name == "semantic_head.proj.bias":
            nn.init.normal_(value, std=1e-3, generator=generator)
        elif ".norm." in name:
            value.fill_(float(name.endswith("weight")))
        elif name.startswith("semantic_projector."):  # linear layers as PyTorch draws them
            fan_in = model.get_parameter(f"{name.rpartition('.')[0]}.weight").shape[1]
            nn.init.uniform_(value, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
        yield name, value


def some_of(names: list[str]) -> str:
    """The first few of many names, and how many more there are."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _verb(names: list[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
