"""What a visitor sees when something does not go as planned: a full line, work that fails after an edit, long words."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from sama.video import probe
from tests.browser.watching import FRAMES, ask, done, download, jobs, painting, until, watch
from tests.tiny import held_pipeline
from ui.media.folders import PREFIX


@contextmanager
def visitor(browser: Browser, url: str) -> Iterator[Page]:
    page = browser.new_page(reduced_motion="reduce")
    page.set_default_timeout(15_000)
    seen = watch(page, url)
    page.goto(url)
    expect(page.locator("#viewer .viewer[data-frame]")).to_be_visible()
    yield page
    page.close()
    assert seen.errors == []


@dataclass
class Small:
    """An app with one place in its line. Its model stands still after a step until `go_on` is set."""

    url: str
    go_on: threading.Event


@pytest.fixture(scope="module")
def small(app, serve) -> Iterator[Small]:
    """Its open pages say often that they are there."""
    go_on = threading.Event()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ui.app.KEEP_SECONDS", 1)
        yield Small(serve(replace(app.settings, queue_size=1, pipeline_loader=partial(held_pipeline, go_on, 3))), go_on)
        go_on.set()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_a_full_line_is_told_and_the_form_comes_back(browser, small):
    with visitor(browser, small.url) as first, visitor(browser, small.url) as second:
        with visitor(browser, small.url) as third:
            until(lambda: jobs(small.url, "waiting") == 0)  # what pages ask for when they open
            ask(first)
            painting(first)
            ask(second)
            until(lambda: jobs(small.url, "waiting") == 1)
            third.get_by_label("What should change?").fill("Make it sepia")
            press(third, "Make this edit")
            expect(third.get_by_role("alert").filter(has_text="The queue is full: 1 run")).to_be_visible()
            expect(third.get_by_role("button", name="Make this edit")).to_be_visible()
            expect(third.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
            expect(third.locator("#job .job")).to_be_hidden()
            press(second, "Stop")
            expect(second.locator("#note")).to_contain_text("Stopped")
            until(lambda: jobs(small.url, "waiting") == 0)
            ask(third)  # there is a place again
            expect(third.locator("#job")).to_contain_text("1 ahead of you")
            expect(third.get_by_role("alert").filter(has_text="The queue is full")).to_have_count(0)
            press(third, "Stop")
            expect(third.locator("#note")).to_contain_text("Stopped")
        first.get_by_role("tab", name="Repair").click()
        press(first, "Repair it again")
        expect(first.get_by_role("alert").filter(has_text="Your last run is still going")).to_be_visible()
        small.go_on.set()


def test_an_open_page_keeps_its_clip(browser, small, clip):
    cache = Path(os.environ["GRADIO_TEMP_DIR"] + "-jobs")
    with visitor(browser, small.url) as page:
        before = set(cache.glob(f"{PREFIX}*/clip.mp4"))
        page.set_input_files("#clip input[type=file]", clip)
        expect(page.locator("#clip")).to_contain_text("Your clip")
        (taken,) = set(cache.glob(f"{PREFIX}*/clip.mp4")) - before
        os.utime(taken.parent, (0, 0))
        until(lambda: taken.parent.stat().st_mtime > time.time() - 60)


def test_a_finished_edit_survives_what_fails_after_it(browser, app, tmp_path, monkeypatch):
    def fail(_edit):
        raise OSError("no")

    monkeypatch.setattr("ui.tabs.edit.running.pack", fail)
    monkeypatch.setattr("ui.tabs.edit.running.compose_film", fail)
    with visitor(browser, app.url) as page:
        words = page.get_by_label("What should change?")
        words.fill("snowy " * 58 + "cat dog")
        ask(page, None)
        done(page)
        expect(page.get_by_role("alert").filter(has_text="Your edit is finished")).to_be_visible()
        viewer = page.locator("#viewer .viewer")
        expect(viewer).to_have_attribute("data-panels", "Edited")
        expect(page.get_by_role("radio", name="Wipe")).to_have_count(0)
        download(page, "Edited clip").save_as(tmp_path / "edited.mp4")
        assert probe(tmp_path / "edited.mp4").frames == FRAMES
        expect(page.locator("#unread")).to_contain_text("Not read: “cat dog”")
        words.fill("Make it snowy")
        expect(page.locator("#unread")).to_be_empty()
