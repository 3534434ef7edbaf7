"""The figures about a long edit find what they are about, and the published page has them."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sama.shapes import Bucket, Canvas, windows
from tests.media import make_clip
from tests.tiny import tiny_pipeline
from training.evaluation import seams
from training.evaluation.seam_figures import measure
from training.evaluation.seam_methods import METHODS
from training.evaluation.seams import EDITS, there_and_back
from training.evaluation.seams_page import USED, rows_of, table, verdict, verdicts

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


def figures(result, source, painted=None, tower=None):
    result = np.clip(np.rint(result), 0, 255).astype(np.uint8)
    painted = [result[start:stop] for start, stop in WINDOWS] if painted is None else painted
    return measure(("clip", "snow", "held"), result, source, painted, WINDOWS, tower)


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


def test_drift_is_told_for_each_window(source):
    """Colour, likeness and sharpness that change with length, beside an edit that stays as it is."""
    tower = tiny_pipeline().semantic_tower
    even = figures(source * 0.7 + 20.0, source, tower=tower)
    number = np.minimum(np.arange(FRAMES) // 12, len(WINDOWS) - 1)
    tinted = source * 0.7 + 20.0 + (number[:, None] * np.array([12, 0, -12]))[:, None, None]
    drifting = figures(tinted, source, tower=tower)
    assert len(WINDOWS) == len(drifting.colours) == len(drifting.likeness) == len(drifting.sharpness) == 3
    assert drifting.colours[0] == drifting.likeness[0] == even.likeness[0] == 0
    assert drifting.colours[2] > 1.5 * drifting.colours[1] > 4 > 4 * even.colour
    assert drifting.colour == drifting.colours[2]
    assert drifting.identity == max(map(abs, drifting.likeness)) > 3 * even.identity
    painted = [source[start:stop].copy() for start, stop in WINDOWS]
    for shared in (painted[1][:5], painted[2][:5]):
        shared[:] = np.random.default_rng(2).integers(0, 256, shared.shape)  # the window before is shown here
    painted[1][5:] = [cv2.GaussianBlur(frame, (0, 0), 0.5) for frame in painted[1][5:]]
    painted[2][5:] = [cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in painted[2][5:]]
    sharp = figures(source, source, painted).sharpness
    assert sharp[0] == pytest.approx(1) and sharp[2] < 0.8 * sharp[1] < 0.8 * 0.9


def test_each_method_is_measured_and_written_at_once(tmp_path, monkeypatch):
    """All clips of a folder, every method; rows of another run with the same settings stay, others go."""
    pipe = tiny_pipeline(**Canvas((Bucket(64, 48),), window=9, overlap=5).settings())
    monkeypatch.setattr(seams, "_pipeline", lambda _: pipe)
    folder, out = tmp_path / "clips", tmp_path / "long.md"
    folder.mkdir()
    make_clip(folder / "one.mp4", frames=13, width=64, height=48)
    written = []
    add = seams.Results.add
    monkeypatch.setattr(seams.Results, "add", lambda *given: (add(*given), written.append(kept())))

    def kept():
        return rows_of(json.loads((tmp_path / "long/results.json").read_text()))

    common = ["--clips", str(folder), "--out", str(out), "--steps", "2", "--device", "cpu", "--edits"]
    assert seams.main([*common, "snow", "--methods", *METHODS]) == 0
    assert [len(rows) for rows in written] == [1, 2, 3, 4] and len(METHODS) == 4
    rows = kept()
    assert [(row.clip, row.edit, row.method) for row in rows] == [("one", "snow", method) for method in METHODS]
    assert len({(row.apart, row.sharpness) for row in rows}) == len(METHODS)
    assert all(np.isfinite(row.step) and row.windows == 2 and row.frames == 13 for row in rows)
    assert table(rows) in out.read_text() and verdicts(rows) in out.read_text()
    assert verdict(rows).startswith(
        f"**Seams no more visible than neighbouring frames of the source (95th percentile): {rows[1].holds:d} of 1"
    )
    assert "one-snow-held.jpg" in out.read_text() and (tmp_path / "long/one-snow-held.jpg").is_file()
    make_clip(folder / "two.mp4", frames=13, width=64, height=48)
    assert seams.main([*common, "snow", "--methods", "held"]) == 0
    assert [(row.clip, row.edit) for row in kept()] == [("one", "snow")] * 4 + [("two", "snow")]
    assert seams.main([*common, "night", "--methods", "held", "--seed", "1"]) == 0
    assert [(row.clip, row.edit) for row in kept()] == [("one", "night"), ("two", "night")]


def test_softening_is_told_at_both_ends():
    kept = rows_of(json.loads(RESULTS.read_text(encoding="utf-8")))
    pair = [next(row for row in kept if row.method == method) for method in ("apart", USED)]
    ramps = [replace(pair[0], sharpness=(1.0,) * 20), replace(pair[1], sharpness=(9.0, *[0.9] * 14, *[0.6] * 5))]
    assert "0.90 in windows 2 to 6, 0.60 in the last 5" in verdict(ramps) and verdict(ramps[:1]) == ""


def test_what_cannot_be_measured_is_said_and_leaves_no_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(seams, "_pipeline", lambda _: tiny_pipeline())
    page, clips = tmp_path / "long.md", tmp_path / "clips"
    clips.mkdir()
    common = ["--out", str(page), "--downloads", str(tmp_path / "downloads"), "--steps", "1", "--clips", str(clips)]

    def refused(says):
        assert seams.main(common) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1
        assert not page.exists() and not (tmp_path / "long/results.json").exists()

    refused("There is no .mp4 file in")
    make_clip(clips / "clip.mp4", frames=6)
    refused("One window holds all 6 frames")
    (clips / "a.mp4").write_bytes(b"no clip")
    refused("a.mp4")


def test_the_published_page_is_made_of_the_published_figures():
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    measured, page = rows_of(kept), PAGE.read_text(encoding="utf-8")
    assert table(measured) in page and verdicts(measured) in page and verdict(measured) in page
    for each in measured:
        assert f"({each.frames} frames in {each.windows} windows)" in page and each.edit in EDITS
    used = {(each.clip, each.edit): each for each in measured if each.method == USED}
    alone = [each for each in measured if each.method == "apart"]
    assert used and len(used) == len(alone)
    assert all(used[each.clip, each.edit].apart < each.apart for each in alone)
