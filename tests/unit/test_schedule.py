import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from sama.pipeline.prompts import clean_prompt, model_prompt, spelled_first
from sama.pipeline.schedule import TIMESTEPS, denoised, guide, run_scheduler, shifted_sigmas
from tests.tiny import golden_tensors


def test_sigmas_are_the_official_ones():
    golden = golden_tensors()
    torch.testing.assert_close(torch.tensor(shifted_sigmas(4, 5.0)), golden["sigmas"].float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(TIMESTEPS * golden["sigmas"].float(), golden["timesteps"].float(), atol=1e-3, rtol=0)
    assert shifted_sigmas(1, 5.0) == [1.0]
    assert shifted_sigmas(4, 1.0) == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize(("steps", "shift"), [(0, 5.0), (-1, 5.0), (4, 0.0), (4, -1.0)])
def test_impossible_schedules_are_refused(steps, shift):
    with pytest.raises(ValueError, match=r"step|shift"):
        shifted_sigmas(steps, shift)


@pytest.mark.parametrize(
    "template",
    [
        FlowMatchEulerDiscreteScheduler(),
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, shift_terminal=0.02),
        UniPCMultistepScheduler(),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ],
)
def test_every_scheduler_steps_through_the_same_sigmas_and_ends_at_the_clean_sample(template):
    golden = golden_tensors()
    scheduler = run_scheduler(template, 4, 5.0)
    torch.testing.assert_close(scheduler.sigmas[:4], golden["sigmas"].float(), atol=2e-6, rtol=0)
    clean, noise = torch.zeros(1, 3, 8), torch.ones(1, 3, 8)
    sample = noise
    for timestep in scheduler.timesteps:
        sample = scheduler.step(noise - clean, timestep, sample, return_dict=False)[0]
    torch.testing.assert_close(sample, clean, atol=1e-4, rtol=0)


def test_the_template_of_a_scheduler_is_left_alone():
    template = FlowMatchEulerDiscreteScheduler()
    before = template.timesteps.clone()
    scheduler = run_scheduler(template, 4, 5.0)
    scheduler.step(torch.ones(1), scheduler.timesteps[0], torch.ones(1))
    assert template.step_index is None
    assert torch.equal(template.timesteps, before)


def test_a_scheduler_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="DDIMScheduler cannot sample"):
        run_scheduler(DDIMScheduler(), 4, 5.0)


def test_guidance_follows_its_formula():
    positive, negative, without = torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor([0.5])
    assert guide(positive).item() == 3.0
    assert guide(positive, negative, None, 5.0).item() == 2 + 5 * (3 - 2)
    assert guide(positive, negative, without, 5.0, 2.0).item() == 2 + 5 * (3 - 2) + (2 - 1) * (2 - 0.5)
    assert guide(positive, negative, without, 5.0, 1.0).item() == guide(positive, negative, None, 5.0).item()
    assert guide(positive, None, without, 1.0, 2.0).item() == 3 + (2 - 1) * (3 - 0.5)


def test_the_clean_sample_follows_from_the_velocity():
    clean, noise, sigma = torch.tensor([2.0]), torch.tensor([-1.0]), 0.25
    sample = (1 - sigma) * clean + sigma * noise
    assert denoised(sample, noise - clean, sigma).item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("prompt", "spelled"),
    [
        ('[Video edit] Add "GOOD DAY"', 'g o o d | d a y : [Video edit] Add "good day"'),
        ('Change "A" to "B2" now', 'b 2 ; a : Change "a" to "b2" now'),
        ("Make it snowy", "Make it snowy"),
        ('Remove the empty sign ""', 'Remove the empty sign ""'),
        ('An odd " quote', 'An odd " quote'),
        ("", ""),
    ],
)
def test_quoted_text_is_spelled_in_front(prompt, spelled):
    assert spelled_first(prompt) == spelled


def test_prompts_are_cleaned():
    assert clean_prompt("  Make\n it   “snowy” &amp; cold ") == 'Make it "snowy" & cold'


def test_prompts_carry_their_prefix():
    assert model_prompt("Make it snowy", "[Video edit]") == "[Video edit] Make it snowy"
    assert model_prompt("", "[Video edit]") == "[Video edit]"
    assert model_prompt("Make it snowy", "") == "Make it snowy"
    assert model_prompt("Say “HI”", "[Video edit]", "first") == 'h i : [Video edit] Say "hi"'
