"""A skipped step on a GPU changes nothing, and nobody waits for the device to learn of it."""

import pytest
import torch
from torch import nn

from training.config import GuardConfig, OptimiserConfig
from training.core.ema import Ema
from training.core.guard import Guard
from training.core.optim import build_optimisers, step_unless
from training.parallel.processes import clip_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_skipped_step_changes_nothing_and_waits_for_nothing(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512)).cuda()
    optimisers = build_optimisers(model, OptimiserConfig(name=name, learning_rate=1e-2, weight_decay=0.1))
    ema, guard = Ema(model, 0.9), Guard(GuardConfig())

    def step(inputs):
        model(inputs).square().mean().backward()
        _, broken = clip_gradients(model.parameters(), 1.0)
        step_unless(optimisers, broken)
        ema.update(broken)
        guard.note(broken)
        guard.settle()
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        model.zero_grad(set_to_none=True)

    def state():
        momenta = [value for one in optimisers for kept in one.state.values() for value in kept.values()]
        return [tensor.detach().clone() for tensor in (*model.parameters(), *ema.shadow.values(), *momenta)]

    good = torch.randn(64, 512, device="cuda")
    for _ in range(3):
        step(good)
    guard.settle(wait=True)
    before = state()
    torch.cuda.synchronize()
    busy = torch.randn(8192, 8192, device="cuda")
    torch.cuda.set_sync_debug_mode("error")  # whatever waits for the device raises
    try:
        for _ in range(60):
            busy = busy @ busy * 1e-4
        for _ in range(3):
            step(good * torch.nan)
        known_at_once = guard.last_was_bad
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not known_at_once, "the device is still busy"
    assert guard.state_dict() == [False] * 3 + [True] * 3
    assert all(torch.equal(one, other) for one, other in zip(before, state(), strict=True))
    assert ema.updates == 3
    step(good)
    assert not any(torch.equal(one, other) for one, other in zip(before, state(), strict=True))
