"""A cache on disk of latents, anchors and text states, by the content that they were made from.

A key is a hash of what decides a tensor: the content of the file, the frames and the cut, the prompt, and the weights
of the encoders. After a change of either the key is another one, so no entry has to be deleted by hand.
Entries are whole files or none, so that several processes may use one folder at once. What is not finite is never
kept, and an entry that holds such values, from wherever it came, counts as none.

Perturbed clips are never kept: their pixels differ each time. Their targets are.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sama.files import whole_file
from training.errors import NotFiniteError

logger = logging.getLogger(__name__)

_FORM = 1


class ContentCache:
    """A folder of small safetensors files, for one set of encoders."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """fingerprint: of the encoders, and of everything else that all entries depend on."""
        self.folder, self.fingerprint = folder, fingerprint

    def key(self, *parts: object) -> str:
        """The name of an entry. parts: numbers, texts and lists of them, which decide its content."""
        text = json.dumps([_FORM, self.fingerprint, *parts])
        return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def load(self, key: str) -> dict[str, Tensor] | None:
        """The entry of a key; None where there is none, or where it cannot be read or is not finite."""
        try:
            found: dict[str, Tensor] = load_file(self._path(key))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            logger.warning("the cache entry %s cannot be read and is made anew: %s", self._path(key), error)
            return None
        if not _is_finite(found):
            logger.warning("the cache entry %s holds values that are not finite and is made anew", self._path(key))
            return None
        return found

    def store(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an entry, whole or not at all; the later of two writers wins, with the same content. Raises
        NotFiniteError for values that are not finite: nothing is written."""
        path = self._path(key)
        # A slice of a batch would be written with the memory of the whole.
        kept = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        if not _is_finite(kept):
            raise NotFiniteError(f"{', '.join(kept)}: not kept in {self.folder}, since some values are not finite")
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            save_file(kept, part)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def _is_finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())
