"""Prompts: cleaning, task prefixes, and quoted text spelled letter by letter. Pure functions."""

from __future__ import annotations

import html
import re
from bisect import bisect_left
from typing import TYPE_CHECKING, Literal, get_args

import ftfy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


def unread(
    prompt: str, tokenizer: PreTrainedTokenizerBase, max_length: int, prefix: str = "", spelling: Spelling = ""
) -> str:
    """The end of a prompt that the model does not read, from its first word that is cut or left out; "" if all is read.

    max_length: tokens that the text encoder reads.
    prefix, spelling: what the pipeline puts in front of the prompt, which takes tokens too; see `model_prompt`.
        `SamaPipeline.unread` fills them in.
    """
    text = model_prompt(prompt, prefix, spelling).split()

    def too_long(count: int) -> bool:
        return len(tokenizer(" ".join(text[:count]), verbose=False).input_ids) > max_length

    # A tokenizer never joins words, so the tokens of a prompt's first words are the first tokens of the prompt.
    read = bisect_left(range(1, len(text) + 1), True, key=too_long)
    words = clean_prompt(prompt).split()
    return " ".join(words[max(0, len(words) - (len(text) - read)) :])
