"""A transformer's weights, from any checkpoint into diffusers' folder form, shard by shard: never more than one shard
is in memory, so that a file of 28 GB is converted on a small machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sama.checkpoints import (
    checkpoint_files,
    empty_model,
    read_pickled,
    resolve_config,
    shapes_of,
    source_names,
    stored_dtype,
)
from sama.errors import CheckpointError
from sama.files import whole_folder
from sama.presets import WAN_CANVAS

if TYPE_CHECKING:
    from sama.model.transformer import SamaTransformer3DModel

SHARD_SIZE = "2GB"
_BASE_PARTS = ("vae", "text_encoder", "tokenizer")


def to_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: str | Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    base: str | os.PathLike[str] | None = None,
    shard_size: str = SHARD_SIZE,
) -> None:
    """Writes a checkpoint as a folder for `from_pretrained`, whole or not at all.

    source: see `sama.checkpoints.iterate_tensors`.
    target: a new folder, of the transformer; with `base`, of a complete pipeline.
    config: as in `sama.checkpoints.load_transformer`; None also finds the preset by the shapes of the weights.
    dtype: of the weights; those that diffusers keeps in float32 are stored so.
    base: folder or Hub repository of Wan2.1 in diffusers' layout, whose VAE, text encoder and tokenizer are taken.
    shard_size: of the largest file, such as "2GB"; about as much memory is needed.
    Raises CheckpointError, before anything is written, when a key is missing, foreign or of the wrong shape, and for a
    base that lacks a part.
    """
    with _opened(Path(source)) as stored:
        model = empty_model(resolve_config(config, Path(source), stored.shapes))
        names = source_names(model, stored.shapes, source)
        frozen = None if base is None else _complete(base)
        with whole_folder(target) as folder:
            transformer = folder if frozen is None else folder / "transformer"
            transformer.mkdir(exist_ok=True)
            _write_shards(model, {ours: (stored, name) for ours, name in names.items()}, transformer, dtype, shard_size)
            model.save_config(transformer)
            if frozen is not None:
                _write_rest(folder, frozen)


# --- Reading ---------------------------------------------------------------------------------------------------------


@dataclass
class _Stored:
    """Tensors of a checkpoint that lie in its files.

    shapes: of all of them, by name. places: the opened file of each.
    """

    shapes: dict[str, tuple[int, ...]]
    places: dict[str, Any]

    def read(self, name: str) -> Tensor:
        place = self.places[name]
        tensor: Tensor = place[name] if isinstance(place, dict) else place.get_tensor(name)
        return tensor


@contextmanager
def _opened(path: Path) -> Iterator[_Stored]:
    from safetensors import SafetensorError, safe_open

    stored = _Stored({}, {})
    with ExitStack() as stack:
        for file in checkpoint_files(path):
            place: Any
            if file.suffix == ".safetensors":
                try:
                    place = stack.enter_context(safe_open(file, framework="pt"))
                    shapes = {name: tuple(place.get_slice(name).get_shape()) for name in place.keys()}  # noqa: SIM118
                except (OSError, SafetensorError) as error:
                    raise CheckpointError(f"{file.name} cannot be read as a checkpoint: {error}") from error
            else:
                place = read_pickled(file)
                shapes = shapes_of(place)
            for name in shapes:
                if name in stored.shapes:
                    raise CheckpointError(f"{name} is stored twice in {path}: keep the shards of one checkpoint only.")
            stored.shapes |= shapes
            stored.places |= dict.fromkeys(shapes, place)
        yield stored


# --- Writing ---------------------------------------------------------------------------------------------------------


def _write_shards(
    model: SamaTransformer3DModel,
    sources: Mapping[str, tuple[_Stored, str]],
    folder: Path,
    dtype: torch.dtype,
    shard_size: str,
) -> None:
    """sources: where each weight lies, by our name."""
    from diffusers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFETENSORS_WEIGHTS_NAME
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    planned = {
        name: torch.empty(weight.shape, dtype=stored_dtype(model, name, dtype), device="meta")
        for name, weight in model.state_dict().items()
    }
    pattern = SAFETENSORS_WEIGHTS_NAME.replace(".safetensors", "{suffix}.safetensors")
    plan = split_torch_state_dict_into_shards(planned, filename_pattern=pattern, max_shard_size=shard_size)
    for file, inside in plan.filename_to_tensors.items():
        shard = {}
        for name in inside:
            stored, theirs = sources[name]
            shard[name] = stored.read(theirs).to(planned[name].dtype).contiguous()
        save_file(shard, folder / file, metadata={"format": "pt"})
        shard.clear()
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(text, encoding="utf-8")


def _complete(base: str | os.PathLike[str]) -> Path:
    """The folder of a base, fetched where it is a Hub repository. Raises CheckpointError where a part is missing."""
    folder = Path(base)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        patterns = ["model_index.json", *(f"{part}/*" for part in _BASE_PARTS)]
        folder = Path(snapshot_download(str(base), allow_patterns=patterns))
    missing = [part for part in ("model_index.json", *_BASE_PARTS) if not (folder / part).exists()]
    if missing:
        raise CheckpointError(f"{base} is no pipeline in diffusers' layout: it lacks {', '.join(missing)}.")
    return folder


def _write_rest(folder: Path, base: Path) -> None:
    """The frozen parts of `base`, linked where the disk allows, the scheduler, and the index of the pipeline."""
    from diffusers import FlowMatchEulerDiscreteScheduler, __version__

    for part in _BASE_PARTS:
        shutil.copytree(base / part, folder / part, copy_function=_link)
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    classes = json.loads((base / "model_index.json").read_text(encoding="utf-8"))
    index = {
        "_class_name": "SamaPipeline",
        "_diffusers_version": __version__,
        "transformer": ["sama", "SamaTransformer3DModel"],
        "scheduler": ["diffusers", FlowMatchEulerDiscreteScheduler.__name__],
        "semantic_tower": [None, None],
        **{part: classes[part] for part in _BASE_PARTS},
        **WAN_CANVAS.settings(),
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _link(source: str, target: str) -> str:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:  # of another disk, or of one without links
        shutil.copy2(source, target)
    return target
