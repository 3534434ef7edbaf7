"""English noun phrases: articles, number and adjectives for the names of things that are drawn or removed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from training.synth.tables import read_table

_AN = re.compile(r"(?:hour|honest|8|11\b|18\b|honou?r|heir|x-ray|[aefhilmnorsx]\b)", re.IGNORECASE)
_A = re.compile(r"(?:uni(?!n|m)|use|usu|uk|ur[aio]|ut[aeio]|eu|ewe|one\b|once|ufo\b|u-|us\b|ub)", re.IGNORECASE)
_TAIL = re.compile(r" (?:of|with|in|on|at|for|from|by|without|behind|over|under|to)\b.*$")
_NO_ARTICLE = re.compile(r"(?:a|an|the|some|two|three|my|his|her|outer space|deep space)\b", re.IGNORECASE)


def head(name: str) -> str:
    """The noun that decides number and article, in lower case: "bunches of grapes" gives "bunches"."""
    words = _TAIL.sub("", name.strip()).split()
    return words[-1].lower() if words else ""


def is_mass(name: str) -> bool:
    """Whether the name is uncountable ("cheese", "grilled corn"): it takes "some" instead of "a"."""
    return head(name) in _nouns("mass")


def is_plural(name: str) -> bool:
    """Whether the name is a plural ("grapes", "french fries", "scissors")."""
    noun = head(name)
    if noun in _nouns("pairs") or noun in _nouns("plural"):
        return True
    if noun in _nouns("singular_s") or len(noun) < 4 or noun.endswith(("ss", "us", "is", "'s", "ous")):
        return False
    return noun.endswith("s")


def article(phrase: str) -> str:
    """The article "a" or "an", by the sound with which ``phrase`` begins."""
    if _AN.match(phrase):
        return "an"
    if _A.match(phrase):
        return "a"
    return "an" if phrase[:1].lower() in tuple("aeiou") else "a"


def plural(name: str) -> str:
    """The plural of a singular name: "fox" gives "foxes", "slice of pizza" gives "slices of pizza"."""
    if is_plural(name) or is_mass(name):
        return name
    noun = head(name)
    irregular = read_table("words/nouns.yaml")["irregular"]
    if noun in irregular:
        many = irregular[noun]
    elif noun.endswith(("s", "x", "z", "ch", "sh")):
        many = noun + "es"
    elif re.search(r"[^aeiou]y$", noun):
        many = noun[:-1] + "ies"
    else:
        many = noun + "s"
    start = name.lower().rindex(noun, 0, len(_TAIL.sub("", name)))
    return name[:start] + many + name[start + len(noun) :]


def with_adjectives(name: str, adjectives: Sequence[str]) -> str:
    """``name`` after its adjectives; empty ones are left out."""
    return " ".join([word for word in adjectives if word] + [name])


def definite(name: str, adjectives: Sequence[str] = ()) -> str:
    """The name with "the": "the red balloon"."""
    if re.match(r"(?:the|my|his|her)\b", name, re.IGNORECASE):
        return name
    return "the " + with_adjectives(name, adjectives)


def indefinite(name: str, rng: np.random.Generator, adjectives: Sequence[str] = ()) -> str:
    """The name as newly mentioned: "a red balloon", "an owl", "some grapes" (or bare "grapes"), "a pair of
    scissors"."""
    if _NO_ARTICLE.match(name):
        return name
    phrase = with_adjectives(name, adjectives)
    if head(name) in _nouns("pairs") and rng.random() < 0.6:
        return f"a pair of {phrase}"
    if is_plural(name) or is_mass(name):
        return f"some {phrase}" if rng.random() < 0.6 else phrase
    return f"{article(phrase)} {phrase}"


def listing(phrases: Sequence[str]) -> str:
    """The phrases joined: "a", "a and b", "a, b and c"."""
    if len(phrases) < 2:
        return "".join(phrases)
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


@cache
def _nouns(kind: str) -> frozenset[str]:
    """One of the word lists of `nouns.yaml`."""
    return frozenset(read_table("words/nouns.yaml")[kind].split())
