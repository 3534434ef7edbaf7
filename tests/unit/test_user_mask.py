"""A mask of the user's: outside it the source stays to the last bit, inside it the edit shows."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sama import cli
from sama.edit import EditError, edit_video
from sama.edit.composing.change import NOTHING_CHANGED_INSIDE
from sama.edit.composing.user_mask import open_mask
from sama.edit.request import EditRequest
from sama.edit.settings_file import load_settings
from sama.shapes import Bucket, Canvas
from sama.video import VideoWriter, read_clip, write_clip
from tests.edit_tab import edit_tab, press
from tests.media import make_clip, make_text
from tests.tiny import Copier, tiny_pipeline

SMALL = Canvas((Bucket(64, 48),), window=5, overlap=2).settings()
WIDTH, HEIGHT, FRAMES = 96, 72, 9
WHOLE = (slice(None), slice(None))


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(tower=False, **SMALL, default_steps=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=FRAMES, width=WIDTH, height=HEIGHT)


@pytest.fixture
def written(monkeypatch):
    """The frames of the result as they reach the file, before it is compressed."""
    pictures = []
    write = VideoWriter.write
    monkeypatch.setattr(
        VideoWriter, "write", lambda self, image, *a, **k: (pictures.append(image.copy()), write(self, image, *a, **k))
    )
    return pictures


def still(path, columns, scale=1, value=255):
    """A picture that is white in a range of columns."""
    image = np.zeros((HEIGHT * scale, WIDTH * scale), np.uint8)
    image[:, columns.start * scale : columns.stop * scale] = value
    cv2.imwrite(str(path), image)
    return path


def edited(clip, pipe, output, **changes):
    request = EditRequest(video=clip, instruction="Make it snowy", output=output, **changes)
    return list(edit_video(request, pipe))[-1].result


@pytest.mark.parametrize("keep", ["auto", "off"])
@pytest.mark.parametrize("scale", [1, 2])
def test_outside_the_mask_the_source_stays_exactly(keep, scale, clip, pipe, tmp_path, written):
    mask = still(tmp_path / "mask.png", slice(30, 50), scale)
    result = edited(clip, Copier(pipe, WHOLE), tmp_path / "out.mp4", mask=mask, keep_source=keep, detail="off")
    source, shown = read_clip(clip), np.stack(written)
    assert shown.shape == source.shape
    assert np.array_equal(shown[:, :, :30], source[:, :, :30]) and np.array_equal(shown[:, :, 50:], source[:, :, 50:])
    assert (shown[:, :, 30:50] == (255, 0, 0)).all()
    assert result.changed == pytest.approx(20 / WIDTH, rel=0.15)


def test_inside_the_mask_keep_source_still_chooses(clip, pipe, tmp_path, written):
    """The model paints a box; a mask beside it leaves nothing to see, unless all that it painted is asked for."""
    box = (slice(0, 48), slice(0, 20))  # 30 columns of the clip
    mask = still(tmp_path / "mask.png", slice(60, 90))
    result = edited(clip, Copier(pipe, box), tmp_path / "out.mp4", mask=mask, keep_source="on")
    assert np.array_equal(np.stack(written), read_clip(clip))
    assert result.changed == 0 and result.notices == (NOTHING_CHANGED_INSIDE,)
    written.clear()
    edited(clip, Copier(pipe, box), tmp_path / "b.mp4", mask=mask, keep_source="off", detail="off")
    assert not np.array_equal(np.stack(written)[:, :, 60:90], read_clip(clip)[:, :, 60:90])  # the model's copy


def test_a_clip_is_followed_frame_by_frame_and_its_last_frame_stays(clip, pipe, tmp_path, written):
    """The mask's band moves by 8 columns a frame for 4 frames; the edit begins at the clip's frame 1."""
    frames = np.zeros((4, HEIGHT, WIDTH, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:, 16 + 8 * index : 32 + 8 * index] = 255
    write_clip(tmp_path / "mask.mp4", frames, 24)
    written.clear()
    edited(
        clip, Copier(pipe, WHOLE), tmp_path / "out.mp4", mask=tmp_path / "mask.mp4", keep_source="off", detail="off",
        start=1,
    )  # fmt: skip
    assert len(written) == FRAMES - 1
    for number, shown in enumerate(written, start=1):
        left = 16 + 8 * min(number, 3)
        red = (shown == (255, 0, 0)).all(axis=(0, 2))
        assert red[left + 2 : left + 14].all() and not red[: left - 2].any() and not red[left + 18 :].any()


@pytest.mark.parametrize("keep", ["image", "clip"])
def test_a_mask_never_ends(keep, tmp_path):
    path = still(tmp_path / "mask.png", slice(0, 48))
    if keep == "clip":
        path = tmp_path / "mask.mp4"
        write_clip(path, np.full((2, 32, 32, 3), 255, np.uint8), 24)
    with open_mask(path, 5, (64, 48)) as masks:  # from behind the clip's end
        weights = [next(masks) for _ in range(4)]
    assert all(weight.shape == (48, 64) and weight.max() == 1 for weight in weights)


def test_brightness_and_transparency_say_how_much_shows(tmp_path):
    image = np.zeros((8, 8, 4), np.uint8)
    image[:, 2:] = (255, 255, 255, 255)
    image[:, 4:] = (255, 255, 255, 0)
    image[:, 6:] = (128, 128, 128, 255)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "b.png"), (image[..., 0].astype(np.uint16) * (image[..., 3] > 0)) * 257)
    for name in ("a.png", "b.png"):
        with open_mask(tmp_path / name, 0, (8, 8)) as masks:
            assert next(masks)[0] == pytest.approx([0, 0, 1, 1, 0, 0, 0.5, 0.5], abs=0.01)


def masks_that_are_none(tmp_path):
    write_clip(tmp_path / "dark.mp4", np.zeros((3, 32, 32, 3), np.uint8), 24)
    torn = still(tmp_path / "torn.png", slice(0, 48), scale=8)
    torn.write_bytes(torn.read_bytes()[:80])
    (tmp_path / "empty.png").write_bytes(b"")
    return {
        tmp_path / "none.png": "There is no mask 'none.png'",
        tmp_path: "There is no mask",
        still(tmp_path / "black.png", slice(0, 48), value=8): "black.png is all black",
        tmp_path / "dark.mp4": "dark.mp4 is all black",
        make_text(tmp_path / "notes.txt"): "The mask cannot be used: notes.txt",
        tmp_path / "empty.png": "The mask cannot be used: empty.png",
        torn: "The mask cannot be used: torn.png is damaged",
        7: "must be the path",
    }


def test_bad_masks_are_refused_at_the_door_in_one_sentence(clip, pipe, tmp_path):
    for mask, says in masks_that_are_none(tmp_path).items():
        with pytest.raises(EditError) as refused:
            list(edit_video(EditRequest(clip, "Make it snowy", tmp_path / "out.mp4", mask=mask), pipe))
        said = str(refused.value)
        assert says in said and "\n" not in said and str(tmp_path) not in said
    assert not list(tmp_path.glob("out*"))


def test_settings_repeat_an_edit_with_its_mask(clip, pipe, tmp_path):
    mask = still(tmp_path / "mask.png", slice(30, 50))
    result = edited(clip, pipe, tmp_path / "out.mp4", mask=mask, frames=5)
    assert json.loads(result.settings.read_text())["mask"] == "mask.png"
    again = EditRequest(**load_settings(result.settings) | {"output": tmp_path / "again.mp4"})
    list(edit_video(again, pipe))
    assert (tmp_path / "again.mp4").read_bytes() == result.output.read_bytes()


def test_the_command_line_takes_a_mask(clip, pipe, tmp_path, monkeypatch, written, capsys):
    monkeypatch.setattr("sama.edit.editor.load_pipeline", lambda *_: Copier(pipe, WHOLE))
    mask = still(tmp_path / "mask.png", slice(30, 50))
    arguments = ["edit", str(clip), "Make it snowy", "-o", str(tmp_path / "out.mp4"), "--frames", "2", "--mask"]
    assert cli.main([*arguments, str(mask)]) == 0
    assert np.array_equal(np.stack(written)[:, :, :30], read_clip(clip, 0, 2)[:, :, :30])
    assert cli.main([*arguments, str(tmp_path / "none.png")]) == 2
    assert "There is no mask 'none.png'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["png", "mp4"])
def test_the_api_takes_a_mask(kind, clip, pipe, tmp_path, monkeypatch, written):
    from ui.api import Api
    from ui.jobs.jobs import Jobs
    from ui.settings import Settings

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    mask = still(tmp_path / "mask.png", slice(24, 48))
    if kind == "mp4":
        mask = tmp_path / "mask.mp4"
        frames = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
        frames[:, :, 24:48] = 255
        write_clip(mask, frames, 24)
    api = Api(Jobs(Settings(pipeline_loader=lambda: Copier(pipe, WHOLE), warm=False)))
    *_, (_, settings, _) = api.edit_video(str(clip), "Make it snowy", frames=2, keep_source="off", mask=str(mask))
    stored = json.loads(Path(settings).read_text())
    assert stored["mask"] == f"mask.{kind}" and stored["changed"] == pytest.approx(0.25, rel=0.2)
    shown = written[-1]
    assert (shown[:, 28:44, 0] > 240).all() and (shown[:, :16] != (255, 0, 0)).any(axis=-1).all()


@pytest.fixture
def tab(pipe, tmp_path, monkeypatch):
    """The page's tab, whose model paints the box that its list names: everything, at first."""
    from ui.jobs.jobs import Jobs
    from ui.settings import Settings

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    model = Copier(pipe, WHOLE)
    tab, _ = edit_tab(Jobs(Settings(pipeline_loader=lambda: model, warm=False)))
    tab.model = model
    return tab


def folders(tmp_path):
    return sorted((tmp_path / "cache-jobs").glob("sama-*"))


def test_the_page_takes_a_mask_shows_it_and_says_when_nothing_changed(tab, clip, tmp_path, written):
    from ui import text
    from ui.media.clips import take_upload

    source, form = take_upload(clip), tab.form
    taken = form._take_mask(str(still(tmp_path / "My mask.PNG", slice(24, 48))), source)
    mask, note = taken[form.mask], taken[form.mask_note]
    assert mask.name == "mask.png" and text.MASK_SHOWN in note and "<img" in note

    def run(keep):
        options = {"frames": 2, "steps": 1, "guidance": 1.0, "detail": "Never", "mask": mask}
        *_, last = press(tab, source, keep_source=keep, **options)
        return last[tab.stage.shown].settings, last[tab.stage.title]

    settings, said = run("Never")
    assert settings["mask"] == "mask.png" and settings["changed"] == pytest.approx(0.25, rel=0.2)
    assert said["strong"] == "Changed 25 % of the picture"
    shown = written[-1]
    assert (shown[:, 28:44, 0] > 240).all() and (shown[:, :16] != (255, 0, 0)).any(axis=-1).all()
    tab.model._box = None  # a model that leaves the clip as it was
    settings, said = run("Automatic")
    assert settings["notices"] == [NOTHING_CHANGED_INSIDE] and "inside the mask" in said["strong"]
    assert [button["event"] for button in said["buttons"]] == ["other", "whole"]
    assert form.show_clip(source)[form.mask] is None, "another clip needs another mask"


def test_the_page_refuses_a_mask_in_one_sentence_and_keeps_nothing(tab, tmp_path, clip):
    from ui.media.clips import take_upload

    source = take_upload(clip)
    before = folders(tmp_path)
    for path, says in masks_that_are_none(tmp_path).items():
        if isinstance(path, Path) and path.is_file():
            answer = tab.form._take_mask(str(path), source)
            said = answer[tab.form.mask_note]
            assert path.name in said and ("all black" in said) == ("all black" in says)
            assert said.count("<p") == 1 and 'role="alert"' in said and str(tmp_path) not in said
            assert answer[tab.form.mask] is None and answer[tab.form.mask_file] is None
    assert folders(tmp_path) == before
