"""The share of the picture that an edit changed is in the result, the settings, the command line and the page."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sama import cli
from sama.edit import edit_video
from sama.edit.composing.change import NOTHING_CHANGED, changed_share, shown_change, told_change
from sama.edit.composing.compose import differences
from sama.edit.request import EditRequest
from sama.shapes import Bucket, Canvas
from tests.media import make_clip
from tests.tiny import Copier, tiny_pipeline
from ui import text

SMALL = Canvas((Bucket(64, 48),), window=5, overlap=2).settings()
BOX = (slice(16, 32), slice(40, 56))  # one pixel in twelve of the model's size


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(tower=False, **SMALL, default_steps=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=9, width=96, height=72)


def edited(clip, pipe, output, **changes):
    request = EditRequest(video=clip, instruction="Make it snowy", output=output, **changes)
    return list(edit_video(request, pipe))[-1].result


@pytest.mark.parametrize("keep", ["on", "off"])
def test_the_share_that_changed_is_the_edits(keep, clip, pipe, tmp_path):
    result = edited(clip, Copier(pipe, BOX), tmp_path / "out.mp4", keep_source=keep)  # three windows
    assert result.changed == pytest.approx(1 / 12, rel=0.25) and result.notices == ()
    assert json.loads(result.settings.read_text())["changed"] == pytest.approx(result.changed, abs=1e-4)


def test_an_edit_that_is_not_shown_counts_for_nothing():
    dark, bright = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 200, np.uint8)
    mask = np.zeros((1, 8, 8), np.float32)
    mask[:, :, :2] = 1
    assert changed_share(shown_change(differences(bright, dark), mask)[0]) == 0.25
    assert changed_share(shown_change(differences(bright, dark), None)[0]) == 1
    assert changed_share(shown_change(differences(dark + 3, dark), None)[0]) == 0  # too faint to be seen


def test_nothing_changed_is_said(clip, pipe, tmp_path):
    result = edited(clip, Copier(pipe), tmp_path / "out.mp4")
    assert result.changed == 0 and result.notices == (NOTHING_CHANGED,)
    settings = json.loads(result.settings.read_text())
    assert settings["changed"] == 0 and settings["notices"] == [NOTHING_CHANGED]
    assert text.done(3, 0, settings) == f"Done in 3 s, seed 0. {NOTHING_CHANGED}"


@pytest.mark.parametrize("box", [BOX, None])
def test_the_command_line_says_it(box, clip, pipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sama.edit.editor.load_pipeline", lambda *_: Copier(pipe, box))
    assert cli.main(["edit", str(clip), "Make it snowy", "-o", str(tmp_path / "out.mp4"), "--frames", "5"]) == 0
    said = capsys.readouterr().err
    assert ("% of the picture)" in said) == (box is not None)
    assert (NOTHING_CHANGED in said) == (box is None)


def test_shares_are_told_in_percent():
    assert told_change(0.113) == "changed 11 % of the picture"
    assert told_change(0.002) == "changed less than 1 % of the picture"
    assert told_change(0.0) == ""
    assert text.outcome({"changed": 0.113, "notices": ["X."]}) == ["Changed 11 % of the picture.", "X."]
