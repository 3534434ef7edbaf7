"""Prompts: cleaning, task prefixes, and quoted text spelled letter by letter. Pure functions."""

from __future__ import annotations

import html
import re
from typing import Any, Literal, get_args

import ftfy

Spelling = Literal["", "first"]
SPELLINGS: tuple[Spelling, ...] = get_args(Spelling)

_QUOTED = re.compile(r'"([^"]*\w[^"]*)"')


def clean_prompt(text: str) -> str:
    """A prompt as Wan's text encoder was trained on it: broken Unicode and typographic quotes repaired, HTML entities
    resolved, white space single."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def spelled_first(prompt: str) -> str:
    """Puts the letters of every text in double quotes in front of the prompt, the last text first: it is mostly the one
    that is to appear.

    A word-piece tokenizer hides the letters of a word, and subtitles are made of letters. In front, a letter's number
    in its text is its token's number in the prompt, which is much easier to learn to write by than letters whose place
    depends on what was said before. `Add the subtitle "GOOD DAY"` becomes `g o o d | d a y : Add the subtitle "good
    day"`, and with two texts `b 2 ; a : Change "a" to "b2"`.
    """
    texts = [" ".join(match.group(1).lower().split()) for match in _QUOTED.finditer(prompt)]
    if not texts:
        return prompt
    letters = " ; ".join(" | ".join(" ".join(word) for word in text.split()) for text in reversed(texts))
    return f"{letters} : {_QUOTED.sub(lambda match: match.group().lower(), prompt)}"


def model_prompt(text: str, prefix: str, spelling: Spelling = "") -> str:
    """The text that the model sees: the task's prefix, then the cleaned instruction or caption; either may be empty.

    spelling: letters of quoted texts `first` of all (`spelled_first`), or nowhere.
    """
    prompt = f"{prefix} {clean_prompt(text)}".strip()
    return spelled_first(prompt) if spelling == "first" else prompt


def unread(prompt: str, tokenizer: Any, max_length: int) -> str:
    """The part of a prompt that the model does not read, because it reads `max_length` tokens; "" if it reads all.

    prompt: as the tokenizer gets it, which is what `model_prompt` returns. tokenizer: a fast one of transformers; the
    special tokens that it adds count.
    """
    read = tokenizer(prompt, max_length=max_length, truncation=True, return_offsets_mapping=True)
    return prompt[max((stop for _, stop in read.offset_mapping), default=0) :].strip()
