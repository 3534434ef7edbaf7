"""A cache on disk of rendered groups that were encoded, for later runs on the same data: stage 1 after stage 0, a
resumed run, or another session of an ablation."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sama.shapes import Bucket
from training.config import TrainConfig
from training.data.encoders import Encoders
from training.data.files.cache import ContentCache
from training.data.sizes import tiny_buckets
from training.errors import NotFiniteError

logger = logging.getLogger(__name__)

TENSORS = ("anchors", "pairs", "tokens")
"""The parts of a group that are kept beside its bucket and its latents."""

_SOURCES = (
    "training/synth/**/*.py",
    "training/synth/**/*.yaml",
    "training/data/drawn/scenes.py",
    "sama/model/pretext.py",
    "sama/pipeline/prompts.py",
    "sama/pipeline/conditioning.py",
)
"""Files and folders whose code decides the rendered clips and their instructions."""


class GroupCache:
    """The groups of one data rank by their numbers, in a folder that several ranks and runs may share.

    Latents travel to the host and to the disk while the device works on the next group: `store` writes the group
    before, `flush` the last one.
    """

    def __init__(self, folder: Path, config: TrainConfig, encoders: Encoders, rank: int) -> None:
        rendered = config.data.rendered
        self._entries = ContentCache(folder, encoders.fingerprint())
        self._decides = [
            _digest_of(Path(rendered.pack)), rendered.frames, rendered.paraphrases, config.seed, rank,
            encoders.text_length, [list(bucket) for bucket in tiny_buckets()],
        ]  # fmt: skip
        self._unwritten: tuple[int, dict[str, Tensor], torch.cuda.Event | None] | None = None

    def __contains__(self, number: int) -> bool:
        return self._key(number) in self._entries

    def load(self, number: int) -> tuple[dict[str, Any], Tensor] | None:
        """The group and its latents (N, C, F, H, W) bfloat16, on the host; None if it is not there."""
        entry = self._entries.load(self._key(number))
        if entry is None:
            return None
        group: dict[str, Any] = {name: entry[name] for name in TENSORS}
        return group | {"bucket": Bucket(*entry["bucket"].tolist())}, entry["latents"]

    def store(self, number: int, group: dict[str, Any], latents: Tensor) -> None:
        """Keep a group of `training.data.drawn.scenes.GroupedPairs` and its latents, unless it is there."""
        self.flush()
        if number in self:
            return
        on_host = torch.empty(latents.shape, dtype=torch.bfloat16, pin_memory=latents.is_cuda)
        on_host.copy_(latents, non_blocking=True)
        arrived = torch.cuda.Event() if latents.is_cuda else None
        if arrived is not None:
            arrived.record()
        entry = {name: group[name] for name in TENSORS}
        self._unwritten = number, entry | {"bucket": torch.tensor(group["bucket"]), "latents": on_host}, arrived

    def flush(self) -> None:
        """Write the group that is not written yet. One that is not finite is logged and not kept."""
        if self._unwritten is None:
            return
        number, entry, arrived = self._unwritten
        if arrived is not None:
            arrived.synchronize()
        self._unwritten = None
        try:
            self._entries.store(self._key(number), entry)
        except NotFiniteError as error:
            logger.warning("scene %d: %s", number, error)

    def _key(self, number: int) -> str:
        return self._entries.key("group", *self._decides, number)


def _digest_of(pack: Path) -> str:
    """A hash of the pack's files and of the code that draws with them."""
    root = Path(__file__).parents[3]
    files = [file for pattern in _SOURCES for file in root.glob(pattern)]
    files += [file for file in pack.rglob("*") if file.is_file() and file.suffix not in (".npy", ".lock", ".part")]
    digest = hashlib.blake2b(digest_size=12)
    for file in sorted(files):
        digest.update(file.name.encode() + hashlib.blake2b(file.read_bytes()).digest())
    return digest.hexdigest()
