"""The embedded model's sizes, for the feeds of files and of drawn scenes alike."""

from __future__ import annotations

from functools import cache

from sama.presets import canvas_of
from sama.shapes import Bucket
from training.errors import ConfigError


@cache
def tiny_buckets() -> tuple[Bucket, ...]:
    """The embedded model's sizes, as its saved pipeline names them; read once a process. Raises ConfigError where that
    is not here."""
    try:
        return canvas_of("tiny").buckets
    except ValueError as error:
        raise ConfigError(f"the sizes of the embedded model cannot be read: {error}") from error
