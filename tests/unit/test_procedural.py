"""The generator of paired edits, on a miniature pack drawn here."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ImageFont

from sama.shapes import TINY_BUCKETS, Bucket
from training.procedural.backgrounds import BACKGROUNDS, background
from training.procedural.edits import POSITIONS, TASKS, WORDS, is_held_out_text, object_side, subtitle, subtitle_limit
from training.procedural.layers import tinted
from training.procedural.pack import Pack, Shot, Sprite, Still
from training.procedural.render import render_group, render_pair
from training.procedural.scene import SceneObject, telling_words
from training.procedural.styles import STYLES, WEATHERS, apply_style, apply_weather

BUCKET = Bucket(256, 144)
COLOURS = {"red": (220, 40, 40), "blue": (40, 90, 220), "green": (60, 170, 70), "yellow": (240, 210, 60)}
NAMES = {"ball": "red", "box": "blue", "leaf": "green", "moon": "yellow", "cup": "blue", "car": "red"}
NAMES |= {"drum": "red", "kite": "blue"}


class MiniPack(Pack):
    """A pack without files, which remembers what it was asked for."""

    def film(self, shot, start=0, count=None):
        self.asked.append(shot)
        base = cv2.resize(np.random.default_rng(shot.start).integers(0, 255, (9, 16, 3), dtype=np.uint8), (384, 216))
        return np.stack([np.roll(base, start + i, axis=1) for i in range(count)])

    def font(self, size):
        return ImageFont.load_default(size)


def _sprite(name, colour, style, target, holdout):
    drawing = np.zeros((96, 80, 4), np.uint8)
    cv2.circle(drawing, (40, 48), 38, (*COLOURS[colour], 255), -1)
    mark = sum(map(ord, style + name)) % 7  # no two drawings are alike
    cv2.rectangle(drawing, (30, 56), (34 + 4 * mark, 70), (20, 20, 20, 255), -1)
    cv2.circle(drawing, (28, 36), 8, (*(min(255, c + 50) for c in COLOURS[colour]), 255), -1)
    return Sprite(f"{style}-{name}", name, style, "toy", colour, target, holdout, [drawing])


@pytest.fixture
def pack():
    sprites = [_sprite(name, colour, "fluent", name not in ("drum", "kite"), False) for name, colour in NAMES.items()]
    sprites += [_sprite(name, colour, "noto", True, True) for name, colour in {"ball": "red", "box": "blue"}.items()]
    sprites += [_sprite("owl", "green", "fluent", False, True)]
    picture = cv2.resize(np.random.default_rng(5).integers(0, 255, (12, 16, 3), dtype=np.uint8), (400, 300))
    mini = MiniPack(
        Path("."),
        sprites,
        [Still(picture, "a heap of leaves", split) for split in ("train", "test")],
        [Shot(0, 60, "a rabbit", "train"), Shot(60, 120, "a squirrel", "test")],
        film_frames=120,
        film_width=384,
        film_height=216,
        film_fps=24,
    )
    mini.asked = []
    return mini


def _pairs(pack, task, count=4, bucket=BUCKET, split="train", frames=5):
    for seed in range(count):
        yield render_pair(pack, seed, bucket, frames, split, task)


def _changed(source, target):
    """Frames x height x width: where the two clips differ."""
    return (source != target).any(axis=-1)


def test_same_seed_gives_the_same_bytes(pack):
    first, again = (render_group(pack, 3, BUCKET, frames=5) for _ in range(2))
    assert first.pairs == again.pairs and first.captions == again.captions and first.names == again.names
    assert all(np.array_equal(a, b) for a, b in zip(first.clips, again.clips, strict=True))
    other = render_group(pack, 4, BUCKET, frames=5)
    assert not np.array_equal(first.clips[0], other.clips[0])


@pytest.mark.parametrize("bucket", TINY_BUCKETS)
def test_clips_of_a_group_share_one_size(pack, bucket):
    group = render_group(pack, 1, bucket, frames=5)
    assert {clip.shape for clip in group.clips} == {(5, bucket.height, bucket.width, 3)}
    assert all(clip.dtype == np.uint8 for clip in group.clips)
    assert len(group.captions) == len(group.labels) == len(group.clips)


def test_a_clip_of_one_frame_is_the_first_frame_of_none_but_itself(pack):
    group = render_group(pack, 2, BUCKET, frames=1)
    assert {len(clip) for clip in group.clips} == {1}
    with pytest.raises(ValueError, match="at least one frame"):
        render_group(pack, 2, BUCKET, frames=0)


def test_every_task_appears_and_every_pair_changes_something(pack):
    seen = set()
    for seed in range(12):
        group = render_group(pack, seed, BUCKET, frames=1)
        for pair in group.pairs:
            seen.add(pair.edit.task)
            assert not np.array_equal(group.clips[pair.source], group.clips[pair.target]), pair.edit
    assert seen == set(TASKS)


def test_an_instruction_has_one_answer_within_a_source(pack):
    for seed in range(20):
        group = render_group(pack, seed, BUCKET, frames=1)
        answers = [(pair.source, pair.edit) for pair in group.pairs]
        assert len(answers) == len(set(answers))


def test_an_added_object_is_where_and_as_large_as_the_edit_says(pack):
    for source, target, edit in _pairs(pack, "add", count=12):
        ys, xs = np.nonzero(_changed(source, target)[0])
        fx, fy = POSITIONS[edit.position] if edit.position else (0.5, 0.62)
        side = object_side(edit.size, *BUCKET)
        assert np.ptp(ys) <= 1.3 * side and np.ptp(xs) <= 1.3 * side
        half = side / 2 + 6
        centre_x = min(max(fx * BUCKET.width, half), BUCKET.width - half)
        centre_y = min(max(fy * BUCKET.height, half), BUCKET.height - half)
        assert abs((xs.min() + xs.max()) / 2 - centre_x) < 0.16 * BUCKET.width
        assert abs((ys.min() + ys.max()) / 2 - centre_y) < 0.16 * BUCKET.height


@pytest.mark.parametrize("task", ["remove", "replace", "recolour"])
def test_object_edits_leave_most_of_the_picture_alone(pack, task):
    for source, target, _ in _pairs(pack, task, count=6):
        for frame in _changed(source, target):
            ys, xs = np.nonzero(frame)
            limit = 1.3 * 0.75 * BUCKET.height
            assert len(ys) == 0 or (np.ptp(ys) < limit and np.ptp(xs) < limit)
        assert _changed(source, target)[0].any()


@pytest.mark.parametrize("task", ["subtitle_add", "subtitle_remove", "subtitle_change"])
@pytest.mark.parametrize("bucket", [BUCKET, Bucket(144, 256)])
def test_subtitles_touch_one_strip_near_the_bottom(pack, task, bucket):
    for source, target, edit in _pairs(pack, task, bucket=bucket):
        changed = _changed(source, target)
        assert changed.any() and not changed[:, : bucket.height - 40].any()
        assert (changed == changed[0]).mean() > 0.97  # the letters stand still
        texts = [text for text in (edit.text, edit.old_text) if text]
        assert texts and all(len(text) <= subtitle_limit(bucket.width) for text in texts)


def test_a_new_background_keeps_the_objects(pack):
    kept = lost = 0
    for seed in range(8):
        group = render_group(pack, seed, BUCKET, frames=3)
        for pair in group.pairs:
            if pair.edit.task != "background":
                continue
            source, target = group.labels[pair.source], group.labels[pair.target]
            named = [name in NAMES for name in group.names]
            objects = (source == target) & np.array(named)[source]
            inner = (
                cv2.erode(objects.astype(np.uint8), np.ones((5, 5)), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
            )
            same = ~_changed(group.clips[pair.source][:1], group.clips[pair.target][:1])[0]
            kept += int(inner.sum())
            lost += int((inner & ~same).sum())  # where the seam between two objects meets the background
            assert pair.edit.background in BACKGROUNDS
    assert kept > 1000 and lost < 0.003 * kept


def test_labels_name_what_is_there(pack):
    for seed in range(8):
        group = render_group(pack, seed, BUCKET, frames=1)
        assert len(set(group.names)) == len(group.names)
        for pair in group.pairs:
            source = {group.names[i] for i in np.unique(group.labels[pair.source])}
            target = {group.names[i] for i in np.unique(group.labels[pair.target])}
            if pair.edit.task == "add":
                assert pair.edit.new_object in target
            if pair.edit.task == "replace":
                assert pair.edit.new_object in target
            if pair.edit.task == "recolour" and group.labels[pair.target].max() > 0:
                assert any(pair.edit.object in name for name in target)
            if pair.edit.task == "subtitle_add":
                assert f'text "{pair.edit.text}"' in target - source


def test_two_of_a_kind_are_told_apart(pack):
    told = 0
    for seed in range(40):
        edit = render_pair(pack, seed, BUCKET, 1, "train", "remove")[2]
        if edit.which in ("left", "right"):
            told += 1
    assert told > 0
    near = SceneObject(pack.sprites()[0], (100, 70), 50)
    far = SceneObject(pack.sprites()[0], (220, 72), 50)
    assert telling_words(near, far, *BUCKET) == ["left"] and telling_words(far, near, *BUCKET) == ["right"]
    assert telling_words(near, near, *BUCKET) == []


def test_the_test_split_shows_nothing_of_the_train_split(pack):
    held_out = {sprite.name for sprite in pack.sprites("test")}
    known = {sprite.name for sprite in pack.sprites("train", target=True)}
    for seed in range(30):
        group = render_group(pack, seed, BUCKET, frames=1, split="test")
        for pair in group.pairs:
            if pair.source == 0 and pair.edit.task in ("remove", "replace", "recolour"):
                assert pair.edit.object in held_out
            if pair.edit.task == "add" and pair.source == 0:
                assert pair.edit.new_object in known
            if pair.edit.task == "subtitle_add":
                assert is_held_out_text(pair.edit.text)
    assert pack.asked and {shot.split for shot in pack.asked} == {"test"}


def test_subtitles_of_the_splits_do_not_meet():
    rng = np.random.default_rng(0)
    train, test = ({subtitle(rng, 256, split) for _ in range(300)} for split in ("train", "test"))
    assert not train & test
    assert {word for text in train for word in text.split()} < set(WORDS)


def test_unknown_task_is_refused(pack):
    with pytest.raises(ValueError, match="unknown task"):
        render_pair(pack, 0, BUCKET, 5, "train", "explode")


@pytest.mark.parametrize("size", [(256, 144), (160, 224)])
def test_looks_differ_from_the_picture_and_from_each_other(size):
    picture = background("green meadow", *size)
    looks = [apply_style(name, picture) for name in STYLES] + [apply_weather(name, picture) for name in WEATHERS]
    looks.append(picture)
    for i, one in enumerate(looks):
        assert one.shape == picture.shape and one.dtype == np.uint8
        for other in looks[:i]:
            assert np.abs(one.astype(int) - other).mean() > 6


def test_backgrounds_are_distinct_and_fixed():
    small = [cv2.resize(background(name, 320, 180), (16, 9), interpolation=cv2.INTER_AREA) for name in BACKGROUNDS]
    for i, one in enumerate(small):
        for other in small[:i]:
            assert np.abs(one.astype(int) - other).mean() > 8
    with pytest.raises(KeyError):
        background("nowhere", 32, 32)


def test_a_tint_has_its_colour_and_keeps_the_shading(pack):
    drawing = pack.sprites()[0].frames[0]
    blue = tinted(drawing, "blue")
    solid = drawing[..., 3] > 127
    assert blue[solid][:, 2].mean() > blue[solid][:, 0].mean() + 80
    assert np.array_equal(blue[..., 3], drawing[..., 3])
    assert blue[36, 28].sum() > blue[48, 66].sum()  # the highlight stays lighter than the body
