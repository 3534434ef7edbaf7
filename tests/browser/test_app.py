"""What a visitor does, in a real Chromium: upload, edit, compare, stop, restore, look at the plan."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from sama.video import probe
from tests.browser.watching import until, waiting, watch
from tests.media import make_clip, make_text
from ui.settings import ASSETS, Settings

_PIXELS = """(element) => {
  const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
  return [canvas.width, canvas.height, ...pen.getImageData(0, 0, canvas.width, canvas.height).data];
}"""


def picture(page: Page, viewer: str = "#viewer") -> np.ndarray:
    """What the viewer's canvas shows, (H, W, 3)."""
    width, height, *data = page.locator(viewer).evaluate(_PIXELS)
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def choose(page: Page, view: str) -> None:
    page.locator("#viewer .modes label").filter(has_text=view).click()
    expect(page.locator("#viewer").get_by_role("radio", name=view)).to_be_checked()


def press_edit(page: Page) -> None:
    page.get_by_role("button", name="Edit video").click()


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#clip input[type=file]", path)


def test_the_page_opens_on_a_finished_edit(page):
    viewer = page.locator("#viewer")
    expect(viewer).to_contain_text("Make it snowy")
    expect(viewer.get_by_role("listitem").filter(has_text="Original")).to_be_visible()
    expect(page.get_by_role("button", name="Edit video")).to_be_enabled()
    assert picture(page).std() > 10


def test_upload_edit_and_download(page, tmp_path):
    upload(page, make_clip(tmp_path / "other.mp4", frames=13, width=128, height=96, audio="aac"))
    expect(page.locator("#clip")).to_contain_text("128 × 96")  # noqa: RUF001
    page.get_by_label("What should change?").fill("Replace the pattern with a cat")
    page.get_by_label("What should change?").press("Enter")
    expect(page.locator("#progress")).to_contain_text("Painting")
    expect(page.locator("#progress")).to_contain_text("Done in", timeout=60_000)
    expect(page.locator("#viewer")).to_contain_text("Replace the pattern with a cat")
    with page.expect_download() as download:
        page.get_by_role("button", name="Edited clip").click()
    download.value.save_as(tmp_path / "edited.mp4")
    info = probe(tmp_path / "edited.mp4")
    assert (info.frames, info.fps, info.has_audio) == (13, 24, True)


def test_a_mask_limits_the_edit(page, tmp_path):
    page.get_by_role("button", name="Advanced").click()
    note, choose_mask = page.locator("#mask-note"), page.locator("#mask input[type=file]")
    choose_mask.set_input_files(make_text(tmp_path / "notes.txt"))
    expect(note.get_by_role("alert")).to_contain_text("notes.txt")
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 255
    cv2.imwrite(str(tmp_path / "half.png"), mask)
    choose_mask.set_input_files(tmp_path / "half.png")
    expect(note.get_by_role("img")).to_be_visible()
    expect(note).to_contain_text("The source stays where your clip is dark here.")
    page.get_by_label("Steps").first.fill("1")
    page.get_by_label("Never").first.check()  # all that the model painted, where the mask lets it
    press_edit(page)
    expect(page.locator("#progress")).to_contain_text("Done in", timeout=60_000)
    choose(page, "Edited")
    edited = picture(page)
    choose(page, "Original")
    apart = np.abs(picture(page).astype(int) - edited).mean(axis=(0, 2))
    middle = len(apart) // 2
    assert apart[: middle - 8].min() > 8 and apart[middle + 8 :].max() < 8
    with page.expect_download() as download:
        page.get_by_role("button", name="Settings").click()
    assert json.loads(download.value.path().read_text())["mask"] == "mask.png"


def test_stop_ends_the_job_within_a_step_and_the_next_one_starts(page, app):
    press_edit(page)
    page.wait_for_function("document.querySelector('#progress .progress')?.dataset.step >= 2")
    before = len(app.steps)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#progress")).to_contain_text("Stopped at")
    after = len(app.steps)
    assert after - before <= 2  # the step at work, and one that ended before the click arrived
    time.sleep(0.8)
    assert len(app.steps) == after
    press_edit(page)
    expect(page.locator("#progress")).to_contain_text("Done in", timeout=60_000)


def test_whoever_waits_is_told_and_can_leave_the_queue(browser, page, app):
    other = browser.new_page()
    other.goto(app.url)
    expect(other.locator("#viewer .viewer[data-frame]")).to_be_visible()
    press_edit(page)
    expect(page.locator("#progress")).to_contain_text("Painting")
    press_edit(other)
    expect(other.locator("#progress")).to_contain_text("Waiting for the model")
    until(lambda: waiting(app.url) == 1)
    other.get_by_role("button", name="Stop").click()
    expect(other.locator("#progress")).to_contain_text("Stopped. Nothing was saved")
    until(lambda: waiting(app.url) == 0)
    expect(page.locator("#progress")).to_contain_text("Painting")  # the place is free before its turn comes
    other.close()
    expect(page.locator("#progress")).to_contain_text("Done in", timeout=60_000)
    count = len(app.steps)
    time.sleep(0.5)
    assert len(app.steps) == count  # the one who left was not served


def test_leaving_the_page_stops_its_job(browser, app):
    other = browser.new_page()
    other.goto(app.url)
    expect(other.locator("#viewer .viewer[data-frame]")).to_be_visible()
    press_edit(other)
    other.wait_for_function("document.querySelector('#progress .progress')?.dataset.step >= 1")
    other.close()
    time.sleep(1.0)
    count = len(app.steps)
    time.sleep(0.8)
    assert len(app.steps) == count


def test_an_empty_instruction_is_refused_at_its_field(page):
    page.get_by_label("What should change?").fill(" ")
    press_edit(page)
    expect(page.get_by_role("alert").filter(has_text="Say what should change")).to_be_visible()


def test_a_restoration(page):
    page.get_by_role("tab", name="Pretext").click()
    viewer = page.locator("#pretext-viewer .viewer")
    expect(viewer).to_have_attribute("data-panels", "Clean|Given to the model")  # at once, without the model
    page.get_by_label("Shuffled tubes").check()
    expect(page.get_by_text("blocks of space and time")).to_be_visible()
    page.get_by_role("button", name="Restore", exact=True).click()
    expect(viewer).to_have_attribute("data-panels", "Clean|Given to the model|Restored", timeout=60_000)
    expect(page.locator("#scores")).to_contain_text("in the hidden part")
    expect(page.locator("#scores")).to_contain_text("dB")


def test_a_look_at_the_plan(page):
    page.get_by_role("tab", name="Semantic anchors").click()
    plan = page.locator("#plan .plan")
    expect(plan).to_have_attribute("data-step", "3")
    expect(page.locator("#plan [role=gridcell]")).to_have_count(3 * 64)
    cell = page.get_by_role("grid", name="Tokens of the source").get_by_role("gridcell").nth(10)
    cell.click()
    expect(plan).to_have_attribute("data-mode", "similarity")
    expect(cell).to_have_attribute("aria-label", "row 2, column 3, similarity 1.00")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#plan .readout")).to_contain_text("Token of the source at row 2, column 4")
    page.get_by_role("button", name="Step 1", exact=True).click()
    expect(plan).to_have_attribute("data-step", "1")


def test_an_edit_of_this_session_can_be_looked_into(page):
    page.get_by_label("What should change?").fill("Add a red balloon")
    press_edit(page)
    expect(page.locator("#progress")).to_contain_text("Done in", timeout=60_000)
    page.get_by_role("tab", name="Semantic anchors").click()
    expect(page.get_by_label("Edit", exact=True)).to_have_value("This session: Add a red balloon")
    expect(page.locator("#plan .plan")).to_have_attribute("data-step", "10")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_sideways_scroll(browser, app, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    seen = watch(page, app.url)
    page.goto(app.url)
    for tab in ("Edit", "Pretext", "Semantic anchors"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    dark = page.evaluate("document.body.classList.contains('dark')")
    context.close()
    assert dark == (scheme == "dark")
    assert seen.errors == [] and seen.foreign == []


@pytest.mark.skipif(not (ASSETS / "sama-tiny" / "model_index.json").is_file(), reason="needs assets/sama-tiny")
def test_the_embedded_model_edits_a_clip(browser, serve, clip, tmp_path):
    url = serve(Settings(examples=tmp_path))
    page = browser.new_page()
    seen = watch(page, url)
    page.goto(url)
    page.set_input_files("#clip input[type=file]", clip)
    expect(page.locator("#clip")).to_contain_text("Your clip", timeout=20_000)
    page.get_by_label("What should change?").fill("Make it snowy")
    press_edit(page)
    expect(page.locator("#progress")).to_contain_text("Done in", timeout=120_000)
    page.close()
    assert seen.errors == [] and seen.foreign == []
