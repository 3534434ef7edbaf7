"""The command-line options that everything with a judge shares."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from sama.errors import EditError
from training.errors import JudgeError
from training.evaluation.judge.client import Server
from training.evaluation.judge.session import Effort
from training.evaluation.shard import WHOLE, Shard
from training.values import Count, NonNegative, Number, Positive, argument


def add_judge_options(parser: argparse.ArgumentParser, effort: Effort) -> None:
    """Add the options of server, effort and shard. The server's three can come from the environment instead."""
    server = parser.add_argument_group("the judge's server")
    server.add_argument("--url", default=os.environ.get("JUDGE_URL", ""), help="up to /v1 (or JUDGE_URL)")
    server.add_argument("--model", default=os.environ.get("JUDGE_MODEL", ""), help="as served (or JUDGE_MODEL)")
    server.add_argument("--key-variable", default="JUDGE_KEY", help="environment variable with the key, if it has one")
    server.add_argument("--extra", default="{}", help="further fields of each request, as JSON")
    work = parser.add_argument_group("how much is asked")
    side = Annotated[int, Field(ge=16)]
    rows: tuple[tuple[Any, str, Any, Any, str], ...] = (
        (server, "--concurrency", Count, 8, "requests under way at once"),
        (server, "--timeout", Positive, 300.0, "seconds until an answer begins, and again until it ends"),
        (server, "--retries", Number, 10, "repetitions after a passing fault of server or line"),
        (server, "--temperature", NonNegative, 0.7, "0 makes repeated runs copies of one"),
        (server, "--max-tokens", Count, 1024, "of an answer"),
        (work, "--runs", Count, effort.runs, "answers to each question, averaged"),
        (work, "--attempts", Count, effort.attempts, "unreadable answers before a request failed"),
        (work, "--frames", Count, effort.frames, "moments shown of each clip"),
        (work, "--side", side, effort.side, "pixels of a frame's longer side at most"),
    )
    for group, name, kind, default, words in rows:
        group.add_argument(name, type=argument(kind), default=default, help=words)
    work.add_argument(
        "--shard", type=Shard.parse, default=WHOLE, help="i/n: part i of n, from 0, for several processes"
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
    names = ("url", "model", "timeout", "retries", "temperature", "max_tokens", "concurrency")
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    return Server(**settings, key=os.environ.get(arguments.key_variable, ""), extra=extra)


def effort_of(arguments: argparse.Namespace) -> Effort:
    """How much the options ask for."""
    return Effort(arguments.runs, arguments.attempts, arguments.frames, arguments.side)


def exit_status(command: Callable[[], int]) -> int:
    """Run a command and return its exit status: its own one; 1 after one sentence on stderr where the user must put
    something right; 130 where it was stopped."""
    try:
        return command()
    except (JudgeError, EditError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; the same command goes on from here.\n")
        return 130
