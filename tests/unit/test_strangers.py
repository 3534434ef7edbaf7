"""Hostile requests and files against a live server: each gets one sentence, nothing is stored, and nothing is lost."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest

from tests.media import make_clip
from tests.tiny import held_pipeline
from ui.settings import Settings, VisitorLimits
from ui.web.fetching import FetchError, fetch
from ui.web.visitors import Visitors, visitor_of

LIMITS = VisitorLimits(jobs=2, uploads=6, requests=40, stored=900_000)
MP4 = b"\0\0\0\x20ftypisom" + bytes(400)


@dataclass
class Server:
    """The app, whose model stands still after a step until `go_on` is set. Each client has an address of its own."""

    url: str
    cache: Path
    go_on: threading.Event
    jobs: object
    edit_video: int
    """The number of gradio's function."""
    visitors: int = 0

    def client(self) -> httpx.Client:
        self.visitors += 1
        address = f"81.2.{self.visitors // 250}.{self.visitors % 250 + 1}"
        return httpx.Client(base_url=self.url, headers={"X-Forwarded-For": f"6.6.6.6, {address}"}, timeout=30)

    def stored(self) -> set[Path]:
        return {path for path in self.cache.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    from ui.app import build_app, launch_options
    from ui.jobs.jobs import Jobs
    from ui.server import app_options

    cache, go_on = tmp_path_factory.mktemp("strangers") / "gradio", threading.Event()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        settings = Settings(
            pipeline_loader=partial(held_pipeline, go_on, 2), warm=False, proxies=1, limits=LIMITS, queue_size=3,
            examples=tmp_path_factory.mktemp("none"),
        )  # fmt: skip
        jobs = Jobs(settings)
        demo = build_app(settings, jobs)
        options = launch_options(settings) | {"app_kwargs": app_options(demo, jobs)}
        _, url, _ = demo.launch(**options, prevent_thread_lock=True, quiet=True)
        number = next(number for number, fn in demo.fns.items() if fn.api_name == "edit_video")
        yield Server(url.rstrip("/"), cache, go_on, jobs, number)
        go_on.set()
        demo.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=5, width=64, height=48)


def said(answer: httpx.Response) -> str:
    """The sentence of a refusal, from an upload (plain) or from a call."""
    assert answer.status_code in (400, 403, 404, 413, 415, 422, 429, 503), answer.text[:200]
    try:
        return answer.json()["error"]
    except ValueError:
        return answer.text


def is_sentence(words: str) -> bool:
    plain = (
        words and len(words) < 250 and words[0].isprintable() and "Traceback" not in words and "site-pack" not in words
    )
    return bool(plain) and words.rstrip(")").endswith(".") and "\n" not in words


BAD_FILES = {
    "a page": ("page.html", b"<html><script>alert(1)</script>"),
    "a drawing with a script": ("a.svg", b"<svg onload=alert(1)>"),
    "a program": ("run.exe", b"MZ" + bytes(500)),
    "an archive": ("clips.zip", b"PK\3\4" + bytes(500)),
    "text named as a video": ("notes.mp4", b"only words " * 90),
    "an archive named as a video": ("a.mkv", b"PK\3\4" + bytes(500)),
    "a page named as a picture": ("mask.png", b"<html>" + bytes(500)),
    "nothing": ("empty.mp4", b""),
    "no suffix": ("clip", MP4),
    "only a suffix": (".mp4", b"x" * 500),
    "a name with a path": ("../../../etc/cron.d/x.sh", b"* * * * * root sh"),
    "a name of Windows": ("C:\\autoexec.bat", b"echo"),
    "a name with markup": ("<img src=x onerror=alert(1)>.txt", b"x"),
    "a name with a null byte": ("a\0.mp4", b"x" * 500),
    "a very long name": ("x" * 5000 + ".docx", b"x"),
    "weights": ("lora.safetensors", struct.pack("<Q", 8) + b'{"a":1} '),
    "pickled code": ("lora.pt", b"\x80\x04cos\nsystem\n"),
    "large settings": ("settings.json", b"{" + b" " * 200_000),
    "settings that are a list": ("settings.json", b"[1]"),
    "more than is allowed": ("large.mp4", MP4 + bytes(50_100_000)),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_clip_is_refused_before_it_is_stored(server, name):
    before = server.stored()
    answer = server.client().post("/gradio_api/upload", files={"files": BAD_FILES[name]})
    assert is_sentence(said(answer)), said(answer)
    assert server.stored() == before


def test_of_a_page_s_own_bad_file_the_first_bytes_are_let_through_and_no_more(server):
    client = server.client()
    client.headers["Sec-Fetch-Site"] = "same-origin"
    for name, data in (("notes.mp4", b"only words " * 30_000), ("page.html", b"<html>"), ("empty.mp4", b"")):
        (path,) = client.post("/gradio_api/upload", files={"files": (name, data)}).json()
        assert Path(path).name == name and Path(path).read_bytes() == data[:400]
    large = client.post("/gradio_api/upload", files={"files": BAD_FILES["more than is allowed"]})
    assert large.status_code == 413 and is_sentence(large.text)


def call(**changes) -> dict:
    return {"data": [None, "Make it snowy"], "session_hash": "s" * 11, "fn_index": 0} | changes


def file_at(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


BAD_CALLS = {
    "no JSON": b"{",
    "a list": b"[]",
    "nested without end": b'{"data":' + b"[" * 100_000,
    "too large": json.dumps({"data": ["x" * 4_100_000]}).encode(),
    "no data": call(data=None),
    "an unknown function": call(fn_index=9999),
    "a function by words": call(fn_index="0 or 1"),
    "too few values": call(data=["secret words of a visitor"], fn_index="edit_video"),
    "too many values": call(data=["secret words of a visitor"] * 99, fn_index="edit_video"),
    "a file of the system": ("edit_video", [file_at("/etc/passwd")]),
    "a file of the app": ("edit_video", [file_at(str(Path(__file__).resolve()))]),
    "a way out of the folder": ("edit_video", [file_at("{cache}/../../../etc/passwd")]),
    "a folder": ("edit_video", [file_at("{cache}")]),
    "a null byte": ("edit_video", [file_at("{cache}/a\0b")]),
    "a private address": ("edit_video", [file_at("http://127.0.0.1:22/a.mp4")]),
    "the cloud's own address": ("edit_video", [file_at("http://169.254.169.254/latest/meta-data.mp4")]),
    "a file by another scheme": ("edit_video", [file_at("file:///etc/passwd")]),
    "a file of the app by its address": ("edit_video", [file_at("{url}/gradio_api/file=/etc/passwd")]),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_is_refused_with_a_sentence(server, name, capfd, caplog):
    before, what = server.stored(), BAD_CALLS[name]
    path, body = "queue/join", what
    if isinstance(what, tuple):
        path = f"call/{what[0]}"
        rest = ["Make it snowy", 0, 0, 0, 0, 0, "auto", "auto", None, "default"]
        body = (
            json.dumps({"data": [*what[1], *rest]}).replace("{cache}", str(server.cache)).replace("{url}", server.url)
        )
    if isinstance(what, dict) and what["fn_index"] == "edit_video":
        body = what | {"fn_index": server.edit_video}
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    answer = server.client().post(f"/gradio_api/{path}", content=content, headers={"Content-Type": "application/json"})
    assert is_sentence(said(answer)), said(answer)
    assert server.stored() == before
    logged = "".join(capfd.readouterr()) + caplog.text
    assert "secret words" not in logged and "Traceback" not in logged


def ended(client: httpx.Client, name: str, data: list) -> str:
    """The last words of a function that is called as a program calls it."""
    answer = client.post(f"/gradio_api/call/{name}", json={"data": data})
    assert answer.status_code == 200, answer.text
    with client.stream("GET", f"/gradio_api/call/{name}/{answer.json()['event_id']}") as stream:
        lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line.startswith("data: ")]
    last = json.loads(lines[-1])
    return last["error"] if isinstance(last, dict) else str(last)


@pytest.fixture(scope="module")
def uploaded(server, clip) -> tuple[httpx.Client, dict]:
    client = server.client()
    (path,) = client.post("/gradio_api/upload", files={"files": ("clip.mp4", clip.read_bytes())}).json()
    return client, file_at(path)


BAD_VALUES = {
    "an unknown task": ("corrupt_clip", ["nonsense", 0, 0, 0], "choose one of cube, speed, tube"),
    "a start before the clip": ("corrupt_clip", ["cube", -1, 0, 0], "start is -1; give a number from 0"),
    "a seed that is none": ("corrupt_clip", ["cube", 0, "DROP TABLE", 0], "seed is no number"),
    "a fraction of a step": ("restore_clip", ["cube", "", 0, 0, 2.5, 0], "steps is 2.5; give a whole number"),
    "a start after the clip": ("plan_of", ["Make it snowy", None, 99, 0, 0, 0], "frame"),
    "no words": ("plan_of", ["", None, 0, 0, 0, 0], "Say what should change"),
    "too many words": ("plan_of", ["snow " * 500, None, 0, 0, 0, 0], "shorten it"),
    "not one's settings": ("plan_of", ["", "CLIP", 0, 0, 0, 0], "not those of an edit"),
    "endless steps": ("edit_video", ["Snow", 0, 0, 0, 10**9, 0, "auto", "auto", None, "default"], "from 0 to 50"),
    "an unknown quality": ("edit_video", ["Snow", 0, 0, 0, 0, 0, "auto", "auto", None, "<b>"], "choose one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_bad_value_gets_the_sentence_that_says_what_may_be_sent(server, uploaded, name):
    client, video = uploaded
    function, values, part = BAD_VALUES[name]
    before = set(server.cache.parent.rglob("sama-*"))
    words = ended(client, function, [video, *(video if value == "CLIP" else value for value in values)])
    assert part in words and is_sentence(words), words
    left = set(server.cache.parent.rglob("sama-*")) - before
    assert not [path for folder in left for path in folder.iterdir()], left


def test_floods_of_one_visitor_end_at_its_limits_and_others_go_on(server, clip, monkeypatch):
    flood, data = server.client(), clip.read_bytes()
    answers = [flood.post("/gradio_api/upload", files={"files": (f"{n}.mp4", data)}) for n in range(LIMITS.uploads + 1)]
    assert [answer.status_code for answer in answers] == [200] * LIMITS.uploads + [429]
    assert is_sentence(said(answers[-1])) and answers[-1].headers["retry-after"]
    heavy = server.client()
    big = MP4 + bytes(LIMITS.stored // 2 - 10_000)
    assert heavy.post("/gradio_api/upload", files={"files": ("a.mp4", big)}).status_code == 200
    refused = [
        heavy.post("/gradio_api/upload", files={"files": ("b.mp4", bytes([n]).join([MP4, big]))}) for n in (1, 2)
    ]
    assert refused[-1].status_code == 429 and "hour" in said(refused[-1])
    busy = server.client()
    codes = [
        busy.post("/gradio_api/queue/join", json=call(fn_index=9999)).status_code for _ in range(LIMITS.requests + 1)
    ]
    assert codes[-1] == 429 and set(codes[:-1]) == {400}
    forged = {"X-Forwarded-For": "1.2.3.4, " + busy.headers["X-Forwarded-For"]}
    assert busy.post("/gradio_api/queue/join", json=call(), headers=forged).status_code == 429
    assert server.client().post("/gradio_api/queue/join", json=call(fn_index=9999)).status_code == 400
    assert httpx.post(f"{server.url}/gradio_api/upload", files=[("files", ("a.mp4", data)), ("files", ("b.mp4", data))]
                      ).text == "Send one file at a time."  # fmt: skip


def test_jobs_of_one_address_are_bounded_whatever_sessions_it_invents(server, uploaded, clip):
    server.go_on.clear()
    threads, words, order = [], {}, []

    def run(name: str, client: httpx.Client, video: dict) -> None:
        words[name] = ended(client, "restore_clip", [video, "cube", "", 0, 0, 1, 0])
        order.append(name)

    def start(name: str, client: httpx.Client, video: dict) -> None:
        threads.append(threading.Thread(target=run, args=(name, client, video)))
        threads[-1].start()

    def counts() -> tuple[int, int]:
        line = server.jobs.line
        return len(line._running), line.waiting

    def until(holds) -> None:
        end = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.02)

    script, video = uploaded
    start("first", script, video)
    until(lambda: counts() == (1, 0))
    start("second", script, video)
    until(lambda: counts() == (1, 1))
    assert "2 runs of yours" in ended(script, "restore_clip", [video, "cube", "", 0, 0, 1, 0])
    other = server.client()
    (path,) = other.post("/gradio_api/upload", files={"files": ("clip.mp4", clip.read_bytes())}).json()
    start("other", other, file_at(path))
    until(lambda: counts() == (1, 2))
    assert httpx.get(f"{server.url}/healthz").json()["waiting"] == 2
    server.go_on.set()
    for thread in threads:
        thread.join(60)
    assert order == ["first", "second", "other"] and all("Done" in word for word in words.values()), words


def test_every_answer_has_its_headers_and_the_page_is_small(server):
    page = httpx.get(server.url, headers={"Accept-Encoding": "gzip"})
    assert page.headers["content-encoding"] == "gzip"
    assert "https://huggingface.co" in page.headers["content-security-policy"].split("frame-ancestors")[1]
    for answer in (page, server.client().post("/gradio_api/queue/join", json={}), httpx.get(f"{server.url}/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"]
        assert "camera=()" in answer.headers["permissions-policy"]
    for path in ("/etc/passwd", str(Path(__file__).resolve()), str(server.cache.parent), os.sep):
        assert httpx.get(f"{server.url}/gradio_api/file={path}").status_code in (403, 404)


def test_a_file_at_a_public_address_is_fetched_with_the_same_checks(tmp_path):
    def answer(request: httpx.Request) -> httpx.Response:
        pages = {"/page.mp4": b"<html>" * 100, "/clip.mp4": MP4, "/large.mp4": MP4 + bytes(50_100_000)}
        if request.url.path in pages:
            return httpx.Response(200, content=pages[request.url.path])
        target = {"/away": "/clip.mp4", "/loop": "/loop", "/scheme": "file:///etc/passwd"}.get(request.url.path)
        return httpx.Response(302, headers={"location": target}) if target else httpx.Response(404)

    def fetched(path: str) -> Path:
        return anyio.run(fetch, f"https://example.org{path}", tmp_path, httpx.MockTransport(answer))

    for path in ("/clip.mp4", "/away"):
        assert fetched(path).read_bytes() == MP4 and len(fetched(path).parent.name) == 32
    stored = sorted(tmp_path.iterdir())
    refusals = {
        "/page.mp4": "not a .mp4 file", "/large.mp4": "larger than", "/loop": "from one to the next",
        "/nothing.mp4": "404", "/scheme": "cannot be fetched",
    }  # fmt: skip
    for path, part in refusals.items():
        with pytest.raises(FetchError, match=part) as refused:
            fetched(path)
        assert is_sentence(str(refused.value))
    assert sorted(tmp_path.iterdir()) == stored


@pytest.mark.parametrize(
    ("proxies", "client", "forwarded", "visitor"),
    [
        (0, "127.0.0.1", "9.9.9.9", None),
        (0, "81.2.69.1", "9.9.9.9", "81.2.69.1"),
        (1, "10.0.0.7", "9.9.9.9, 81.2.69.1", "81.2.69.1"),
        (1, "10.0.0.7", "9.9.9.9, 81.2.69.1, 10.2.3.4", "81.2.69.1"),
        (2, "10.0.0.7", "9.9.9.9, 81.2.69.1, 17.1.2.3", "81.2.69.1"),
        (1, "127.0.0.1", "", None),
        (0, "::1", "", None),
        (0, "2a00:1450:4001:82a::200e", "", "2a00:1450:4001:82a::"),
        (1, "10.0.0.7", "2a00:1450:4001:82a:1:2:3:4", "2a00:1450:4001:82a::"),
        (0, "::ffff:81.2.69.1", "", "81.2.69.1"),
    ],
)
def test_a_visitor_is_who_the_nearest_trusted_server_saw(proxies, client, forwarded, visitor):
    seen = []

    async def app(scope, _receive, _send):
        seen.append((visitor_of(scope), [name for name, _ in scope["headers"]]))

    headers = [(b"x-forwarded-for", forwarded.encode()), (b"x-sama-visitor", b"guess/owner")]
    scope = {"type": "http", "path": "/", "client": (client, 1), "headers": headers}
    anyio.run(Visitors(app, proxies), scope, None, None)
    assert seen == [(visitor, [b"x-forwarded-for"])]
