"""What a visitor does, in a real Chromium: compare, limit an edit by a mask, wait, leave, look at the plan."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.browser.watching import LONG, STEPS, ask, done, download, jobs, painting, press, set_steps, until, watch
from tests.media import make_text
from ui.settings import ASSETS, Settings

_PIXELS = """(element) => {
  const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
  return [canvas.width, canvas.height, ...pen.getImageData(0, 0, canvas.width, canvas.height).data];
}"""

# The comparison of another edit than before is on the stage.
_COMPARED = """(before) => {
  const root = document.querySelector("#viewer .viewer"), video = root.querySelector("video"), src = video.src;
  return src.endsWith("packed.mp4") && video.getAttribute("src") !== before && video.readyState >= 2 &&
    root.dataset.panels === "Original|Edited" && root.querySelector(".stage > canvas").width * 2 === video.videoWidth;
}"""


def picture(page: Page, viewer: str = "#viewer") -> np.ndarray:
    """What the viewer's canvas shows, (H, W, 3)."""
    width, height, *data = page.locator(viewer).evaluate(_PIXELS)
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def choose(page: Page, view: str) -> None:
    page.locator("#viewer .modes label").filter(has_text=view).click()
    expect(page.locator("#viewer").get_by_role("radio", name=view)).to_be_checked()


def test_a_mask_limits_the_edit(page, tmp_path):
    page.locator("#settings > button").click()
    note, choose_mask = page.locator("#mask-note"), page.locator("#mask input[type=file]")
    choose_mask.set_input_files(make_text(tmp_path / "notes.txt"))
    expect(note.get_by_role("alert")).to_contain_text("notes.txt")
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 255
    cv2.imwrite(str(tmp_path / "half.png"), mask)
    choose_mask.set_input_files(tmp_path / "half.png")
    expect(note.get_by_role("img")).to_be_visible()
    expect(note).to_contain_text("The source stays where your clip is dark here.")
    set_steps(page, 1)
    page.get_by_label("Never").first.check()  # all that the model painted, where the mask lets it
    before = page.locator("#viewer video").get_attribute("src")
    ask(page)
    done(page)
    page.wait_for_function(_COMPARED, arg=before)
    choose(page, "Edited")
    edited = picture(page)
    choose(page, "Original")
    apart = np.abs(picture(page).astype(int) - edited).mean(axis=(0, 2))
    middle = len(apart) // 2
    assert apart[: middle - 8].min() > 8 and apart[middle + 8 :].max() < 8
    assert json.loads(download(page, "Settings").path().read_text())["mask"] == "mask.png"


def test_whoever_waits_is_told_and_can_leave_the_queue(browser, page, app):
    other = browser.new_page()
    other.goto(app.url)
    expect(other.locator("#viewer .viewer[data-frame]")).to_be_visible()
    ask(page, steps=LONG)
    painting(page)
    before = jobs(app.url, "stopped")
    ask(other)
    place = re.compile(r"1 ahead of you(, about [^.]+)?\. Look at an example meanwhile")
    expect(other.locator("#job")).to_contain_text(place)
    expect(other).to_have_title(re.compile("^1 ahead · "))
    until(lambda: jobs(app.url, "waiting") == 1)
    other.get_by_role("button", name="Stop this edit").click()
    expect(other.locator("#note")).to_contain_text("Stopped. Nothing was saved")
    until(lambda: jobs(app.url, "waiting") == 0)
    expect(page.locator("#job")).to_contain_text("Painting")  # the place is free before its turn comes
    other.close()
    count = len(app.steps)
    page.close()  # leaving the page stops its job, and the one who left is not served
    until(lambda: jobs(app.url, "stopped") == before + 1 and jobs(app.url, "running") == 0)
    assert len(app.steps) < count + LONG // 2
    assert jobs(app.url, "waiting") == 0


def test_an_empty_instruction_is_refused_at_its_field(page):
    page.get_by_label("What should change?").fill(" ")
    press(page)
    expect(page.get_by_role("alert").filter(has_text="Say what should change")).to_be_visible()


def question_of_plan(page: Page, question: str) -> None:
    page.locator("#plan").get_by_label(question).check()


def test_a_look_at_the_plan(page):
    """Every question, with pointer and keyboard; what is written is what the record holds."""
    page.get_by_role("tab", name="Plan").click()
    plan, readout = page.locator("#plan .plan"), page.locator("#plan .readout")
    expect(plan).to_have_attribute("data-step", "3")
    expect(page.locator("#plan .told")).to_have_text(re.compile(r"^\s*The plan "))
    cells = page.get_by_role("gridcell")
    expect(cells).to_have_count(64)
    page.wait_for_function("[...document.querySelectorAll('#plan img')].every((image) => image.complete)")
    box = page.locator("#plan .large").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 2.5 / 8, box["y"] + box["height"] * 1.5 / 8)
    expect(readout).to_contain_text("Row 2, column 3:")
    marks = "(marks) => marks.filter((mark) => mark.offsetParent).map((mark) => [mark.style.left, mark.style.top])"
    until(lambda: page.locator("#plan .side .mark").evaluate_all(marks) == [["25%", "12.5%"]] * 3)
    cells.nth(10).focus()
    page.keyboard.press("ArrowRight")
    expect(cells.nth(11)).to_be_focused()
    expect(readout).to_contain_text("Row 2, column 4:")
    page.get_by_role("button", name="Step 1", exact=True).click()
    expect(plan).to_have_attribute("data-step", "1")
    expect(page.locator("#plan .side")).to_contain_text("The picture at step 1")
    with page.expect_download() as download:
        page.get_by_role("button", name="Table (CSV)").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    first = float(rows[11]["source_plan"])
    expect(readout).to_contain_text(f"Your clip ↔ plan {first:.2f}".replace("-", "\N{MINUS SIGN}"))
    expect(cells.nth(11)).to_have_attribute("aria-label", re.compile(rf"row 2, column 4, {1 - first:.2f}"))
    question_of_plan(page, "What looks alike?")
    expect(cells.nth(11)).to_have_attribute("aria-label", re.compile("row 2, column 4, 1.00"))
    expect(readout).to_contain_text("Most alike: your clip row")
    for question in ("Did it?", "What did it miss?", "Raw colours", "What will change?"):
        question_of_plan(page, question)
        expect(page.locator("#plan").get_by_label(question)).to_be_checked()
    page.get_by_role("button", name="Play the steps").click()
    expect(plan).to_have_attribute("data-step", "3")
    expect(page.get_by_role("button", name="Play the steps")).to_be_visible()


def test_an_edit_of_this_session_can_be_looked_into(page):
    ask(page, "Add a red balloon", steps=STEPS)
    done(page)
    page.get_by_role("tab", name="Plan").click()
    expect(page.get_by_role("combobox", name="Plan of")).to_have_value("This session: Add a red balloon")
    expect(page.locator("#plan .plan")).to_have_attribute("data-step", str(STEPS))
    addresses = page.locator("#plan .strip img").evaluate_all("(images) => images.map((image) => image.src)")
    assert len(addresses) == STEPS and len(set(addresses)) > 2  # the picture as it formed


@pytest.mark.skipif(not (ASSETS / "sama-tiny" / "model_index.json").is_file(), reason="needs assets/sama-tiny")
def test_the_embedded_model_edits_a_clip(browser, serve, clip, tmp_path):
    url = serve(Settings(examples=tmp_path))
    page = browser.new_page()
    seen = watch(page, url)
    page.goto(url)
    page.set_input_files("#clip input[type=file]", clip)
    expect(page.locator("#clip")).to_contain_text("Your clip", timeout=20_000)
    ask(page, "Make it snowy")
    done(page, 120_000)
    page.close()
    assert seen.errors == [] and seen.foreign == []
