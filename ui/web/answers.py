"""The parts that the middleware shares: short answers, paths of the app, and bodies of a bounded size."""

from __future__ import annotations

from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

API = "/gradio_api"
UPLOAD = f"{API}/upload"


class BodyTooLargeError(ValueError):
    """A request's body has more bytes than it may have."""


def path_of(scope: Scope) -> str:
    """The path of a request below the app's root, without a trailing slash."""
    path: str = scope["path"]
    root = scope.get("root_path", "")
    return (path.removeprefix(root) if root else path).rstrip("/")


async def refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    """Answer with one sentence, where gradio's clients and its page look for it; plain text from the upload route."""
    headers = {"Retry-After": "60"} if status == 429 else None
    plain = path_of(scope) == UPLOAD
    answer = (
        PlainTextResponse(sentence, status, headers)
        if plain
        else JSONResponse({"detail": sentence, "error": sentence}, status, headers)
    )
    await answer(scope, receive, send)


async def whole_body(receive: Receive, limit: int) -> bytes:
    """A request's body. Raises BodyTooLargeError as soon as it has more than `limit` bytes."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLargeError
        if not message.get("more_body", False):
            return bytes(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, and then what follows."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
