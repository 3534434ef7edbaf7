"""The transformer that a configuration asks for: from random weights, or from ours, official or base Wan's."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

import torch
from accelerate import init_empty_weights

from sama.checkpoints import from_base_wan, iterate_tensors, load_transformer
from sama.errors import CheckpointError
from sama.model.transformer import SamaTransformer3DModel
from training.closed_yaml import hint, validated
from training.config import TrainConfig
from training.core.checkpoint import find_checkpoint, read_weights, stored_config
from training.data.encoders import Encoders, FrozenSizes
from training.errors import ConfigError
from training.stages.lora import add_adapter
from training.values import Count

logger = logging.getLogger(__name__)


Sizes = Encoders | FrozenSizes
"""The keys of sizes that the frozen parts decide: `latent_channels`, `text_dim`, `semantic_dim`."""


def model_arguments(config: TrainConfig, sizes: Sizes) -> dict[str, Any]:
    """Arguments of the transformer: those of the section `model`; if it is empty, those beside the weights it starts
    from. Raises ConfigError where there are neither."""
    given: Mapping[str, Any] = config.model
    if not given:
        folder = start_folder(config)
        if (checkpoint := start_checkpoint(folder)) is not None:
            return model_arguments(checkpoint_config(checkpoint), sizes)
        files = [file for file in (folder / "transformer/config.json", folder / "config.json") if file.is_file()]
        if not files:
            raise ConfigError(f"the section `model` is empty, and no config.json is in {folder}: say what to build")
        given = json.loads(files[0].read_text(encoding="utf-8"))
    require_arguments(config.model, SamaTransformer3DModel)
    known = inspect.signature(SamaTransformer3DModel.__init__).parameters
    arguments = {name: value for name, value in given.items() if name in known and value is not None}
    if config.stage != "lora" and not config.objective.semantic_weight:
        arguments["num_semantic_tokens"] = 0  # what is trained without anchors is sampled without them
    return arguments | {
        "in_channels": sizes.latent_channels,
        "out_channels": sizes.latent_channels,
        "text_dim": sizes.text_dim,
        "semantic_dim": sizes.semantic_dim,
    }


def require_arguments(section: Mapping[str, Any], kind: Callable[..., object], required: Collection[str] = ()) -> None:
    """Raises ConfigError for a key of the section `model` that is no argument of `kind`, for a value of another type,
    for a size below 1, and where one of `required` is missing."""
    known = list(inspect.signature(kind).parameters)
    try:
        types = get_type_hints(getattr(kind, "__init__"))  # noqa: B009 - mypy takes it for an instance's
    except NameError:  # transformers names types that it does not import
        types = {}
    for name, value in section.items():
        if name not in known:
            raise ConfigError(f"unknown key model.{name} ({kind.__name__}): {hint(name, known, 'model.')}")
        if name in types:
            validated(Count if types[name] is int else types[name], value, f"model.{name}")
    for name in required:
        if name not in section:
            raise ConfigError(f"the key model.{name} is missing: {kind.__name__} needs it")


@contextmanager
def told_by_section() -> Iterator[None]:
    """Turns what a model's class raises for arguments that do not fit into a ConfigError that names the section."""
    try:
        yield
    except (ConfigError, MemoryError, RuntimeError):  # of the machine, not of the arguments
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"the section `model` cannot be built: {reason}") from error


def start_folder(config: TrainConfig) -> Path:
    """The file or folder that training starts from, on this machine; a Hub name is fetched. Raises ConfigError where it
    is missing."""
    name = f"{config.base}" if config.start_from_base else config.start_from
    if not name:
        raise ConfigError("the section `model` is empty, and neither start_from nor start_from_base says what to train")
    if Path(name).exists():
        return Path(name) / "transformer" if config.start_from_base else Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["transformer/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"start_from: {name} is neither here nor on the Hub: {reason}") from error


def start_checkpoint(path: Path) -> Path | None:
    """The checkpoint to start from where `path` is one, or the folder of a run that has not written its result."""
    return None if (path / "transformer").is_dir() else find_checkpoint(path)


def empty_transformer(arguments: Mapping[str, Any]) -> SamaTransformer3DModel:
    """The model without memory for its weights."""
    with torch.random.fork_rng(devices=[]), init_empty_weights():
        return SamaTransformer3DModel(**arguments)


def build_transformer(config: TrainConfig, sizes: Sizes, empty: bool = False) -> SamaTransformer3DModel:
    """The transformer on the CPU, in float32 and ready to train: which weights take gradients is decided here.

    The frozen weights below an adapter are in the type of the run. empty: without memory for weights, for a process
    that gets its shards from the first one. Raises ConfigError for starting weights that are missing or do not fit.
    """
    arguments = model_arguments(config, sizes)
    if config.stage == "lora" and not (config.start_from or config.start_from_base):
        raise ConfigError("an adapter needs a trained model below it: set start_from or start_from_base")
    if empty or not (config.start_from or config.start_from_base):
        with told_by_section():
            if not empty:
                torch.manual_seed(config.seed)
            transformer = empty_transformer(arguments) if empty else SamaTransformer3DModel(**arguments)
    else:
        transformer = _started(config, arguments, sizes)
    if config.stage == "lora":
        add_adapter(transformer, config.lora, config.seed)
    if not config.objective.semantic_weight:
        for part in (transformer.semantic_projector, transformer.semantic_head):
            part.requires_grad_(False)  # nothing reaches them
    return transformer.train()


def checkpoint_config(path: Path) -> TrainConfig:
    """The configuration of the run that a checkpoint of the transformer belongs to. Raises ConfigError for a checkpoint
    of another part of the pipeline."""
    config = stored_config(path)
    if config.stage in ("vae", "tower"):
        raise ConfigError(
            f"{path} is of stage {config.stage}, whose weights only its run can write: "
            "resume it with max_steps set to the step at which it shall end"
        )
    return config


def checkpoint_transformer(
    path: Path, config: TrainConfig, sizes: Sizes, averaged: bool | None = None
) -> tuple[SamaTransformer3DModel, bool]:
    """The transformer of a checkpoint on the CPU, float32, and whether its weights are the averages.

    config: the checkpoint's. averaged: see `read_weights`. For a LoRA run only the adapter has values; the model below
    it has no memory. Raises ConfigError where the checkpoint does not fit its configuration.
    """
    weights, are_averages = read_weights(path, averaged)
    # What was frozen is not in the checkpoint. It is read anew from where the run started.
    transformer = build_transformer(config, sizes, empty=True)
    if config.stage != "lora" and not all(weight.requires_grad for weight in transformer.parameters()):
        transformer = build_transformer(config, sizes)
    trained = {name: weight.shape for name, weight in transformer.named_parameters() if weight.requires_grad}
    if trained != {name: weight.shape for name, weight in weights.items()}:
        raise ConfigError(f"{path} does not hold the weights that its configuration names")
    transformer.load_state_dict(weights, strict=False, assign=True)
    return transformer, are_averages


def _started(config: TrainConfig, arguments: Mapping[str, Any], sizes: Sizes) -> SamaTransformer3DModel:
    path, key = start_folder(config), "start_from_base" if config.start_from_base else "start_from"
    below = config.stage == "lora" and config.precision == "bfloat16"
    dtype = torch.bfloat16 if below else torch.float32
    try:
        if (checkpoint := start_checkpoint(path)) is not None:
            before = checkpoint_config(checkpoint)
            if before.stage == "lora":
                raise ConfigError(f"{key}: {checkpoint} holds an adapter, not a model: name the model below it")
            logger.info("starting from the averaged weights of %s", checkpoint)
            started, _ = checkpoint_transformer(checkpoint, before, sizes, averaged=True)
            return load_transformer(started.state_dict(), arguments, dtype)
        if any("segment_embedding" in name for name, _ in iterate_tensors(path)):
            return load_transformer(path, arguments, dtype)
        return from_base_wan(path, arguments, config.seed, dtype)
    except CheckpointError as error:
        raise ConfigError(f"{key}: {path} cannot be trained as the section `model` says: {error}") from error
