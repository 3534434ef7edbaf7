"""What an edit does not keep of its source is said once, in the result, the settings, the command line and the page."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sama import cli
from sama.edit import edit_video
from sama.edit.request import EditRequest, free_output
from sama.shapes import Bucket, Canvas
from sama.video import FrameReader, probe
from tests import inputs
from tests.edit_tab import edit_tab, press
from tests.media import make_clip, numbers
from tests.tiny import tiny_pipeline
from ui.jobs.jobs import Jobs
from ui.media.clips import take_upload
from ui.settings import Settings

SMALL = Canvas((Bucket(64, 48),), window=5, overlap=2).settings()
HDR = "HDR (HLG): tone-mapped to SDR."
GREY = np.full((48, 64, 3), 0.5)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(tower=False, **SMALL, default_steps=1)


@pytest.fixture
def hdr(tmp_path):
    return inputs.make_coded(tmp_path / "holiday.mp4", GREY, inputs.HLG, frames=3)


def edited(video, output, pipe, **changes):
    request = EditRequest(video=video, instruction="Make it snowy", output=output, keep_source="on", **changes)
    return list(edit_video(request, pipe))[-1].result


def test_result_and_settings_say_what_was_changed(hdr, pipe, tmp_path):
    result = edited(hdr, tmp_path / "out.mp4", pipe)
    assert result.notices == (HDR,)
    assert json.loads(result.settings.read_text())["notices"] == [HDR]
    plain = edited(make_clip(tmp_path / "plain.mp4", frames=3), tmp_path / "plain-out.mp4", pipe)
    assert plain.notices == () and json.loads(plain.settings.read_text())["notices"] == []


def test_what_shows_only_on_the_way_is_said_too(pipe, tmp_path):
    source = inputs.make_growing(tmp_path / "a.mp4", [(96, 64), (64, 96)])
    labelled = inputs.make_labelled(tmp_path / "b.mov", source, timecode=True)
    assert edited(labelled, tmp_path / "out.mp4", pipe).notices == (
        "The size changes on the way: fitted into 96 x 64.",
        "Not kept: timecode.",
    )


def test_an_edit_keeps_transparency_where_the_output_can(pipe, tmp_path):
    source = inputs.make_alpha(tmp_path / "a.webm", "libvpx-vp9", "yuva420p", frames=5)
    for suffix, notices in ((".webm", ()), (".mov", ()), (".mp4", ("Transparency: not kept, shown on black.",))):
        result = edited(source, tmp_path / f"out{suffix}", pipe)
        assert result.notices == notices
        with FrameReader(result.output, alpha=True) as reader:
            alpha = [frame.alpha.astype(int) for frame in reader]
        assert len(alpha) == 5
        kept = np.abs(alpha[2] - inputs.disc()[..., 3]).mean() < 4
        assert kept == (suffix != ".mp4")


def test_a_clip_with_a_long_name_is_edited_under_a_shorter_one(pipe, tmp_path):
    clip = make_clip(tmp_path / "a.mp4", frames=2).rename(tmp_path / f"{'é' * 120}.mp4")
    result = edited(clip, free_output(clip), pipe)
    assert probe(result.output).frames == 2 and result.settings.is_file()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("quiet", [False, True])
def test_the_command_line_says_it_on_stderr(quiet, hdr, pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    arguments = ["edit", str(hdr), "Make it snowy", "--model", str(tmp_path / "model"), "--frames", "1", "--steps", "1"]
    assert cli.main([*arguments, *(["--quiet"] if quiet else [])]) == 0
    said = capsys.readouterr()
    last = said.err.splitlines()[-1]
    assert last.startswith("Note: ") and last.endswith(HDR) and said.out.strip().endswith("holiday-edited.mp4")
    assert cli.main(["info", str(hdr), "--model", str(tmp_path / "model")]) == 0
    assert f"Note: {HDR}" in capsys.readouterr().out


@pytest.fixture
def page(pipe, tmp_path, monkeypatch):
    """The Edit tab of an app, and its jobs."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    jobs = Jobs(Settings(pipeline_loader=lambda: pipe, warm=False))
    return edit_tab(jobs)[0]


def test_the_page_says_it_beside_the_clip_and_the_result(page, hdr):
    clip = take_upload(hdr)
    assert HDR in page.form.show_clip(clip)[page.form.drop]["clip"]["notices"]
    *_, last = press(page, clip, frames=3, steps=1, guidance=1.0, keep_source="Always")
    title = last[page.stage.title]
    assert HDR in title["facts"] and "% of the picture" in title["strong"]
    (edit,) = last[page.session.runs]
    assert json.loads(edit.settings_file.read_text())["notices"] == [HDR]


def test_the_api_says_it_too(page, hdr):
    from ui.api import Api

    *_, (video, settings, state) = Api(page.running.jobs).edit_video(str(hdr), "Make it snowy", steps=1)
    assert state.startswith("Done. Changed ") and state.endswith(f" % of the picture. {HDR}")
    assert probe(video).frames == 3
    with open(settings) as file:
        assert json.load(file)["notices"] == [HDR]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_the_page_takes_animations(page, suffix, tmp_path):
    clip = take_upload(inputs.make_animation(tmp_path / f"a{suffix}"))
    assert numbers(clip.path) == [0, 1, 2, 3]
    assert suffix in page.form.drop.props["suffixes"]


def test_a_clip_of_the_page_names_what_the_upload_lost(page, tmp_path):
    film = inputs.make_labelled(tmp_path / "a.mov", make_clip(tmp_path / "film.mp4", frames=3), timecode=True)
    assert take_upload(film).notices == ("Not kept: timecode.",)
