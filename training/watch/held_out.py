"""Held-out samples for watching a run: the same few at every look, whatever the run has drawn so far."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from training.config import SetConfig, TrainConfig
from training.core.batch import EncodedBatch
from training.data.encoders import Encoders
from training.errors import ConfigError
from training.watch.grids import shown_frames

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """One pair: encoded as a batch of one, with the frames to show.

    numbers: which frames `source` and `target` hold, (H, W, 3) uint8 each.
    """

    words: str
    batch: EncodedBatch
    numbers: tuple[int, ...]
    source: list[np.ndarray]
    target: list[np.ndarray]


def held_out_samples(config: TrainConfig, encoders: Encoders, count: int) -> list[HeldOut]:
    """The first `count` held-out pairs, encoded: read from `watch.validation_manifest`, or else drawn from what is kept
    out of training. Raises ConfigError where there are none."""
    if config.data.source == "rendered" and not config.watch.validation_manifest:
        from training.data.drawn.scenes import held_out_pairs

        pairs = held_out_pairs(config.data.rendered.pack, config.data.rendered.frames, count)
    elif config.watch.validation_manifest:
        pairs = _read(config, count)
    else:
        raise ConfigError(
            "watch.validation_manifest: name a manifest of pairs that are not trained on, or set watch.validate_every "
            "and watch.sample_every_minutes to 0"
        )
    anchored = config.objective.semantic_weight > 0
    samples = []
    for number, pair in enumerate(pairs):
        sample = _encoded(encoders, *pair, anchored)
        if sample.batch.finite().all():
            samples.append(sample)
        else:
            logger.warning("not used for validation: pair %d, %r, does not encode to finite values", number, pair[2])
    if not samples:
        origin = config.watch.validation_manifest or "what is drawn"
        raise ConfigError(f"{origin} has no pair that can be used for validation")
    return samples


def _read(config: TrainConfig, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """The first pairs of the manifest that pass the checks, read as training reads its own: same sizes, same rate."""
    from training.data.files.buckets import assign, signatures
    from training.data.files.checks import shared_catalogue
    from training.data.files.paired import PairedClips, Reading

    sets = (SetConfig(manifest=config.watch.validation_manifest),)
    manifest = replace(config.data.manifest, sets=sets)
    catalogue = shared_catalogue(manifest, Path(config.output))
    known = signatures(manifest)
    chosen, short = assign(catalogue, manifest, known)
    for drop in (*catalogue.dropped, *short):
        logger.warning("not used for validation: %s: %s: %s", drop.origin, drop.reason, drop.detail)
    clips = PairedClips(catalogue, chosen, known, Reading(config.seed, manifest.fps, manifest.extract, pretext=False))
    for index in np.flatnonzero((chosen >= 0) & catalogue.edits)[:count]:
        sample = catalogue[int(index)]
        source, target = clips.clips(sample, known[chosen[index]])
        assert source is not None  # of a pair
        yield source.pixels().numpy(), target.pixels().numpy(), sample.record.prompt


def _encoded(encoders: Encoders, source: np.ndarray, target: np.ndarray, words: str, anchored: bool) -> HeldOut:
    clips = torch.from_numpy(np.stack([source, target]))
    latents = encoders.latents(clips)
    picture = clips[1, :1].permute(0, 3, 1, 2).to(encoders.device)
    text = encoders.text_states([encoders.prompt(words)])
    anchors = encoders.anchors(picture) if anchored else None
    batch = EncodedBatch(latents[:1], latents[1:], text, anchors)
    numbers = shown_frames(len(source))
    return HeldOut(words, batch, numbers, [source[i] for i in numbers], [target[i] for i in numbers])
