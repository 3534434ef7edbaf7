"""A real Chromium, and the app in this process with a tiny random pipeline."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sama.edit.request import EditRequest
from tests.browser.watching import FRAMES, watch
from tests.media import make_clip
from tests.tiny import tiny_pipeline
from ui.settings import Settings

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need: pip install playwright")

sync_api.expect.set_options(timeout=15_000)  # a busy machine is no failure

STEP_SECONDS = 0.15


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a system Chromium; playwright's own needs a download."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        message = "no Chromium found: install the Debian package 'chromium'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="session")
def browser(chromium):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Served:
    """An app under test: its address, what it was started with, and the denoising steps that its model has done."""

    url: str
    settings: Settings
    steps: list[int] = field(default_factory=list)


def slow_pipeline(done: list[int]):
    """The tiny random pipeline at a pace at which a person could press Stop."""
    pipeline = tiny_pipeline(default_steps=8)
    stream = pipeline.stream

    def slowed(*args, **kwargs):
        for item in stream(*args, **kwargs):
            if hasattr(item, "sigma"):
                time.sleep(STEP_SECONDS)
                done.append(item.step)
            yield item

    pipeline.stream = slowed
    return pipeline


@pytest.fixture(scope="session")
def serve(tmp_path_factory) -> Iterator:
    """Start an app with the given settings; all are closed at the end."""
    from ui.app import build_app, launch_options
    from ui.jobs.jobs import Jobs
    from ui.server import app_options

    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("gradio"))
    running = []

    def start(settings: Settings) -> str:
        jobs = Jobs(settings)
        demo = build_app(settings, jobs)
        options = launch_options(settings) | {"app_kwargs": app_options(demo, jobs)}
        _, url, _ = demo.launch(**options, prevent_thread_lock=True, quiet=True)
        running.append(demo)
        return url.rstrip("/")

    yield start
    for demo in running:
        demo.close()
    if before is None:
        del os.environ["GRADIO_TEMP_DIR"]
    else:
        os.environ["GRADIO_TEMP_DIR"] = before


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """Barcode frames with sound."""
    return make_clip(tmp_path_factory.mktemp("clip") / "pattern.mp4", frames=FRAMES, audio="aac")


@pytest.fixture(scope="session")
def app(serve, clip, tmp_path_factory) -> Served:
    """The app, opened on one finished example, with a finished repair of its clip."""
    from ui.jobs.jobs import Jobs
    from ui.repair.damage import Break
    from ui.repair.shipped import build_repair
    from ui.tabs.examples import build_example

    done: list[int] = []
    settings = Settings(
        pipeline_loader=lambda: slow_pipeline(done), examples=tmp_path_factory.mktemp("examples"), warm=False
    )
    entry = {"name": "pattern", "title": "A snowy pattern", "caption": "a pattern"}
    jobs = Jobs(settings)
    edit = build_example(EditRequest(clip, "Make it snowy", "", steps=3), jobs, settings.examples, entry, film=True)
    build_repair(edit, Break.of("cube", 0, 0), jobs, settings.examples, steps=2)
    return Served(serve(settings), settings, done)


@pytest.fixture
def page(browser, app) -> Iterator:
    """The page of the app, ready; afterwards it must have been quiet and must have stayed at home."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(15_000)
    page = context.new_page()
    seen = watch(page, app.url)
    page.goto(app.url)
    sync_api.expect(page.locator("#viewer .viewer[data-frame]")).to_be_visible()
    yield page
    context.close()
    assert seen.errors == []
    assert seen.foreign == []
