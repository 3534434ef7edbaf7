"""diffusers' caches on this model: what `enable_cache` does beyond the library's own, so that every method works.

The library's methods leave out work that was nearly the same at an earlier step. Three of their assumptions do not hold
here, as they do not for Wan's own model:

- Attention modules are found by names that end in `attn` (TaylorSeer); here they are `attn1` and `attn2`.
- The model sees the two halves of guidance as one batch (FasterCache); here each text is an evaluation of its own.
- An attention module keeps one memory (Pyramid Attention Broadcast, FasterCache); here each kind of evaluation (each
  name of a `cache_context`) needs its own, or the negative prompt's attention is answered with the prompt's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.hooks import FasterCacheConfig, HookRegistry, TaylorSeerCacheConfig, TextKVCacheConfig
from diffusers.hooks.faster_cache import FasterCacheBlockHook, FasterCacheDenoiserHook
from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastHook
from diffusers.models.cache_utils import CacheMixin

_SINGLE_MEMORY = (PyramidAttentionBroadcastHook, FasterCacheBlockHook, FasterCacheDenoiserHook)
_ATTENTION = [r"blocks\.\d+\.attn[12]"]
_BLOCKS = [r"blocks\.\d+"]
_OUTPUTS = ["proj_out", "semantic_head"]


class SamaCacheMixin(CacheMixin):
    """The part of the transformer that caches work on."""

    def enable_cache(self, config: Any) -> None:
        """Cache between denoising steps by one of diffusers' methods, until `disable_cache`.

        config: FirstBlockCacheConfig, MagCacheConfig, SeaCacheConfig, PyramidAttentionBroadcastConfig,
            FasterCacheConfig or TaylorSeerCacheConfig of diffusers. Of FasterCache the part for attention is used.
        Raises ValueError for a second cache, and for methods that are made for other models.
        """
        if isinstance(config, TextKVCacheConfig):
            raise ValueError(
                "TextKVCacheConfig works on diffusers' NucleusMoE image model only: use FirstBlockCacheConfig here"
            )
        super().enable_cache(fitted(config))

    @contextmanager
    def cache_context(self, name: str, **kwargs: Any) -> Iterator[None]:
        """Around the evaluations of one kind, such as `"cond"`: caches remember each kind for itself."""
        first = []
        with super().cache_context(name, **kwargs):
            for hook in self._single_memories():
                memories = hook.__dict__.setdefault("memories", {})
                if name not in memories:
                    memories[name] = type(hook.state)()
                hook.state = memories[name]
                if isinstance(hook, FasterCacheBlockHook) and hook.state.cache is None:
                    # It would answer from an empty memory, where its range of timesteps has begun already.
                    first.append((hook, hook.timestep_skip_range))
                    hook.timestep_skip_range = (0, 0)
            try:
                yield
            finally:
                for hook, reach in first:
                    hook.timestep_skip_range = reach

    def _reset_stateful_cache(self, recurse: bool = True) -> None:
        for hook in self._single_memories():
            hook.__dict__.pop("memories", None)
        super()._reset_stateful_cache(recurse)

    def _single_memories(self) -> Iterator[Any]:
        """Hooks that have one memory for all evaluations."""
        registry = HookRegistry.check_if_exists_or_initialize(self)
        for child in (registry, *registry._get_child_registries()):
            for hook in child.hooks.values():
                if isinstance(hook, _SINGLE_MEMORY):
                    yield hook


def fitted(config: Any) -> Any:
    """A configuration of a cache for this model: the same one, or a changed copy."""
    if isinstance(config, FasterCacheConfig):
        # Without guidance as one batch there is no half of it that could be left out.
        return dataclasses.replace(config, is_guidance_distilled=True)
    if isinstance(config, TaylorSeerCacheConfig):
        if config.use_lite_mode:  # both outputs are predicted: the library knows the first one only
            patterns: dict[str, Any] = {"cache_identifiers": _OUTPUTS, "skip_predict_identifiers": _BLOCKS}
            return dataclasses.replace(config, use_lite_mode=False, **patterns)
        if config.cache_identifiers is None and config.skip_predict_identifiers is None:
            return dataclasses.replace(config, cache_identifiers=_ATTENTION)
    return config
