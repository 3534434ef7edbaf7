"""The slot of a clip in a real Chromium: files are chosen, dropped, pasted and refused, and a part is picked."""

from __future__ import annotations

import base64
from dataclasses import replace

from playwright.sync_api import Page, expect

from sama.video import UPLOAD_LIMITS, probe
from tests.browser.watching import done, download
from tests.media import make_clip, make_text

_FILES = """(files) => {
  const data = new DataTransfer();
  for (const [name, type, content] of files)
    data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name, {type}));
  return data;
}"""


def slot(page: Page):
    return page.locator("#clip .drop")


def choose(page: Page, path) -> None:
    page.set_input_files("#clip input[type=file]", path)


def files_of(page: Page, *paths):
    """A DataTransfer of the page that holds the files."""
    return page.evaluate_handle(_FILES, [[p.name, "", base64.b64encode(p.read_bytes()).decode()] for p in paths])


def test_a_clip_is_taken_and_a_part_of_it_is_edited(page, tmp_path):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    expect(slot(page)).to_contain_text("Example clip")
    words, go = page.get_by_label("What should change?"), page.locator("#go")
    words.fill("Replace the pattern with a cat")
    go.evaluate("""(button) => { window.said = [];
      new MutationObserver(() => window.said.push([button.textContent.trim(), button.disabled]))
        .observe(button, {subtree: true, childList: true, characterData: true, attributes: true}); }""")
    choose(page, make_clip(tmp_path / "other.mp4", frames=49, width=128, height=96, audio="aac"))
    expect(slot(page)).to_contain_text("2.0 s, 128 × 96, with sound")  # noqa: RUF001
    expect(slot(page)).to_contain_text("Your clip")
    assert ["Preparing your clip…", True] in page.evaluate("window.said")
    expect(go).to_be_enabled()
    expect(words).to_have_value("Replace the pattern with a cat")
    assert not [url for url in asked if "ffmpeg" in url]

    start = page.get_by_role("slider", name="Start of the part")
    end = page.get_by_role("slider", name="End of the part")
    expect(end).to_have_attribute("aria-valuetext", "2.0 seconds")
    start.focus()
    page.keyboard.press("PageUp")
    expect(start).to_have_attribute("aria-valuetext", "0.5 seconds")
    box = page.locator("#clip .strip").bounding_box()
    edge, row = box["x"] + box["width"], box["y"] + 20
    page.mouse.move(edge, row)
    page.mouse.down()
    page.mouse.move(edge - box["width"] / 2, row, steps=3)
    page.mouse.up()
    expect(slot(page)).to_contain_text("Part to edit: 0.5 s to 1.0 s")
    page.wait_for_function("Math.abs(document.querySelector('#clip video').currentTime - 23.5 / 24) < 0.06")
    end.focus()
    page.keyboard.press("Home")  # never empty
    expect(slot(page)).to_have_attribute("data-part", "0 1")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    start.focus()
    page.keyboard.press("ArrowRight")
    expect(slot(page)).to_have_attribute("data-part", "1 4")
    words.press("Enter")
    expect(page.locator("#job .job")).to_be_visible()
    done(page)
    expect(page.locator("#title h2")).to_have_text("Replace the pattern with a cat")
    saved = download(page, "Edited clip")
    assert saved.suggested_filename == "replace-the-pattern-with-a-cat.mp4"
    saved.save_as(tmp_path / "edited.mp4")
    info = probe(tmp_path / "edited.mp4")
    assert (info.frames, info.fps, info.has_audio) == (4, 24, True)

    slot(page).get_by_role("button", name="Remove").click()
    expect(slot(page)).to_contain_text("No clip yet")
    go.click()
    expect(page.get_by_role("alert").filter(has_text="Upload a clip first")).to_be_visible()


def test_a_file_that_cannot_be_used_is_refused_in_one_sentence_and_nothing_is_lost(page, tmp_path):
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/upload" in request.url else None)
    page.get_by_label("What should change?").fill("my own words")
    large = tmp_path / "sixty.mp4"
    with large.open("wb") as file:
        file.truncate(60_000_000)
    (tmp_path / "zero.mp4").touch()
    problem = page.locator("#clip").get_by_role("alert")
    for path, words in (
        (make_text(tmp_path / "notes.txt"), "notes.txt is not a video or an animation."),
        (tmp_path / "zero.mp4", "zero.mp4 is empty (0 bytes)."),
        (large, "sixty.mp4 has 60 MB; the limit is 50 MB."),
        (make_text(tmp_path / "notes.mp4"), "notes.mp4 is damaged, cut off or not a video;"),
    ):
        choose(page, path)
        expect(problem).to_contain_text(words)
        expect(page.get_by_role("alert").filter(has_text=path.name)).to_have_count(1)
    assert len(sent) == 1  # only the last one had to be sent to be known
    expect(slot(page)).to_contain_text("Example clip")
    expect(page.get_by_label("What should change?")).to_have_value("my own words")
    expect(page.get_by_role("button", name="Make this edit")).to_be_enabled()


def test_a_clip_can_be_dropped_anywhere_or_pasted_and_a_lost_one_is_told(browser, app, tmp_path, monkeypatch):
    page = browser.new_page(reduced_motion="reduce")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/upload" in request.url else None)
    page.goto(app.url)
    expect(slot(page)).to_contain_text("Example clip")
    first = make_clip(tmp_path / "first.mp4", frames=5, width=64, height=48)
    second = make_clip(tmp_path / "second.mp4", frames=9, width=48, height=64)
    veil = page.locator(".drop-veil")
    header, data = page.locator("#header"), files_of(page, make_text(tmp_path / "notes.txt"), first)
    header.dispatch_event("dragover", {"dataTransfer": data})
    expect(veil).to_be_visible()
    expect(veil).to_have_text("Drop your clip anywhere")
    header.dispatch_event("drop", {"dataTransfer": data})
    expect(veil).to_be_hidden()
    expect(slot(page)).to_contain_text("64 × 48")  # noqa: RUF001
    left = page.evaluate(
        "(data) => document.body.dispatchEvent("
        "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}))",
        files_of(page, second),
    )
    assert left is False  # else the browser leaves the page and opens the file
    expect(slot(page)).to_contain_text("48 × 64")  # noqa: RUF001
    page.evaluate(
        "(data) => document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))",
        files_of(page, first),
    )
    expect(slot(page)).to_contain_text("64 × 48")  # noqa: RUF001

    words = page.get_by_label("What should change?")
    words.evaluate(
        "(field, data) => { data.setData('text/plain', 'words'); field.dispatchEvent("
        "new ClipboardEvent('paste', {clipboardData: data, bubbles: true})); }",
        files_of(page, second),
    )
    header.dispatch_event("dragstart")
    header.dispatch_event("dragover", {"dataTransfer": data})
    expect(veil).to_be_hidden()  # a picture of the page itself
    header.dispatch_event("dragend")
    expect(page.locator("#go")).to_be_enabled()
    assert len(sent) == 3  # words are no clip, even with a picture of themselves

    monkeypatch.setattr("ui.media.clips.UPLOAD_LIMITS", replace(UPLOAD_LIMITS, max_seconds=1.0))
    choose(page, make_clip(tmp_path / "long.mp4", frames=60, width=48, height=48))
    expect(slot(page)).to_contain_text("Your file is 2.5 s long. Here: 0 s to 1 s")
    video = page.locator("#clip video")
    before = video.get_attribute("src")
    page.get_by_role("slider", name="First second of the file").press("End")
    expect(video).not_to_have_attribute("src", before)
    expect(slot(page)).to_contain_text("Here: 1.5 s to 2.5 s")
    expect(slot(page)).not_to_have_attribute("data-busy", "true")
    choose(page, first)
    expect(slot(page)).to_contain_text("64 × 48")  # noqa: RUF001
    expect(page.locator("#clip .long")).to_be_hidden()

    held = []
    page.route("**/upload", lambda route: held.append(route))
    choose(page, second)
    expect(page.locator("#go")).to_be_disabled()
    expect(slot(page)).to_contain_text("Sending second.mp4")
    slot(page).get_by_role("button", name="Cancel").click()
    expect(page.locator("#go")).to_be_enabled()
    choose(page, second)
    expect(page.locator("#go")).to_be_disabled()
    held[-1].abort()
    expect(page.locator("#clip").get_by_role("alert")).to_contain_text("The file did not arrive.")
    expect(page.get_by_role("button", name="Make this edit")).to_be_enabled()
    expect(slot(page)).to_contain_text("64 × 48")  # noqa: RUF001
    page.close()
