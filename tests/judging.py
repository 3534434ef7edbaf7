"""A real HTTP server that speaks the judge's protocol, with faults on order."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


@dataclass
class Reply:
    """text: the model's words. status, headers, body: of the HTTP answer. delay: seconds before it. drip: seconds
    between its bytes. drop: the connection is cut without an answer."""

    text: str = ""
    status: int = 200
    headers: dict = field(default_factory=dict)
    body: bytes | None = None
    delay: float = 0.0
    drip: float = 0.0
    drop: bool = False
    cut: bool = False
    finish: str = "stop"


@dataclass
class Asked:
    """One request as the server saw it. headers: found whatever their case."""

    path: str
    headers: Message
    body: dict
    at: float

    @property
    def text(self) -> str:
        return "\n".join(p["text"] for p in self.body["messages"][0]["content"] if p["type"] == "text")

    @property
    def pictures(self) -> list[Image.Image]:
        urls = [p["image_url"]["url"] for p in self.body["messages"][0]["content"] if p["type"] == "image_url"]
        assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
        return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]

    def wants(self, criterion: str) -> bool:
        return f'"{criterion}": <number>' in self.text


def good_scores(asked: Asked, value=9, **others) -> Reply:
    """A well-formed answer: `value` for every criterion that is asked for, but those named."""
    line = asked.text.splitlines()[-1]
    names = [piece.split('"')[1] for piece in line.partition("{")[2].split(",") if "<number>" in piece]
    return Reply(json.dumps({name: others.get(name, value) for name in names} | {"explanation": "Fine."}))


class JudgeServer:
    """`reply(asked)` decides each answer; `asked` lists all requests; `most_at_once` is the highest number of them."""

    def __init__(self, reply: Callable[[Asked], Reply]) -> None:
        self.reply = reply
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._busy = 0
        self._lock = threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                judge._serve(self)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_):  # clients that are killed leave broken pipes
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def _serve(self, handler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        asked = Asked(handler.path, handler.headers, body, time.monotonic())
        with self._lock:
            self.asked.append(asked)
            self._busy += 1
            self.most_at_once = max(self.most_at_once, self._busy)
        try:
            reply = self.reply(asked)
            time.sleep(reply.delay)
        finally:
            with self._lock:  # before it is sent: whoever has the answer may ask the next question at once
                self._busy -= 1
        self._send(handler, reply)

    def _send(self, handler, reply: Reply) -> None:
        if reply.drop:
            # A reset, not an orderly end.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True
            handler.connection.close()
            return
        body = reply.body
        if body is None:
            choice = {"message": {"role": "assistant", "content": reply.text}, "finish_reason": reply.finish}
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            body = json.dumps({"choices": [choice], "usage": usage}).encode()
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if reply.cut:
            body = body[: len(body) // 2]
            handler.close_connection = True
        for begin in range(0, len(body), 1 if reply.drip else len(body) or 1):
            handler.wfile.write(body[begin : begin + 1] if reply.drip else body)
            handler.wfile.flush()
            time.sleep(reply.drip)


@contextmanager
def judge_server(reply: Callable[[Asked], Reply] = good_scores):
    judge = JudgeServer(reply)
    thread = threading.Thread(target=judge._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        judge._server.shutdown()
        judge._server.server_close()
