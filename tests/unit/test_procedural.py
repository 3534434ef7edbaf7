"""The generator of paired edits, on a miniature pack drawn here."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ImageFont

from sama.shapes import Bucket
from training.data.drawn.scenes import MAX_CLIPS, MAX_PAIRS
from training.data.sizes import tiny_buckets
from training.synth.edits.styles import STYLES, WEATHERS, apply_style, apply_weather
from training.synth.edits.subtitles import FIRST_CELL, subtitle_patch
from training.synth.edits.tasks import (
    DEFAULT_PLACE,
    POSITIONS,
    RESIZE_FACTOR,
    TASKS,
    object_side,
)
from training.synth.edits.texts import (
    CELL,
    is_held_out_text,
    subtitle,
    subtitle_limit,
    subtitle_phrases,
    subtitle_words,
)
from training.synth.edits.variants import MOST_PAIRS, MOST_VARIANTS
from training.synth.material.pack import Pack, Shot, Sprite, Still
from training.synth.scenes.backgrounds import BACKGROUNDS, background
from training.synth.scenes.layers import object_layer
from training.synth.scenes.light import Light, light_of
from training.synth.scenes.motion import Camera, ObjectMotion
from training.synth.scenes.render import render_case, render_group
from training.synth.scenes.scene import (
    SceneObject,
    depth_order,
    moved,
    placed_beside,
    resized,
    sample_scene,
    successor,
)
from training.synth.scenes.tint import tinted
from training.synth.words.kinds import common_names, familiarity, flies, kind_words
from training.synth.words.telling import choose_reference, telling_words

BUCKET = Bucket(256, 144)
COLOURS = {"red": (220, 40, 40), "blue": (40, 90, 220), "green": (60, 170, 70), "yellow": (240, 210, 60)}
NAMES = {"ball": "red", "box": "blue", "leaf": "green", "moon": "yellow", "cup": "blue", "car": "red"}
NAMES |= {"drum": "red", "kite": "blue"}


class MiniPack(Pack):
    """A pack without files, which remembers what it was asked for."""

    def film(self, shot, start=0, count=None, step=1):
        self.asked.append(shot)
        base = cv2.resize(np.random.default_rng(shot.start).integers(0, 255, (9, 16, 3), dtype=np.uint8), (384, 216))
        return np.stack([np.roll(base, start + step * i, axis=1) for i in range(count)])

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
        case = render_case(pack, seed, bucket, frames, split, task)
        yield case.source, case.target, case.edit


def _changed(source, target):
    """Frames x height x width: where the two clips differ."""
    return (source != target).any(axis=-1)


def test_same_seed_gives_the_same_bytes(pack):
    first, again = (render_group(pack, 3, BUCKET, frames=5) for _ in range(2))
    assert first.pairs == again.pairs and first.captions == again.captions and first.names == again.names
    assert all(np.array_equal(a, b) for a, b in zip(first.clips, again.clips, strict=True))
    other = render_group(pack, 4, BUCKET, frames=5)
    assert not np.array_equal(first.clips[0], other.clips[0])


@pytest.mark.parametrize("bucket", tiny_buckets())
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


def test_every_task_appears_and_every_pair_but_an_identity_changes_something(pack):
    seen = set()
    for seed in range(16):
        group = render_group(pack, seed, BUCKET, frames=1)
        for pair in group.pairs:
            seen.add(pair.edit.task)
            same = np.array_equal(group.clips[pair.source], group.clips[pair.target])
            assert same == (pair.edit.task == "identity"), pair.edit
    assert seen == set(TASKS)


def test_new_tasks_stand_behind_the_old_ones():
    assert TASKS.index("add") == 0 and TASKS.index("subtitle_change") == 9
    assert TASKS[10:] == ("move", "resize", "identity")


def test_a_group_leaves_room_for_pretext_tasks(pack):
    for seed in range(40):
        group = render_group(pack, seed, BUCKET, frames=1)
        assert len(group.clips) <= MOST_VARIANTS == MAX_CLIPS - 2
        assert 0 < len(group.pairs) <= MOST_PAIRS == MAX_PAIRS - 2


@pytest.mark.parametrize("frames", [1, 17, 33])
def test_groups_have_as_many_frames_as_asked_for(pack, frames):
    group = render_group(pack, 5, BUCKET, frames=frames)
    assert {clip.shape for clip in group.clips} == {(frames, BUCKET.height, BUCKET.width, 3)}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_can_be_asked_for_alone(pack, task):
    for split in ("train", "test"):
        case = render_case(pack, 3, BUCKET, 5, split, task)
        assert case.edit.task == task and case.source.shape == case.target.shape
        assert (case.mask is not None) == (task in ("add", "replace", "recolour", "move", "resize"))


def test_an_instruction_has_one_answer_within_a_source(pack):
    for seed in range(20):
        group = render_group(pack, seed, BUCKET, frames=1)
        answers = [(pair.source, pair.edit) for pair in group.pairs]
        assert len(answers) == len(set(answers))


def test_an_added_object_is_where_and_as_large_as_the_edit_says(pack):
    for source, target, edit in _pairs(pack, "add", count=12):
        ys, xs = np.nonzero(_changed(source, target)[0])
        if edit.beside:
            continue
        fx, fy = POSITIONS[edit.position] if edit.position else DEFAULT_PLACE
        side = object_side(edit.size, *BUCKET, fy)
        assert np.ptp(ys) <= 1.4 * side and np.ptp(xs) <= 1.6 * side  # with its shadow
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
            limit = 1.2 * BUCKET.height
            assert len(ys) == 0 or np.ptp(xs) < limit
        assert _changed(source, target)[0].any()


@pytest.mark.parametrize("task", ["subtitle_add", "subtitle_remove", "subtitle_change"])
@pytest.mark.parametrize("bucket", [BUCKET, Bucket(144, 256)])
def test_subtitles_touch_one_strip_near_the_bottom(pack, task, bucket):
    for source, target, edit in _pairs(pack, task, bucket=bucket):
        changed = _changed(source, target)
        assert changed.any() and not changed[:, : bucket.height - 2 * CELL].any()
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
            # The new place has its own light: tones may shift, and nothing else.
            apart = group.clips[pair.source][0].astype(int) - group.clips[pair.target][0]
            same = np.abs(apart).max(axis=-1) < 60
            kept += int(inner.sum())
            lost += int((inner & ~same).sum())  # where the seam between two objects meets the background
            assert pair.edit.background in BACKGROUNDS
    assert kept > 1000 and lost < 0.1 * kept


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
    told = [render_case(pack, seed, BUCKET, 1, "train", "remove").edit.which for seed in range(60)]
    assert {"left", "right"} <= set(told) and told.count("") < 50
    near = SceneObject(pack.sprites()[0], (100, 70), 50)
    far = SceneObject(pack.sprites()[0], (220, 72), 50)
    assert telling_words(near, far, *BUCKET) == ["left"] and telling_words(far, near, *BUCKET) == ["right"]
    assert telling_words(near, near, *BUCKET) == []


def test_the_test_split_shows_nothing_of_the_train_split(pack):
    held_out = {sprite.name for sprite in pack.sprites("test")}
    known = {sprite.name for sprite in pack.sprites("train", target=True)}
    for seed in range(40):
        group = render_group(pack, seed, BUCKET, frames=1, split="test")
        for pair in group.pairs:
            if pair.source == 0 and pair.edit.task in ("remove", "replace", "recolour"):
                assert pair.edit.object in held_out
            if pair.edit.task == "add" and pair.source == 0:
                assert pair.edit.new_object in known
            if pair.edit.task in ("subtitle_add", "subtitle_change"):
                assert is_held_out_text(pair.edit.text)
    assert pack.asked and {shot.split for shot in pack.asked} == {"test"}


def test_subtitles_of_the_splits_do_not_meet():
    rng = np.random.default_rng(0)
    train, test = ({subtitle(rng, 256, split) for _ in range(600)} for split in ("train", "test"))
    assert not train & test
    never = {word for word in subtitle_words() if is_held_out_text(word)}
    assert len(never) > 20
    assert not never & {word.strip("!?") for text in train for word in text.split()}
    assert not {text for text in train if is_held_out_text(text)}
    known = {word for text in (*subtitle_words(), *subtitle_phrases()) for word in text.split()}
    assert {word.strip("!?") for text in test for word in text.split() if not word.isdigit()} <= known
    assert any(text in subtitle_phrases() for text in train) and any(text in subtitle_phrases() for text in test)


def test_training_shows_every_letter_at_every_place():
    rng = np.random.default_rng(1)
    seen = {(at, letter) for _ in range(6000) for at, letter in enumerate(subtitle(rng, 256, "train"))}
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert sum((at, letter) in seen for at in range(12) for letter in letters) > 0.97 * 12 * len(letters)


def test_a_letter_stays_in_its_cell_wherever_it_stands(pack):
    for bucket in tiny_buckets():
        for text in ("I", "LIT", "FILL IT"):  # the font at hand is not monospaced: slim letters
            patch = subtitle_patch(text, pack.font, *bucket)
            frame = np.full((bucket.height, bucket.width, 3), 90, np.uint8)
            patch.over(frame)
            white = np.flatnonzero((frame > 230).all(axis=-1).any(axis=0))
            cells = set((white // CELL).tolist())
            assert cells == {FIRST_CELL + i for i, letter in enumerate(text) if letter != " "}
        assert CELL * (FIRST_CELL + subtitle_limit(bucket.width)) <= bucket.width
        assert subtitle_patch("I" * 40, pack.font, *bucket).over(frame) is None  # what is too long is cut off


def test_unknown_task_is_refused(pack):
    with pytest.raises(ValueError, match="unknown task"):
        render_case(pack, 0, BUCKET, 5, "train", "explode")


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


GROUND = Light(side=0.5, gain=(1.0, 1.0, 1.0), strength=0.5, surface="ground", horizon=0.5)


def _thing(pack, name="ball", centre=(120, 90), side=60, **more):
    sprite = next(s for s in pack.sprites() if s.name == name and s.style == "fluent")
    return SceneObject(sprite, centre, side, **more)


def _layer(thing, light=GROUND, frames=5):
    return object_layer(thing, Camera(), [i / 16 for i in range(frames)], *BUCKET, light)


def _shaded(layer, frame=0):
    """Where a shadow falls, (H, W) bool."""
    shown = np.full((BUCKET.height, BUCKET.width, 3), 255, np.uint8)
    if layer.shadows[frame] is not None:
        layer.shadows[frame].over(shown)
    return shown[..., 0] < 245


def test_what_stands_on_the_ground_has_a_shadow_and_what_flies_has_none(pack):
    ball = _thing(pack)
    shade = _shaded(_layer(ball))
    ys, xs = np.nonzero(shade)
    assert abs(ys.max() - ball.foot) < 12  # at its foot
    assert xs.mean() < ball.centre[0]  # the light comes from the right
    assert flies("moon") and not _shaded(_layer(_thing(pack, "moon"))).any()
    assert not _shaded(_layer(_thing(pack, centre=(120, 30)))).any()  # above the horizon
    assert not _shaded(_layer(ball, replace(GROUND, surface="none"))).any()
    wall = _shaded(_layer(ball, replace(GROUND, surface="wall")))
    assert wall[80:100].any() and not (wall & ~cv2.dilate(shade.astype(np.uint8), np.ones((90, 90))).astype(bool)).any()


def test_a_hopping_thing_leaves_its_shadow_on_the_ground(pack):
    hopping = _thing(pack, motion=ObjectMotion(hop=30, turns=1))
    layer = _layer(hopping, frames=9)
    top, shadow = [patch.y for patch in layer.patches], [_shaded(layer, i).nonzero()[0] for i in (0, 8)]
    assert top[8] < top[0] - 20
    assert abs(shadow[0].mean() - shadow[1].mean()) < 3
    assert layer.shadows[8].keep.min() > layer.shadows[0].keep.min()  # paler


def test_the_shadow_goes_with_its_object_and_nothing_else_changes(pack):
    gone = 0
    for seed in range(24):
        case = render_case(pack, seed, BUCKET, 5, "train", "add")
        changed = _changed(case.source, case.target)
        gone += int((changed[0] & ~cv2.dilate(case.mask.astype(np.uint8), np.ones((9, 9))).astype(bool)).any())
        left, top, right, bottom = case.box
        reach = right - left
        near = np.zeros_like(changed[0])
        rows = slice(max(0, int(top) - 6), int(bottom) + int(0.3 * reach) + 12)
        near[rows, max(0, int(left - reach)) : int(right + reach) + 1] = True
        assert not (changed[0] & ~near).any()
        assert np.array_equal(case.without, case.source[0])
    assert gone > 5  # most things stand on the ground


def test_recolouring_keeps_the_shadow(pack):
    ball = _thing(pack)
    first, second = _layer(ball).shadows[0], _layer(replace(ball, tint="blue")).shadows[0]
    assert np.array_equal(first.keep, second.keep) and (first.x, first.y) == (second.x, second.y)


def test_a_dark_place_makes_things_darker_and_a_warm_one_warmer(pack):
    night, day = (light_of(np.full((90, 160, 3), level, np.uint8), "a park") for level in (20, 220))
    assert night.gain[0] < day.gain[0] - 0.1
    evening = light_of(np.full((90, 160, 3), (220, 120, 60), np.uint8), "a park")
    assert evening.gain[0] > evening.gain[2] + 0.05
    picture = np.full((90, 160, 3), 60, np.uint8)
    picture[5:25, 130:150] = 255
    assert light_of(picture, "a park").side > 0.3 > -0.3 > light_of(picture[:, ::-1], "a park").side
    assert light_of(picture, "outer space").surface == "none"
    assert light_of(picture, "a gray brick wall").surface == "wall"
    assert light_of(picture, "a flying squirrel in the blue sky").surface == "none"
    assert light_of(picture, "a rabbit in a meadow under a blue sky").surface == "ground"


def test_what_is_lower_stands_in_front(pack):
    far, near = _thing(pack, centre=(100, 60)), _thing(pack, "box", centre=(110, 100))
    assert depth_order([near, far], (0, 1)) == (1, 0)
    hidden = 0
    for seed in range(30):
        case = render_case(pack, seed, BUCKET, 1, "train", "move")
        left, top, right, bottom = case.box
        hidden += int(case.mask.sum() < 0.5 * (right - left) * (bottom - top) * 0.75)
    assert hidden < 10


def test_an_heir_stands_where_the_old_one_stood_and_gives_way_to_it_exactly(pack):
    wide = _thing(pack)
    tall = replace(wide.sprite, name="box", frames=[np.rot90(wide.sprite.frames[0])])
    heir = successor(tall, wide)
    assert heir.foot == pytest.approx(wide.foot) and heir.side == wide.side
    assert successor(wide.sprite, heir).centre == pytest.approx(wide.centre)


def test_moves_and_sizes_mean_one_thing(pack):
    ball = _thing(pack)
    assert moved(ball, "left", *BUCKET).centre == pytest.approx((0.2 * BUCKET.width, 90))
    assert moved(ball, "center", *BUCKET).centre == pytest.approx((0.5 * BUCKET.width, 90))
    assert moved(ball, "top", *BUCKET).centre[0] == ball.centre[0]
    larger = resized(ball, RESIZE_FACTOR)
    assert larger.foot == pytest.approx(ball.foot) and larger.side == RESIZE_FACTOR * ball.side
    assert resized(larger, 1 / RESIZE_FACTOR).centre == pytest.approx(ball.centre)
    beside = placed_beside(next(s for s in pack.sprites() if s.name == "cup"), ball, "left", "", *BUCKET)
    assert beside.box()[2] < ball.box()[0] and beside.foot == pytest.approx(ball.foot)
    assert placed_beside(ball.sprite, _thing(pack, centre=(30, 90)), "left", "large", *BUCKET) is None


@pytest.mark.parametrize("task", ["move", "resize"])
def test_a_moved_or_resized_object_is_found_in_its_mask(pack, task):
    for seed in range(10):
        case = render_case(pack, seed, BUCKET, 3, "train", task)
        changed = _changed(case.source, case.target)[0]
        ys, xs = np.nonzero(case.mask)
        left, top, right, bottom = case.box
        assert left - 3 <= xs.min() and xs.max() <= right + 3 and top - 3 <= ys.min() and ys.max() <= bottom + 3
        assert changed[case.mask].mean() > 0.3
        if task == "move":
            fx = POSITIONS[case.edit.position][0]
            if case.edit.position in ("left", "right"):
                assert abs((left + right) / 2 - fx * BUCKET.width) < 0.2 * BUCKET.width


def test_an_identity_asks_for_what_is_absent_or_done_already(pack):
    kinds = set()
    for seed in range(60):
        group = render_group(pack, seed, BUCKET, frames=1)
        for pair in group.pairs:
            if pair.edit.task != "identity":
                continue
            edit, shown = pair.edit, {group.names[i] for i in np.unique(group.labels[pair.source])}
            kinds.add(edit.asked)
            assert pair.source == pair.target
            if edit.asked in ("remove", "move", "resize", "replace"):
                assert not any(edit.object in name for name in shown)
            if edit.asked == "recolour":
                absent = not any(edit.object in name for name in shown)
                assert absent or f"{edit.colour} {edit.object}" in shown
            if edit.asked == "subtitle_remove":
                assert not any(name.startswith('text "') for name in shown)
    assert {"", "remove", "recolour", "style", "background"} <= kinds


def test_three_in_a_row_are_counted_from_the_left(pack):
    row = [_thing(pack, centre=(x, 90), side=40) for x in (45, 128, 210)]
    rng = np.random.default_rng(0)
    said = [{choose_reference(row, i, rng, *BUCKET)["which"] for _ in range(60)} for i in range(3)]
    assert said[0] <= {"left", "first"} and said[2] <= {"right", "third"}
    assert {"second", "middle"} <= said[1] and "left" not in said[1]


def test_twins_of_two_colours_are_told_by_colour(pack):
    twins = [_thing(pack, centre=(80, 90), tint="blue"), _thing(pack, centre=(120, 92), tint="green")]
    rng = np.random.default_rng(0)
    said = [choose_reference(twins, 0, rng, *BUCKET) for _ in range(20)]
    assert {word["which"] for word in said if not word["kind"]} == {"colour"}
    assert {word["old_colour"] for word in said if not word["kind"]} == {"blue"}
    alike = [replace(thing, tint="") for thing in twins]
    assert choose_reference(alike, 0, rng, *BUCKET) is None  # nothing tells them apart


def test_common_names_are_asked_for_most():
    assert familiarity("cat") == 1 and familiarity("magnet") < 0.5
    assert 100 < len(common_names()) < 160
    assert kind_words("cat", "animal") == ("animal", "creature") and kind_words("headphones", "music") == ()


def test_a_foreground_hides_what_is_behind_it_in_all_versions_of_its_place(pack):
    hidden = 0
    for seed in range(40):
        scene = sample_scene(pack, np.random.default_rng(seed), BUCKET, 3, "train")
        if scene.foreground is None:
            continue
        mask = scene.foreground.mask(*BUCKET)
        hidden += 1
        assert mask.any() and not mask[: BUCKET.height // 2].any()
    assert hidden
