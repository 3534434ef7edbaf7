"""Pair checks, buckets and the sizes of batches."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest

from sama.shapes import OFFICIAL_BUCKETS
from tests.media import make_clip, make_truncated
from training.config import ManifestConfig, SetConfig
from training.data.files.buckets import ModelWidth, Signature, assign, batch_sizes, bucket_table, cost, signatures
from training.data.files.checks import find_catalogue, pair_match
from training.data.files.clips import ClipFacts
from training.data.files.manifest import RowError
from training.data.sizes import tiny_buckets

WAN = ModelWidth(5120, 13824)
FACTS = ClipFacts(49, Fraction(24), 832, 480, "a", 1, 1)
OTHER = replace(FACTS, digest="b")


@pytest.mark.parametrize(
    ("source", "target", "offset", "match"),
    [
        (FACTS, OTHER, 0, "frames"),
        (FACTS, replace(OTHER, frames=46), 0, "frames"),
        (FACTS, replace(OTHER, fps=Fraction(16)), 0, "frames"),  # repainted frame by frame, written at another rate
        (replace(FACTS, frames=98, fps=Fraction(48)), OTHER, 0, "time"),
        (FACTS, replace(OTHER, width=1280, height=720), 0, "frames"),
        (replace(FACTS, fps=Fraction(0)), OTHER, 4, "frames"),
    ],
)
def test_pairs_that_belong_together(source, target, offset, match):
    assert pair_match(source, target, offset, 0.1) == match


@pytest.mark.parametrize(
    ("source", "target", "offset", "reason"),
    [
        (FACTS, replace(FACTS, width=416, height=240), 0, "source equals target"),
        (FACTS, replace(OTHER, frames=30), 0, "lengths differ"),
        (FACTS, replace(OTHER, frames=30, fps=Fraction(24)), 0, "lengths differ"),
        (FACTS, replace(OTHER, frames=98, fps=Fraction(12)), 0, "lengths differ"),
        (FACTS, replace(OTHER, frames=1), 0, "a picture with a clip"),
        (FACTS, replace(OTHER, width=640, height=480), 0, "aspect ratios differ"),
        (FACTS, OTHER, 49, "too short"),
    ],
)
def test_pairs_that_do_not(source, target, offset, reason):
    with pytest.raises(RowError) as caught:
        pair_match(source, target, offset, 0.1)
    assert caught.value.reason == reason


def test_a_longer_source_is_taken_where_a_set_says_so():
    assert pair_match(replace(FACTS, frames=101), replace(OTHER, frames=73), 0, 0.3) == "frames"


def catalogue(folder, rows, config=None):
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config or ManifestConfig(buckets="tiny", frames=(1, 5, 9))
    config = replace(config, sets=(SetConfig(str(path)),))
    return find_catalogue(config, folder / "out"), config


def pair(number, **changes):
    return {"source_video": f"s{number}.mp4", "target_video": f"t{number}.mp4", "prompt": "Add snow"} | changes


def test_samples_go_to_the_longest_bucket_that_they_fill(tmp_path):
    for number, (frames, width, height) in enumerate(
        [(5, 96, 54), (8, 54, 96), (9, 96, 96), (4, 96, 54), (30, 96, 64)]
    ):
        make_clip(tmp_path / f"s{number}.mp4", frames=frames, width=width, height=height)
        make_clip(tmp_path / f"t{number}.mp4", frames=frames, width=width, height=height, constant=True)
    found, config = catalogue(tmp_path, [pair(0), pair(1), pair(2), pair(3), pair(4), pair(2, offset=3)])
    known = signatures(config)
    chosen, drops = assign(found, config, known)
    assert [str(known[number]) if number >= 0 else None for number in chosen] == [
        "256x144x5", "144x256x5", "192x192x9", None, "224x160x9", "192x192x5"
    ]  # fmt: skip
    assert [(drop.reason, drop.origin) for drop in drops] == [("too short", f"{tmp_path}/m.jsonl:4")]


def test_a_rate_and_an_even_spread_change_what_a_clip_fills(tmp_path):
    make_clip(tmp_path / "s0.mp4", frames=9, fps=24)
    make_clip(tmp_path / "t0.mp4", frames=9, fps=24, constant=True)
    found, config = catalogue(tmp_path, [pair(0)])
    for changes, frames in (({}, 9), ({"fps": 12.0}, 5), ({"fps": 12.0, "extract": "uniform"}, 9), ({"fps": 48.0}, 9)):
        changed = replace(config, **changes)
        known = signatures(changed)
        (number,) = assign(found, changed, known)[0]
        assert known[number].frames == frames


def test_clips_that_cannot_be_read_are_dropped_with_their_reason(tmp_path):
    whole = make_clip(tmp_path / "s0.mp4", frames=12)
    make_truncated(tmp_path / "t0.mp4", whole)
    make_clip(tmp_path / "t1.mp4", frames=12, constant=True)
    found, _ = catalogue(tmp_path, [pair(0), pair(1), pair(0, target_video="s0.mp4")])
    assert len(found) == 0
    assert [drop.reason for drop in found.dropped] == ["unreadable", "unreadable", "source equals target"]
    assert "t0.mp4" in found.dropped[0].detail and "s1.mp4" in found.dropped[1].detail


def test_a_catalogue_is_made_once_until_something_changes(tmp_path):
    make_clip(tmp_path / "s0.mp4", frames=5)
    make_clip(tmp_path / "t0.mp4", frames=5, constant=True)
    first, config = catalogue(tmp_path, [pair(0)])
    (tmp_path / "s0.mp4").unlink()
    again = find_catalogue(config, tmp_path / "out")
    assert (again.path, len(again), again[0]) == (first.path, 1, first[0])
    assert len(find_catalogue(config, tmp_path / "out", fresh=True)) == 0
    tolerant = replace(config, sets=(replace(config.sets[0], length_tolerance=0.5),))
    assert find_catalogue(tolerant, tmp_path / "out").path != first.path
    (tmp_path / "m.jsonl").write_text("")
    assert find_catalogue(config, tmp_path / "out").path != first.path


def test_batches_of_clips_stay_within_the_largest_one_s_cost_and_memory():
    config = ManifestConfig(video_batch=2, image_batch=7)
    known = signatures(config)
    sizes = batch_sizes(known, config, WAN)
    clips = [signature for signature in known if not signature.is_image]
    largest = max(clips, key=lambda signature: signature.tokens)
    assert sizes[largest] == 2
    for signature in clips:
        assert sizes[signature] * cost(signature.tokens, WAN) <= 2 * cost(largest.tokens, WAN)
        assert sizes[signature] * signature.tokens <= 1.5 * 2 * largest.tokens
    short = next(signature for signature in clips if signature.frames == 17)
    assert sizes[short] > 2 * largest.tokens // short.tokens  # more than at equal tokens: attention is quadratic
    assert {sizes[signature] for signature in known if signature.is_image} == {7}


def test_every_bucket_is_known():
    assert len(signatures(ManifestConfig())) == 5 * len(OFFICIAL_BUCKETS)
    assert len(signatures(ManifestConfig(buckets="tiny", frames=(1,)))) == len(tiny_buckets())


def test_the_cost_of_the_14b_is_the_published_one():
    tokens = Signature(81, 832, 480).tokens
    assert tokens == 65_585
    assert 40 * cost(tokens, WAN) == pytest.approx(5.1e15, rel=0.03)


def test_the_table_shows_every_bucket():
    config = ManifestConfig(buckets="tiny", frames=(1, 17))
    known = signatures(config)
    sizes = batch_sizes(known, config, WAN)
    square = Signature(1, 192, 192)
    lines = bucket_table({square: 40}, sizes, 2, WAN)
    assert len(lines) == 1 + len(known)
    (line,) = [line for line in lines if "192x192x1 " in line]
    assert line.split()[:5] == ["192x192x1", "40", str(square.tokens), "4", "5"]
    assert max(float(line.split()[-1]) for line in lines[1:]) == 1.0
