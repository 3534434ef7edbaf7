"""The command-line options that everything with a judge shares."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from training.errors import JudgeError
from training.evaluation.judge.client import Server
from training.evaluation.judge.questions import Question
from training.evaluation.judge.session import Effort
from training.evaluation.shard import WHOLE, Shard
from training.values import Count, NonNegative, Number, Positive, argument


def add_judge_options(parser: argparse.ArgumentParser, effort: Effort) -> None:
    """Add the options of server, effort and shard. The server's three can come from the environment instead."""
    server = parser.add_argument_group("the judge's server")
    server.add_argument("--url", default=os.environ.get("JUDGE_URL", ""), help="up to /v1 (or JUDGE_URL)")
    server.add_argument("--model", default=os.environ.get("JUDGE_MODEL", ""), help="as served (or JUDGE_MODEL)")
    server.add_argument(
        "--key-variable", default="JUDGE_KEY", help="environment variable with the key, if one is needed"
    )
    server.add_argument("--concurrency", type=argument(Count), default=8, help="requests under way at once")
    server.add_argument("--timeout", type=argument(Positive), default=300.0, help="seconds for one answer")
    server.add_argument(
        "--retries", type=argument(Number), default=10, help="repetitions after a passing fault of server or line"
    )
    server.add_argument(
        "--temperature", type=argument(NonNegative), default=0.7, help="0 makes repeated runs copies of one"
    )
    server.add_argument("--max-tokens", type=argument(Count), default=1024)
    server.add_argument("--extra", default="{}", help="further fields of each request, as JSON")
    work = parser.add_argument_group("how much is asked")
    work.add_argument("--runs", type=argument(Count), default=effort.runs, help="answers to each question, averaged")
    work.add_argument(
        "--attempts", type=argument(Count), default=effort.attempts, help="unreadable answers before a request failed"
    )
    work.add_argument("--frames", type=argument(Count), default=effort.frames, help="moments shown of each clip")
    work.add_argument(
        "--side",
        type=argument(Annotated[int, Field(ge=16)]),
        default=effort.side,
        help="pixels of a frame's longer side at most",
    )
    work.add_argument(
        "--shard", type=Shard.parse, default=WHOLE, help="i/n: part i of n, from 0, for several processes or machines"
    )


def server_of(arguments: argparse.Namespace) -> Server:
    """The server that the options name. Raises JudgeError."""
    if not arguments.url:
        raise JudgeError("Name the judge's server with --url, for example http://127.0.0.1:8000/v1.")
    try:
        extra = json.loads(arguments.extra)
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise JudgeError("--extra must be a JSON object, for example '{\"top_p\": 0.9}'.")
    return Server(
        url=arguments.url,
        model=arguments.model,
        key=os.environ.get(arguments.key_variable, ""),
        timeout=arguments.timeout,
        retries=arguments.retries,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        concurrency=arguments.concurrency,
        extra=extra,
    )


def effort_of(arguments: argparse.Namespace) -> Effort:
    """How much the options ask for. Raises JudgeError."""
    return Effort(arguments.runs, arguments.attempts, arguments.frames, arguments.side)


def settings_of(server: Server, effort: Effort, questions: Sequence[Question]) -> dict[str, Any]:
    """What decides an answer, to be kept with the answers. The address is not among it, nor is the key."""
    return {
        "model": server.model,
        "questions": {question.name: question.fingerprint() for question in questions},
        "frames": effort.frames,
        "side": effort.side,
        "temperature": server.temperature,
        "max_tokens": server.max_tokens,
        "extra": dict(server.extra),
    }
