"""The training objective."""

import pytest
import torch

from training.config import ObjectiveConfig
from training.stages.objective import add_noise, edit_weights, losses, sample_sigmas


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


def test_the_velocity_leads_from_any_state_to_clean_and_to_noise():
    clean, noise, sigmas = random(3, 2, 4), random(3, 2, 4, seed=1), torch.tensor([0.1, 0.5, 0.9])
    state, velocity = add_noise(clean, sigmas, noise)
    at = sigmas.view(3, 1, 1)
    torch.testing.assert_close(state - at * velocity, clean)
    torch.testing.assert_close(state + (1 - at) * velocity, noise)


def test_sigmas_are_stratified_and_shifted_towards_noise():
    plain = sample_sigmas(64, ObjectiveConfig(sigma_shift=1.0), generator()).sort().values
    assert plain.min() > 0 and plain.max() < 1
    torch.testing.assert_close(plain.mul(64).floor(), torch.arange(64.0))  # one in each of 64 equal parts
    shifted = sample_sigmas(4096, ObjectiveConfig(sigma_shift=3.0), generator())
    assert shifted.min() > 0 and shifted.max() < 1
    assert shifted.median() == pytest.approx(0.75, abs=0.01)  # 3 / 2 / (1 + 2 / 2)


def test_sigmas_come_in_no_order():
    sigmas = sample_sigmas(64, ObjectiveConfig(), generator())
    assert not torch.equal(sigmas, sigmas.sort().values)


def test_logit_normal_levels_gather_in_the_middle_in_equal_parts():
    config = ObjectiveConfig(timesteps="logit_normal", sigma_shift=1.0)
    levels = sample_sigmas(4096, config, generator()).sort().values
    assert levels.min() > 0 and levels.max() < 1
    normal = torch.logit(levels.double())
    assert normal.mean() == pytest.approx(0.0, abs=1e-3) and normal.std() == pytest.approx(1.0, abs=1e-2)
    parts = torch.special.ndtr(normal) * 4096
    torch.testing.assert_close(parts.floor(), torch.arange(4096.0).double(), atol=1.0, rtol=0)  # float32 at the rims


def test_edit_weights_have_mean_one_and_favour_what_changes():
    source = random(2, 4, 3, 6, 6)
    target = source.clone()
    target[0, :, :, :2, :2] += 1
    weights = edit_weights(source, target, weight=3.0)
    assert weights.shape == (2, 1, 3, 6, 6)
    torch.testing.assert_close(weights.mean(dim=(1, 2, 3, 4)), torch.ones(2))
    torch.testing.assert_close(weights[0, 0, :, :2, :2] / weights[0, 0, 0, 5, 5], torch.full((3, 2, 2), 3.0))
    torch.testing.assert_close(weights[1], torch.ones(1, 3, 6, 6))  # nothing changes: the plain mean
    for plain in (edit_weights(source, target, weight=1.0), edit_weights(None, target, weight=3.0)):
        assert torch.equal(plain, torch.ones(2, 1, 3, 6, 6))


def test_l1_on_the_anchors_velocity_is_l1_on_their_implied_clean_value():
    clean, noise, guess = random(2, 5, 3), random(2, 5, 3, seed=1), random(2, 5, 3, seed=2)
    velocity = add_noise(clean, torch.tensor([0.2, 0.9]), noise).velocity
    video = torch.zeros(2, 1, 1, 1, 1)
    flow, anchors = losses(video, video, torch.ones_like(video), guess, velocity)
    torch.testing.assert_close(anchors, ((noise - guess) - clean).abs().mean(dim=(1, 2)))
    assert flow.shape == (2,) and not flow.any()


def test_the_flow_loss_is_weighted_and_told_per_sample():
    wanted, video = torch.zeros(2, 1, 1, 1, 2), torch.tensor([1.0, 2.0]).view(2, 1, 1, 1, 1).expand(2, 1, 1, 1, 2)
    weights = torch.tensor([0.5, 1.5]).view(2, 1, 1, 1, 1)
    flow, anchors = losses(video, wanted, weights)
    torch.testing.assert_close(flow, torch.tensor([0.5, 6.0]))
    assert anchors is None
