"""Reads the scores in a model's answer: one JSON object with a number for every criterion, or an error.

No score is guessed. Text around the object, a code fence and a reasoning model's thoughts are
cut away; everything else that deviates (two objects, a missing criterion, a number in quotes or out of range, a name
given twice) makes the answer malformed.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from training.evaluation.judge.questions import Question

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)


class MalformedError(ValueError):
    """An answer that holds no unambiguous scores. The message says what is wrong with it."""


def parse_scores(text: str, question: Question) -> dict[str, float]:
    """The score of every criterion of `question`, in its order. Raises MalformedError."""
    value = _only_object(text.rpartition("</think>")[2].strip())
    scores = {criterion.name: _score(value, criterion.name) for criterion in question.criteria}
    if question.zero_if_unchanged and not any(scores.values()):
        return scores
    for name, score in scores.items():
        if not question.low <= score <= question.high:
            raise MalformedError(f"{name} is {score:g}, outside {question.low:g} to {question.high:g}")
    return scores


def _only_object(text: str) -> dict[str, Any]:
    fenced = _FENCE.findall(text)
    begin, end = text.find("{"), text.rfind("}")
    for candidate in (text, fenced[0] if len(fenced) == 1 else "", text[begin : end + 1] if begin >= 0 else ""):
        try:
            value = json.loads(candidate, object_pairs_hook=_without_repetition, parse_constant=_refuse_constant)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    raise MalformedError("there is not exactly one JSON object in the answer")


def _score(value: dict[str, Any], name: str) -> float:
    if name not in value:
        raise MalformedError(f"{name} is missing")
    score = value[name]
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise MalformedError(f"{name} is {score!r}, not a number")
    return float(score)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise MalformedError("a name is given twice")
    return dict(pairs)


def _refuse_constant(name: str) -> float:
    raise MalformedError(f"{name} is not a number")
