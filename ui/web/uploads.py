"""Checks every upload while it arrives, and counts what each visitor sends."""

from __future__ import annotations

import time
from collections import deque

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sama.video import UPLOAD_LIMITS
from ui.settings import VisitorLimits
from ui.web.answers import UPLOAD, path_of, refuse
from ui.web.files import FIRST_BYTES, refusal, size_refusal
from ui.web.visitors import visitor_of

_MINUTE, _HOUR = 60.0, 3600.0
_ENVELOPE = 20_000  # bytes of a request beside its file
TOO_MANY = "You have sent many files in a short time; wait a minute, then send the next one."
TOO_MUCH = "You have sent as much as is stored for one visitor in an hour; try again later."
ONE_FILE = "Send one file at a time."


class Counter:
    """Amounts of each visitor in the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def add(self, visitor: str, amount: int = 1) -> int:
        """Add an amount; returns the sum with it."""
        seen = self._seen.setdefault(visitor, deque())
        if amount:
            seen.append((time.monotonic(), amount))
        return self.sum(visitor)

    def sum(self, visitor: str) -> int:
        limit = time.monotonic() - self._seconds
        seen = self._seen.get(visitor, deque())
        while seen and seen[0][0] < limit:
            seen.popleft()
        if not seen:
            self._seen.pop(visitor, None)
        return sum(amount for _, amount in seen)


class Uploads:
    """ASGI middleware around gradio's upload route: refuses by name, first bytes, size and number, before storing.

    From the page itself the first bytes of such a file are let through, and no more: the page then says in its own
    place what is wrong with it, where a browser would report a refusal as an error of the page.
    """

    def __init__(self, app: ASGIApp, limits: VisitorLimits) -> None:
        self.app, self.limits = app, limits
        self.files, self.bytes = Counter(_MINUTE), Counter(_HOUR)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or path_of(scope) != UPLOAD:
            await self.app(scope, receive, send)
            return
        headers, visitor = Headers(scope=scope), visitor_of(scope)
        length = int(given) if (given := headers.get("content-length", "0")).isdigit() else 0
        if length > (UPLOAD_LIMITS.max_bytes or 0) + _ENVELOPE:
            await refuse(scope, receive, send, 413, size_refusal("", length) or TOO_MUCH)
            return
        if visitor is not None:
            if self.files.add(visitor) > self.limits.uploads:
                await refuse(scope, receive, send, 429, TOO_MANY)
                return
            if self.bytes.sum(visitor) + length > self.limits.stored:
                await refuse(scope, receive, send, 429, TOO_MUCH)
                return
        kind, options = parse_options_header(headers.get("content-type", ""))
        if kind != b"multipart/form-data" or b"boundary" not in options:
            await refuse(scope, receive, send, 400, "Send the file as a form (multipart/form-data).")
            return
        arriving = _Arriving(options[b"boundary"], receive, headers.get("sec-fetch-site") == "same-origin")
        try:
            await self.app(scope, arriving.receive, send)
        finally:
            if visitor is not None:
                self.bytes.add(visitor, arriving.size)


class _Arriving:
    """An upload on its way: what has not been looked at yet is not handed on.

    `receive` raises MultiPartException for what is refused, inside gradio's parser, which then removes what it wrote
    and answers with the sentence. from_page: whether the first bytes of such a file are let through instead.
    """

    def __init__(self, boundary: bytes, receive: Receive, from_page: bool) -> None:
        self._receive, self._boundary, self._from_page = receive, boundary, from_page
        self._cut = False  # whether no more of the file is let through
        self._part = b""  # its Content-Disposition
        self._held: list[Message] = []
        self._files, self._fields = 0, 0
        self._header, self._value = b"", b""
        self._name: str | None = None  # of the file at the moment, None in another field
        self._head = bytearray()
        self._looked = False  # whether the file's first bytes were seen, and found good enough
        self.size = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_ends,
                "on_part_data": self._data,
                "on_part_end": self._part_ends,
            },
        )

    async def receive(self) -> Message:
        while True:
            if self._looked and self._held and not self._cut:
                return self._held.pop(0)
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            try:
                self._parser.write(message.get("body", b""))
            except MultipartParseError:
                raise MultiPartException("The form is not readable; send the file as a form.") from None
            if self._cut:
                if message.get("more_body", False):
                    continue
                return {"type": "http.request", "body": self._first_bytes(), "more_body": False}
            self._held.append(message)
            if not message.get("more_body", False):
                self._looked = True  # whatever is amiss with the end is gradio's to say

    def _part_begins(self) -> None:
        self._name, self._value, self._header = None, b"", b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            if b"filename" in options:
                self._part = self._value
                self._begin_file(options[b"filename"].decode("utf-8", "replace"))
        self._header, self._value = b"", b""

    def _begin_file(self, name: str) -> None:
        self._files += 1
        if self._files > 1:
            raise MultiPartException(ONE_FILE)
        self._name = name
        self._head.clear()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            self._fields += end - start
            if self._fields > _ENVELOPE:
                raise MultiPartException(ONE_FILE)
            return
        self.size += end - start
        too_large = size_refusal(self._name, self.size)
        if too_large is not None:
            raise MultiPartException(too_large)
        if not self._looked:
            self._head += data[start : min(end, start + FIRST_BYTES)]
            if len(self._head) >= FIRST_BYTES:
                self._look(whole=False)

    def _part_ends(self) -> None:
        if self._name is not None and not self._looked:
            self._look(whole=True)

    def _look(self, whole: bool) -> None:
        assert self._name is not None
        sentence = refusal(self._name, bytes(self._head), whole)
        if sentence is not None and not self._from_page:
            raise MultiPartException(sentence)
        self._cut, self._looked = sentence is not None, True

    def _first_bytes(self) -> bytes:
        """The form with no more of its file than was looked at."""
        edge = b"--" + self._boundary
        head = b"Content-Disposition: " + self._part + b"\r\nContent-Type: application/octet-stream\r\n\r\n"
        return edge + b"\r\n" + head + bytes(self._head[:FIRST_BYTES]) + b"\r\n" + edge + b"--\r\n"
