"""One store of encoded groups, from which every run draws."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from sama.shapes import TINY_BUCKETS
from training.batch import Batch, Place
from training.config import TrainConfig
from training.data.latents import LatentStore
from training.data.rendered_feed import RenderedFeed
from training.encoders import Encoders
from training.randomness import derived_seed

IMAGE_SHARE = 0.8
"""Of the batches of stage 0 (paper: 448 images beside 112 videos)."""


class SharedStoreFeed(RenderedFeed):
    """Draws from a store that was filled before. What is drawn is a function of the run's seed and the step.

    stage0: batches are image edits, which are the first latent frames (the causal VAE encodes them alone), or
    restorations of clips, in the paper's proportion; there is no video edit.
    """

    def __init__(
        self, config: TrainConfig, encoders: Encoders, place: Place, store: LatentStore, stage0: bool = False
    ) -> None:
        super().__init__(config, encoders, place)
        self._store, self._stage0 = copy.copy(store), stage0
        self._store.seed = config.seed

    def batches(self) -> Iterator[Batch]:
        """Batches without end. The first one is the run's first, whoever drew from the store before."""
        while True:
            batch = self._of_stage0() if self._stage0 else self._draw(self._store)
            self.drawn += 1
            yield batch

    def _of_stage0(self) -> Batch:
        kind = torch.Generator().manual_seed(derived_seed("stage 0", self.config.seed, self.place.rank, self.drawn))
        image = bool(torch.rand((), generator=kind) < IMAGE_SHARE)
        self.data = replace(self.config.data.rendered, pretext_share=0.0 if image else 1.0)
        batch = self._draw(self._store)
        if not image or batch.source is None:
            return batch
        return Batch(batch.source[:, :, :1], batch.target[:, :, :1], batch.text, batch.anchors)


def fill_store(config: TrainConfig, encoders: Encoders, place: Place) -> LatentStore:
    """Render and encode `data.rendered.groups` groups. They hang on the configuration's seed alone."""
    rendered = config.data.rendered
    feed = RenderedFeed(config, encoders, place)
    capacity = math.ceil(rendered.groups / len(TINY_BUCKETS))
    store = LatentStore(place.device, capacity, rendered.task_weights, config.seed, place.rank)
    groups = feed._groups(0)
    feed._fill(store, groups, rendered.groups)
    return store
