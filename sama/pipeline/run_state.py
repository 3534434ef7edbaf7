"""What a run is doing, in the names by which diffusers' callbacks and caches ask a pipeline."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sama.pipeline.types import SamaRun

_NO_GUIDANCE = (0, 1)


class RunStateMixin:
    """Lets callbacks see and change a run: the part of `SamaPipeline` that the loop keeps up to date."""

    _interrupt = False
    _guidance_scale = 1.0
    _num_timesteps = 0
    _current_timestep: Tensor | None = None

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` from a callback to stop after this step; what there is then is decoded and returned. To
        stop without a result, close `stream`."""
        return self._interrupt

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the latest run. Set `_guidance_scale` from a callback to change it from the next step
        on; 0 or 1, which diffusers' own callbacks set, then end guidance and save the negative pass."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the latest run uses guidance."""
        return self._guidance_scale != 1

    @property
    def num_timesteps(self) -> int:
        """Denoising steps of the latest run."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Where a run is, from 1000 down; None between runs."""
        return self._current_timestep

    def _guided_anew(self, run: SamaRun) -> dict[str, Any]:
        """The run's guidance scale, by name, where a callback has set another one; nothing otherwise.

        Raises ValueError for guidance in a run that was started without.
        """
        scale = self._guidance_scale
        if scale == run.guidance_scale or (scale in _NO_GUIDANCE and run.guidance_scale == 1):
            return {}
        if scale not in _NO_GUIDANCE and run.negative_prompt_embeds is None:
            raise ValueError("a run that starts with a guidance scale of 1 has no negative prompt to guide by later")
        return {"guidance_scale": 1.0 if scale in _NO_GUIDANCE else scale}
