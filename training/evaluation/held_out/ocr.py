"""Reads the text in a clip by OCR and compares it with the text that was wanted."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np

_LEAST_CONFIDENCE = 0.6


def read_text(frames: np.ndarray, band: Literal["bottom", "top", "all"] = "bottom", samples: int = 3) -> str:
    """The text in a clip (T, H, W, 3) uint8, as OCR reads it; "" where it sees none.

    `band` "bottom" or "top" takes the outer 30 % of the picture as one line of text and reads it without looking for
    text first, since the search overlooks blurred letters that can still be read; "all" searches the whole picture. Of
    `samples` frames spread over the clip the reading with the most confidence in sum wins. Raises `ImportError` if
    rapidocr is not installed. Scenery alone is now and then read as a letter or two; where a subtitle was removed,
    judge by what is read in the truth.
    """
    count, height = frames.shape[:2]
    part = round(0.3 * height)
    rows = {"bottom": slice(height - part, height), "top": slice(0, part), "all": slice(0, height)}[band]
    scores: dict[str, float] = {}
    for index in np.unique(np.linspace(0, count - 1, min(samples, count)).round().astype(int)):
        strip = frames[index, rows]
        factor = max(1.0, (400 if band == "all" else 120) / strip.shape[0])
        large = cv2.resize(strip, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        text, confidence = _read_image(large, search=band == "all")
        if text:
            scores[text] = scores.get(text, 0.0) + confidence
    return max(scores, key=lambda text: scores[text]) if scores else ""


def text_accuracy(read: str, wanted: str) -> float:
    """1 - edit distance / length of the longer text, in [0, 1].

    Case, white space and punctuation do not count: OCR takes specks of the scenery for full stops and hyphens.
    """
    a, b = (re.sub(r"[\W_]+", "", text).lower() for text in (read, wanted))
    if not a and not b:
        return 1.0
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        current = [i]
        for j, y in enumerate(b, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return 1 - previous[-1] / max(len(a), len(b))


def _read_image(image: np.ndarray, search: bool) -> tuple[str, float]:
    """Text and confidence in [0, 1] of one RGB image: its pieces in reading order, or the image as one line."""
    found = _engine()(np.ascontiguousarray(image[..., ::-1]), use_det=search, use_cls=False)
    if not found.txts:
        return "", 0.0
    order: list[int] = list(range(len(found.txts)))
    if search:
        order.sort(key=lambda i: _reading_position(found.boxes[i]))
    kept = [i for i in order if found.scores[i] >= _LEAST_CONFIDENCE and found.txts[i].strip()]
    if not kept:
        return "", 0.0
    return " ".join(found.txts[i].strip() for i in kept), float(np.mean([found.scores[i] for i in kept]))


def _reading_position(box: np.ndarray) -> tuple[int, float]:
    """Line, then column; boxes whose tops are within half a line of each other stand on one line."""
    corners = np.asarray(box)
    return int(corners[:, 1].mean() // max(8.0, 1.2 * np.ptp(corners[:, 1]))), float(corners[:, 0].min())


@lru_cache(maxsize=1)
def _engine() -> Any:
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise ImportError("Reading subtitles needs rapidocr: pip install rapidocr onnxruntime") from error
    return RapidOCR(params={"Global.log_level": "critical"})
