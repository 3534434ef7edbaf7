"""Samples the texts of subtitles, and says which of them belong to the test split.

A subtitle is one line of capital letters on a grid of cells; the frame's width limits its length. Training also uses
random codes, so that letters are learned independently of their neighbours.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from training.synth.tables import read_table, text_hash

CELL = 16
"""Pixels from one letter to the next, in every frame size: the side of one token of the editor, so that a letter never
lies across two."""

LONGEST, LONGEST_CODE = 14, 10

_LETTERS, _DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"


@cache
def subtitle_words() -> tuple[str, ...]:
    """The vocabulary of the subtitles."""
    return tuple(read_table("words/subtitles.yaml")["words"].split())


@cache
def subtitle_phrases() -> tuple[str, ...]:
    """Subtitles of several words that people use."""
    text = read_table("words/subtitles.yaml")["phrases"].replace("\n", " ")
    return tuple(phrase.strip() for phrase in text.split(";"))


def subtitle_limit(width: int) -> int:
    """The maximum length of a subtitle in a frame ``width`` pixels wide: one letter a cell, one cell free."""
    return min(LONGEST, width // CELL - 1)


def is_held_out_text(text: str) -> bool:
    """Whether a subtitle belongs to the test split: some words and pairs of words are never trained on.

    One word in 16 and one pair of neighbouring words in 8 are held out.
    """
    words = [word.strip("!?.,") for word in text.split()]
    if any(text_hash("word " + word) % 16 == 0 for word in words):
        return True
    return any(text_hash(f"pair {a} {b}") % 8 == 0 for a, b in pairwise(words))


def subtitle(rng: np.random.Generator, width: int, split: str) -> str:
    """A random text that fits a frame ``width`` pixels wide, from the split "train" or "test".

    The test split has words and phrases only; a fifth of the training texts are random codes.
    """
    limit, held_out = subtitle_limit(width), split == "test"
    while True:
        text = _code(rng, limit) if not held_out and rng.random() < 0.2 else _said(rng)
        if len(text) <= limit and is_held_out_text(text) == held_out:
            return text


def _said(rng: np.random.Generator) -> str:
    """A phrase, or one or two words; sometimes a number or a mark follows."""
    kind = rng.random()
    if kind < 0.2:
        phrases = subtitle_phrases()
        text = phrases[int(rng.integers(len(phrases)))]
    else:
        count = 1 if kind < 0.45 else 2
        words = subtitle_words()
        text = " ".join(words[int(i)] for i in rng.integers(len(words), size=count))
    ending = rng.random()
    if ending < 0.06:
        return text + "!?"[int(rng.integers(2))]
    return f"{text} {int(rng.integers(1, 100))}" if ending < 0.1 else text


def _code(rng: np.random.Generator, limit: int) -> str:
    """A random code of letters and digits, in one or two groups."""
    size = int(rng.integers(3, min(limit, LONGEST_CODE) + 1))
    alphabet = _LETTERS if rng.random() < 0.7 else _LETTERS + _DIGITS
    letters = [alphabet[int(i)] for i in rng.integers(len(alphabet), size=size)]
    if size > 5:
        letters[int(rng.integers(2, size - 2))] = " "
    return "".join(letters)
