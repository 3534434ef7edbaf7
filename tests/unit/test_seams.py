"""The figures about a long edit find what they are about, and the published page has them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sama.shapes import windows
from training.evaluation import seams
from training.evaluation.seam_figures import Measured, measure
from training.evaluation.seams import EDITS, table, there_and_back

FRAMES = 41
WINDOWS = windows(FRAMES, 17, 5)
PAGE, RESULTS = Path("docs/long.md"), Path("docs/long/results.json")


@pytest.fixture(scope="module")
def source():
    """A picture that drifts by a pixel a frame, with the noise of a camera."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (96, 160, 3)).astype(np.uint8)
    picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 40, 200, cv2.NORM_MINMAX)
    clip = np.stack([np.roll(picture, shift, 1)[:64, :96] for shift in range(FRAMES)])
    return np.clip(clip + random.normal(0, 4, clip.shape), 0, 255).astype(np.uint8)


def figures(result, source, painted=None):
    result = np.clip(np.rint(result), 0, 255).astype(np.uint8)
    painted = [result[start:stop] for start, stop in WINDOWS] if painted is None else painted
    return measure("snow", True, result, source, painted, WINDOWS, None)


def test_an_even_edit_has_neither_seam_nor_drift(source):
    even = figures(source * 0.7 + 20.0, source)
    assert even.apart == 0
    assert even.step < even.step_source + 0.03 and even.leap < even.leap_source + 0.03
    assert even.colour < 1.5 and abs(even.repeats) < 0.05


@pytest.mark.parametrize("first", [12, 14, 16])
def test_a_jump_anywhere_in_a_seam_is_seen(first, source):
    jumped = source.astype(np.float32)
    jumped[first:] += 25
    found = figures(jumped, source)
    assert not found.holds
    assert found.step > 0.2 + found.step_source and found.leap > 0.2 + found.leap_source
    assert found.step_elsewhere < found.step
    assert found.colour > 5  # and it stays


def test_a_fade_that_hides_a_jump_is_seen_as_a_leap(source):
    faded = source + np.clip((np.arange(FRAMES) - 11) / 6, 0, 1)[:, None, None, None] * 30
    found = figures(faded, source)
    assert found.leap > 0.2 + found.leap_source and not found.holds


def test_windows_that_disagree_are_apart_by_as_much(source):
    painted = [source[start:stop] + np.uint8(10 * number) for number, (start, stop) in enumerate(WINDOWS)]
    assert figures(source, source, painted).apart == pytest.approx(10)


def test_what_repeats_with_the_windows_is_found(source):
    flakes = np.random.default_rng(1).integers(-40, 41, (FRAMES, 64, 96, 1))
    fresh, again = figures(source + flakes, source), figures(source + flakes[np.arange(FRAMES) % 12], source)
    assert abs(fresh.repeats) < 0.05 < 0.8 < again.repeats


def test_a_clip_goes_there_and_back_without_a_cut():
    clip = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    assert there_and_back(clip, 9).ravel().tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]


def test_what_cannot_be_measured_is_said_and_leaves_no_page(tmp_path, monkeypatch, capsys):
    from tests.media import make_clip
    from tests.tiny import tiny_pipeline

    monkeypatch.setattr("sama.edit.load_pipeline", lambda *_: tiny_pipeline())
    clip, page = make_clip(tmp_path / "clip.mp4", frames=6), tmp_path / "long.md"
    common = ["--out", str(page), "--downloads", str(tmp_path / "downloads"), "--steps", "1"]
    for video, says in ((clip, "One window holds all 6 frames"), (tmp_path / "no.mp4", "no.mp4")):
        assert seams.main([*common, "--video", str(video)]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1
    assert not page.exists() and not page.with_suffix("").exists()


def test_the_published_page_is_made_of_the_published_figures():
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    measured = [Measured(**row) for row in kept["measured"]]
    edits = [edit for edit in EDITS if any(each.edit == edit for each in measured)]
    assert edits and [each.edit for each in measured] == [edit for edit in edits for _ in range(2)]
    assert [each.joined for each in measured] == [False, True] * len(edits)
    page = PAGE.read_text(encoding="utf-8")
    assert table(measured) in page
    assert f"{kept['frames']} frames in {kept['windows']} windows" in page
    for before, after in zip(measured[::2], measured[1::2], strict=True):
        assert after.apart < before.apart
