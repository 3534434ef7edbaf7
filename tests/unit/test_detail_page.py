"""What detail adds, measured: the editor's own results, of one run of the model, against what was asked for; and the
page that says so."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sama.video import write_clip
from tests.tiny import tiny_pipeline
from training.evaluation import before_after, detail
from training.evaluation.detail import CLIPS, EDITS, DetailScores, SourceClip, score_clip, scores_table, truth
from training.evaluation.held_out.metrics import ssim
from training.synth.edits.styles import apply_style

PAGE = Path("docs/detail.md")
EDIT = "black and white"


class Stylist:
    """A pipeline that decodes to the small source, and its result to the style: both as an autoencoder blurs them."""

    def __init__(self):
        self._pipe = tiny_pipeline(tower=False)
        self.runs = 0

    def __getattr__(self, name):
        return getattr(self._pipe, name)

    def encode_video(self, frames):
        self._frames, self._source = frames, self._pipe.encode_video(frames)
        return self._source

    def stream(self, **values):
        self.runs += 1
        return self._pipe.stream(**values)

    def decode_latents(self, latents):
        frames = (self._frames[0] * 255).byte().numpy()[: 1 + 4 * (latents.shape[2] - 1)]
        shown = [frame if latents is self._source else apply_style(EDIT, frame) for frame in frames]
        return torch.from_numpy(np.stack([cv2.blur(frame, (3, 3)) for frame in shown])).unsqueeze(0).float() / 255


@pytest.fixture(scope="module")
def frames():
    noise = np.random.default_rng(0).integers(0, 256, (180, 320, 3)).astype(np.uint8)
    picture = cv2.addWeighted(cv2.GaussianBlur(noise, (0, 0), 6), 0.7, cv2.GaussianBlur(noise, (0, 0), 1.2), 0.3, 0)
    picture = cv2.normalize(picture, None, 20, 235, cv2.NORM_MINMAX)
    return np.stack([np.roll(picture, shift, 1) for shift in range(5)])


def test_an_edit_is_measured_with_and_without_detail_of_one_run(frames, tmp_path):
    pipe, picture = Stylist(), tmp_path / "clip.jpg"
    clip = SourceClip("clip", "noise", (0.5, 0.5), 24, lambda *_: frames)
    (each,) = score_clip(clip, frames, [EDIT], pipe, picture, steps=1)
    assert (each.clip, each.edit, pipe.runs) == ("clip", EDIT, 1)
    assert np.isfinite([*each.off, *each.on]).all()
    assert each.on[1] < each.highest < 1
    assert each.better and each.on[1] > each.off[1] + 0.1 and each.on[1] > 0.9
    height, width = cv2.imread(str(picture)).shape[:2]
    assert width > 4 * 320 and height > 180


def test_more_frames_than_a_window_are_painted_once(frames):
    pipe, long = Stylist(), np.concatenate([frames] * 4)
    clip = SourceClip("clip", "noise", (0.5, 0.5), 24, lambda *_: long)
    (each,) = score_clip(clip, long, [EDIT], pipe, None, steps=1)
    assert pipe.runs == 2 and each.better


def test_the_picture_of_the_readme_has_a_frame_before_and_after_at_the_size_of_the_clip(frames, tmp_path):
    write_clip(tmp_path / "clip.mp4", np.concatenate([frames] * 4), 24)
    shot = before_after.Shot("street", 1, EDIT)
    path = before_after.cut(tmp_path / "clip.mp4", shot, tmp_path)
    words, (before, after) = before_after.before_after(path, EDIT, Stylist(), tmp_path)
    assert words == EDIT and before.shape == after.shape == frames.shape[1:]
    wanted = apply_style(EDIT, before)
    assert ssim(after[None], wanted[None]) > 0.9 > ssim(before[None], wanted[None]) + 0.01
    height, width = cv2.imread("docs/before-after.jpg").shape[:2]
    assert width > 2 * 720 and height > 2 * 405 and Path("docs/before-after.jpg").stat().st_size < 400_000


def test_what_was_asked_for_is_drawn_at_the_full_size_and_moves(frames):
    assert np.array_equal(truth(EDIT, frames)[3], apply_style(EDIT, frames[3]))
    still = np.repeat(frames[:1], 2, axis=0)
    snowy = truth("snow", still)
    assert snowy.shape == still.shape and not np.array_equal(snowy[0], snowy[1])


def test_a_row_is_better_by_all_three_measures_or_not_at_all():
    off = (20.0, 0.5, 0.2)
    for on, better in (
        ((21.0, 0.6, 0.1), True), ((19.0, 0.6, 0.1), False), ((21.0, 0.4, 0.1), False), ((21.0, 0.6, 0.3), False),
    ):  # fmt: skip
        assert DetailScores("clip", EDIT, off, on).better == better
    lines = scores_table(
        [DetailScores("a", EDIT, off, (21.0, 0.6, 0.1), 0.9), DetailScores("b", EDIT, off, (23.0, 0.8, 0.3), 0.8)]
    )
    assert lines.splitlines()[-1] == "| all | mean | 20.0 → 22.0 | 0.500 → 0.700 | 0.200 → 0.200 | 0.850 |"


def test_a_clip_that_cannot_be_fetched_is_said_and_leaves_no_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "detail.md"
    assert detail.main(["--out", str(out), "--downloads", str(tmp_path / "downloads")]) == 2
    assert "apt-get is needed" in capsys.readouterr().err and not out.exists()


def test_the_published_table_has_every_edit_of_every_clip_and_detail_wins():
    text = PAGE.read_text()
    rows = re.findall(
        r"^\| (\S+) \| ([^|]+) \| (.+) → (.+) \| (.+) → (.+) \| (.+) → (.+) \| (.+) \|$", text, re.MULTILINE
    )
    *rows, mean = rows
    assert [tuple(row[:2]) for row in rows] == [(clip.name, edit) for clip in CLIPS for edit in EDITS]
    assert len(EDITS) >= 8 and mean[:2] == ("all", "mean")
    values = np.array([row[2:] for row in rows], float)
    assert (values[:, 3] < values[:, 6]).all(), "no file holds more than what was asked for"
    assert (values[:, 1] > values[:, 0]).all() and (values[:, 3] > values[:, 2]).all()
    assert (values[:, 5] < values[:, 4]).all() and "every measure is better with detail in every row" in text
    assert np.allclose(values.mean(axis=0), np.array(mean[2:], float), atol=(0.1, 0.1, *[2e-3] * 5))
    for clip in CLIPS:
        assert 0 < (PAGE.with_suffix("") / f"{clip.name}.jpg").stat().st_size < 300_000
