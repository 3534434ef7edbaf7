"""The order of samples: nothing lost, nothing twice, the same everywhere and after every resumption."""

import itertools
from collections import Counter

import numpy as np
import pytest

from training.data.files.buckets import Signature
from training.data.files.sampler import Sampler, make_groups
from training.errors import ConfigError

IMAGE, SHORT, LONG = known = [Signature(1, 192, 192), Signature(5, 192, 192), Signature(9, 256, 144)]
SIZES = {IMAGE: 4, SHORT: 3, LONG: 2}


def groups(counts, weights=(1.0,), share=0.5):
    """counts: of each set, of each signature."""
    numbers = np.repeat(np.arange(len(counts)), [sum(row) for row in counts])
    chosen = np.concatenate([np.repeat(np.arange(len(row)), row) for row in counts])
    return make_groups(numbers, chosen, known, weights, share)


def samplers(found, places=1, seed=0):
    return [Sampler(found, SIZES, seed, rank, places) for rank in range(places)]


def drawn(sampler, epochs):
    return [draw for epoch in epochs for step in sampler.steps(epoch) for draw in step.draws]


def test_every_sample_comes_once_before_any_comes_again():
    found = groups([[0, 17, 14]])
    draws = [draw for sampler in samplers(found, 3) for draw in drawn(sampler, range(12))]
    assert len(set(draws)) == len(draws), "a draw came twice"
    for turn in range(10):  # a remainder at the end of the last epoch is still to come
        assert {draw.sample for draw in draws if draw.turn == turn} == set(range(31))


def test_what_does_not_fill_a_micro_step_is_carried_over():
    found = groups([[0, 5, 0]])  # batches of 3: an epoch has one, then two
    (sampler,) = samplers(found)
    assert [len(sampler.steps(epoch)) for epoch in range(6)] == [1, 2, 2, 1, 2, 2]
    turns = [draw.turn for step in sampler.steps(1) for draw in step.draws]
    assert sorted(turns) == [0, 0, 1, 1, 1, 1]


def test_fewer_samples_than_places_need_wait_for_a_later_epoch():
    sampler, other = samplers(groups([[0, 2, 0]]), 2)
    assert [len(sampler.steps(epoch)) for epoch in range(6)] == [0, 0, 1, 0, 0, 1]
    assert len(set(drawn(sampler, range(6)) + drawn(other, range(6)))) == 12
    first = list(itertools.islice(iter(sampler), 4))
    assert [step.epoch for step in first] == [2, 5, 8, 11]


def test_places_get_the_same_buckets_at_the_same_time_and_different_samples():
    sides = [sampler.steps(1) for sampler in samplers(groups([[40, 30, 20]]), 4)]
    assert len({len(steps) for steps in sides}) == 1
    for steps in zip(*sides, strict=True):
        assert len({step.signature for step in steps}) == 1
        draws = [draw for step in steps for draw in step.draws]
        assert len(set(draws)) == len(draws) == 4 * SIZES[steps[0].signature]


def test_the_order_is_a_function_of_seed_and_epoch():
    found = groups([[20, 30, 10], [0, 9, 9]], (1.0, 0.5))
    one, again, other = Sampler(found, SIZES, 0), Sampler(found, SIZES, 0), Sampler(found, SIZES, 1)
    list(itertools.islice(iter(one), 50))  # what was drawn before does not matter
    assert one.steps(7) == again.steps(7)
    assert one.steps(7) != other.steps(7)
    assert [step.draws for step in one.steps(7)] != [step.draws for step in one.steps(8)]


def test_every_pass_over_a_set_has_another_order():
    """An epoch takes a quarter of the set, so that which samples come together is the set's order, not the bucket's."""
    (sampler,) = samplers(groups([[0, 48, 0]], (0.25,)))
    passes = [[{draw.sample for draw in drawn(sampler, [4 * turn + part])} for part in range(4)] for turn in range(6)]
    for quarters in passes:
        assert [len(part) for part in quarters] == [12] * 4 and len(set.union(*quarters)) == 48
    firsts = {frozenset(quarters[0]) for quarters in passes}
    assert len(firsts) == len(passes), "two passes begin with the same quarter"


def test_every_epoch_mixes_the_sets_of_a_bucket_anew():
    (sampler,) = samplers(groups([[0, 30, 0], [0, 30, 0]], (1.0, 1.0)))
    mixed = [
        Counter(sum(draw.sample >= 30 for draw in step.draws) for step in sampler.steps(epoch)) for epoch in range(8)
    ]
    assert all(counts.total() == 20 for counts in mixed)
    assert len({tuple(sorted(counts.items())) for counts in mixed}) > 3, "the sets meet in the same pattern every time"


@pytest.mark.parametrize("taken", [0, 1, 13, 14, 60])
def test_a_resumption_goes_on_as_if_nothing_had_happened(taken):
    found = groups([[20, 30, 10]])
    (whole,) = samplers(found)
    steps = list(itertools.islice(iter(whole), 90))
    (first,) = samplers(found)
    for step in itertools.islice(iter(first), taken):
        first.take(step)
    (second,) = samplers(found)
    second.load_state_dict(first.state_dict())
    assert list(itertools.islice(iter(second), 90 - taken)) == steps[taken:]


def test_looking_ahead_does_not_move_the_position():
    (sampler,) = samplers(groups([[20, 30, 10]]))
    ahead = list(itertools.islice(iter(sampler), 20))
    sampler.take(ahead[2])
    assert sampler.state_dict() == {"epoch": 0, "taken": 3, "places": 1}
    assert next(iter(sampler)) == ahead[3]


@pytest.mark.parametrize("counts", [(1, 2, 3), (4, 1, 2), (3, 2, 2)])
def test_another_number_of_places_draws_what_is_left(counts):
    """Three sessions of one run with so many places each: what they draw of each bucket is, in order, what one place
    would have drawn of it in one go."""
    made = groups([[40, 33, 12], [25, 0, 31]], share=0.5)
    state, seen = {}, {}
    for places in counts:
        session = samplers(made, places)
        for sampler in session:
            if state:
                sampler.load_state_dict(state)
        for steps in itertools.islice(zip(*map(iter, session), strict=True), 11):
            assert len({step.signature for step in steps}) == 1
            seen.setdefault(steps[0].signature, []).extend(draw for step in steps for draw in step.draws)
            for sampler, step in zip(session, steps, strict=True):
                sampler.take(step)
        state = session[-1].state_dict()
        assert all(sampler.state_dict() == state for sampler in session)
    (alone,) = samplers(made)
    expected = {}
    for step in itertools.islice(iter(alone), 400):
        expected.setdefault(step.signature, []).extend(step.draws)
    assert len(seen) == 3
    for signature, draws in seen.items():
        assert draws == expected[signature][: len(draws)]


@pytest.mark.parametrize("share", [0.8, 0.5, 0.1])
@pytest.mark.parametrize("images", [30, 3000])
def test_images_are_their_share_in_every_stretch(share, images):
    (sampler,) = samplers(groups([[images, 300, 300]], share=share))
    steps = list(itertools.islice(iter(sampler), 1200))
    for part in (steps, steps[:400], steps[400:800]):
        kinds = Counter()
        for step in part:
            kinds[step.signature.is_image] += len(step.draws)
        assert kinds[True] / kinds.total() == pytest.approx(share, abs=0.04)


def test_a_kind_alone_needs_no_share_and_a_share_of_all_leaves_one_kind():
    assert [group.rate for group in groups([[0, 5, 3]], share=0.8)] == [1, 1]
    assert [group.signature for group in groups([[4, 5, 3]], share=1.0)] == [IMAGE]
    assert [group.signature for group in groups([[4, 5, 3]], share=0.0)] == [SHORT, LONG]


def test_weights_say_how_often_a_set_is_drawn():
    found = groups([[0, 20, 0], [0, 20, 0], [0, 20, 0]], (1.0, 2.5, 0.0))
    counts = Counter(draw.sample // 20 for draw in drawn(samplers(found)[0], range(30)))
    assert set(counts) == {0, 1}
    assert counts[1] / counts[0] == pytest.approx(2.5, abs=0.05)
    per_sample = Counter(draw.sample for draw in drawn(samplers(found)[0], range(30)) if draw.sample >= 20)
    assert max(per_sample.values()) - min(per_sample.values()) <= 1


def test_nothing_to_draw_is_refused():
    with pytest.raises(ConfigError, match="no sample is left"):
        Sampler([], SIZES, 0)
