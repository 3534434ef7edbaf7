"""Weights as a run writes them at its end, and the same out of a checkpoint: of a run that goes on, or was lost.

    python -m training.export runs/my exported                                # of the newest checkpoint, averaged
    python -m training.export runs/my/checkpoints/step-00001000 exported --raw
    python -m sama edit in.mp4 "Make it snowy" --model exported

A LoRA run gives `lora/<name>.safetensors`, every other one a folder for `SamaPipeline.from_pretrained`: `transformer`
and, beside it, the frozen parts that it was trained with; and `sama_ema.safetensors` under the official key names
(`sama_raw.safetensors` of weights that are no averages). Exit status 2: something has to be put right first, and one
sentence says what.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import AutoConfig, AutoTokenizer, SiglipVisionConfig, SiglipVisionModel

from sama.checkpoints import save_official
from sama.files import disk_full, whole_folder
from sama.model.transformer import SamaTransformer3DModel
from sama.pipeline import SamaPipeline
from training.config import TrainConfig
from training.core.checkpoint import find_checkpoint
from training.core.float8 import rewrite_compact
from training.errors import ConfigError
from training.stages.encoders import TOWER_FOLDER, FrozenSizes, pipeline_settings
from training.stages.lora import export_lora
from training.stages.model import checkpoint_config, checkpoint_transformer

logger = logging.getLogger(__name__)

TRANSFORMER = "transformer"
OFFICIAL = {True: "sama_ema.safetensors", False: "sama_raw.safetensors"}
"""The file under official key names, by whether it holds averages."""
FROZEN = ("vae", "text_encoder", "tokenizer")


def write_weights(
    transformer: SamaTransformer3DModel, config: TrainConfig, folder: Path, averaged: bool = True
) -> None:
    """Write what a run of this configuration gives, from the weights that the model holds: see the module.

    transformer: on any device, unsharded. folder: the run's, or another one; each part of it is written whole or not at
    all, the pipeline's index last.
    """
    if config.stage == "lora":
        lora = replace(config.lora, name=config.lora.name or Path(config.output).resolve().name)
        export_lora(transformer, folder / "lora", lora, {"base_model": config.start_from or config.base})
        return
    with whole_folder(folder / TRANSFORMER) as part:
        transformer.save_pretrained(part)
        if config.float8_share:
            rewrite_compact(part / SAFETENSORS_WEIGHTS_NAME)
    save_official(transformer, folder / OFFICIAL[averaged], torch.bfloat16)
    _complete_pipeline(transformer, config, folder)


def _complete_pipeline(transformer: SamaTransformer3DModel, config: TrainConfig, folder: Path) -> None:
    """Put the frozen parts and the index beside the transformer. Files of the same disk are linked, not copied."""
    base = _folder_of(config.base)
    if base.resolve() != folder.resolve():
        for name in (*FROZEN, *(() if config.tower else (TOWER_FOLDER,))):
            with whole_folder(folder / name) as part:
                shutil.copytree(base / name, part, copy_function=_link, dirs_exist_ok=True)
    if config.tower:
        with whole_folder(folder / TOWER_FOLDER) as part:
            SiglipVisionModel.from_pretrained(config.tower).save_pretrained(part)
    sizes = FrozenSizes.read(str(folder), "")
    with init_empty_weights():  # the index wants their classes, not their weights
        pipeline = SamaPipeline(
            transformer=transformer,
            vae=AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(folder / "vae")),
            text_encoder=getattr(transformers, sizes.text_class)(AutoConfig.from_pretrained(folder / "text_encoder")),
            tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            semantic_tower=SiglipVisionModel(SiglipVisionConfig.from_pretrained(folder / TOWER_FOLDER)),
            **pipeline_settings(str(base), sizes.small) | {"shift": config.objective.sigma_shift},
        )
    with whole_folder(folder / "scheduler") as part:
        pipeline.scheduler.save_pretrained(part)
    pipeline.save_config(folder)


def _folder_of(base: str) -> Path:
    """A pipeline's folder on this machine; one of the Hub was fetched when the run began."""
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(base, allow_patterns=[f"{part}/*" for part in (*FROZEN, TOWER_FOLDER)], local_files_only=True)
    )


def _link(source: str, target: str) -> str:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:  # of another disk, or of one without links
        shutil.copy2(source, target)
    return target


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the weights of a checkpoint as a run writes them at its end.")
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or a run's folder: its newest one")
    parser.add_argument("folder", type=Path, help="where to write; must not be there yet")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--raw", dest="averaged", action="store_false", default=None, help="the weights themselves")
    which.add_argument("--averaged", action="store_true", default=None, help="their average (the default)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        export_checkpoint(options.checkpoint, options.folder, options.averaged)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except Exception as error:
        if not disk_full(error):
            raise
        sys.stderr.write(f"{options.folder} was not written, since the disk is full: make room, or choose another\n")
        return 2
    sys.stdout.write(f"{options.folder}\n")
    return 0


def export_checkpoint(checkpoint: Path, folder: Path, averaged: bool | None = None) -> None:
    """Write the weights of a checkpoint, or of a run's newest one, to a new folder. averaged: see `read_weights`.
    ConfigError: there is no such checkpoint, or the folder is there already."""
    path = find_checkpoint(checkpoint)
    if path is None:
        raise ConfigError(f"{checkpoint} is no checkpoint, and no run's folder that holds one: give one of these")
    if folder.exists():
        raise ConfigError(f"{folder} exists already: choose another name")
    config = checkpoint_config(path)
    sizes = FrozenSizes.read(config.base, config.tower)
    transformer, are_averages = checkpoint_transformer(path, config, sizes, averaged)
    logger.info("writing the %s of %s", "averaged weights" if are_averages else "weights", path)
    with whole_folder(folder) as part:
        write_weights(transformer, config, part, are_averages)


if __name__ == "__main__":
    raise SystemExit(main())
