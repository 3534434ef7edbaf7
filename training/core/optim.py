"""The optimisers and their schedule: Muon for matrices and convolutions, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.config import OptimiserConfig

BETAS = (0.9, 0.99)


class FlattenedMuon(torch.optim.Muon):
    """`torch.optim.Muon` for weights of any rank: a convolution is the matrix (out, in * kernel), sharing storage.

    `found_inf`, an attribute as torch's fused optimisers have it, undoes the step where it is 1, without asking the
    device; weights and momentum are copied for that.
    """

    def __init__(self, weights: Iterable[Tensor], **options: Any) -> None:
        self._weights = list(weights)
        self._matrices = [nn.Parameter(weight.detach().view(weight.shape[0], -1)) for weight in self._weights]
        super().__init__(self._matrices, **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; `closure` as in `torch.optim.Optimizer`."""
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.view_as(matrix)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is None:
            return super().step(closure)
        own = [(matrix.clone(), self._momentum(matrix).clone()) for matrix in self._matrices]
        result, skip = super().step(closure), found_inf.bool()
        for matrix, (weights, momentum) in zip(self._matrices, own, strict=True):
            matrix.copy_(torch.where(skip, weights, matrix))
            self._momentum(matrix).copy_(torch.where(skip, momentum, self._momentum(matrix)))
        return result

    def _momentum(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)  # as Muon itself begins
        momentum: Tensor = state["momentum_buffer"]
        return momentum


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon trains a weight: hidden ones only. Embeddings and the outer layers keep AdamW, as Muon's authors
    advise."""
    outer = ("embedding", "embeddings", "patch_embedding", "proj_out", "conv_in", "conv_out", "head.proj", "probe")
    return name.endswith("weight") and parameter.ndim >= 2 and not any(part in name for part in outer)


def build_optimisers(model: nn.Module, config: OptimiserConfig) -> list[torch.optim.Optimizer]:
    """Optimisers of the trainable parameters of `model`, which must already be on its device.

    `muon`: Muon for matrices, AdamW without weight decay for the rest. `adamw`: AdamW for all, with weight decay on
    everything but norms, biases and tables. AdamW is fused, which can skip a step on the device: `step_unless`.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if config.name == "adamw":
        decayed = [parameter for name, parameter in named if name.endswith("weight") and parameter.ndim >= 2]
        plain = [parameter for name, parameter in named if not (name.endswith("weight") and parameter.ndim >= 2)]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [group for group in groups if group["params"]], lr=config.learning_rate, betas=BETAS, fused=True
            )
        ]
    else:
        matrices = [parameter for name, parameter in named if is_matrix(name, parameter)]
        others = [parameter for name, parameter in named if not is_matrix(name, parameter)]
        decay, optimisers = config.weight_decay, []
        if matrices:
            rate = config.learning_rate
            optimisers.append(FlattenedMuon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
        if others:
            rate = config.adam_learning_rate
            optimisers.append(torch.optim.AdamW(others, lr=rate, betas=BETAS, weight_decay=0.0, fused=True))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return optimisers


def step_unless(optimisers: Iterable[torch.optim.Optimizer], skip: Tensor) -> None:
    """Step, or leave weights, momenta and step counts exactly as they are where `skip`, a bool tensor without
    dimensions, is true. The host does not wait for
    `skip`."""
    found_inf = skip.float()
    for optimiser in optimisers:
        optimiser.found_inf = found_inf  # type: ignore[attr-defined]
        optimiser.step()
        del optimiser.found_inf  # type: ignore[attr-defined]


def state_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor of an optimiser's state by a stable name, to be stored, or to be overwritten by what was stored.

    A fresh optimiser has none: it takes a step of rate zero on gradients of zero, which changes no weight.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    if not optimiser.state:
        _make_state(optimiser)
    return {
        f"{number}.{name}": value
        for number, parameter in enumerate(parameters)
        for name, value in optimiser.state[parameter].items()
        if isinstance(value, Tensor)
    }


def _make_state(optimiser: torch.optim.Optimizer) -> None:
    trained = optimiser._weights if isinstance(optimiser, FlattenedMuon) else None
    parameters = trained or [parameter for group in optimiser.param_groups for parameter in group["params"]]
    rates = [group["lr"] for group in optimiser.param_groups]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    optimiser.step()
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimiser.state.values():
        if "step" in state:
            state["step"].zero_()  # it was none: the first real step corrects its bias as the first
    for parameter in parameters:
        parameter.grad = None
    optimiser.zero_grad(set_to_none=True)


def rate_factor(step: int, progress: float, config: OptimiserConfig) -> float:
    """The learning rate's factor, a trapezoid: warm-up by steps, a plateau, and a linear fall to zero over the last
    `decay_share` of the run.

    progress: how much of the run is over, 0 to 1, by steps or by time.
    """
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay = min(1.0, (1.0 - progress) / max(config.decay_share, 1e-9))
    return warmup * max(decay, 0.0)


def set_rates(optimisers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Scale every group's initial learning rate by `factor`."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
