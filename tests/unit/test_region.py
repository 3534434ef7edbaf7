"""Where the plan means to change the picture, and what of an edit's mask it vouches for."""

import numpy as np
import pytest
import torch

from sama.edit import edit_video
from sama.edit.composing.change import NOTHING_CHANGED
from sama.edit.composing.region import vouched
from sama.edit.request import EditRequest
from sama.model.semantics import plan_region, token_scale
from sama.shapes import Bucket, Canvas
from tests.media import make_clip
from tests.tiny import Copier, tiny_pipeline
from training.evaluation import region as study
from training.evaluation.region import CaseKey, Edited, judge, table

SMALL = Canvas((Bucket(64, 48),), window=5, overlap=2).settings()
BOX = (slice(16, 32), slice(40, 56))


def test_the_region_is_where_planned_tokens_turn_away_from_the_sources():
    source = torch.randn(65, 16, generator=torch.Generator().manual_seed(0))
    plan = 3 * source  # length says nothing
    plan[2 * 8 + 5] = -source[2 * 8 + 5]
    plan[64] = 0  # the global one is not of the grid
    region = plan_region(source, plan)
    expected = torch.zeros(8, 8)
    expected[2, 5] = 2
    assert torch.allclose(region, expected, atol=1e-5)


def test_the_scale_of_a_pictures_tokens_is_how_far_its_places_are_apart():
    tokens = torch.zeros(65, 4)
    tokens[:32, 0], tokens[32:, 1] = 2, 5
    assert token_scale(tokens) == pytest.approx(1)  # half of the pairs are unlike
    tokens[:] = tokens[:1]
    assert token_scale(tokens) == pytest.approx(0, abs=1e-6)


def boxes(*places, frames=5, height=64, width=128):
    """A mask of boxes: (first frame, top, left, columns it moves a frame)."""
    mask = np.zeros((frames, height, width), np.float32)
    for first, top, left, moves in places:
        for index in range(first, frames):
            mask[index, top : top + 12, left + moves * index : left + moves * index + 12] = 0.8
    return mask


def meant(row, column):
    region = np.full((8, 8), 0.2, np.float32)
    region[row, column] = 0.9
    return region


def test_regions_that_the_plan_does_not_mean_keep_the_source_wherever_they_move():
    mine, other, late = (0, 4, 4, 0), (0, 44, 70, 6), (2, 4, 100, 0)
    kept = vouched(boxes(mine, other, late), meant(0, 0), 1.0)
    assert np.array_equal(kept, boxes(mine, late))
    assert np.array_equal(vouched(boxes(other), meant(0, 0), 1.0), boxes(other) * 0)
    assert np.array_equal(vouched(boxes(other), meant(6, 4), 1.0), boxes(other))


def test_regions_that_meet_later_are_one():
    together = boxes((0, 4, 4, 0), (0, 4, 40, -6))
    assert np.array_equal(vouched(together, meant(0, 0), 1.0), together)
    apart = boxes((0, 4, 4, 0), (0, 4, 60, 6))
    assert np.array_equal(vouched(apart, meant(0, 0), 1.0), boxes((0, 4, 4, 0)))


def test_an_empty_mask_stays_empty():
    assert not vouched(boxes(), meant(0, 0), 1.0).any()


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(default_steps=2, **SMALL)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=8, width=96, height=72)


@pytest.mark.parametrize("tower", [True, False])
def test_every_step_says_where_the_plan_means_a_change(tower, pipe, clip, tmp_path):
    pipe = pipe if tower else tiny_pipeline(tower=False, default_steps=2, **SMALL)
    events = list(edit_video(EditRequest(clip, "Make it snowy", tmp_path / "out.mp4", frames=5), pipe))
    regions = [event.region for event in events if event.phase == "painting" and event.step]
    assert len(regions) == 2
    if tower:
        assert all(region.shape == (8, 8) and np.isfinite(region).all() for region in regions)
        assert not np.array_equal(*regions)
    else:
        assert regions == [None, None]


@pytest.mark.parametrize(
    ("values", "shown"), [((0.1, 0.1), "none"), ((0.9, 0.9), "all"), ((0.9, 0.1), "all"), ((0.1, 0.9), "later")]
)
def test_an_edit_that_the_plan_does_not_mean_is_not_shown(values, shown, pipe, clip, tmp_path, monkeypatch):
    """Two windows; a later one goes on with what the first one shows, whatever its own plan says."""
    asked = iter([value for value in values for _ in range(2)])  # after the step, and at the window's end
    monkeypatch.setattr("sama.edit.painter.planned_region", lambda *_: np.full((8, 8), next(asked), np.float32))
    monkeypatch.setattr("sama.model.semantics.token_scale", lambda _: 1.0)
    request = EditRequest(clip, "Make it snowy", tmp_path / "out.mp4", steps=1, keep_source="on")
    result = list(edit_video(request, Copier(pipe, BOX)))[-1].result
    share = {"none": 0, "all": 0.104, "later": 0.051}[shown]  # the box, a twelfth of the picture, and its soft rim
    assert result.changed == pytest.approx(share, rel=0.1)
    assert (NOTHING_CHANGED in result.notices) == (shown == "none")


def test_rules_are_judged_by_what_they_show():
    source = np.full((2, 64, 64, 3), 90, np.uint8)
    target = source.copy()
    target[:, 8:24, 8:24] = 200
    result = target.copy()
    result[:, 40:60, 40:60] = 10  # something else
    edit = Edited(CaseKey("usual", "recolour", 1), source, target, result, source, np.stack([meant(1, 1)] * 2), 1.0)
    shown = {name: judge(edit, rule(edit)) for name, rule in study.RULES.items()}
    in_use, vouches = shown["pixels"], shown["plan vouches for regions (in use)"]
    assert in_use.elsewhere > 0.05 and vouches.elsewhere == 0
    assert vouches.outside > in_use.outside + 20 and vouches.inside == pytest.approx(in_use.inside)
    assert in_use.followed and in_use.reach == pytest.approx(0.9)
    assert not in_use.whole and in_use.right and judge(edit, None).right is False
    row = table({"a": [in_use], "b": [vouches]}).splitlines()
    assert "1 of 1" in row[2] and "0 of 1" in row[3]
    still = Edited(CaseKey("usual", "identity", 2), source, source, result, source, edit.regions, 1.0)
    assert judge(still, None).alone is False and judge(still, np.zeros((2, 64, 64), np.float32)).alone is True


def test_edits_are_kept_and_not_made_again(tmp_path):
    keys, made = [CaseKey("large", "remove", seed) for seed in range(3)], []

    def make(key):
        made.append(key)
        clip = np.full((1, 16, 16, 3), key.seed, np.uint8)
        return Edited(key, clip, clip, clip, clip, np.zeros((2, 8, 8), np.float32), 1.0)

    assert [edit.key for edit in study.edits(keys, tmp_path, make, limit=2)] == keys[:2]
    again = list(study.edits(keys, tmp_path, make))
    assert made == keys and [int(edit.source[0, 0, 0, 0]) for edit in again] == [0, 1, 2]


def test_a_missing_pack_is_said_in_one_sentence(tmp_path, capsys):
    assert study.main(["--pack", str(tmp_path), "--out", str(tmp_path / "page.md")]) == 2
    assert "there is no pack" in capsys.readouterr().err and not (tmp_path / "page.md").exists()
