"""One store of encoded groups, from which every run draws."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import islice

from sama.shapes import TINY_BUCKETS
from training.config import TrainConfig
from training.core.batch import EncodedBatch
from training.data.drawn.feed import RenderedFeed
from training.data.drawn.latents import LatentStore
from training.data.encoders import Encoders
from training.errors import ConfigError
from training.parallel.processes import DataRank


class SharedStoreFeed(RenderedFeed):
    """Draws from a store that was filled before. What is drawn is a function of the run's seed and the step."""

    def __init__(self, config: TrainConfig, encoders: Encoders, place: DataRank, store: LatentStore) -> None:
        super().__init__(config, encoders, place)
        self._store = copy.copy(store)
        self._store.seed = config.seed

    def batches(self) -> Iterator[EncodedBatch]:
        """Batches without end. The first one is the run's first, whoever drew from the store before."""
        while True:
            batch = self._draw(self._store)
            self.drawn += 1
            yield batch


def fill_store(config: TrainConfig, encoders: Encoders, place: DataRank) -> LatentStore:
    """Render and encode `data.rendered.groups` groups. They depend only on the configuration's seed."""
    rendered = config.data.rendered
    feed = RenderedFeed(config, encoders, place)
    capacity = math.ceil(rendered.groups / len(TINY_BUCKETS))
    store = LatentStore(place.device, capacity, rendered.task_weights, config.seed, place.rank)
    groups = feed._groups(0)
    feed._fill(store, groups)
    return store


def fill_cache(config: TrainConfig, encoders: Encoders, place: DataRank, share: tuple[int, int]) -> int:
    """Render and encode the i-th of n parts of `data.rendered.groups` groups into the cache, from which `fill_store`
    reads; returns how many were missing there. ConfigError: there is no cache."""
    feed = RenderedFeed(config, encoders, place)
    cache, (index, count) = feed._cache, share
    if cache is None:
        raise ConfigError("data.rendered.cache is empty: name the folder that the runs are to read scenes from")
    part = math.ceil(config.data.rendered.groups / count)
    end = min((index + 1) * part, config.data.rendered.groups)
    start = next((number for number in range(index * part, end) if number not in cache), end)
    for number, group in enumerate(islice(feed._rendered(start), end - start), start):
        cache.store(number, *group)
    cache.flush()
    return end - start
