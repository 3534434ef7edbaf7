"""How a node is described, once, whichever schema ComfyUI reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

CATEGORY = "SAMA"
WIDGETS = ("INT", "FLOAT", "STRING", "COMBO")
"""Kinds of inputs that are typed in; all others are connected."""


@dataclass(frozen=True)
class Field:
    """An input.

    kind: a name of `WIDGETS`, or a type of ComfyUI ("IMAGE", "MASK", "VIDEO") or of ours ("SAMA_MODEL").
    choices: of a COMBO, asked for each time the node is shown: files may have come since.
    seed: whether ComfyUI may change the number after each run.
    """

    name: str
    kind: str
    tooltip: str
    default: Any = None
    optional: bool = False
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: Callable[[], Sequence[str]] | None = None
    multiline: bool = False
    seed: bool = False


@dataclass(frozen=True)
class Result:
    """An output: its type, its name on the node, and what it is."""

    kind: str
    name: str
    tooltip: str


@dataclass(frozen=True)
class Node:
    """A node. run: takes the inputs by name, None for what is not connected, and returns one value per output."""

    id: str
    title: str
    description: str
    inputs: tuple[Field, ...]
    outputs: tuple[Result, ...]
    run: Callable[..., tuple[Any, ...]]

    def execute(self, values: dict[str, Any]) -> tuple[Any, ...]:
        """The outputs. Optional inputs that are missing have their defaults.

        ComfyUI runs nodes in inference mode, whose tensors may not be changed outside it. Weights outlive the run, so
        that mode is left for the time.
        """
        import torch

        with torch.inference_mode(False), torch.no_grad():
            return self.run(**{field.name: field.default for field in self.inputs if field.optional} | values)
