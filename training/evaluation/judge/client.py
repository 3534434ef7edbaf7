"""One question to an OpenAI-compatible server (`/chat/completions`), asked again while the fault is a passing one.

The standard library's client is enough here: an answer takes seconds, so a connection for each costs nothing, and no
package has to be installed beside the server's. The number of requests under way is bounded by the client itself, and
all threads stay quiet for as long as the server asks one of them to (`Retry-After`).
"""

from __future__ import annotations

import base64
import email.utils
import http.client
import json
import logging
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.errors import JudgeError

logger = logging.getLogger(__name__)

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same request may succeed; any other 5xx counts as well."""
FATAL = frozenset({401, 402, 403, 404, 405})
"""Statuses that every further request would meet too: a wrong key, model or address."""
MAX_ANSWER_BYTES = 8_000_000

Part = dict[str, Any]


class NoAnswerError(Exception):
    """The server stayed away or faulty through all retries."""


class RefusedError(Exception):
    """The server will not answer this very request (too large, say); the message holds its reason."""


class StoppedError(Exception):
    """The client was stopped while it waited."""


@dataclass(frozen=True)
class Server:
    """Where the judge is and how it is asked.

    url: up to and including `/v1`. key: sent as a bearer token when there is one, and never logged or stored.
    timeout: seconds for one answer, from sending to its last byte. retries: repetitions after a passing fault.
    longest_wait: seconds between two of them, whatever the server asks for.
    temperature: above zero, or repeated runs are copies of one. extra: further fields of the request.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 300.0
    retries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 120.0
    temperature: float = 0.7
    max_tokens: int = 1024
    concurrency: int = 8
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise JudgeError(f"The judge's address {self.url!r} must begin with http:// or https://, and end in /v1.")
        if not self.model:
            raise JudgeError("Name the judge's model with --model, as its server lists it under /v1/models.")
        if self.concurrency < 1 or self.retries < 0 or self.timeout <= 0:
            raise JudgeError("Concurrency must be at least 1, retries at least 0, and the timeout above 0 seconds.")


@dataclass(frozen=True)
class Answer:
    """text: what the model wrote, or the whole body when it held no text. tokens: as the server counts them."""

    text: str
    finish_reason: str | None
    prompt_tokens: int
    answer_tokens: int
    seconds: float


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would lose its body, and the key would go to whoever is named."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class JudgeClient:
    """Asks one server from many threads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._places = threading.BoundedSemaphore(server.concurrency)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._quiet_until = 0.0
        self._jitter = random.Random()  # spreads retries in time, decides no result

    def stop(self) -> None:
        """Let requests that are under way finish, and end all waits with StoppedError."""
        self._stopped.set()

    def ask(self, parts: Sequence[Part], seed: int | None = None) -> Answer:
        """The model's answer to one user message of text and pictures.

        Raises RefusedError or NoAnswerError for this request, JudgeError when no request can succeed, StoppedError
        after `stop`.
        """
        body: dict[str, Any] = {
            "model": self.server.model,
            "messages": [{"role": "user", "content": list(parts)}],
            "temperature": self.server.temperature,
            "max_tokens": self.server.max_tokens,
        }
        if seed is not None:
            body["seed"] = seed
        data = json.dumps(body | dict(self.server.extra)).encode()
        for attempt in range(self.server.retries + 1):
            self._keep_quiet()
            try:
                with self._places:
                    return self._request(data)
            except _PassingError as fault:
                if attempt == self.server.retries:
                    raise NoAnswerError(str(fault)) from fault
                logger.debug("asking again: %s", fault)
                self._back_off(attempt, fault.retry_after)
        raise AssertionError("unreachable")

    def _request(self, data: bytes) -> Answer:
        began = time.monotonic()
        headers = {"Content-Type": "application/json"}
        if self.server.key:
            headers["Authorization"] = f"Bearer {self.server.key}"
        request = urllib.request.Request(self.server.url.rstrip("/") + "/chat/completions", data, headers)
        deadline = began + self.server.timeout
        try:
            with self._opener.open(request, timeout=self.server.timeout) as response:
                body = _read(response, deadline)
        except urllib.error.HTTPError as error:
            raise _fault_of(error, deadline) from error
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            reason = getattr(error, "reason", None) or error
            raise _PassingError(f"{type(error).__name__}: {reason}") from error
        return _answer(body, time.monotonic() - began)

    def _keep_quiet(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                left = self._quiet_until - time.monotonic()
            if left <= 0:
                return
            self._stopped.wait(left)
        raise StoppedError

    def _back_off(self, attempt: int, retry_after: float | None) -> None:
        if retry_after is not None:
            with self._lock:
                until = time.monotonic() + min(retry_after, self.server.longest_wait)
                self._quiet_until = max(self._quiet_until, until)
            logger.debug("the server asks for quiet: %.1f s", retry_after)
            return
        longest = min(self.server.longest_wait, self.server.first_wait * 2**attempt)
        if self._stopped.wait(longest * self._jitter.uniform(0.5, 1)):
            raise StoppedError


class _PassingError(Exception):
    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def text_part(text: str) -> Part:
    """A piece of a message that is read."""
    return {"type": "text", "text": text}


def picture_part(jpeg: bytes) -> Part:
    """A piece of a message that is seen, sent inside the request itself."""
    return {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()}}


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The whole body. A socket's timeout is for each read; a server that drips must not hold a thread for ever."""
    pieces = []
    size = 0
    while piece := response.read1(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise _PassingError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end in time")
    if response.length:
        raise http.client.IncompleteRead(b"".join(pieces), response.length)
    return b"".join(pieces)


def _fault_of(error: urllib.error.HTTPError, deadline: float) -> Exception:
    try:
        body = _read(error, deadline)  # type: ignore[arg-type]
    except (OSError, http.client.HTTPException, _PassingError):
        body = b""
    said = f"HTTP {error.code}: {_message(body)}"
    if error.code in PASSING or error.code >= 500:
        return _PassingError(said, _seconds_of(error.headers.get("Retry-After")))
    if error.code in FATAL or error.code < 400:
        return JudgeError(f"The judge's server turns us away ({said}); check --url, --model and the key.")
    return RefusedError(said)


def _message(body: bytes) -> str:
    """The reason in an error's body, in the usual places for it, shortened."""
    text = body.decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
        error = value.get("error", value)
        text = str(error.get("message", text) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:500]


def _seconds_of(retry_after: str | None) -> float | None:
    """`Retry-After` is a number of seconds or a date."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _answer(body: bytes, seconds: float) -> Answer:
    """What the model said. A body without a text is kept whole: it is judged malformed like any other answer."""
    raw = body.decode("utf-8", "replace")
    finish: str | None = None
    usage: dict[str, Any] = {}
    text = raw
    try:
        value = json.loads(raw)
        choice = value["choices"][0]
        finish = choice.get("finish_reason")
        usage = value.get("usage") or {}
        if isinstance(choice["message"]["content"], str):
            text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, AttributeError):
        logger.debug("the server's answer is not of the protocol: %.200s", raw)
    tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    return Answer(text, finish, tokens[0], tokens[1], seconds)
