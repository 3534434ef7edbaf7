"""Prompts: cleaning, task prefixes, and quoted text spelled letter by letter. Pure functions."""

from __future__ import annotations

import html
import re
from typing import Literal, get_args

import ftfy

Spelling = Literal["", "after", "first"]
SPELLINGS: tuple[Spelling, ...] = get_args(Spelling)

_QUOTED = re.compile(r'"([^"]*\w[^"]*)"')


def clean_prompt(text: str) -> str:
    """A prompt as Wan's text encoder was trained on it: broken Unicode and typographic quotes repaired, HTML entities
    resolved, white space single."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def spell_quoted(prompt: str) -> str:
    """Spells every text in double quotes letter by letter after it, words separated by a bar.

    A word-piece tokenizer hides the letters of a word, and subtitles are made of letters:
    `Add the subtitle "GOOD DAY"` becomes `Add the subtitle "good day" : g o o d | d a y`. Words that follow are set
    off by a semicolon. Prompts without quotes are returned as they are.
    """

    def spelled(match: re.Match[str]) -> str:
        text = " ".join(match.group(1).lower().split())
        letters = " | ".join(" ".join(word) for word in text.split())
        end = " ;" if match.string[match.end() :].strip() else ""
        return f'"{text}" : {letters}{end}'

    return _QUOTED.sub(spelled, prompt)


def spelled_first(prompt: str) -> str:
    """Puts the letters of every text in double quotes in front of the prompt, the last text first: it is mostly the one
    that is to appear.

    A letter's number in its text is then its token's number in the prompt, which is much easier to learn to write by
    than letters whose place depends on what was said before. `Add the subtitle "GOOD DAY"` becomes
    `g o o d | d a y : Add the subtitle "good day"`, and with two texts `b 2 ; a : Change "a" to "b2"`.
    """
    texts = [" ".join(match.group(1).lower().split()) for match in _QUOTED.finditer(prompt)]
    if not texts:
        return prompt
    letters = " ; ".join(" | ".join(" ".join(word) for word in text.split()) for text in reversed(texts))
    return f"{letters} : {_QUOTED.sub(lambda match: match.group().lower(), prompt)}"


def model_prompt(text: str, prefix: str, spelling: Spelling = "") -> str:
    """The text that the model sees: the task's prefix, then the cleaned instruction or caption; either may be empty.

    spelling: letters of quoted texts `after` each text (`spell_quoted`), `first` of all (`spelled_first`), or nowhere.
    """
    prompt = f"{prefix} {clean_prompt(text)}".strip()
    if spelling == "first":
        return spelled_first(prompt)
    return spell_quoted(prompt) if spelling == "after" else prompt
