"""Tells visitors apart by their network address, which a script cannot have as many of as it can have sessions."""

from __future__ import annotations

import hmac
import secrets
from ipaddress import IPv6Address, ip_address
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

_KEY = "sama.visitor"
_HEADER = "x-sama-visitor"
_OWNER = "owner"  # this machine's own programs, in that header
_IPV6_BITS = 64  # one household's network


class Visitors:
    """ASGI middleware that notes whose a request is: an address, or None for this machine's own programs.

    proxies: trusted servers in front, each of which adds the address of whom it serves to X-Forwarded-For.
    """

    def __init__(self, app: ASGIApp, proxies: int) -> None:
        self.app, self.proxies = app, proxies
        self._secret = secrets.token_hex(16)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            told = self._told(headers.get(_HEADER, ""))
            visitor = self._address(scope, headers) if told is None else None if told == _OWNER else told
            others = [(name, value) for name, value in scope["headers"] if name != _HEADER.encode()]
            if "/mcp" in scope["path"]:
                # gradio's MCP server calls the app's own API in the name of the visitor, and hands headers on.
                others.append((_HEADER.encode(), f"{self._secret}/{visitor or _OWNER}".encode()))
            scope = {**scope, _KEY: visitor, "headers": others}
        await self.app(scope, receive, send)

    def _told(self, header: str) -> str | None:
        """The visitor that this app itself has put into a header; None for no such header."""
        secret, _, visitor = header.partition("/")
        return visitor if hmac.compare_digest(secret.encode(), self._secret.encode()) else None

    def _address(self, scope: Scope, headers: Headers) -> str | None:
        client = scope.get("client")
        seen = str(client[0]) if client else ""
        if self.proxies:
            hops = [hop.strip() for header in headers.getlist("x-forwarded-for") for hop in header.split(",")]
            seen = _outermost(hops[: len(hops) - self.proxies + 1]) or seen
        return _network(seen)


def visitor_of(scope: Scope) -> str | None:
    """Whose a request is; None for this machine's own programs, which no limit holds for."""
    found: str | None = scope.get(_KEY)
    return found


def current_visitor() -> str | None:
    """The visitor that gradio calls a function for; None for this machine's own programs, and outside of gradio."""
    from gradio.context import LocalContext

    request: Any = getattr(LocalContext.request.get(None), "request", None)
    return visitor_of(request.scope) if hasattr(request, "scope") else None


def _outermost(hops: list[str]) -> str | None:
    """The last address of a chain that is not of a private network: those are proxies, too."""
    for hop in reversed(hops):
        try:
            if ip_address(hop).is_global:
                return hop
        except ValueError:
            break
    return hops[-1] if hops else None


def _network(address: str) -> str | None:
    """An address as the key of its visitor; None for this machine."""
    try:
        found = ip_address(address)
    except ValueError:
        return address or None
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        else:
            return None if found.is_loopback else str(ip_address(int(found) >> _IPV6_BITS << _IPV6_BITS))
    return None if found.is_loopback else str(found)
