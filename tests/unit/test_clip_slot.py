"""The slot of a clip without a browser: what it shows, and what it takes from a page."""

from __future__ import annotations

import base64
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import gradio as gr
import numpy as np
import pytest

from sama.errors import VideoError
from sama.video import FrameReader
from tests.media import audio_packets, make_clip, read_barcode
from ui.drop import chosen_part, drop, drop_value, uploaded_file, wire_busy
from ui.errors import PromptError
from ui.media.clips import PageClip, take_upload
from ui.media.limits import CLIP_FILES, UPLOAD_LIMITS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def clip(tmp_path: Path, cache: Path) -> PageClip:
    return take_upload(make_clip(tmp_path / "clip.mp4", frames=30, audio="aac"))


def pixels(url: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)


def test_a_clip_is_shown_with_its_length_and_its_frames_in_order(clip):
    shown = drop_value(clip, 12, ticket=3)
    value = shown["clip"]
    assert (shown["ticket"], shown["most"], value["frames"], value["seconds"]) == (3, 12, 30, 1.25)
    assert value["facts"] == "1.2 s, 96 × 64, with sound" and value["detail"] == "30 frames, 24 a second"  # noqa: RUF001
    assert value["name"] == "Your clip" and value["notices"] == ["Up to 0.5 s can be edited at once: choose the part."]
    cells = np.split(pixels(value["strip"]), value["cells"], axis=1)
    assert [read_barcode(cell) for cell in cells] == [(2 * cell + 1) * 30 // 24 for cell in range(12)]
    assert read_barcode(pixels(value["poster"])) == 0
    assert drop_value(clip, 30, example=True)["clip"]["name"] == "Example clip"
    assert drop_value(clip, 30)["clip"]["notices"] == []


def test_a_still_and_a_variable_rate_are_shown_too(tmp_path):
    one = drop_value(take_upload(make_clip(tmp_path / "one.mp4", frames=1)), 5)["clip"]
    assert (one["cells"], one["detail"]) == (1, "1 frame, 24 a second")
    times = [Fraction(number if number < 4 else 4 + 2 * (number - 4), 24) for number in range(9)]
    varied = drop_value(take_upload(make_clip(tmp_path / "vfr.mp4", frames=8, times=times)), 5)["clip"]
    assert varied["times"] == pytest.approx([float(time) for time in times[:-1]])


def test_of_a_long_file_the_asked_part_is_taken_with_its_sound(tmp_path, monkeypatch):
    limits = replace(UPLOAD_LIMITS, max_seconds=1.5)
    monkeypatch.setattr("ui.media.clips.UPLOAD_LIMITS", limits)
    long = make_clip(tmp_path / "long.mp4", frames=42, fps=12, audio="aac", audio_seconds=3.5)
    for asked, first in ((0, 0), (1.5, 18), (99, 30), (-1, 0)):
        clip = take_upload(long, asked)
        with FrameReader(clip.path) as frames:
            assert [read_barcode(frame.image) for frame in frames] == list(range(first, first + 12))
        assert clip.part == (first / 12, 3.5) and clip.sound
        assert 0.9 < max(time for time, _ in audio_packets(clip.path)) < 1.1
        assert drop_value(clip, 99)["clip"]["part"] == {"start": first / 12, "of": 3.5}
    assert take_upload(make_clip(tmp_path / "short.mp4", frames=18, fps=12), 0).part is None
    with pytest.raises(VideoError, match=r"longer than 1\.5 seconds"):
        take_upload(long)
    monkeypatch.setattr("ui.media.clips.UPLOAD_LIMITS", replace(limits, max_total_pixels=96 * 64 * 11))
    with pytest.raises(VideoError, match="more pixels"):
        take_upload(long, 0)


def test_an_empty_slot_keeps_its_problem():
    assert drop_value(None, problem="No.", ticket=2) == {"clip": None, "problem": "No.", "ticket": 2}


def test_only_a_file_that_gradio_took_is_an_upload(clip, cache, tmp_path):
    def event(path: object) -> gr.EventData:
        return gr.EventData(None, {"path": path, "ticket": 7})

    sent = cache / "0123" / "cat.mp4"
    sent.parent.mkdir(parents=True)
    sent.write_bytes(b"x")
    (cache / "0123" / "link.mp4").symlink_to(__file__)
    assert uploaded_file(event(str(sent))) == (sent, 7)
    for path in (__file__, str(clip.path), str(cache), f"{cache}/0123/../../clip.mp4", str(cache / "0123" / "link.mp4"),
                 "http://127.0.0.1/cat.mp4", "", None, 5):  # fmt: skip
        with pytest.raises(PromptError, match="Choose it again"):
            uploaded_file(event(path))


@pytest.mark.parametrize(
    ("sent", "part"),
    [({"start": 4, "frames": 9}, (4, 9)), ({"start": -3, "frames": 0}, (0, 1)), ({}, (0, 1)),
     ({"start": "4", "frames": 1e300}, (0, 1))],
)  # fmt: skip
def test_a_part_is_always_frame_numbers(sent, part):
    assert chosen_part(gr.EventData(None, sent)) == part


def test_the_script_knows_the_limits_of_the_server():
    slot = drop()
    assert slot.props["most_bytes"] == UPLOAD_LIMITS.max_bytes and slot.props["suffixes"] == list(CLIP_FILES)
    with gr.Blocks() as demo:
        slot, go = drop(), gr.Button("Go")
        wire_busy(slot, go)
    busy, ready = (fn.js for fn in demo.fns.values())
    assert '"Preparing your clip\\u2026", "interactive": false' in busy and '"Go", "interactive": true' in ready
