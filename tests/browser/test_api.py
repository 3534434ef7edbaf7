"""The app's API, as a program uses it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from sama.video import probe
from tests.browser.watching import FRAMES
from tests.media import make_text


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
    with pytest.raises(AppError, match="maybe"):
        client.predict(handle_file(clip), "Make it snowy", detail="maybe", api_name="/edit_video")


def test_a_program_damages_and_restores_a_clip(client, clip):
    given, detail = client.predict(handle_file(clip), task="cube", api_name="/corrupt_clip")
    assert probe(file_of(given)).frames == FRAMES and detail["length"] > 0
    restored, psnr, _ = client.predict(handle_file(clip), task="speed", steps=2, api_name="/restore_clip")
    assert probe(file_of(restored)).frames == FRAMES and set(psnr) >= {"restored_hidden", "restored_overall"}


def test_refusals_reach_a_program_as_a_sentence(client, clip, tmp_path):
    with pytest.raises(AppError, match="Say what should change"):
        client.predict(handle_file(clip), " ", api_name="/edit_video")
    with pytest.raises(AppError, match="notes"):
        client.predict(handle_file(make_text(tmp_path / "notes.mp4")), "Make it snowy", api_name="/edit_video")


def test_nobody_gets_past_the_queue_or_at_files_of_the_server(app, client):
    direct = httpx.post(f"{app.url}/gradio_api/run/edit_video", json={"data": [None] * 8})
    assert direct.status_code in (401, 403, 404)
    for path in ("/etc/passwd", str(Path(__file__).resolve())):
        assert httpx.get(f"{app.url}/gradio_api/file={path}").status_code in (403, 404)
