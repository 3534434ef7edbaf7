"""Takes pictures of the page: every tab and state, wide and as on a phone, light and dark.

python -m benchmarks.page_pictures --out pictures
python -m benchmarks.page_pictures --docs        # the README's: docs/page.jpg and docs/anchors.jpg

Starts `app.py` in a process of its own (unknown options go to it) and drives the system's Chromium through playwright;
`make test` installs both. Each picture is the whole page, named `<look>-<state>.jpg`. Edits and repairs are made by the
model while the pictures are taken. Ends with status 1 after one line for each console error, each address of another
host that was asked for, and each picture that is wider than its screen.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.page_speed import APP, SHOWN, free_port, wait_for_answer

DOCS = Path(__file__).resolve().parents[1] / "docs"
IN_DOCS = {"wide-light-edit": "page.jpg", "wide-light-plan": "anchors.jpg"}
"""Pictures of the documentation: the picture each one is, by look and state."""
SIZES = {"wide": (1280, 900), "phone": (390, 844)}
QUALITY = 82
NOW = "() => document.querySelectorAll('img[loading=lazy]').forEach((image) => { image.loading = 'eager'; })"
"""Loads pictures below the screen, which are in a picture of the whole page."""
MODEL_MS = 300_000
"""Milliseconds that a run of the model may take."""

Shot = Callable[[str], None]


def opened_state(page: Any, shot: Shot) -> None:
    """The page as it opens, at a frame in the middle of the first example."""
    _to_the_middle(page, "#viewer")
    shot("edit")


def edit_states(page: Any, shot: Shot) -> None:
    """The Edit tab: what works, settings, a refusal, waiting, at work, stopped, finished, and a file that is none."""
    job = page.locator("#job .job")
    page.locator("#header summary").click()
    shot("edit-what-works")
    page.keyboard.press("Escape")
    page.locator("#settings > button").click()
    shot("edit-options")
    page.locator("#settings > button").click()
    words = page.get_by_label("What should change?")
    words.fill("Replace the … with …")
    page.locator("#go").click()
    page.get_by_role("alert").first.wait_for()
    shot("edit-refused")
    words.fill("Make it sepia")
    page.locator("#go").click()
    page.wait_for_function("document.querySelector('#job .job').dataset.state !== 'idle'", timeout=MODEL_MS)
    shot("edit-waiting")
    page.wait_for_function("document.querySelector('#job .job').dataset.step >= 2", timeout=MODEL_MS)
    shot("edit-at-work")
    page.locator("#stop").click()
    page.locator("#note").get_by_text("Stopped").wait_for(timeout=MODEL_MS)
    shot("edit-stopped")
    page.get_by_text("Fast", exact=False).first.click()
    page.locator("#go").click()
    job.and_(page.locator("[data-state=working]")).wait_for(timeout=MODEL_MS)
    page.locator("#title").get_by_text("made in").wait_for(timeout=MODEL_MS)
    page.locator("#session .card img").first.wait_for(timeout=MODEL_MS)
    shot("edit-done")
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes.mp4"
        notes.write_text("no video")
        page.set_input_files("#clip input[type=file]", notes)
        page.get_by_role("alert").filter(has_text="notes.mp4").wait_for()
    shot("edit-not-a-video")


def repair_states(page: Any, shot: Shot) -> None:
    """The Repair tab: a finished repair of each kind, errors, arrows, a broken clip, at work, and finished."""
    view = page.locator("#repair-view .repair")
    for label, task in (("Hiding frames", "cube"), ("Doubling speed", "speed"), ("Scrambling pieces", "tube")):
        page.get_by_label(label).check()
        view.and_(page.locator(f"[data-task={task}][data-state=repaired]")).wait_for(timeout=MODEL_MS)
        if task == "tube":
            page.locator("#repair-view .list button").first.focus()
        shot(f"repair-{task}")
    page.get_by_label("Hiding frames").check()
    view.and_(page.locator("[data-task=cube]")).wait_for(timeout=MODEL_MS)
    page.get_by_label("Show errors").check()
    shot("repair-errors")
    _press(page, "Another seed")
    view.and_(page.locator("[data-state=broken]")).wait_for(timeout=MODEL_MS)
    shot("repair-broken")
    _press(page, "Repair it")
    page.wait_for_function("document.querySelector('#repair-progress .progress')?.dataset.step >= 3", timeout=MODEL_MS)
    shot("repair-at-work")
    view.and_(page.locator("[data-state=repaired]")).wait_for(timeout=MODEL_MS)
    shot("repair-done")


PLAN_QUESTIONS = {
    "What will change?": "", "Did it?": "-did", "What did it miss?": "-missed", "What looks alike?": "-alike",
    "Raw colours": "-raw",
}  # fmt: skip


def plan_states(page: Any, shot: Shot) -> None:
    """The Plan tab: every question to the plan of an example, and its first step with the help."""
    page.locator("#plan [role=gridcell]").first.wait_for(timeout=MODEL_MS)
    page.get_by_role("combobox", name="Plan of").click()
    page.get_by_role("option", name="Remove the chili pepper").click()
    page.locator("#plan .title").filter(has_text="Remove").wait_for(timeout=MODEL_MS)
    page.mouse.move(0, 0)
    for question, name in PLAN_QUESTIONS.items():
        page.locator("#plan").get_by_label(question).check()
        shot(f"plan{name}")
    page.locator("#plan").get_by_label("What will change?").check()
    page.get_by_role("button", name="Step 1", exact=True).click()
    _press(page, "How to read this")
    shot("plan-first-step")


def _to_the_middle(page: Any, viewer: str) -> None:
    """Seek a viewer to a frame in the middle of its clip."""
    slider = page.locator(viewer).get_by_label("Frame", exact=True)
    slider.focus()
    page.keyboard.press("PageUp")
    slider.blur()


def _press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name).first.click()


TABS = {
    "opened": ("Edit", opened_state),
    "plan": ("Plan", plan_states),
    "edit": ("Edit", edit_states),
    "repair": ("Repair", repair_states),
}
"""Groups of states, each with its tab. In this order: the plan is of an example before the session has an edit."""


def take(browser: Any, url: str, look: str, tabs: list[str], out: Path) -> list[str]:
    """Take the pictures of one look into a folder; returns what was wrong with the page, in a line each.

    look: a key of `SIZES` and a colour scheme, "wide-light". tabs: keys of `TABS`.
    """
    size, scheme = look.split("-")
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce",
        device_scale_factor=1 if size == "wide" else 2, has_touch=size == "phone",
    )  # fmt: skip
    context.set_default_timeout(30_000)
    page, wrong = context.new_page(), []
    page.on("console", lambda m: wrong.append(f"{look}: console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"{look}: {error}"))
    own = (url, "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(own) else wrong.append(f"{look}: asks for {r.url}"))

    def shot(state: str) -> None:
        page.mouse.move(0, 0)
        page.evaluate(NOW)
        page.wait_for_function("[...document.images].every((image) => image.complete)")
        page.wait_for_timeout(400)  # transitions, and the frame that was sought
        page.screenshot(path=out / f"{look}-{state}.jpg", type="jpeg", quality=QUALITY, full_page=True)
        needed = page.evaluate("document.documentElement.scrollWidth")
        if needed > width:
            wrong.append(f"{look}-{state}: {needed} pixels wide on a screen of {width}")

    page.goto(url)
    page.wait_for_function(SHOWN, timeout=MODEL_MS)
    for tab, states in (TABS[name] for name in tabs):
        page.get_by_role("tab", name=tab, exact=True).click()
        states(page, shot)
    context.close()
    return wrong


def photograph(chromium: str, looks: list[str], tabs: list[str], out: Path, arguments: list[str]) -> list[str]:
    """Start the app and take the pictures of all looks; returns what was wrong, in a line each."""
    from playwright.sync_api import sync_playwright

    port, wrong = free_port(), []
    command = [sys.executable, str(APP), "--host", "127.0.0.1", "--port", str(port), *arguments]
    app = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_answer(f"http://127.0.0.1:{port}/", app)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for look in looks:
                wrong += take(browser, f"http://127.0.0.1:{port}/", look, tabs, out)
            browser.close()
    finally:
        app.terminate()
        app.wait()
    return wrong


def main() -> int:
    """0, or 1 where something was wrong with the page."""
    every = [f"{size}-{scheme}" for size in SIZES for scheme in ("light", "dark")]
    parser = argparse.ArgumentParser(description="Take pictures of every tab and state of the page.")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="the folder for them")
    parser.add_argument("--look", action="append", choices=every, help="only this one; may be given several times")
    parser.add_argument("--tab", action="append", choices=list(TABS), help="only these states; likewise")
    parser.add_argument("--docs", action="store_true", help=f"take only {' and '.join(IN_DOCS.values())} of docs/")
    options, arguments = parser.parse_known_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        parser.error("no Chromium found: install the Debian package 'chromium'")
    looks, tabs = options.look or every, [name for name in TABS if name in (options.tab or TABS)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) if options.docs else options.out
        out.mkdir(parents=True, exist_ok=True)
        if options.docs:
            looks, tabs = ["wide-light"], ["opened", "plan"]
        wrong = photograph(chromium, looks, tabs, out, arguments)
        for name, target in IN_DOCS.items() if options.docs else ():
            shutil.copyfile(out / f"{name}.jpg", DOCS / target)
    sys.stdout.write("".join(f"{line}\n" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
