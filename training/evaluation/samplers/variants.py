"""The ways of sampling that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One way of sampling.

    scheduler: a name of `sama.edit.request.SCHEDULERS`. guided: whether guidance acts, with the model's own scale.
    interval: noise levels between which it does, None for all. cache: threshold of the first block's cache, or None.
    few_steps: whether the model wears its LoRA for few steps.
    """

    scheduler: str
    steps: int
    guided: bool = True
    interval: tuple[float, float] | None = None
    cache: float | None = None
    few_steps: bool = False

    @property
    def name(self) -> str:
        """What tables call it, such as "Euler 10, guidance from 0.7 to 1"."""
        parts = [f"{'UniPC' if self.scheduler == 'unipc' else 'Euler'} {self.steps}"]
        if self.few_steps:
            parts.append("LoRA for few steps")
        elif not self.guided:
            parts.append("no guidance")
        elif self.interval is not None:
            parts.append(f"guidance from {self.interval[0]:g} to {self.interval[1]:g}")
        if self.cache is not None:
            parts.append(f"cache {self.cache:g}")
        return ", ".join(parts)

    @property
    def arguments(self) -> dict[str, Any]:
        """What `SamaPipeline` is called with."""
        from sama.pipeline.schedule import scheduler_of_kind

        return {
            "num_inference_steps": self.steps,
            "guidance_scale": None if self.guided else 1.0,
            "guidance_interval": self.interval,
            "cache_threshold": self.cache,
            "scheduler": scheduler_of_kind(self.scheduler),
        }


EXACT = Variant("euler", 40)
"""What the others are compared with: so many steps that more of them change nothing that is seen."""

VARIANTS = (
    EXACT,
    *(Variant("euler", steps) for steps in (20, 12, 10, 8, 6, 4, 2, 1)),
    *(Variant("euler", steps, guided=False) for steps in (10, 8, 6, 4, 2, 1)),
    *(Variant("euler", steps, guided=False, few_steps=True) for steps in (4, 3, 2, 1)),
    *(Variant("unipc", steps) for steps in (12, 10, 8, 6, 4, 2, 1)),
    *(Variant("unipc", steps, guided=False) for steps in (6, 4, 2)),
    *(Variant("euler", 10, interval=interval) for interval in ((0.9, 1), (0.7, 1), (0.4, 0.9), (0, 0.7))),
    *(Variant(scheduler, 6, interval=(0.7, 1)) for scheduler in ("euler", "unipc")),
    *(Variant("euler", 4, interval=interval) for interval in ((0.9, 1), (0.7, 1))),
    *(Variant("euler", 10, cache=threshold) for threshold in (0.05, 0.1, 0.2)),
)
