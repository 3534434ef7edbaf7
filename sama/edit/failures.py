"""Failures of an edit that was possible as asked, as one sentence for the user. Nothing here imports torch."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sama.errors import EditError, EditFailedError, VideoError

_OUT_OF_MEMORY = (  # parts of messages, lower case
    "out of memory",  # CUDA, MPS
    "can't allocate memory",  # torch on a CPU
    "not enough memory",  # torch on a CPU, under Windows
    "insufficient memory",  # OpenCV
)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns what a user can act on into EditError (bad files) or EditFailedError (too little memory)."""
    try:
        yield
    except (EditError, EditFailedError):
        raise
    except VideoError as error:
        raise EditError(str(error)) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise EditFailedError(
            "The machine ran out of memory; edit fewer frames at a time, close other programs, or use a smaller preset."
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whichever device. Only some libraries have an exception of their own for it."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    said = str(error).lower()
    return any(words in said for words in _OUT_OF_MEMORY)
