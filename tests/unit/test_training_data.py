"""What the editor learns from: groups rendered by workers, kept and drawn on the device."""

from collections import Counter

import numpy as np
import pytest
import torch

from sama.model.pretext import EDIT_PREFIX, PRETEXT_TASKS
from sama.pipeline.conditioning import PADDING
from sama.shapes import Bucket
from tests.tiny import tiny_tokenizer
from tests.unit.test_procedural import pack  # noqa: F401 - a fixture
from training.data.drawn.latents import LatentStore
from training.data.drawn.scenes import ALL_TASKS, MAX_CLIPS, MAX_PAIRS, NO_TASK, GroupedPairs, RenderedGroups, stream
from training.data.sizes import tiny_buckets
from training.synth.edits.tasks import TASKS
from training.synth.material.pack import Pack
from training.synth.scenes.render import render_group

CPU = torch.device("cpu")
TEXT_LENGTH = 64
WIDE, TALL = Bucket(256, 144), Bucket(144, 256)


def group(number, tasks, bucket=WIDE, clips=4, wordings=3):
    """A group of which everything tells its number: latents number * 100 + clip, anchors number, words number and
    task. Pair k leads from clip k to clip k + 1 (restorations: from the last clip to the first)."""
    pairs = torch.full((MAX_PAIRS, 3), NO_TASK, dtype=torch.int16)
    pairs[:, :2] = 0
    tokens = torch.zeros(MAX_PAIRS, wordings, TEXT_LENGTH, dtype=torch.int32)
    for row, task in enumerate(tasks):
        ends = (clips - 1, 0) if task in PRETEXT_TASKS else (row % (clips - 2), row % (clips - 2) + 1)
        pairs[row] = torch.tensor((*ends, ALL_TASKS.index(task)))
        tokens[row, :, 0], tokens[row, :, 1] = number, ALL_TASKS.index(task)
        tokens[row, :, 2] = torch.arange(wordings)
    anchors = torch.full((clips - 1, 3, 128, 128), number, dtype=torch.uint8)
    anchors[:, 0, 0, 0] = torch.arange(clips - 1)
    latents = (number * 100 + torch.arange(clips)).float().view(-1, 1, 1, 1, 1).expand(-1, 2, 1, 2, 2)
    return {"bucket": bucket, "pairs": pairs, "tokens": tokens, "anchors": anchors}, latents


def store(capacity=4, weights=None, seed=0):
    return LatentStore(CPU, capacity, weights or {}, seed)


def tasks_of(batch):
    return Counter(ALL_TASKS[index] for index in batch.token_ids[:, 1].tolist())


def test_a_store_never_mixes_groups_after_wrap_around():
    kept = store(capacity=3)
    for number in range(8):  # latents are stored in bfloat16, which knows these numbers
        kept.add(*group(number % 2 + 1, ["add", "remove", "cube"], clips=4 + number % 3))
        for draw in range(4):
            batch = kept.draw(4 * number + draw, 16, 0.25)
            numbers = batch.token_ids[:, 0]
            source, target = (latents[:, 0, 0, 0, 0].long() for latents in (batch.source, batch.target))
            assert torch.equal(source // 100, numbers) and torch.equal(target // 100, numbers)
            assert torch.equal(batch.pictures[:, 1, 5, 5].long(), numbers)
            assert torch.equal(batch.pictures[:, 0, 0, 0].long(), target % 100)
            edits, restorations = slice(0, 12), slice(12, 16)
            assert torch.equal(target[edits], source[edits] + 1)
            assert (target[restorations] % 100 == 0).all() and (source[restorations] % 100 >= 3).all()


def test_the_oldest_group_goes_and_the_others_stay():
    kept = store(capacity=2)
    for number in (1, 2, 3):
        kept.add(*group(number, ["add", "add", "tube"]))
        kept.add(*group(number, ["add"], TALL, clips=3))
    assert kept.counts() == {"groups": 4, "clips": 14, "edits": 6, "restorations": 2}
    seen = {int(number) for draw in range(20) for number in kept.draw(draw, 16, 0.0).token_ids[:, 0]}
    assert seen == {2, 3}


def test_a_shorter_group_leaves_nothing_of_its_predecessor():
    kept = store(capacity=1)
    kept.add(*group(1, ["add"] * 20, clips=8))
    assert (kept.draw(0, 8, 0.0).token_ids[:, 0] == 1).all()
    kept.add(*group(2, ["remove"], clips=3))
    batch = kept.draw(1, 64, 0.0)
    assert (batch.token_ids[:, 0] == 2).all() and tasks_of(batch) == {"remove": 64}


def test_tasks_are_drawn_by_weight_however_many_pairs_they_have():
    kept = store(weights={"add": 3.0, "style": 0.0})
    kept.add(*group(1, ["remove"] * 9 + ["add"] + ["style"] * 4 + ["recolour"] * 2 + ["cube"]))
    kept.add(*group(2, ["remove"] * 9 + ["recolour"] * 6))
    drawn = tasks_of(kept.draw(0, 4000, 0.0))
    assert set(drawn) == {"add", "remove", "recolour"}
    assert drawn["add"] / 4000 == pytest.approx(0.6, abs=0.04)
    assert drawn["remove"] / drawn["recolour"] == pytest.approx(1.0, abs=0.2)


def test_the_share_of_restorations_is_exact():
    kept = store()
    kept.add(*group(1, ["add", "cube", "tube", "tube", "tube"]))
    for size, share, expected in ((20, 0.15, 3), (96, 0.15, 14), (10, 0.0, 0), (10, 1.0, 10)):
        drawn = tasks_of(kept.draw(0, size, share))
        assert sum(drawn[task] for task in PRETEXT_TASKS) == expected
    drawn = tasks_of(kept.draw(1, 2000, 1.0))  # evenly by pair: the groups were drawn in the tasks' shares
    assert drawn["cube"] / 2000 == pytest.approx(0.25, abs=0.05)
    bare = store()
    bare.add(*group(1, ["add"]))
    assert tasks_of(bare.draw(0, 10, 0.5)) == {"add": 10}


def test_every_wording_and_group_is_drawn():
    kept = store(capacity=8)
    for number in range(1, 7):
        kept.add(*group(number, ["add", "remove"]))
    seen = Counter(tuple(row[:3].tolist()) for row in kept.draw(0, 3600, 0.0).token_ids)
    assert len(seen) == 6 * 2 * 3 and min(seen.values()) > 60


def test_every_round_has_each_bucket_once_in_the_order_of_all_ranks():
    def buckets(rank):
        kept = LatentStore(CPU, 4, {}, 0, rank)
        for bucket, number in ((WIDE, 1), (WIDE, 2), (TALL, 8), (Bucket(192, 192), 9)):
            kept.add(*group(number, ["add"], bucket))
        return [max(int(kept.draw(number, 1, 0.0).token_ids[0, 0]), 2) for number in range(60)]

    numbers = buckets(0)
    rounds = [tuple(numbers[start : start + 3]) for start in range(0, 60, 3)]
    assert all(sorted(one) == [2, 8, 9] for one in rounds) and len(set(rounds)) > 3
    assert buckets(1) == numbers


def test_a_store_that_begins_later_draws_what_one_from_the_start_does():
    whole, later = store(capacity=3), LatentStore(CPU, 3, {}, 0, gone=4)
    for number in range(7):
        for kept in (whole, later) if number >= 4 else (whole,):
            kept.add(*group(number + 1, ["add", "remove", "cube"], clips=4 + number % 3))
    for number in range(5):
        one, other = whole.draw(number, 16, 0.25), later.draw(number, 16, 0.25)
        assert torch.equal(one.token_ids, other.token_ids) and torch.equal(one.source, other.source)


def test_what_is_drawn_depends_on_the_seed_alone():
    def tokens(seed):
        kept = store(capacity=2, seed=seed)
        drawn = []
        for number in range(1, 5):
            kept.add(*group(number, ["add", "remove", "cube"], (WIDE, TALL)[number % 2]))
            drawn += [kept.draw(3 * number + draw, 8, 0.25).token_ids for draw in range(3)]
        return torch.stack(drawn)

    assert torch.equal(tokens(1), tokens(1)) and not torch.equal(tokens(1), tokens(2))


def test_a_store_says_what_it_cannot_do():
    with pytest.raises(RuntimeError, match="nothing was added"):
        store().draw(0, 2, 0.0)
    with pytest.raises(ValueError, match=r"unknown tasks \['explode'\].*recolour"):
        store(weights={"explode": 1.0})
    with pytest.raises(ValueError, match="without pairs"):
        store().add(*group(1, []))
    with pytest.raises(ValueError, match="room"):
        store(capacity=0)


# What comes from the workers


@pytest.fixture
def words(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.fixture
def samples(pack, words, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Pack, "load", lambda folder: pack)

    def make(count, seed=0, rank=0, workers=0, start=0):
        groups = stream(
            RenderedGroups("", 5, GroupedPairs(words, "first", TEXT_LENGTH, 2), seed, rank, start=start), workers
        )
        return [next(groups) for _ in range(count)]

    return make


def test_samples_have_the_shapes_that_they_promise(samples):
    for sample in samples(6):
        bucket = Bucket(*sample["bucket"])
        count = len(sample["clips"])
        assert bucket in tiny_buckets() and count <= MAX_CLIPS
        assert sample["clips"].shape == (count, 5, bucket.height, bucket.width, 3)
        assert sample["clips"].dtype == torch.uint8 and sample["clips"].is_contiguous()
        assert sample["anchors"].shape == (count - 2, 3, 128, 128)
        assert sample["pairs"].shape == (MAX_PAIRS, 3) and sample["tokens"].shape == (MAX_PAIRS, 2, TEXT_LENGTH)
        used = sample["pairs"][:, 2] < NO_TASK
        pairs, tokens = sample["pairs"][used], sample["tokens"][used]
        assert used.sum() > 4 and (sample["tokens"][~used] == PADDING).all()
        assert (pairs[:, 1] < count - 2).all() and (pairs[:, 0] < count).all()
        assert (pairs[:-2, 2] < len(TASKS)).all() and (pairs[-2:, 2] >= len(TASKS)).all()
        assert pairs[-2:, 0].tolist() == [count - 2, count - 1]
        for source, target, task in pairs.tolist():
            if source < count - 2:
                same = torch.equal(sample["clips"][source], sample["clips"][target])
                assert same == (ALL_TASKS[task] == "identity")
        assert (tokens[:, :, 0] == tokens[0, 0, 0]).all() and (tokens[:, :, 1:] > 0).any(-1).all()


def test_prompts_hold_their_task(samples, words):
    decode = tiny_tokenizer()
    prefix = decode(EDIT_PREFIX)["input_ids"][1:-1]
    for sample in samples(2):
        for (_, _, task), tokens in zip(sample["pairs"].tolist(), sample["tokens"].tolist(), strict=True):
            for wording in tokens if task < NO_TASK else []:
                marked = any(wording[place : place + len(prefix)] == prefix for place in range(len(wording)))
                assert marked == (task < len(TASKS))


def test_samples_depend_on_the_seed_and_the_rank_alone(samples):
    first, again, other, elsewhere = samples(2), samples(2), samples(2, seed=1), samples(2, rank=1)
    for key in ("clips", "anchors", "pairs", "tokens"):
        assert all(torch.equal(a[key], b[key]) for a, b in zip(first, again, strict=True))
    for one in (other, elsewhere):
        assert not torch.equal(one[0]["tokens"], first[0]["tokens"])


def test_the_number_of_workers_changes_nothing_and_a_stream_may_start_anywhere(samples):
    alone = samples(5)
    for other, first in ((samples(5, workers=1), 0), (samples(5, workers=2), 0), (samples(2, workers=2, start=3), 3)):
        for one, twin in zip(alone[first:], other, strict=True):
            assert torch.equal(one["clips"], twin["clips"]) and torch.equal(one["tokens"], twin["tokens"])


def test_all_ranks_have_the_same_buckets_and_each_once_in_every_five(samples):
    mine, theirs = ([Bucket(*sample["bucket"]) for sample in samples(10, rank=rank)] for rank in (0, 1))
    assert mine == theirs and sorted(mine[:5]) == sorted(mine[5:]) == sorted(tiny_buckets())


def test_batches_of_a_stream_are_its_samples_in_order(pack, words, monkeypatch, samples):  # noqa: F811
    monkeypatch.setattr(Pack, "load", lambda folder: pack)
    whole = RenderedGroups("", 5, GroupedPairs(words, "first", TEXT_LENGTH, 2), 0, batch=(2, list), start=1)
    (one, other), alone = next(stream(whole, 2)), samples(4)
    assert torch.equal(one["clips"], alone[2]["clips"]) and torch.equal(other["clips"], alone[3]["clips"])


def test_no_group_is_too_large_for_its_slot(pack):  # noqa: F811
    for seed in range(60):
        drawn = render_group(pack, seed, WIDE, frames=1)
        assert len(drawn.clips) <= MAX_CLIPS - 2 and len(drawn.pairs) <= MAX_PAIRS - 2


def test_what_does_not_fit_is_left_out_with_its_pairs(pack, words):  # noqa: F811
    drawn = render_group(pack, 1, WIDE, frames=1)
    drawn.clips *= 3
    drawn.captions *= 3
    drawn.pairs *= 4
    sample = GroupedPairs(words, "first", TEXT_LENGTH, 1)(drawn, np.random.default_rng(0), WIDE)
    assert len(sample["clips"]) == MAX_CLIPS and (sample["pairs"][:, 2] < NO_TASK).sum() == MAX_PAIRS
    assert sample["pairs"][:, :2].max() < MAX_CLIPS
