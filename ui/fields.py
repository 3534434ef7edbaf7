"""The components that stand for the parameters of the API's functions: hidden, documented, checked by the functions.

gradio's own checks answer in its words ("Value: … is not in the list of choices"); the functions say what may be sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.utils import get_function_description

from ui.errors import PromptError

CLIP = {"path": "clip.mp4", "url": "clip.mp4", "orig_name": "clip.mp4", "meta": {"_type": "gradio.FileData"}}
"""An example of a file: one of the caller's own, which the API page shows as `handle_file('clip.mp4')`."""


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """A parameter as a whole number within its range. Raises PromptError."""
    number = number_in(name, value, low, high)
    if number != int(number):
        raise PromptError(f"{name} is {value!r}; give a whole number from {low} to {high}.")
    return int(number)


def number_in(name: str, value: Any, low: float, high: float) -> float:
    """A parameter as a number within its range; none stands for 0. Raises PromptError."""
    value = 0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        shown = value if isinstance(value, (int, float)) else "no number"
        raise PromptError(f"{name} is {shown}; give a number from {low:g} to {high:g}.")
    return value


def choice(name: str, value: Any, choices: list[str]) -> str:
    """A parameter as one of its choices. Raises PromptError."""
    if value not in choices:
        raise PromptError(f"{name} is {str(value)[:40]!r}; choose one of {', '.join(choices)}.")
    return str(value)


class Fields:
    """Makes the components of one function, described by its docstring."""

    def __init__(self, function: Callable[..., Any]) -> None:
        _, self._says, _ = get_function_description(function)

    def number(self, name: str, value: float = 0, example: float | None = None) -> gr.Number:
        whole = isinstance(value, int)
        made = gr.Number(value, label=name, precision=0 if whole else None)
        return self._described(name, made, {"type": "integer" if whole else "number"}, example or value)

    def choice(self, name: str, choices: list[str], value: str) -> gr.Radio:
        made = gr.Radio(choices, value=value, label=name)
        return self._described(name, made, {"type": "string", "enum": choices}, value)

    def words(self, name: str, example: str, value: str | None = None) -> gr.Textbox:
        return self._described(name, gr.Textbox(value, label=name), {"type": "string"}, example)

    def video(self, name: str) -> gr.Video:
        return self._file(name, gr.Video(label=name, sources=["upload"]), CLIP)

    def file(self, name: str) -> gr.File:
        return self._file(name, gr.File(label=name), None)

    def _file(self, name: str, made: Any, example: Any) -> Any:
        info = made.api_info() | {"additional_description": self._says[name]}
        made.api_info = lambda: info
        made.example_payload = lambda: example
        return made

    def _described(self, name: str, made: Any, info: dict[str, Any], example: Any) -> Any:
        says = self._says[name]
        made.api_info = lambda: info | {"description": says, "additional_description": says}
        made.example_payload = lambda: example
        made.preprocess = lambda payload: payload
        return made
