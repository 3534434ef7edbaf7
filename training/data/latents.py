"""Rendered groups as latents on the device: encoded once, drawn many times in other pairs, wordings and noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sama.shapes import Bucket


@dataclass
class EditBatch:
    """A batch of one bucket, on the device.

    source, target: (B, C, F, H, W) normalised latents; anchors: (B, 3, 128, 128) uint8, the targets' first frames;
    token_ids: (B, L) of the instructions.
    """

    source: Tensor
    target: Tensor
    anchors: Tensor
    token_ids: Tensor


@dataclass
class _Shelf:
    """Everything of one bucket."""

    latents: list[Tensor] = field(default_factory=list)
    anchors: list[Tensor] = field(default_factory=list)
    anchor_rows: list[int] = field(default_factory=list)  # row of `anchors` per latent, -1 for perturbed clips
    pairs: dict[bool, list[tuple[int, int, int]]] = field(default_factory=lambda: {False: [], True: []})
    tasks: list[str] = field(default_factory=list)  # of pairs[False]
    texts: list[list[list[int]]] = field(default_factory=list)
    clips: int = 0
    pictures: int = 0


class LatentStore:
    """Latents, anchor pictures and tokenised instructions of many groups.

    Draws batches of one bucket; the buckets take turns at random, weighted by how many pairs they hold. Edits are drawn
    task by task, in the shares that `task_weights` sets (1 where it says nothing), however many pairs each task has;
    pretext restorations are drawn apart, in the share that `pretext_share` sets.
    """

    def __init__(
        self,
        device: torch.device,
        tokenise: Callable[[Sequence[str]], list[list[int]]],
        length: int,
        task_weights: Mapping[str, float],
    ) -> None:
        self.device, self.tokenise, self.length, self.task_weights = device, tokenise, length, task_weights
        self._shelves: dict[Bucket, _Shelf] = {}
        self.tables: dict[Bucket, dict[str, Tensor]] = {}

    def add(self, group: dict[str, Any], latents: Tensor, words: Callable[[str, str], str]) -> None:
        """Keep a group of `training.data.rendered.PairedClips` with its clips' latents (N, C, F, H, W).

        words: (prefix, instruction) to the prompt that the model sees.
        """
        shelf = self._shelves.setdefault(Bucket(*group["bucket"]), _Shelf())
        pictures = len(group["anchors"])
        shelf.latents.append(latents.to(torch.bfloat16))
        shelf.anchors.append(group["anchors"].to(self.device))
        shelf.anchor_rows += [shelf.pictures + i if i < pictures else -1 for i in range(len(latents))]
        prompts = [words(pair["prefix"], text) for pair in group["pairs"] for text in pair["texts"]]
        tokens = iter(self.tokenise(prompts))
        for pair in group["pairs"]:
            texts = [self._padded(next(tokens)) for _ in pair["texts"]]
            row = (shelf.clips + pair["source"], shelf.clips + pair["target"], len(shelf.texts))
            shelf.pairs[bool(pair["prefix"])].append(row)
            if not pair["prefix"]:
                shelf.tasks.append(pair["task"])
            shelf.texts.append(texts)
        shelf.clips += len(latents)
        shelf.pictures += pictures

    def seal(self) -> None:
        """Make one tensor of each kind and bucket; no group can be added after it."""
        self.tables = {
            bucket: {
                "latents": torch.cat(shelf.latents),
                "anchors": torch.cat(shelf.anchors),
                "rows": torch.tensor(shelf.anchor_rows, device=self.device),
                "shares": self._shares(shelf.tasks),
                "texts": torch.tensor(shelf.texts, device=self.device, dtype=torch.int32),
                **{
                    f"pairs_{kind}": torch.tensor(pairs, device=self.device).view(-1, 3)
                    for kind, pairs in shelf.pairs.items()
                },
            }
            for bucket, shelf in self._shelves.items()
        }
        self._shelves.clear()

    def counts(self) -> dict[str, int]:
        """Clips, edit pairs and pretext pairs held."""
        tables = self.tables.values()
        return {
            "clips": sum(len(table["latents"]) for table in tables),
            "edits": sum(len(table["pairs_False"]) for table in tables),
            "restorations": sum(len(table["pairs_True"]) for table in tables),
        }

    def batches(self, size: int, pretext_share: float, generator: torch.Generator) -> Iterator[EditBatch]:
        """Endless batches of `size`, drawn with replacement by a generator on the device."""
        buckets = sorted(self.tables)
        weights = torch.tensor([len(self.tables[bucket]["pairs_False"]) for bucket in buckets], dtype=torch.float)
        host = torch.Generator().manual_seed(int(torch.randint(2**31, (1,), generator=generator, device=self.device)))

        def draw(limit: int, count: int) -> Tensor:
            return torch.randint(limit, (count,), generator=generator, device=self.device)

        while True:
            table = self.tables[buckets[int(torch.multinomial(weights, 1, generator=host))]]
            restorations = round(size * pretext_share) if len(table["pairs_True"]) else 0
            points = torch.rand(size - restorations, generator=generator, device=self.device)
            edits = table["pairs_False"][
                torch.searchsorted(table["shares"], points).clamp_max(len(table["shares"]) - 1)
            ]
            rows = torch.cat([edits, table["pairs_True"][draw(max(1, len(table["pairs_True"])), restorations)]])
            source, target, text = rows.unbind(1)
            wording = draw(table["texts"].shape[1], size)
            yield EditBatch(
                table["latents"][source],
                table["latents"][target],
                table["anchors"][table["rows"][target]],
                table["texts"][text, wording].long(),
            )

    def _shares(self, tasks: Sequence[str]) -> Tensor:
        """Cumulative probability of each pair, (pairs,), ending at 1."""
        counts = Counter(tasks)
        shares = torch.tensor([self.task_weights.get(task, 1.0) / counts[task] for task in tasks], dtype=torch.double)
        return (shares.cumsum(0) / shares.sum()).float().to(self.device)

    def _padded(self, ids: list[int]) -> list[int]:
        return (ids + [0] * self.length)[: self.length]
