"""Rows of frames with labels on one picture, for looking at edits side by side and for the documentation."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sama.files import whole_file

Row = tuple[str, Sequence[np.ndarray]]

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_INK, _SOFT_INK, _PAPER = (24, 26, 30), (96, 100, 108), (250, 250, 248)


def contact_sheet(
    rows: Sequence[Row],
    path: str | Path,
    frame_height: int = 128,
    label_width: int = 200,
    font_size: int = 16,
    title: str = "",
    columns: Sequence[str] = (),
    gap: int = 6,
    quality: int = 88,
) -> Path:
    """Draws each row as its label and its frames, writes the sheet to ``path`` and gives the path.

    Frames are (H, W, 3) RGB, uint8 or float in [0, 1], of any size; all are drawn ``frame_height`` pixels high.
    ``label_width`` is the width in pixels of the column of labels (long ones wrap), ``columns`` are headings over the
    frames, ``quality`` (1..100) is for JPEG and WebP. The ending of ``path`` (.png, .jpg, .jpeg, .webp) chooses the
    format. Raises ``ValueError`` for another ending or where there is nothing to draw.
    """
    path = Path(path)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"A contact sheet is a .png, .jpg or .webp file, not {path.name!r}.")
    if not any(len(frames) for _, frames in rows):
        raise ValueError("A contact sheet needs at least one frame.")
    sheet = _draw(rows, frame_height, label_width, font_size, title, columns, gap)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        sheet.save(part, kind, quality=quality)
    return path


def _draw(
    rows: Sequence[Row], height: int, label_width: int, font_size: int, title: str, columns: Sequence[str], gap: int
) -> Image.Image:
    pictures = [[_scaled(frame, height) for frame in frames] for _, frames in rows]
    font, heading = ImageFont.load_default(font_size), ImageFont.load_default(round(1.25 * font_size))
    line = round(1.3 * font_size)
    labels = [_wrapped(label, font, label_width - 2 * gap) for label, _ in rows]
    heights = [max(height if row else 0, line * len(lines)) for row, lines in zip(pictures, labels, strict=True)]
    left = gap + label_width
    width = max(left + sum(picture.width + gap for picture in row) for row in pictures)
    top = gap + (round(1.8 * font_size) if title else 0) + (line + gap if columns else 0)
    sheet = Image.new("RGB", (width, top + sum(h + gap for h in heights)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((gap, gap), title, fill=_INK, font=heading)
    x = left
    longest: list[Image.Image] = max(pictures, key=len)
    for name, picture in zip(columns, longest, strict=False):
        pen.text((x, top - line - gap // 2), name, fill=_SOFT_INK, font=font)
        x += picture.width + gap
    y = top
    for lines, row, row_height in zip(labels, pictures, heights, strict=True):
        pen.multiline_text((gap, y), "\n".join(lines), fill=_INK, font=font, spacing=line - font_size)
        x = left
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width + gap
        y += row_height + gap
    return sheet


def _scaled(frame: np.ndarray, height: int) -> Image.Image:
    """The frame as uint8, ``height`` pixels high; enlarged ones keep their pixels visible where the factor is large."""
    if frame.dtype != np.uint8:
        frame = np.round(np.clip(frame, 0, 1) * 255).astype(np.uint8)
    factor = height / frame.shape[0]
    size = (max(1, round(frame.shape[1] * factor)), height)
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC if factor < 3 else cv2.INTER_NEAREST
    return Image.fromarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=way))


def _wrapped(label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The label in lines that fit ``width`` pixels; its own line breaks stay."""
    letters = max(1, int(width / (font.getlength("abcdefghij nostu") / 16)))
    return [line for part in label.splitlines() for line in textwrap.wrap(part, letters) or [""]] or [""]
