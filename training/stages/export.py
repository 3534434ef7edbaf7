"""Writes the result of a run of the stages `pretrain`, `sft` and `lora` at its end.

A LoRA run gives `lora/<name>.safetensors`, every other one a folder for `SamaPipeline.from_pretrained`: `transformer`
and, beside it, the frozen parts that it was trained with; and `sama_ema.safetensors` under the official key names
(`sama_raw.safetensors` for weights that are no averages).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from transformers import AutoConfig, AutoTokenizer, SiglipVisionConfig, SiglipVisionModel

from sama.checkpoints import save_official
from sama.files import whole_folder
from sama.model.transformer import SamaTransformer3DModel
from sama.pipeline import SamaPipeline
from training.config import TrainConfig
from training.core.float8 import rewrite_compact
from training.data.encoders import TOWER_FOLDER, FrozenSizes, pipeline_settings
from training.stages.lora import export_lora

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
