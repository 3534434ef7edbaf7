"""What the motion pretext tasks do to a clip, by the paper's parameters (section 3.3): only through `PRETEXT_TASKS`, as
the data does."""

import pytest
import torch

from sama.model.pretext import PRETEXT_TASKS
from training.core.randomness import sample_generator

DRAWS = 120
"""Generators that a property is looked at over: what each of eight places takes in is then seen to vary."""


def clip(frames: int, height: int = 4, width: int = 6) -> torch.Tensor:
    """(T, H, W, 1) float: every value is its place's number, so that it tells where it was taken from."""
    return torch.arange(frames * height * width, dtype=torch.float32).view(frames, height, width, 1) + 1


def perturbed(name: str, frames: torch.Tensor, count: int = DRAWS):
    for seed in range(count):
        yield PRETEXT_TASKS[name].perturb(frames, sample_generator(0, 0, seed))


@pytest.mark.parametrize("name", PRETEXT_TASKS)
@pytest.mark.parametrize("length", [5, 17, 81])
def test_a_task_keeps_the_clip_and_its_length_and_says_what_it_hid(name, length):
    frames = clip(length)
    before = frames.clone()
    for found in perturbed(name, frames, 8):
        assert torch.equal(frames, before), "the target is the clip itself"
        assert found.frames.shape == frames.shape and found.frames.dtype == frames.dtype
        assert not torch.equal(found.frames, frames)
        assert torch.equal(found.hidden, (found.frames != frames).squeeze(-1))
    once, again = (PRETEXT_TASKS[name].perturb(frames, sample_generator(3, 1, 4)) for _ in range(2))
    assert torch.equal(once.frames, again.frames)


@pytest.mark.parametrize(("length", "masked"), [(5, 2), (17, 5), (33, 10), (81, 24)])
def test_the_cube_is_one_block_of_three_tenths_of_the_frames_and_never_the_first(length, masked):
    starts = set()
    for found in perturbed("cube", clip(length)):
        hidden = found.hidden.flatten(1)
        assert torch.equal(hidden.all(1), hidden.any(1)), "whole frames"
        numbers = hidden.any(1).nonzero().flatten().tolist()
        assert numbers == list(range(numbers[0], numbers[0] + masked)), "one block"
        assert (found.frames[numbers] == 0.5).all()
        starts.add(numbers[0])
    assert min(starts) == 1, "the first frame says what the clip shows"
    assert max(starts) == length - masked or length > 33, "the block may lie at the end"
    assert len(starts) > min(length - masked, 20) // 2


@pytest.mark.parametrize("length", [5, 17, 81])
def test_the_clip_plays_twice_as_fast_and_never_stands_still(length):
    (found,) = perturbed("speed", clip(length), 1)
    origins = ((found.frames[:, 0, 0, 0] - 1) / 24).long()
    assert torch.equal(found.frames, clip(length)[origins]), "whole frames of the clip, nothing else"
    forward = origins[: length // 2 + 1]
    assert torch.equal(forward, 2 * torch.arange(length // 2 + 1)), "0, 2, 4 ... to the last frame"
    assert (origins.diff().abs() == 2).all(), "twice the speed to the end, forward and then backward"


def test_tubes_are_permuted_as_wholes_across_time_and_space():
    length, height, width = 17, 4, 6
    frames = clip(length, height, width)
    sizes = (8, 2, 3)  # of eight tubes; the last frame stays
    seen, orders, crossed = torch.zeros(8, 8, dtype=torch.bool), set(), 0
    for found in perturbed("tube", frames):
        assert torch.equal(found.frames[16], frames[16])
        origin = found.frames[:16, ..., 0].long() - 1
        tube = _tube(origin, height, width, sizes)
        own = _tube(frames[:16, ..., 0].long() - 1, height, width, sizes)
        order = []
        for place in range(8):
            taken = tube[own == place]
            assert (taken == taken[0]).all(), "a place is filled from one tube"
            assert torch.equal(origin[own == place].diff(), (frames[:16, ..., 0].long() - 1)[own == place].diff())
            order.append(int(taken[0]))
        assert sorted(order) == list(range(8)) and order != list(range(8)), "a permutation, never the identity"
        seen[range(8), order] = True
        orders.add(tuple(order))
        crossed += any((place < 4) != (taken < 4) for place, taken in enumerate(order))
    assert seen.all(), "every tube comes to every place"
    assert len(orders) > DRAWS * 0.95 and crossed > DRAWS * 0.9, "nearly every order takes something across time"


def _tube(numbers: torch.Tensor, height: int, width: int, sizes: tuple[int, int, int]) -> torch.Tensor:
    """Which of the 2 x 2 x 2 tubes the places `numbers` lie in; the first four are the earlier half."""
    frame, row, column = numbers // (height * width), numbers // width % height, numbers % width
    return frame // sizes[0] * 4 + row // sizes[1] * 2 + column // sizes[2]


def test_samples_are_seeded_as_they_were_in_the_first_runs():
    for place in [(0, 0, 0), (3, 1, 4), (2**31, 999, 123_456), (2**61 - 2, 2**40, 1)]:
        expected = torch.Generator().manual_seed(hash(place) & 0x7FFF_FFFF_FFFF_FFFF)  # of CPython, 64 bits
        assert sample_generator(*place).initial_seed() == expected.initial_seed()
