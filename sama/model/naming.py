"""Names for anchors: what each token of a plan stands for, in words.

The embedded model's tower was taught to tell the names of drawn things; a small probe on it names a token
(`LinearNames`, trained by `training.tiny.naming`). A SigLIP tower's tokens are named by its own text side
(`sama.model.siglip`). Both give `Named`. A name is shown only where it is sure enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sama.model.named import EMBEDDED, NAMING_FILE, NEAREST, Named
from sama.presets import TINY_FOLDER

FOOTAGE = "footage"
"""The name of what is filmed or photographed: the drawn data does not say what its parts are."""


def unit_tokens(tokens: Tensor) -> Tensor:
    """Tokens (..., C) at the length of the square root of C: a planned token is longer than the tower's, and means the
    same."""
    return F.normalize(tokens.float(), dim=-1) * tokens.shape[-1] ** 0.5


@dataclass(frozen=True)
class NamingTable:
    """What a probe can say and how sure it must be.

    names: what a cell may show; kinds: the kind of each, "" for one without ("animal" for "cat"). looks: colours,
        styles and weathers, the first is "". limits: the least probability at which a name, a kind and a look are
        said. note: measured on scenes that were not seen, for people.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    looks: tuple[str, ...]
    limits: Mapping[str, float]
    note: str = ""


class LinearNames:
    """Names by a probe: a hidden layer and two linear layers, over unit tokens."""

    def __init__(self, weights: Mapping[str, Tensor], table: NamingTable) -> None:
        """weights: `hidden`, `norm`, `name` and `look`, each with `.weight` and `.bias`."""
        self.weights = {name: tensor.float() for name, tensor in weights.items()}
        self.table = table
        kinds = list(dict.fromkeys(kind for kind in table.kinds if kind))
        self._kinds = kinds
        self._member = torch.zeros(len(table.names), len(kinds))
        for place, kind in enumerate(table.kinds):
            if kind:
                self._member[place, kinds.index(kind)] = 1

    @property
    def width(self) -> int:
        """The width of the tokens that the probe reads."""
        return int(self.weights["hidden.weight"].shape[1])

    @classmethod
    def load(cls, file: Path) -> LinearNames:
        """The probe of a file. Raises OSError or ValueError where there is none that can be read."""
        try:
            with safe_open(file, framework="pt") as held:
                weights = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - it is no dictionary
                table = json.loads((held.metadata() or {})["naming"])
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{file.name} holds no naming probe: {error}") from error
        lists = {name: tuple(table[name]) for name in ("names", "kinds", "looks")}
        return cls(weights, NamingTable(**lists, limits=table["limits"], note=table["note"]))

    def probabilities(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of the names (..., K) and of the looks (..., L) of tokens (..., C)."""
        name, look = probe_logits(self.weights, unit_tokens(tokens))
        return name.softmax(dim=-1), look.softmax(dim=-1)

    def __call__(self, tokens: Tensor) -> Named:
        """The names of tokens (..., C). Where no name is sure but the kind of thing is, the kind comes first."""
        shape = tokens.shape[:-1]
        name, look = (part.flatten(0, -2) for part in self.probabilities(tokens))
        scores, places = name.topk(NEAREST, dim=-1)
        kind_scores, kinds = (name @ self._member).max(dim=-1)
        look_scores, looks = look.max(dim=-1)
        words: dict[str, int] = {}
        indices = np.zeros((len(name), NEAREST), np.int16)
        sure = np.zeros(len(name), bool)
        limits = self.table.limits
        for row in range(len(name)):
            said = self.table.looks[int(looks[row])] if look_scores[row] >= limits["look"] else ""
            nearest = [f"{said} {self.table.names[place]}".strip() for place in places[row].tolist()]
            limit = limits["name"] if self.table.kinds[int(places[row, 0])] else limits["place"]
            sure[row] = bool(scores[row, 0] >= limit)
            if not sure[row] and kind_scores[row] >= limits["kind"]:
                nearest = [f"{said} {self._kinds[int(kinds[row])]}".strip(), *nearest[:-1]]
                scores[row] = torch.cat([kind_scores[row, None], scores[row, :-1]])
                sure[row] = True
            indices[row] = [words.setdefault(word, len(words)) for word in nearest]
        return Named(
            tuple(words),
            indices.reshape(*shape, NEAREST),
            scores.reshape(*shape, NEAREST).numpy(),
            sure.reshape(shape),
            self.table.note,
        )


def probe_logits(weights: Mapping[str, Tensor], unit: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of names and looks for unit tokens (..., C)."""

    def linear(layer: str, given: Tensor) -> Tensor:
        return F.linear(given, weights[f"{layer}.weight"], weights[f"{layer}.bias"])

    seen = F.gelu(linear("hidden", unit))
    seen = F.layer_norm(seen, seen.shape[-1:], weights["norm.weight"], weights["norm.bias"])
    return linear("name", seen), linear("look", seen)


def name_record(tokens: Tensor, encoder: str) -> Named | None:
    """The names of the tokens (sets, 65, C) of a record that the embedded model's tower made, by the probe that is
    shipped with it; None for another encoder's, and where the probe is not there.

    encoder: as in the record, see `EMBEDDED`.
    """
    probe = embedded_names()
    if probe is None or encoder != EMBEDDED or tokens.shape[-1] != probe.width:
        return None
    return probe(tokens)


@lru_cache(maxsize=1)
def embedded_names() -> LinearNames | None:
    """The probe of the embedded model's tower; None where it is not installed."""
    file = TINY_FOLDER / "semantic_tower" / NAMING_FILE
    return LinearNames.load(file) if file.is_file() else None
