"""The stage of the Edit tab in a real Chromium: the first screen, a job at work, words, clips and edits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.watching import LONG, ask, done, download, jobs, painting, press, set_steps, until, watch
from tests.media import make_clip

WORDS = "What should change?"


def inside(page: Page, name: str) -> bool:
    """Whether an element is wholly on the screen, without scrolling."""
    box, size = page.locator(name).bounding_box(), page.viewport_size
    return box["y"] >= 0 and box["x"] >= 0 and box["y"] + box["height"] <= size["height"] + 1


def accessible(page: Page) -> list[str]:
    """What axe finds that is serious or worse, a line each."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{each['id']}: {node['target']}" for each in found if each["impact"] in ("serious", "critical")
            for node in each["nodes"]]  # fmt: skip


def load(page: Page, path: Path) -> None:
    """Choose a file of settings."""
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Load settings").click()
    chosen.value.set_files(path)


@pytest.mark.parametrize(
    ("size", "scheme", "picture"),
    [
        ((1280, 720), "light", 0.38),
        ((1440, 900), "dark", 0.45),
        ((1920, 1080), "light", 0.5),
        ((390, 844), "light", 0.2),
    ],
)
def test_picture_words_and_button_are_in_the_first_screen(browser, app, size, scheme, picture):
    context = browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True)), color_scheme=scheme,
                                  reduced_motion="reduce")  # fmt: skip
    page = context.new_page()
    seen = watch(page, app.url)
    page.goto(app.url)
    expect(page.locator("#viewer .viewer[data-frame]")).to_be_visible()
    for name in ("#title h2", "#viewer .stage", "#viewer .play", "#instruction textarea", "#go"):
        until(lambda name=name: inside(page, name))
    until(lambda: page.locator("#viewer .stage").bounding_box()["height"] >= picture * size[1])
    assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
    assert accessible(page) == []
    if size[0] < 1280:
        for tab in ("Repair", "Plan", "Edit"):
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0], tab
    if size[0] == 1280:
        page.locator("#header summary").click()
        expect(page.get_by_role("row", name="weather 10 of 10")).to_be_visible()
        expect(page.get_by_role("row", name="move an object 2 of 10")).to_be_visible()
        expect(page.locator("#header .large")).to_contain_text("It is off:")
    context.close()
    assert seen.errors == [] and seen.foreign == []


def test_nothing_that_is_typed_or_chosen_is_lost(page, tmp_path):
    words = page.get_by_label(WORDS)
    ideas = page.locator("#ideas button")
    first, second = ideas.nth(0).inner_text(), ideas.nth(1).inner_text()
    ideas.nth(0).click()
    expect(words).to_have_value(first)
    ideas.nth(1).click()  # a suggestion may take another's place
    expect(words).to_have_value(second)
    words.fill("My own carefully typed words")
    ideas.nth(0).click()
    expect(words).to_have_value(f"My own carefully typed words and {first[0].lower()}{first[1:]}")
    words.fill("Replace the … with …")
    press(page)
    expect(page.get_by_role("alert").filter(has_text="in the place of “…”")).to_be_visible()
    words.fill("Make it sepia")
    page.set_input_files("#clip input[type=file]", make_clip(tmp_path / "own.mp4", frames=5, width=128, height=96))
    expect(page.locator("#title h2")).to_have_text("Your clip")
    page.locator("#examples .card").first.click()
    expect(page.locator("#title h2")).to_have_text("Make it snowy")
    expect(page.locator("#clip")).to_contain_text("128 × 96")  # noqa: RUF001
    expect(words).to_have_value("Make it sepia")
    page.reload()
    expect(words).to_have_value("Make it sepia")
    expect(page.locator("#clip")).to_contain_text("128 × 96")  # noqa: RUF001
    kept = page.evaluate("localStorage.getItem('sama-form')")
    words.fill("")
    page.wait_for_function("(kept) => localStorage.getItem('sama-form') !== kept", arg=kept)
    page.reload()
    expect(page.locator("#clip")).to_contain_text("128 × 96")  # noqa: RUF001
    expect(words).to_have_value("")
    page.locator("#examples .card").first.click()
    page.get_by_role("button", name="Try on this clip").click()
    expect(words).to_have_value("Make it snowy")
    expect(page.locator("#clip")).to_contain_text("Example clip")


def test_the_stage_is_the_job(page, app):
    words, stop = page.get_by_label(WORDS), page.get_by_role("button", name="Stop", exact=True)
    words.fill("Make it sepia")
    set_steps(page, LONG)
    page.locator("#go").focus()
    height = page.locator("#stage").bounding_box()["height"]
    page.keyboard.press("Enter")
    expect(page.locator("#job .clip video")).to_be_visible()
    expect(stop).to_be_focused()
    painting(page, 1)
    expect(page.locator("#job h2")).to_have_text("Make it sepia")
    expect(page.locator("#job .forming img")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("plan will change"))).to_be_visible()
    expect(page).to_have_title(re.compile(r"^\d+ % · "))
    expect(page.locator("#title")).to_be_hidden()
    assert page.locator("#stage").bounding_box()["height"] == height
    page.locator("#examples .card").first.click()  # an example meanwhile: the job stays in sight
    expect(page.locator("#title h2")).to_be_visible()
    page.get_by_role("button", name="Show my edit").click()
    expect(page.locator("#job .forming")).to_be_visible()
    page.get_by_role("tab", name="Repair").click()
    page.get_by_role("button", name="Repair it again", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="Your last run is still going")).to_be_visible()
    page.get_by_role("tab", name="Edit").click()
    painting(page, 2)
    stop.focus()
    before = len(app.steps)
    page.keyboard.press("Enter")
    expect(page.locator("#note")).to_contain_text("Stopped at")
    assert len(app.steps) - before <= 2  # the step at work, and one that ended before the key arrived
    assert jobs(app.url, "running") == 0
    assert page.locator("#stage").bounding_box()["height"] == height
    expect(page.locator("#go")).to_be_focused()
    expect(words).to_have_value("Make it sepia")


def test_an_edit_has_versions_a_chain_and_a_place_in_the_session(page, tmp_path):
    title, cards = page.locator("#title"), page.locator("#session .card")
    set_steps(page, 2)
    ask(page, "Make it sepia")
    done(page)
    expect(title).to_contain_text(re.compile(r"Changed (less than )?\d+ % of the picture"))
    expect(title).to_contain_text("variation 0")
    expect(page.locator("#go")).to_have_text("Make another version")
    settings = download(page, "Settings")
    assert settings.suggested_filename == "make-it-sepia.json"
    settings.save_as(tmp_path / "settings.json")
    ask(page, None)
    done(page)
    expect(title).not_to_contain_text("variation 0")
    expect(cards).to_have_count(2)
    page.get_by_role("button", name="Edit this again").click()
    expect(page.locator("#note")).to_contain_text("is your clip now")
    expect(page.get_by_label(WORDS)).to_have_value("")
    expect(page.get_by_label(WORDS)).to_be_focused()
    ask(page, "Make it foggy")
    done(page)
    title.locator(".chain").get_by_role("button", name="Make it sepia").click()
    expect(title.locator("h2")).to_have_text("Make it sepia")
    page.reload()
    expect(cards).to_have_count(3)
    expect(title.locator("h2")).to_have_text("Make it foggy")
    page.locator("#settings > button").click()
    for name in ("notes.txt", "notes.json"):
        (tmp_path / name).write_text('{"instruction": 5}' if name.endswith("json") else "\x00no JSON")
        load(page, tmp_path / name)
        expect(page.get_by_role("alert").filter(has_text="not a file of settings")).to_be_visible()
        page.locator("#examples .card").first.click()  # the sentence goes
        expect(page.get_by_role("alert").filter(has_text="not a file of settings")).to_have_count(0)
    told = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(told | {"seed": 77, "steps": 3}))
    load(page, tmp_path / "other.json")
    expect(page.get_by_label(WORDS)).to_have_value("Make it sepia")
    expect(page.locator("#seed input")).to_have_value("77")


def test_a_tab_is_in_the_address(page, app):
    other = page.context.new_page()  # a page that is left while it still asks for things says so in its console
    seen = watch(other, app.url)
    other.goto(f"{app.url}/?tab=repair")
    expect(other.get_by_role("tab", name="Repair")).to_have_attribute("aria-selected", "true")
    other.get_by_role("tab", name="Edit").click()
    expect(other).to_have_url(f"{app.url}/")
    other.go_back()
    expect(other.get_by_role("tab", name="Repair")).to_have_attribute("aria-selected", "true")
    assert seen.errors == []
