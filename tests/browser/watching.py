"""What the tests know about the page under test, and an eye on what it does behind the scenes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

FRAMES = 17


@dataclass
class Seen:
    """What a page did that it should not have done."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


def watch(page, url: str) -> Seen:
    seen = Seen()
    page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    own = (url + "/", "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else seen.foreign.append(request.url))
    return seen


def waiting(url: str) -> int:
    """How many jobs wait in the app's line."""
    return httpx.get(f"{url}/healthz").json()["waiting"]


def until(holds: Callable[[], bool], seconds: float = 15) -> None:
    """Wait until a condition holds that no page shows."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)
