"""One question to a server that speaks OpenAI's chat protocol, by the `openai` client, which repeats passing faults."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai

from training.errors import JudgeError

logger = logging.getLogger(__name__)

FATAL = frozenset({401, 402, 403, 404, 405})
"""Statuses that every further request would meet too: a wrong key, model or address."""
PASSING = frozenset({408, 409, 429})
"""Statuses, beside 5xx, after which the `openai` client repeats a request."""
MAX_ANSWER_BYTES = 8_000_000

Part = dict[str, Any]


class NoAnswerError(Exception):
    """The server gave no usable answer in any of the retries."""


class RefusedError(Exception):
    """The server will not answer this very request (too large, say); the message holds its reason."""


class StoppedError(Exception):
    """The client was stopped before the question was asked."""


@dataclass(frozen=True)
class Server:
    """The address of the judge's server and the settings of requests.

    url: up to and including `/v1`. key: sent as a bearer token when there is one, and never logged or stored.
    timeout: seconds until an answer begins, and again until it has ended. retries: repetitions after a passing fault,
    with pauses of 0.5 to 8 seconds, or as long as the server asks for (`Retry-After`, up to two minutes).
    temperature: above zero, or repeated runs are copies of one. extra: further fields of the request.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 300.0
    retries: int = 10
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


class JudgeClient:
    """Asks one server from many threads, `concurrency` of them at once."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._stopped = threading.Event()
        client = openai.OpenAI(
            base_url=server.url,
            api_key=server.key or "none",
            timeout=httpx2.Timeout(server.timeout, pool=None),  # requests wait for a connection as long as it takes
            max_retries=server.retries,
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False,  # neither pictures nor the key go where a redirection points
                limits=httpx2.Limits(max_connections=server.concurrency),
                event_hooks={"response": [self._limit]},
            ),
        )
        # The body as it came: what is outside the protocol is kept as well.
        self._create: Any = client.chat.completions.with_raw_response.create

    def stop(self) -> None:
        """Ask nothing more: requests that are under way finish, further ones raise StoppedError."""
        self._stopped.set()

    def ask(self, parts: Sequence[Part], seed: int | None = None) -> Answer:
        """The model's answer to one user message of text and pictures.

        Raises RefusedError or NoAnswerError for this request, JudgeError when no request can succeed, StoppedError
        after `stop`.
        """
        if self._stopped.is_set():
            raise StoppedError
        server, began = self.server, time.monotonic()
        try:
            response = self._create(
                model=server.model,
                messages=[{"role": "user", "content": list(parts)}],
                temperature=server.temperature,
                max_tokens=server.max_tokens,
                seed=openai.omit if seed is None else seed,
                extra_body=dict(server.extra),
                extra_headers={} if server.key else {"Authorization": openai.omit},
            )
        except openai.APIStatusError as error:
            raise _as_error(error) from error
        except openai.APIConnectionError as error:
            raise NoAnswerError(f"{type(error).__name__}: {error.__cause__ or error}") from error
        return _answer(response.http_response.text, time.monotonic() - began)

    def _limit(self, response: httpx2.Response) -> None:
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _Limited(response.stream, time.monotonic() + self.server.timeout)


class _Limited(httpx2.SyncByteStream):
    """A response body with a time limit for all of it: a socket's timeout counts for each read alone."""

    def __init__(self, body: httpx2.SyncByteStream, deadline: float) -> None:
        self._body, self._deadline = body, deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._body:
            size += len(piece)
            if size > MAX_ANSWER_BYTES or time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("the answer did not end in time, or is too long")
            yield piece

    def close(self) -> None:
        self._body.close()


def text_part(text: str) -> Part:
    """The text part of a message."""
    return {"type": "text", "text": text}


def picture_part(jpeg: bytes) -> Part:
    """The picture part of a message, sent inside the request itself."""
    return {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()}}


def _as_error(error: openai.APIStatusError) -> Exception:
    """The error to raise for an HTTP status that is no success."""
    code, body = error.status_code, error.body
    reason = body.get("message", body) if isinstance(body, dict) else body
    said = f"HTTP {code}: {' '.join(str(reason or '').split())[:500]}"
    if code in PASSING or code >= 500:
        return NoAnswerError(said)
    if code in FATAL or code < 400:
        return JudgeError(f"The judge's server turns us away ({said}); check --url, --model and the key.")
    return RefusedError(said)


def _answer(raw: str, seconds: float) -> Answer:
    """The answer in a response. A body without a text is kept whole and is then malformed like any other answer."""
    text, finish, usage = raw, None, dict[str, Any]()
    try:
        value = json.loads(raw)
        choice = value["choices"][0]
        finish, usage = choice.get("finish_reason"), value.get("usage") or {}
        if isinstance(choice["message"]["content"], str):
            text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, AttributeError):
        logger.debug("the server's answer is not of the protocol: %.200s", raw)
    tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    return Answer(text, finish, tokens[0], tokens[1], seconds)
