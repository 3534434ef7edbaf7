"""The comparison viewer in a real Chromium, on a page of its own: every frame, every view, keys, mouse and fingers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from sama.video import pack_side_by_side
from tests.browser.watching import watch
from ui.viewer import Comparison, viewer

FRAMES, FPS, WIDTH, HEIGHT = 60, 30, 256, 96
TILES = 4
"""How often each picture repeats its number from left to right, so that a part of it still shows the whole number."""
LEVELS = (20, 235), (20, 90)
"""What a zero and a one look like in the first panel and in the second."""


def numbered(number: int, panel: int) -> np.ndarray:
    bits = [LEVELS[panel][number >> bit & 1] for bit in range(8)]
    row = np.repeat(np.array(bits * TILES, np.uint8), WIDTH // (8 * TILES))
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


# Reads the number in a tile: from where to where in parts of the canvas, and the level between zero and one.
_CHECK = """async ({samples, tiles, seeks, load}) => {
  const root = document.querySelector("#viewer .viewer"), video = root.querySelector("video");
  const canvas = root.querySelector(".stage > canvas"), frame = root.querySelector(".frame");
  const read = ([from, to, level]) => {
    const pen = canvas.getContext("2d"), y = Math.floor(canvas.height / 2);
    let number = 0;
    for (let bit = 0; bit < 8; bit++) {
      const x = Math.floor((from + ((to - from) * (bit + 0.5)) / 8) * canvas.width);
      number += (pen.getImageData(x, y, 1, 1).data[0] > level ? 1 : 0) << bit;
    }
    return number;
  };
  const wrong = [], seen = new Set();
  const check = (what) => {
    const said = Number(root.dataset.frame), shown = tiles.map(read);
    seen.add(said);
    if (shown.some((number) => number !== said)) wrong.push([what, said, ...shown]);
  };
  const busy = (ms) => { const end = performance.now() + ms; while (performance.now() < end); };
  const next = () => new Promise((done) => video.requestVideoFrameCallback(() => {
    check("playing");
    busy(load);
    done();
  }));
  if (video.paused) root.querySelector(".play").click();
  for (let i = 0; i < samples - seeks; i++) await next();
  for (let i = 0; i < seeks; i++) {
    const seeked = new Promise((done) => video.addEventListener("seeked", done, {once: true}));
    frame.value = (Number(frame.value) + 17 + 7 * i) % (Number(frame.max) + 1);
    frame.dispatchEvent(new Event("input", {bubbles: true}));
    busy(load);
    await seeked;
    check("sought");
  }
  return [wrong, seen.size];
}"""

_BUSY_WORKER = """() => {
  const code = URL.createObjectURL(new Blob(["while (true) {}"]));
  window.busy = new Worker(code);
}"""

_REMEMBER_FRAMES = """() => {
  const root = document.querySelector("#viewer .viewer");
  window.frames_seen = new Set();
  new MutationObserver(() => window.frames_seen.add(Number(root.dataset.frame))).observe(root, {attributes: true});
}"""


@pytest.fixture(scope="module")
def url(serve, tmp_path_factory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("packed")
    made = []
    for name, count in (("first", FRAMES), ("second", 20)):
        panels = [[numbered(number, panel) for number in range(count)] for panel in (0, 1)]
        pack_side_by_side(panels, folder / f"{name}.mp4", FPS)
        made.append(Comparison(folder / f"{name}.mp4", ("Original", "Edited"), FPS, count, caption=f"The {name}"))
    with gr.Blocks(analytics_enabled=False) as demo:
        shown = viewer(made[0], elem_id="viewer")
        gr.Button("Another clip").click(lambda: made[1].value(), None, shown)
        gr.HTML('<div style="height: 3000px">below</div>')
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    assert os.environ["GRADIO_TEMP_DIR"]
    yield address.rstrip("/")
    demo.close()


@pytest.fixture
def page(browser, url) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce", has_touch=True)
    page = context.new_page()
    page.set_default_timeout(15_000)
    seen = watch(page, url)
    page.goto(url)
    page.wait_for_function("document.querySelector('#viewer video')?.readyState >= 2")
    yield page
    context.close()
    assert seen.errors == [] and seen.foreign == []


def root(page: Page):
    return page.locator("#viewer .viewer")


def view(page: Page, name: str) -> None:
    page.locator("#viewer .modes label").filter(has_text=name).click()
    expect(page.locator("#viewer").get_by_role("radio", name=name)).to_be_checked()


def point(page: Page, across: float, down: float = 0.8) -> tuple[float, float]:
    """A place on the picture, in pixels of the page."""
    box = page.locator("#viewer .stage").bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def zoom_into_the_corner(page: Page) -> None:
    page.mouse.move(*point(page, 0.02, 0.02))
    page.keyboard.down("Control")
    for _ in range(12):
        page.mouse.wheel(0, -20)
    page.keyboard.up("Control")
    page.wait_for_function("Number(document.querySelector('#viewer .viewer').dataset.zoom) > 1.5")


def test_no_view_ever_shows_a_wrong_frame(page):
    """200 frames while a core is busy and the page itself is slow, with seeks in between, zoomed and not."""
    page.evaluate(_BUSY_WORKER)
    one, two = 128, 55  # levels
    whole = 1 / TILES
    places = {
        "Wipe": [(0, whole, one), (0.5, 0.5 + whole, two)],
        "Side by side": [(0, whole / 2, one), (0.5, 0.5 + whole / 2, two)],
        "Original": [(0, whole, one), (0.75, 1, one)],
        "Edited": [(0, whole, two), (0.75, 1, two)],
        "Difference": [(0, whole, one), (0.5, 0.5 + whole, one)],
    }
    checked = 0
    for zoomed in (False, True):
        if zoomed:
            page.evaluate("document.querySelector('#viewer .viewer').focus()")
            page.keyboard.press("0")
            page.get_by_role("button", name="Zoom").click()
            expect(root(page)).to_have_attribute("data-zoom", "2")
        for name, tiles in places.items():
            view(page, name)
            if zoomed:  # the middle half of each panel: two tiles, each twice as wide
                parts = 2 if name == "Side by side" else 1
                tiles = [(start, start + 0.5 / parts, level) for start, _, level in tiles if start in (0, 0.5)]
            wrong, different = page.evaluate(
                _CHECK, {"samples": 20, "tiles": [list(tile) for tile in tiles], "seeks": 4, "load": 10}
            )
            assert wrong == [], (name, zoomed)
            assert different > 5
            checked += 20
    assert checked == 200


def test_keys_move_and_the_page_stays_where_it_is(page):
    slider = page.get_by_label("Frame", exact=True)
    slider.focus()
    for key, frame in (("ArrowRight", 1), ("PageUp", 11), ("End", FRAMES - 1), ("Home", 0)):
        page.keyboard.press(key)
        expect(root(page)).to_have_attribute("data-frame", str(frame))
    root(page).focus()
    page.keyboard.press("End")
    expect(root(page)).to_contain_text(f"2.0 s · {FRAMES}/{FRAMES}")
    page.keyboard.press("Home")
    expect(root(page)).to_have_attribute("data-frame", "0")
    page.keyboard.press("]")
    divider = page.get_by_role("slider", name="Divider")
    expect(divider).to_have_attribute("aria-valuetext", "55% original, 45% edited")
    page.keyboard.press("s")
    expect(divider).to_have_attribute("aria-valuetext", "55% edited, 45% original")
    expect(page.locator("#viewer .names li").first).to_have_text("Edited")
    page.keyboard.press("4")
    expect(page.get_by_role("radio", name="Edited")).to_be_checked()
    page.keyboard.down("o")
    expect(page.locator("#viewer .names")).to_have_text("Original")
    page.keyboard.up("o")
    expect(page.locator("#viewer .names")).to_have_text("Edited")
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("b")
    expect(root(page)).to_have_attribute("data-loop", "9 12")
    page.keyboard.press("<")
    assert page.locator("#viewer video").evaluate("(video) => video.playbackRate") == 0.5
    page.evaluate(_REMEMBER_FRAMES)
    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.wait_for_timeout(1200)
    assert page.evaluate("[...window.frames_seen].sort((a, b) => a - b)") == [9, 10, 11, 12]
    page.keyboard.press("l")
    page.wait_for_function("window.frames_seen.has(20)")
    page.keyboard.press("f")
    page.wait_for_function("document.fullscreenElement?.classList.contains('viewer')")
    page.keyboard.press("f")
    page.wait_for_function("!document.fullscreenElement")
    assert page.evaluate("scrollY") == 0


def test_the_mouse_and_fingers_on_the_picture(page):
    wipe = page.get_by_role("slider", name="Divider")
    page.mouse.click(*point(page, 0.2))
    expect(root(page)).to_have_attribute("data-playing", "true")  # a click plays, and the line stays
    expect(wipe).to_have_value("50")
    page.mouse.move(*point(page, 0.505))
    page.mouse.down()
    page.mouse.move(*point(page, 0.8), steps=4)
    page.mouse.up()
    expect(wipe).to_have_value("80")
    expect(root(page)).to_have_attribute("data-playing", "true")

    page.evaluate("window.scrollTo(0, 2500)")
    expect(root(page)).to_have_attribute("data-playing", "false")
    page.evaluate("window.scrollTo(0, 0)")
    expect(root(page)).to_have_attribute("data-playing", "true")  # nobody had paused it
    page.mouse.click(*point(page, 0.2))
    expect(root(page)).to_have_attribute("data-playing", "false")
    page.evaluate("window.scrollTo(0, 2500)")
    page.wait_for_timeout(200)
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(300)
    expect(root(page)).to_have_attribute("data-playing", "false")

    page.mouse.move(*point(page, 0.3))
    page.mouse.wheel(0, 100)  # the wheel alone is the page's
    page.wait_for_function("scrollY > 50")
    page.evaluate("window.scrollTo(0, 0)")
    zoom_into_the_corner(page)
    before = page.evaluate("document.querySelector('#viewer .stage > canvas').toDataURL()")
    page.mouse.move(*point(page, 0.3))
    page.mouse.down()
    page.mouse.move(*point(page, 0.2), steps=4)
    page.mouse.up()
    expect(root(page)).to_have_attribute("data-playing", "false")  # a drag is no click
    assert page.evaluate("document.querySelector('#viewer .stage > canvas').toDataURL()") != before

    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        at = [point(page, *place) for place in places]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in at]})

    was = float(root(page).get_attribute("data-zoom"))
    fingers("touchStart", (0.4, 0.5))
    fingers("touchStart", (0.4, 0.5), (0.5, 0.5))
    for apart in (0.15, 0.2, 0.25):
        fingers("touchMove", (0.4, 0.5), (0.4 + apart, 0.5))
    fingers("touchEnd")
    assert float(root(page).get_attribute("data-zoom")) == pytest.approx(min(8, was * 2.5), rel=0.1)
    hold = page.get_by_role("button", name="Hold: original")
    hold.hover()
    page.mouse.down()
    expect(page.locator("#viewer .names")).to_have_text("Original")
    page.mouse.up()
    expect(page.locator("#viewer .names")).to_have_text(re.compile("OriginalEdited"))

    page.get_by_role("button", name="Another clip").click()
    expect(root(page)).to_contain_text("The second")
    expect(wipe).to_have_value("50")
    expect(root(page)).to_have_attribute("data-zoom", "1")
    expect(root(page)).to_have_attribute("data-loop", "0 19")
