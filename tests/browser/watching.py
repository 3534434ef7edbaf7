"""What the tests know about the page under test, and an eye on what it does behind the scenes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
from playwright.sync_api import Download, Page, expect

FRAMES = 17
STEPS = 4
"""Of an edit whose steps are looked at one by one."""
LONG = 50
"""Steps of an edit that is still at work when a test has looked at it: a test stops it."""


@dataclass
class Seen:
    """What a page did that it should not have done."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


def watch(page, url: str) -> Seen:
    seen = Seen()
    page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    own = (url + "/", "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else seen.foreign.append(request.url))
    return seen


def jobs(url: str, which: str) -> int:
    """How many jobs of the app are "waiting" or "running", or were "done" or "stopped"."""
    return httpx.get(f"{url}/healthz").json()[which]


def until(holds: Callable[[], bool], seconds: float = 15) -> None:
    """Wait until a condition holds that no page shows."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)


def press(page: Page) -> None:
    """Press the button that makes an edit."""
    page.locator("#go").click()


def set_steps(page: Page, steps: int) -> None:
    """Choose how many steps an edit takes."""
    field = page.locator("#steps input[type=number]")
    if not field.is_visible():
        page.locator("#settings > button").click()
    field.fill(str(steps))
    field.blur()


def ask(page: Page, words: str | None = "Make it sepia", steps: int | None = None) -> None:
    """Ask for an edit, and wait until the stage shows it. None leaves what is in the field."""
    if words is not None:
        page.get_by_label("What should change?").fill(words)
    if steps is not None:
        set_steps(page, steps)
    press(page)
    expect(page.locator("#job .job")).not_to_have_attribute("data-state", "idle")


def painting(page: Page, step: int = 1) -> None:
    """Wait until the model has done a step."""
    page.wait_for_function(f"document.querySelector('#job .job').dataset.step >= {step}")


def done(page: Page, milliseconds: int = 60_000) -> None:
    """Wait until the edit is on the stage."""
    expect(page.locator("#job .job")).to_have_attribute("data-state", "idle", timeout=milliseconds)
    expect(page.locator("#title")).to_contain_text("made in")


def download(page: Page, label: str) -> Download:
    """What comes of a line of the stage's Download list."""
    page.locator("#title summary").click()
    with page.expect_download() as caught:
        page.locator("#title").get_by_role("link", name=label).click()
    return caught.value
