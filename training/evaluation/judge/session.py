"""Judges many pairs, several at once: makes the requests that are still open and writes every answer at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data.files.clips import ClipError
from training.data.files.manifest import Media
from training.errors import JudgeError
from training.evaluation.judge.answers import (
    MALFORMED,
    REFUSED,
    SCORED,
    UNANSWERED,
    UNREADABLE,
    AnswerLog,
    Standing,
    read_answers,
    request_name,
)
from training.evaluation.judge.client import (
    JudgeClient,
    NoAnswerError,
    Part,
    RefusedError,
    Server,
    StoppedError,
    text_part,
)
from training.evaluation.judge.media import Pair
from training.evaluation.judge.questions import Question, Show
from training.evaluation.judge.scores import MalformedError, parse_scores
from training.evaluation.shard import WHOLE, Shard

logger = logging.getLogger(__name__)

LOG_EVERY = 30.0  # seconds


@dataclass(frozen=True)
class Subject:
    """One edit to judge. key: hexadecimal, the same for the same edit in every run. about_pictures: what is asked
    instead of `questions` when source and edit turn out to be single pictures. offset: frames dropped at the beginning
    of both."""

    key: str
    source: Media
    edited: Media
    instruction: str
    questions: tuple[Question, ...]
    about_pictures: tuple[Question, ...] = ()
    offset: int = 0

    def asked(self, picture: bool) -> tuple[Question, ...]:
        """The questions about this edit."""
        return (self.about_pictures or self.questions) if picture else self.questions


@dataclass(frozen=True)
class Effort:
    """How many requests are made, and how clips are sampled for them.

    runs: answers to each question, averaged later. attempts: unreadable answers to a request before it has failed.
    frames, side: see `media.Pair`. give_up_after: requests in a row that nobody answers, or that are refused before any
    other was answered (and were not refused in an earlier run), before the run ends.
    """

    runs: int = 3
    attempts: int = 3
    frames: int = 8
    side: int = 640
    give_up_after: int = 5

    def __post_init__(self) -> None:
        if min(self.runs, self.attempts, self.frames, self.give_up_after) < 1 or self.side < 16:
            raise JudgeError("Runs, attempts and frames must be at least 1, and the frames' side at least 16 pixels.")


@dataclass
class Tally:
    """The counts of a session: subjects, requests by their outcome, and the server's tokens."""

    subjects: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    answer_tokens: int = 0


class Session:
    """Judges subjects with one client, on `concurrency` + 2 threads: some read files while others wait for answers."""

    def __init__(self, client: JudgeClient, log: AnswerLog, effort: Effort) -> None:
        self.tally = Tally()
        self._client, self._log, self._effort = client, log, effort
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._begun: set[str] = set()
        self._in_vain = 0
        self._told = time.monotonic()

    def judge(self, subjects: Iterable[Subject], standings: Mapping[str, Standing]) -> Tally:
        """Ask what `standings` leave open. Raises JudgeError when the server does not answer or refuses every request;
        what was answered until then is written, and the same call goes on from there."""
        todo = iter(subjects)
        count = self._client.server.concurrency + 2
        threads = [
            threading.Thread(target=self._work, args=(todo, standings), name=f"judge-{index}", daemon=True)
            for index in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._client.stop()
            raise
        if self._failure is not None:
            raise self._failure
        return self.tally

    def _work(self, todo: Iterator[Subject], standings: Mapping[str, Standing]) -> None:
        try:
            while (subject := self._next(todo)) is not None:
                self._judge_one(subject, standings.get(subject.key, Standing()))
        except StoppedError:
            return
        except BaseException as error:
            with self._lock:
                self._failure = self._failure or error
            self._client.stop()

    def _next(self, todo: Iterator[Subject]) -> Subject | None:
        """The next edit that no thread has begun; one that is listed twice is judged once."""
        with self._lock:
            for subject in todo if self._failure is None else ():
                if subject.key not in self._begun:
                    self._begun.add(subject.key)
                    return subject
        return None

    def _judge_one(self, subject: Subject, known: Standing) -> None:
        if known.picture is not None and not self._open(subject.asked(known.picture), known):
            return
        effort = self._effort
        try:
            pair = Pair(subject.source, subject.edited, effort.frames, effort.side, subject.offset)
        except ClipError as error:
            self._note(subject, "", UNREADABLE, reason=str(error))
            return
        shown: dict[Show, list[Part]] = {}
        for question, run in self._open(subject.asked(pair.picture), known):
            if question.show not in shown:
                shown[question.show] = pair.parts(question.show)
            self._ask(subject, question, run, pair.picture, shown[question.show], known)
        with self._lock:
            self.tally.subjects += 1
            if time.monotonic() - self._told > LOG_EVERY:
                self._told = time.monotonic()
                logger.info("%d pairs judged; requests: %s", self.tally.subjects, self.tally.outcomes)

    def _open(self, questions: Sequence[Question], known: Standing) -> list[tuple[Question, int]]:
        """The requests to make: neither scored nor answered unreadably as often as it is tried."""
        return [
            (question, run)
            for question in questions
            for run in range(self._effort.runs)
            if known.lacks(request_name(question.name, run), self._effort.attempts)
        ]

    def _ask(
        self, subject: Subject, question: Question, run: int, picture: bool, parts: Sequence[Part], known: Standing
    ) -> None:
        name = request_name(question.name, run)
        message = [*parts, text_part(question.text(subject.instruction))]
        for attempt in range(known.malformed.get(name, 0), self._effort.attempts):
            try:
                # A run's seed is its own, and so is a repetition's: the same seed would earn the same bad answer.
                answer = self._client.ask(message, seed=1000 * attempt + run)
            except RefusedError as error:
                known_for_it = known.trouble.get(name, "").startswith(REFUSED)
                self._note(subject, name, REFUSED, in_vain=not known_for_it, picture=picture, reason=str(error))
                return
            except NoAnswerError as error:
                self._note(subject, name, UNANSWERED, picture=picture, reason=str(error))
                return
            said: dict[str, Any] = {
                "picture": picture,
                "attempt": attempt,
                "raw": answer.text,
                "finish": answer.finish_reason,
                "tokens": [answer.prompt_tokens, answer.answer_tokens],
                "seconds": round(answer.seconds, 2),
            }
            try:
                scores = parse_scores(answer.text, question)
            except MalformedError as error:
                self._note(subject, name, MALFORMED, reason=str(error), **said)
                continue
            self._note(subject, name, SCORED, scores=scores, **said)
            return

    def _note(self, subject: Subject, request: str, outcome: str, in_vain: bool = True, **said: Any) -> None:
        self._log.append({"key": subject.key, "request": request, "outcome": outcome, **said})
        with self._lock:
            tally = self.tally
            tally.outcomes[outcome] = tally.outcomes.get(outcome, 0) + 1
            tokens = said.get("tokens", (0, 0))
            tally.prompt_tokens += tokens[0]
            tally.answer_tokens += tokens[1]
            if outcome in (SCORED, MALFORMED):
                self._in_vain = 0
            elif outcome == UNANSWERED or (outcome == REFUSED and SCORED not in tally.outcomes):
                self._in_vain += in_vain
            if self._in_vain >= self._effort.give_up_after:
                raise JudgeError(
                    f"{self._in_vain} requests in a row came to nothing ({said['reason']}); put the server right and "
                    "run the same command again: what was answered is kept."
                )


def judge(
    server: Server,
    effort: Effort,
    questions: Sequence[Question],
    subjects: Iterable[Subject],
    folder: Path,
    shard: Shard = WHOLE,
) -> None:
    """Ask what the answers in a folder leave open of one part of the subjects. Raises JudgeError: see `Session.judge`,
    and for answers of other settings."""
    settings = _answer_settings(server, effort, questions)
    known = read_answers(folder, settings, shard)
    with AnswerLog(folder, shard, settings) as log:
        tally = Session(JudgeClient(server), log, effort).judge(subjects, known)
    logger.info(
        "part %d of %d: %d pairs judged, requests %s, %d + %d tokens",
        *(shard.index, shard.count, tally.subjects, tally.outcomes, tally.prompt_tokens, tally.answer_tokens),
    )


def _answer_settings(server: Server, effort: Effort, questions: Sequence[Question]) -> dict[str, Any]:
    """The settings that decide answers, to be kept with them; without address and key."""
    return {
        "model": server.model,
        "questions": {question.name: question.fingerprint() for question in questions},
        "frames": effort.frames,
        "side": effort.side,
        "temperature": server.temperature,
        "max_tokens": server.max_tokens,
        "extra": dict(server.extra),
    }
