"""The kinds of values that settings take, each with its bounds: for keys of a configuration and for command lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from sama.shapes import is_valid_frame_count, padded_frame_count
from training.closed_yaml import validated
from training.errors import ConfigError
from training.yaml_text import YamlError, parse_yaml

Count = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]
"""A count that may be none, or an index."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]


def _require_whole_latents(frames: int) -> int:
    if not is_valid_frame_count(frames):
        raise ValueError(f"{frames} is not of the form 4k+1; {padded_frame_count(max(1, frames))} is")
    return frames


Frames = Annotated[int, Field(ge=1), AfterValidator(_require_whole_latents)]
"""A number of frames that the VAE encodes whole."""


def _require_file_name(name: str) -> str:
    if "/" in name or "\\" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no file name: write it without folders")
    return name


FileName = Annotated[str, AfterValidator(_require_file_name)]
"""A file's name, or none."""


def argument(kind: Any) -> Callable[[str], Any]:
    """A `type` for argparse that takes what `kind`, one of the types above, takes in a configuration."""

    def read(text: str) -> Any:
        try:
            return validated(kind, parse_yaml(text))
        except (ConfigError, YamlError) as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read
