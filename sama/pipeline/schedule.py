"""Sampling: noise levels, guidance, and the scheduler of one run. Pure functions over velocities (noise minus clean).

A latent at noise level sigma is `(1 - sigma) * clean + sigma * noise`, so that `clean = latent - sigma * velocity`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

TIMESTEPS = 1000
"""The model is told the noise level as `TIMESTEPS * sigma`."""

_ROUNDING = 1e-6  # schedulers hold noise levels as float32

FlowScheduler: TypeAlias = FlowMatchEulerDiscreteScheduler | UniPCMultistepScheduler


def shifted_sigmas(num_steps: int, shift: float) -> list[float]:
    """Noise levels at which the model is evaluated, from 1 down; the last step ends at 0, which is not listed.

    Equal steps from 1 to 0, moved towards noise: `shift * s / (1 + (shift - 1) * s)`. Raises ValueError below one step
    and for a shift that is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"an edit needs at least one denoising step, not {num_steps}")
    if shift <= 0:
        raise ValueError(f"the shift of the schedule must be positive, not {shift}")
    even = [1 - step / num_steps for step in range(num_steps)]
    return [shift * sigma / (1 + (shift - 1) * sigma) for sigma in even]


SCHEDULER_KINDS: dict[str, type[FlowScheduler]] = {
    "euler": FlowMatchEulerDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
}


def scheduler_of_kind(name: str, own: FlowScheduler | None = None) -> FlowScheduler:
    """A scheduler by name, a key of `SCHEDULER_KINDS`: `own` where it is of that kind, else a plain one. A run takes
    its kind only: the noise levels are the pipeline's."""
    kind = SCHEDULER_KINDS[name]
    return own if isinstance(own, kind) else kind()


def run_scheduler(
    template: FlowScheduler, num_steps: int, shift: float, device: torch.device | None = None
) -> FlowScheduler:
    """A scheduler of the template's kind that holds the noise levels of `shifted_sigmas`, for one stream of one run.

    Schedulers carry state (the step index, UniPC's history), so each of the two streams gets its own and the template
    stays untouched. The shift is applied here only: left to themselves, schedulers apply it twice or stop above 0.
    Raises ValueError for a scheduler that does not integrate flows.
    """
    fixed: dict[str, object] = {"use_dynamic_shifting": False, "shift_terminal": None}
    if isinstance(template, FlowMatchEulerDiscreteScheduler):
        fixed |= {"shift": 1.0}
    elif isinstance(template, UniPCMultistepScheduler):
        fixed |= {"flow_shift": 1.0, "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    else:
        raise ValueError(
            f"{type(template).__name__} cannot sample this model: use FlowMatchEulerDiscreteScheduler or "
            "UniPCMultistepScheduler"
        )
    scheduler = type(template).from_config(template.config, **fixed)
    scheduler.set_timesteps(sigmas=np.array(shifted_sigmas(num_steps, shift)), device=device)
    return scheduler


def guide(
    positive: Tensor,
    negative: Tensor | None = None,
    without_source: Tensor | None = None,
    guidance_scale: float = 1.0,
    source_guidance_scale: float = 1.0,
) -> Tensor:
    """Classifier-free guidance, on the text and optionally on the source clip as well:

        v = v(source, negative) + guidance_scale * (v(source, prompt) - v(source, negative))
          + (source_guidance_scale - 1) * (v(source, negative) - v(no source, negative))

    This is InstructPix2Pix's two-scale guidance (arXiv 2211.09800, eq. 3), which a source scale of 1 reduces to the
    plain one. Without a negative pass (scale 1) the prompt takes its place in the second line. It serves the video's
    velocity and the semantic one alike.

    positive, negative, without_source: velocities of one shape; those that a scale of 1 leaves out are None.
    """
    reference = positive if negative is None else negative
    guided = positive if negative is None else negative + guidance_scale * (positive - negative)
    if without_source is not None:
        guided = guided + (source_guidance_scale - 1) * (reference - without_source)
    return guided


def guided_at(sigma: float, interval: tuple[float, float] | None) -> bool:
    """Whether guidance acts at noise level `sigma`: everywhere, or from the interval's first level to its second."""
    return interval is None or interval[0] - _ROUNDING <= sigma <= interval[1] + _ROUNDING


def guidance_passes(guidance_scale: float, source_guidance_scale: float | None = None) -> int:
    """How many evaluations of the model a guided step takes."""
    return 1 + (guidance_scale != 1) + (source_guidance_scale not in (None, 1))


def denoised(sample: Tensor, velocity: Tensor, sigma: float) -> Tensor:
    """The clean sample that a velocity at noise level `sigma` (0 to 1) implies."""
    return sample - sigma * velocity
