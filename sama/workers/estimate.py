"""The estimate of an edit on several GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sama.errors import EditError
from sama.model.split import not_a_number, split

if TYPE_CHECKING:
    from sama.edit.estimate import Estimate
    from sama.edit.request import EditRequest

_EXCHANGE = 0.02  # of a pass, for each further process that shares its sequence


def on_several(estimate: Estimate, request: EditRequest, gpus: int) -> Estimate:
    """The estimate of one GPU with steps as quick as several make them; the autoencoder runs on one of them."""
    from sama.edit.estimate import architecture_of

    if gpus < 1:
        raise EditError(not_a_number(gpus))
    if gpus == 1 or estimate.device == "cpu":  # processes of a CPU have its cores among them
        return estimate
    passes = max(1, -(-estimate.forwards // (estimate.windows * estimate.steps)))  # where guidance acts
    chosen = split(gpus, architecture_of(request.preset, request.model).heads, passes)
    share = chosen.rounds(passes) / passes * (1 + _EXCHANGE * (chosen.sequence - 1))
    saved = (1 - share) * estimate.step_seconds
    return replace(
        estimate,
        step_seconds=estimate.step_seconds - saved,
        seconds=estimate.seconds - estimate.windows * estimate.steps * saved,
    )
