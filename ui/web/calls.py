"""Checks every call of a function of the app before gradio does: its size, its shape, and the files that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import gradio as gr
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.settings import VisitorLimits
from ui.web.answers import API, UPLOAD, BodyTooLargeError, path_of, refuse, replayed, whole_body
from ui.web.fetching import FetchError, fetch
from ui.web.uploads import Counter
from ui.web.visitors import visitor_of

_LARGEST = 4_000_000  # bytes of a call; files are uploaded, not sent with it
_CALLS = tuple(f"{API}/{route}" for route in ("queue/join", "run/", "api/", "call/"))
_MINUTE = 60.0
TOO_MANY = "You have sent many requests in a short time; wait a minute, then go on."
TOO_LARGE = "The request is too large; upload files first, and send what the upload gave."
NOT_JSON = "The request is not readable; send JSON as the API page shows."
NO_SUCH = "There is no such function here; the API page lists those that there are."
NOT_UPLOADED = "That file was not uploaded here; upload it, and send what the upload gave."


class CallError(ValueError):
    """A call that is refused; the message is one sentence for its sender."""


class FileError(CallError):
    """A call that is refused for a file that it names."""


class Calls:
    """ASGI middleware around gradio's routes that call functions."""

    def __init__(self, app: ASGIApp, blocks: gr.Blocks, limits: VisitorLimits) -> None:
        self.app, self.blocks, self.limits = app, blocks, limits
        self.requests = Counter(_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or path_of(scope) == UPLOAD:
            await self.app(scope, receive, send)
            return
        visitor = visitor_of(scope)
        if visitor is not None and self.requests.add(visitor) > self.limits.requests:
            await refuse(scope, receive, send, 429, TOO_MANY)
            return
        try:
            body = await whole_body(receive, _LARGEST)
            if path_of(scope).startswith(_CALLS):
                body = await self._checked(scope, body)
        except BodyTooLargeError:
            await refuse(scope, receive, send, 413, TOO_LARGE)
            return
        except (FileError, FetchError) as error:
            # As gradio says what is wrong with a value: its clients show the sentence of no other refusal.
            refusal = {"__type__": "validate", "is_valid": False, "parameter_name": "file", "message": str(error)}
            await JSONResponse({"detail": [refusal], "error": str(error)}, 422)(scope, receive, send)
            return
        except CallError as error:
            await refuse(scope, receive, send, 400, str(error))
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
        await self.app(scope, replayed(body, receive), send)

    async def _checked(self, scope: Scope, body: bytes) -> bytes:
        """The body of a call, with files in place of their addresses. Raises CallError or FetchError."""
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            raise CallError(NOT_JSON) from None
        if not isinstance(call, dict):
            raise CallError(NOT_JSON)
        path = path_of(scope)
        named = path.startswith((f"{API}/call/v2/",))
        values = call if named else call.get("data")
        if not named:
            if not isinstance(values, list):
                raise CallError(NOT_JSON)
            self._check_count(path, call, len(values))
        changed = await _with_files(values, _own_files(scope))
        return body if changed is values else json.dumps(changed if named else call | {"data": changed}).encode()

    def _check_count(self, path: str, call: dict[str, Any], count: int) -> None:
        """Whether the function exists and is given as many values as it takes: gradio would log all of them."""
        name = path.removeprefix(API).split("/")[2] if not path.endswith("/queue/join") else None
        index = call.get("fn_index")
        functions = self.blocks.fns
        if name and index is None:
            found = next((fn for fn in functions.values() if fn.api_name == name), None)
        else:
            found = functions.get(index) if isinstance(index, int) else None
        if found is None:
            raise CallError(NO_SUCH)
        wanted = len(found.inputs)
        fewer = sum(not getattr(block, "skip_api", False) for block in found.inputs)
        if count not in (wanted, fewer):
            raise CallError(f"The function takes {wanted} values, and {count} came; the API page lists them.")


def _own_files(scope: Scope) -> str:
    """The address of this app's files, without its scheme."""
    return f"//{Headers(scope=scope).get('host', '')}{scope.get('root_path', '')}{API}/file="


async def _with_files(value: Any, own: str, depth: int = 0) -> Any:
    """The value with uploaded files in place of addresses; the same object where nothing had to be changed."""
    if depth > 20:
        raise CallError(NOT_JSON)
    if isinstance(value, dict):
        if isinstance(value.get("path"), str) and (depth == 1 or "meta" in value):
            path = await _file_of(value["path"], own)
            return value if path == value["path"] else value | {"path": path, "url": None}
        items = list(value.items())
        changed = [await _with_files(one, own, depth + 1) for _, one in items]
        same = all(new is old for new, (_, old) in zip(changed, items, strict=True))
        return value if same else dict(zip((key for key, _ in items), changed, strict=True))
    if isinstance(value, list):
        changed = [await _with_files(one, own, depth + 1) for one in value]
        return value if all(new is old for new, old in zip(changed, value, strict=True)) else changed
    return value


async def _file_of(path: str, own: str) -> str:
    """The path of an uploaded file that a call names by path or address."""
    from gradio.utils import get_upload_folder

    root = Path(get_upload_folder()).resolve()
    address = urlsplit(path)
    if address.scheme in ("http", "https"):
        rest = path[len(address.scheme) + 1 :]
        if not rest.startswith(own):
            return str(await fetch(path, root))
        path = unquote(rest.removeprefix(own))
    try:
        found = Path(path).resolve()
        inside = found.is_relative_to(root) and found.is_file()
    except (OSError, ValueError):  # a null byte, a name that is too long
        inside = False
    if not inside:
        raise FileError(NOT_UPLOADED)
    return path
