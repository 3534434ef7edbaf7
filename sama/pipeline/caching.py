"""A cache over denoising steps: diffusers' First Block Cache, which judges by the target's tokens.

The first block is always computed. Where what it adds to the tokens is nearly what it added at the last step that was
computed in full, the other blocks are taken to add what they added then, too. diffusers compares whole sequences;
here half of a sequence is the source, which is the same at every step, so that only the target's tokens are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks import FirstBlockCacheConfig, HookRegistry
from diffusers.hooks.first_block_cache import _FBC_LEADER_BLOCK_HOOK
from torch import Tensor

from sama.model.transformer import SamaTransformer3DModel, patch_grid


@contextmanager
def first_block_cache(transformer: SamaTransformer3DModel, threshold: float) -> Iterator[None]:
    """Cache between the evaluations of a run, each in a `cache_context` of its own kind; the cache is gone afterwards.

    threshold: relative change of the first block's work, at or below which the other blocks are left out; 0 computes
        all, unless nothing changes.
    Raises ValueError for a transformer of one block, or one that has a cache already.
    """
    if len(transformer.blocks) < 2:
        raise ValueError("a model of one block has nothing to cache")
    transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    judge = _TargetJudge(threshold, HookRegistry.check_if_exists_or_initialize(transformer.blocks[0]))
    looking = transformer.register_forward_pre_hook(judge.look, with_kwargs=True)
    try:
        yield
    finally:
        looking.remove()
        transformer.disable_cache()


class _TargetJudge:
    """Decides, in place of diffusers' own rule, whether the blocks after the first one are computed."""

    def __init__(self, threshold: float, registry: HookRegistry) -> None:
        self._threshold = threshold
        self._targets = 0
        self._hook: Any = registry.get_hook(_FBC_LEADER_BLOCK_HOOK)
        self._hook._should_compute_remaining_blocks = self._must_compute

    def look(self, transformer: SamaTransformer3DModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count the target's tokens, which stand last, before an evaluation."""
        latents = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        self._targets = int(torch.Size(patch_grid(latents, transformer.config["patch_size"])).numel())

    @torch.compiler.disable
    def _must_compute(self, added: Tensor) -> bool:
        """added: (B, N, D), what the first block has just added to the tokens."""
        known = self._hook.state_manager.get_state().head_block_residual
        if known is None:
            return True
        before = known[:, -self._targets :].float()
        change = (added[:, -self._targets :].float() - before).abs().mean() / before.abs().mean()
        return float(change) > self._threshold
