"""Runs jobs on ZeroGPU: in a process of their own, forked from the app, on a GPU that is lent for a number of seconds.

The app itself must not touch CUDA. What a job yields is pickled. Of an exception only the class name would arrive, so a
failure is sent as an event with its sentence. GPU time is taken from the visitor's quota, so bad requests are refused
before a GPU is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sama.errors import EditError
from ui import text
from ui.errors import ReportedError, sentence

if TYPE_CHECKING:
    from sama.edit.estimate import Speed

SHORTEST, LONGEST = 15, 40 * 60
"""Seconds that one job may ask for. The longest is a day's quota of a paying account; smaller quotas are checked by
ZeroGPU, which refuses before it lends anything."""
_LENDING = 10  # seconds until a process has the GPU and the weights are on it
_MARGIN = 1.25

# Model of the card: FLOP per second (linear, attention, convolution) of the part that is lent, and by how much ZeroGPU
# lengthens what is asked for. H200: the share of 60 of 132 multiprocessors in the figures of `sama.flops`;
# half an RTX PRO 6000: 55 % of the published 252 TFLOP/s in bfloat16, which is not measured.
_LENT = {
    "H200": ((332e12, 257e12, 114e12), 1.0),
    "RTX PRO 6000": ((139e12, 105e12, 50e12), 1.5),
}


@dataclass(frozen=True)
class Failure:
    """A failure in a job's process: the sentence for the user."""

    words: str


def lent_speed() -> tuple[Speed, float]:
    """The speed of the GPU that is lent, and the factor by which ZeroGPU lengthens a duration. Needs no CUDA."""
    from sama.edit.estimate import Speed

    name = _card()
    rates, factor = next((values for key, values in _LENT.items() if key in name), _LENT["H200"])
    return Speed(*rates, basis="known figures for the GPU that is lent"), factor


def seconds_to_ask(expected: float) -> int:
    """GPU seconds to ask for, for a job that is expected to take `expected` seconds."""
    return int(max(SHORTEST, min(LONGEST, _needed(expected))))


def refuse_too_long(expected: float) -> None:
    """Raise EditError for a job that is longer than any account's GPU time."""
    if _needed(expected) > LONGEST:
        raise EditError(
            f"This needs about {text.duration(expected)} of GPU time, and one run gets at most "
            f"{text.duration(LONGEST)} here: choose fewer frames or steps."
        )


def on_lent_gpu(
    job: Callable[..., Generator[Any, None, None]], seconds: Callable[..., int]
) -> Callable[..., Generator[Any, None, None]]:
    """`job` on a lent GPU. seconds: GPU seconds to ask for, from the job's arguments; it must not raise.

    Raises ReportedError for a failure of the job; ZeroGPU's own refusals are its own exceptions.
    """
    import spaces

    def told(*args: Any) -> Generator[Any, None, None]:
        try:
            yield from job(*args)
        except Exception as error:
            yield Failure(sentence(error))

    lent = spaces.GPU(duration=seconds)(told)

    def run(*args: Any) -> Generator[Any, None, None]:
        with closing(lent(*args)) as events:
            for event in events:
                if isinstance(event, Failure):
                    raise ReportedError(event.words)
                yield event

    return run


def _needed(expected: float) -> float:
    return (_LENDING + _MARGIN * expected) / lent_speed()[1]


def _card() -> str:
    """The model of this machine's GPU, by its driver; the driver of a Space is there though CUDA is not."""
    try:
        from spaces.zero.config import get_config

        return str(get_config()["model"])
    except (ImportError, KeyError, OSError):
        return ""
