"""The Repair tab in a real Chromium: what is drawn is the run's, and it stays."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Page, expect

from sama.video import probe
from tests.browser.watching import FRAMES, watch
from tests.media import make_clip
from ui.repair.record import heat
from ui.repair.shipped import load_shipped

_PANEL = """(panel) => {
  const canvas = panel.querySelector("canvas"), w = canvas.width, h = canvas.height;
  const data = canvas.getContext("2d").getImageData(0, 0, w, h).data, found = [Math.ceil(w / 4), Math.ceil(h / 4)];
  for (let y = 0; y < h; y += 4)
    for (let x = 0; x < w; x += 4) found.push(...data.subarray((y * w + x) * 4, (y * w + x) * 4 + 3));
  return found;
}"""
VIEW = "#repair-view .repair"


def panel(page: Page, number: int) -> np.ndarray:
    """Every fourth pixel of what a panel shows, (h, w, 3)."""
    width, height, *data = page.locator("#repair-view .panel").nth(number).evaluate(_PANEL)
    return np.array(data, np.uint8).reshape(height, width, 3)


def sheet_frame(path: Path, facts: dict, index: int) -> np.ndarray:
    picture = cv2.imread(str(path))[..., ::-1]
    y, x = index // facts["columns"] * facts["height"], index % facts["columns"] * facts["width"]
    return picture[y : y + facts["height"] : 4, x : x + facts["width"] : 4]


def near(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a.astype(int) - b).mean() < 3)


def open_repair(page: Page) -> None:
    page.get_by_role("tab", name="Repair").click()
    expect(page.locator(f"{VIEW}[data-frame]")).to_be_visible()
    page.wait_for_function(
        "document.querySelector('#repair-view canvas').getContext('2d').getImageData(9, 9, 1, 1).data[3] > 0"
    )


def test_it_opens_on_a_finished_repair_at_a_damaged_frame(page, app):
    (shipped,) = load_shipped(app.settings.examples)
    facts = shipped.repair.facts
    open_repair(page)
    at = int(page.locator(VIEW).get_attribute("data-frame"))
    assert facts["touched"][at] == 1
    expect(page.locator("#repair-view .heads .touched")).to_have_text(
        [str(index + 1) for index, share in enumerate(facts["touched"]) if share]
    )
    page.locator("#repair-view").get_by_label("Frame", exact=True).focus()
    for key, frame in (("ArrowLeft", at - 1), ("End", FRAMES - 1), ("Home", 0)):
        page.keyboard.press(key)
        expect(page.locator(VIEW)).to_have_attribute("data-frame", str(frame))
        for number, name in enumerate(("original", "seen", "repaired")):
            assert near(panel(page, number), sheet_frame(shipped.repair.sheet(name), facts, frame)), (name, frame)
    row = page.locator("#repair-view canvas.seen").bounding_box()
    page.mouse.click(row["x"] + row["width"] * (at + 0.5) / FRAMES, row["y"] + row["height"] / 2)
    expect(page.locator(VIEW)).to_have_attribute("data-frame", str(at))
    expect(page.locator("#repair-view .panel").nth(1)).to_contain_text("hidden")
    assert panel(page, 1).std() < 3, "grey"
    page.get_by_label("Show errors").check()
    shown = heat(*(sheet_frame(shipped.repair.sheet(name), facts, at)[None] for name in ("original", "repaired")))[0]
    assert np.abs(panel(page, 2).astype(int) - shown).mean() < 12
    psnr = facts["psnr"]
    expect(page.locator("#repair-view .told")).to_contain_text(
        f"{psnr['given_hidden']:.1f} → {psnr['restored_hidden']:.1f} dB"
    )


def test_breaking_repairing_leaving_and_coming_back(page, app, tmp_path):
    open_repair(page)
    page.get_by_label("Scrambling pieces").check()
    view = page.locator(VIEW)
    expect(view).to_have_attribute("data-task", "tube")
    expect(view).to_have_attribute("data-state", "broken")
    pieces = page.locator("#repair-view .panel").nth(1).get_by_role("button")
    expect(pieces).to_have_count(4)
    pieces.first.focus()
    expect(page.locator("#repair-view .pointed")).to_contain_text("Piece ")
    assert page.locator("#repair-view .arrows path").count() in (0, 8)  # none for a piece that stayed
    page.get_by_role("button", name="Repair it").focus()
    page.keyboard.press("Enter")
    expect(view).to_have_attribute("data-state", "repairing")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    page.wait_for_function("document.querySelector('#repair-progress .progress')?.dataset.step >= 3")
    assert panel(page, 2).std() > 3, "the picture that forms"
    before = len(app.steps)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#repair-progress")).to_contain_text("Stopped at")
    expect(view).to_have_attribute("data-state", "broken")
    assert len(app.steps) - before <= 2
    page.get_by_role("button", name="Repair it").click()
    expect(view).to_have_attribute("data-state", "repaired", timeout=60_000)
    expect(page.locator("#repair-view .result")).to_contain_text("dB")
    told = page.locator("#repair-view .told").inner_text()
    with page.expect_download() as film:
        page.get_by_role("button", name="Three-panel film").click()
    film.value.save_as(tmp_path / "film.mp4")
    assert probe(tmp_path / "film.mp4").frames == FRAMES
    with page.expect_download() as numbers:
        page.get_by_role("button", name="Numbers (JSON)").click()
    facts = json.loads(numbers.value.path().read_text())
    assert facts["choice"]["task"] == "tube" and f"{facts['psnr']['restored_hidden']:.1f} dB" in told
    steps = len(app.steps)
    page.get_by_role("tab", name="Edit").click()
    page.get_by_role("tab", name="Repair").click()
    expect(view).to_have_attribute("data-state", "repaired")
    page.get_by_label("Hiding frames").check()
    expect(view).to_have_attribute("data-task", "cube")
    page.get_by_label("Scrambling pieces").check()
    expect(view).to_have_attribute("data-task", "tube")
    expect(view).to_have_attribute("data-state", "repaired")
    assert page.locator("#repair-view .told").inner_text() == told and len(app.steps) == steps


def test_the_zig_zag_and_an_own_clip(page, tmp_path):
    page.set_input_files("#clip input[type=file]", make_clip(tmp_path / "mine.mp4", frames=13, width=128, height=96))
    expect(page.locator("#clip")).to_contain_text("128 × 96")  # noqa: RUF001
    page.get_by_role("tab", name="Repair").click()
    expect(page.get_by_role("combobox", name="Clip")).to_have_value("Your clip")
    expect(page.locator(VIEW)).to_have_attribute("data-state", "broken")
    expect(page.locator("#repair-view .heads span")).to_have_count(13)
    page.get_by_label("Doubling speed").check()
    line = page.locator("#repair-view path.zigzag")
    expect(line).to_have_attribute("d", "M0.5 12.5 L1.5 10.5 L2.5 8.5 L3.5 6.5 L4.5 4.5 L5.5 2.5 L6.5 0.5 "
                                        "L7.5 2.5 L8.5 4.5 L9.5 6.5 L10.5 8.5 L11.5 10.5 L12.5 12.5")  # fmt: skip
    expect(page.locator("#repair-view .told")).to_contain_text("double speed, forwards and then backwards")


def test_on_a_phone_the_panels_are_stacked_and_all_of_it_fits(browser, app):
    width = 390
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme="dark", has_touch=True)
    page = context.new_page()
    seen = watch(page, app.url)
    page.goto(app.url)
    open_repair(page)
    boxes = [each.bounding_box() for each in page.locator("#repair-view .panel").all()]
    assert len({round(box["x"]) for box in boxes}) == 1 and boxes[0]["width"] > 0.8 * width
    page.locator("#repair-view .row canvas").first.scroll_into_view_if_needed()
    row = page.locator("#repair-view .row canvas").first.bounding_box()
    page.touchscreen.tap(row["x"] + row["width"] * 2.5 / FRAMES, row["y"] + 10)
    expect(page.locator(VIEW)).to_have_attribute("data-frame", "2")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
    assert seen.errors == [] and seen.foreign == []
