"""Answers on disk: one JSON line for each, appended and never rewritten, so that killing the process loses nothing.

A folder holds one file for each process that ever wrote into it (`answers-3-of-8.jsonl`). Everything in it counts,
whoever wrote it: a later run may be split in another way and still asks no question twice. The first line of a file is
its settings; answers to other questions, or of another model, are not mixed with it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from training.errors import JudgeError
from training.evaluation.judge.questions import Question
from training.evaluation.shard import WHOLE, Shard

logger = logging.getLogger(__name__)

SCORED, MALFORMED, REFUSED, UNANSWERED, UNREADABLE = "scored", "malformed", "refused", "unanswered", "unreadable"


class AnswerLog:
    """The file of one process, locked while it is open."""

    def __init__(self, folder: Path, shard: Shard, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"answers-{shard.index}-of-{shard.count}.jsonl"
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            self._claim()
            self._drop_torn_line()
            if not os.fstat(self._file).st_size:
                self.append({"settings": dict(settings)})
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            os.close(self._file)
            self._file = -1

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a line and flush it to the operating system: after that only a crash of the machine can lose it."""
        line = memoryview((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
        with self._lock:
            while line:
                line = line[os.write(self._file, line) :]

    def _claim(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JudgeError(
                f"{self.path.name} is being written by another process; wait for it, or give each its own --shard."
            ) from None
        except OSError as error:
            logger.warning("%s cannot be locked (%s); see that no two processes share a --shard", self.path, error)

    def _drop_torn_line(self) -> None:
        """Remove an unfinished last line, which a process leaves that is killed while it writes."""
        size = end = os.fstat(self._file).st_size
        while end:
            begin = max(0, end - 65536)
            newline = os.pread(self._file, end - begin, begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            os.ftruncate(self._file, end)


@dataclass(slots=True)
class Standing:
    """The state of one subject: its scores so far and its failed requests.

    scored: requests with scores. sums: of each criterion over them. malformed: answers to a request that could not be
    read. trouble: what is wrong with requests without scores. picture: whether it is a pair of pictures, once known.
    """

    scored: list[str] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    malformed: dict[str, int] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)
    picture: bool | None = None

    def take(self, record: Mapping[str, Any]) -> None:
        """Add one line of a file to this state."""
        request, outcome = sys.intern(record["request"]), record["outcome"]
        self.picture = record.get("picture", self.picture)
        if request in self.scored:
            return
        if outcome == SCORED:
            self.scored.append(request)
            for name, score in record["scores"].items():
                name = sys.intern(name)
                self.sums[name] = self.sums.get(name, 0.0) + score
            self.trouble.pop(request, None)
            self.trouble.pop("", None)
            return
        if outcome == MALFORMED:
            self.malformed[request] = self.malformed.get(request, 0) + 1
        self.trouble[request] = f"{outcome}: {record['reason']}"

    def lacks(self, request: str, attempts: int) -> bool:
        """Whether this request must still be made: neither scored nor answered unreadably `attempts` times."""
        return request not in self.scored and self.malformed.get(request, 0) < attempts

    def grades(self, questions: Sequence[Question], runs: int, attempts: int) -> dict[str, float] | str | None:
        """Each criterion's average over all runs of its question; while scores are missing, the reason why they
        cannot be had, or None where asking again may help."""
        missing = [
            name for q in questions for run in range(runs) if (name := request_name(q.name, run)) not in self.scored
        ]
        if not missing:
            return {criterion.name: self._mean(criterion.name, q) for q in questions for criterion in q.criteria}
        for request in ("", *missing):
            said = self.trouble.get(request, UNANSWERED)
            hopeless = not said.startswith(MALFORMED) or self.malformed[request] >= attempts
            if not said.startswith(UNANSWERED) and hopeless:
                return said
        return None

    def _mean(self, criterion: str, question: Question) -> float:
        return self.sums[criterion] / sum(request.startswith(f"{question.name}:") for request in self.scored)


def read_answers(folder: Path, settings: Mapping[str, Any] | None, shard: Shard = WHOLE) -> dict[str, Standing]:
    """The standing of every subject of a shard, from all files of a folder; the last, unfinished line of a file that is
    being written is left out. Raises JudgeError when a file answers other questions than `settings` (None: than the
    first file)."""
    standings: dict[str, Standing] = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        for number, record in _records(path):
            if "settings" in record:
                settings = record["settings"] if settings is None else settings
                _check_settings(path, record["settings"], settings)
                continue
            try:
                if shard.has(record["key"]):
                    standing = standings.get(record["key"]) or Standing()
                    standing.take(record)
                    standings[record["key"]] = standing
            except (LookupError, ValueError, TypeError, AttributeError):
                logger.warning("%s, line %d, is no answer of ours and is left out", path, number)
    return standings


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if isinstance(record, dict):
                yield number, record
            else:
                logger.warning("%s, line %d, is damaged and is left out: its question is asked again", path, number)


def _check_settings(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if names:
        differences = "; ".join(f"{name} was {there.get(name)!r} and is {here.get(name)!r}" for name in names)
        raise JudgeError(
            f"{path.parent.parent} holds answers of another setting ({differences}); choose another --out."
        )


def request_name(question: str, run: int) -> str:
    """The name of one request about a subject."""
    return f"{question}:{run}"
