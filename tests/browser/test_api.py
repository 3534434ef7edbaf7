"""The app's API, as a program uses it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from sama.video import probe
from tests.browser.watching import FRAMES
from tests.media import make_clip, make_text


@pytest.fixture(scope="module")
def client(app, tmp_path_factory) -> Client:
    return Client(app.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def file_of(video) -> Path:
    return Path(video["video"] if isinstance(video, dict) else video)


def test_a_program_edits_a_video(client, clip):
    job = client.submit(handle_file(clip), "Make it snowy", steps=2, seed=1, api_name="/edit_video")
    video, settings, state = job.result(timeout=60)
    assert state.startswith("Done. Changed ") and Path(settings).suffix == ".json"
    assert (probe(file_of(video)).frames, probe(file_of(video)).has_audio) == (FRAMES, True)
    states = [output[-1] for output in job.outputs()]
    assert any("1/2" in words for words in states)


def test_a_program_chooses_what_becomes_of_detail(client, clip):
    _, settings, _ = client.predict(
        handle_file(clip), "Make it snowy", frames=5, steps=1, detail="off", api_name="/edit_video"
    )
    facts = json.loads(Path(settings).read_text(encoding="utf-8"))
    assert (facts["detail"], facts["kept_detail"]) == ("off", False)
    with pytest.raises(AppError, match="detail is 'maybe'; choose one of auto, on, off"):
        client.predict(handle_file(clip), "Make it snowy", detail="maybe", api_name="/edit_video")


def test_a_program_damages_and_restores_a_clip(client, clip):
    given, detail = client.predict(handle_file(clip), task="cube", api_name="/corrupt_clip")
    assert probe(file_of(given)).frames == FRAMES and detail["length"] > 0
    restored, psnr, _ = client.predict(handle_file(clip), task="speed", steps=2, api_name="/restore_clip")
    assert probe(file_of(restored)).frames == FRAMES and set(psnr) >= {"restored_hidden", "restored_overall"}


def test_refusals_reach_a_program_as_a_sentence(client, clip, tmp_path):
    with pytest.raises(AppError, match="Say what should change"):
        client.predict(handle_file(clip), " ", api_name="/edit_video")
    with pytest.raises(httpx.HTTPStatusError) as refused:
        client.predict(handle_file(make_text(tmp_path / "notes.mp4")), "Make it snowy", api_name="/edit_video")
    assert "“notes.mp4” is not a .mp4 file" in refused.value.response.text


def test_nobody_gets_past_the_queue_or_at_files_of_the_server(app, client):
    direct = httpx.post(f"{app.url}/gradio_api/run/edit_video", json={"data": [None] * 11})
    assert direct.status_code in (401, 403, 404)
    for path in ("/etc/passwd", str(Path(__file__).resolve())):
        assert httpx.get(f"{app.url}/gradio_api/file={path}").status_code in (403, 404)


def test_a_program_gets_the_plan_of_an_edit_and_of_a_finished_one(client, tmp_path):
    short = make_clip(tmp_path / "short.mp4", frames=5)
    _, settings, _ = client.predict(handle_file(short), "Make it snowy", steps=2, seed=3, api_name="/edit_video")
    again = client.predict(handle_file(short), settings=handle_file(settings), api_name="/plan_of")
    tokens, region, state = client.predict(handle_file(short), "Make it snowy", steps=2, seed=3, api_name="/plan_of")
    assert state == "Done." and region == again[1]
    assert np.shape(region["region"]) == (8, 8) and region["steps"] == 2 and region["like_the_last_step"][-1] == 1
    with np.load(tokens) as plan, np.load(again[0]) as repeated:
        assert plan["plan"].shape[:2] == (2, 65) and np.array_equal(plan["plan"], repeated["plan"])
        assert np.isfinite(plan["plan"]).all() and plan["source"].shape[0] == 65


def test_a_language_model_finds_documented_tools_and_uses_them(app, clip):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    address = f"{app.url}/gradio_api"
    (path,) = httpx.post(f"{address}/upload", files={"files": ("clip.mp4", clip.read_bytes())}).json()
    told = []

    async def tell(progress, total, message):
        told.append(message)

    async def visit():
        async with (
            streamablehttp_client(f"{address}/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            asked = {"video": f"{address}/file={path}", "instruction": "Make it snowy", "frames": 5, "steps": 1}
            edited = await session.call_tool("edit_video", asked, progress_callback=tell)
            refused = await session.call_tool("edit_video", asked | {"instruction": " "})
            private = await session.call_tool("corrupt_clip", {"video": "http://169.254.169.254/a.mp4"})
            return tools, edited, refused, private

    with ThreadPoolExecutor(1) as thread:  # playwright has an event loop in this one
        tools, edited, refused, private = thread.submit(anyio.run, visit).result()
    assert set(tools) == {"edit_video", "plan_of", "corrupt_clip", "restore_clip"}
    for tool in tools.values():
        assert tool.description and all(value.get("description") for value in tool.inputSchema["properties"].values())
    assert tools["corrupt_clip"].inputSchema["properties"]["task"]["enum"] == ["cube", "speed", "tube"]
    words = [part.text for part in edited.content]
    assert not edited.isError and any(word.startswith("Done.") for word in words) and told
    (video,) = (word.split("URL: ")[-1] for word in words if word.endswith("result.mp4"))
    assert httpx.get(video).content[4:8] == b"ftyp"
    assert refused.isError and "Say what should change" in refused.content[0].text
    assert private.isError and "cannot be fetched" in private.content[0].text


def test_the_page_of_the_api_is_quiet(page):
    page.get_by_role("button", name="Use via API").click()
    expect(page.get_by_text("4 MCP Tools")).to_be_visible()
    page.get_by_role("dialog").get_by_text("Python", exact=True).click()
    expect(page.get_by_text("3 to 600 characters").first).to_be_visible()
    expect(page.get_by_role("dialog")).to_contain_text("video=handle_file('clip.mp4')")
