"""Prompts: cleaning, task prefixes, and quoted text spelled letter by letter. Pure functions."""

from __future__ import annotations

import html
import re

import ftfy

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


def model_prompt(text: str, prefix: str, spell_quotes: bool = False) -> str:
    """The text that the model sees: the task's prefix, then the cleaned instruction or caption; either may be empty."""
    text = clean_prompt(text)
    if spell_quotes:
        text = spell_quoted(text)
    return f"{prefix} {text}".strip()
