"""Fetches a file by its public address for callers of the API that cannot upload, such as a language model's tools."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path, PurePath
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from sama.files import whole_file
from ui.web.files import FIRST_BYTES, refusal, size_refusal

_REDIRECTS = 4
_SECONDS = 30.0
NOT_PUBLIC = "That address cannot be fetched from here; give a public one (https://…), or upload the file."


class FetchError(ValueError):
    """A file that cannot be fetched; the message is one sentence for its sender."""


async def fetch(address: str, root: Path, transport: httpx.AsyncBaseTransport | None = None) -> Path:
    """The path of a file that was fetched into a new folder of `root`. Raises FetchError, and keeps nothing then.

    Only public addresses are asked, also where one refers to another. transport: for tests.
    """
    try:
        for _ in range(_REDIRECTS):
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise FetchError(NOT_PUBLIC)
            chosen = transport or await _to_public(parts.hostname)
            async with (
                httpx.AsyncClient(transport=chosen, timeout=_SECONDS) as client,
                client.stream("GET", address) as answer,
            ):
                if answer.is_redirect:
                    address = urljoin(address, answer.headers.get("location", ""))
                    continue
                if answer.status_code != 200:
                    raise FetchError(f"The address answered with {answer.status_code}; check that it is right.")
                return await _saved(answer, unquote(PurePath(parts.path).name), root)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError):
        raise FetchError(NOT_PUBLIC) from None
    raise FetchError("The address leads from one to the next; give the last one.")


async def _to_public(host: str) -> httpx.AsyncBaseTransport:
    """A transport that can reach nothing but the public address that a name has now."""
    from safehttpx import AsyncSecureTransport, async_validate_url

    try:
        return AsyncSecureTransport(await async_validate_url(host))
    except ValueError:
        raise FetchError(NOT_PUBLIC) from None


async def _saved(answer: httpx.Response, name: str, root: Path) -> Path:
    name = "".join(sign if sign.isalnum() or sign in "-_. " else "_" for sign in name)[-80:].lstrip(".") or "file"
    path = root / secrets.token_hex(16) / name
    path.parent.mkdir(parents=True)
    try:
        with whole_file(path) as part, part.open("wb") as file:
            head, size, looked = b"", 0, False
            async for data in answer.aiter_bytes():
                size += len(data)
                head += data[:FIRST_BYTES] if len(head) < FIRST_BYTES else b""
                if (sentence := size_refusal(name, size)) is not None:
                    raise FetchError(sentence)
                if not looked and len(head) >= FIRST_BYTES:
                    _look(name, head, whole=False)
                    looked = True
                file.write(data)
            if not looked:
                _look(name, head, whole=True)
    except BaseException:
        with suppress(OSError):
            path.parent.rmdir()
        raise
    return path


def _look(name: str, head: bytes, whole: bool) -> None:
    if (sentence := refusal(name, head, whole)) is not None:
        raise FetchError(sentence)
