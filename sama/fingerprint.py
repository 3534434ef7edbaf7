"""Which weights these are: hashes of models, each for what is at hand. Their values are kept in files and in caches.

| of what | reads | kept in |
|---|---|---|
| a loaded pipeline | a sample of every tensor, in the type it has | the settings beside a result |
| a saved model | all of its files of weights | scores: are two of the same model? |
| large files | blocks spread over them | keys of caches |
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sama.model.named import NAMING_FILE
from sama.presets import FEW_STEPS_FILE

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

SAMPLED_VALUES = 64
SAMPLED_BLOCKS, BLOCK_BYTES = 2048, 4096
"""Bytes that are read of a large file, spread evenly over it (all of a file below 8 MB): a trained or rounded copy
differs in nearly every block."""


def of_pipeline(pipeline: SamaPipeline) -> str:
    """A hash over names, shapes and a sample of the values of every tensor of a loaded pipeline, LoRAs left out."""
    digest = hashlib.sha256()
    for component in ("transformer", "vae", "text_encoder"):
        for name, tensor in sorted(getattr(pipeline, component).state_dict().items()):
            if "lora_" in name:
                continue
            flat = tensor.detach().flatten()
            sample = flat[:: max(1, flat.numel() // SAMPLED_VALUES)].float().cpu().numpy()
            digest.update(f"{component}.{name.replace('.base_layer', '')}{tuple(tensor.shape)}".encode())
            digest.update(sample.tobytes())
    return digest.hexdigest()[:16]


def of_folder(folder: str | Path) -> str:
    """A hash of all files of weights (.safetensors) in a folder and of where they lie in it; without LoRAs, and without
    a probe that names tokens, which no edit goes through."""
    digest = hashlib.sha256()
    root = Path(folder)
    for file in sorted(file for file in root.rglob("*.safetensors") if file.name not in (NAMING_FILE, FEW_STEPS_FILE)):
        digest.update(str(file.relative_to(root)).encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def of_large_files(files: Sequence[Path]) -> str:
    """A hash of the sizes of files and of blocks spread over them."""
    digest = hashlib.blake2b(digest_size=12)
    for path in files:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        step = max(BLOCK_BYTES, size // SAMPLED_BLOCKS)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()
