"""Scores edits against the style that `make_style_pairs` teaches: PSNR against the style drawn on the source.

python -m training.tiny.recipes.score_style SOURCE RESULT [RESULT ...]

Each result must have as many frames as it is compared over, from the source's beginning; prints a line for each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sama.video import read_clip
from training.evaluation.held_out.metrics import psnr
from training.tiny.recipes.thermal import thermal


def style_psnr(source: np.ndarray, result: np.ndarray) -> float:
    """PSNR in dB between a result (T, H, W, 3) uint8 and the style on the first T frames of its source. Raises
    ValueError where size or length do not fit."""
    if len(result) > len(source) or result.shape[1:] != source.shape[1:]:
        raise ValueError(f"the result is {_size(result)}, which is no edit of a source of {_size(source)}")
    return float(psnr(np.stack([thermal(frame) for frame in source[: len(result)]]), result))


def _size(clip: np.ndarray) -> str:
    frames, height, width, _ = clip.shape
    return f"{frames} frames of {width}x{height}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="PSNR of edits against the thermal style.")
    parser.add_argument("source", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    try:
        source = read_clip(options.source)
        for path in options.results:
            sys.stdout.write(f"{path}: {style_psnr(source, read_clip(path)):.1f} dB\n")
    except (ValueError, OSError) as error:  # a clip that cannot be read is a ValueError, too
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
