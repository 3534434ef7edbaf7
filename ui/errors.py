"""Turns failures into one sentence for the user that says what to do next."""

from __future__ import annotations

import errno
import logging
import secrets

from sama.errors import EditError, EditFailedError, VideoError
from ui.settings import ASSETS

logger = logging.getLogger(__name__)

KEPT = "Your clip and settings are kept"

_ZERO_GPU = (  # parts of what ZeroGPU says, lower case; its titles begin with the name
    ("quota exceeded", "Your free GPU time is used up. Try again later, sign in for more, or open a finished example."),
    ("illegal duration", "This setting needs more GPU time than your account allows. Choose fewer frames or steps."),
    ("queue timeout", "No GPU became free in time. Nothing was generated; try again."),
    ("client error", "No GPU became free in time. Nothing was generated; try again."),
    ("pending credits", "You already have edits running. Wait for one to finish."),
    ("task aborted", "The run went over its time limit and was stopped. Choose fewer frames or steps."),
)
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


class PromptError(ValueError):
    """An input of the page that cannot be used; the message is one sentence for the user."""


class ReportedError(RuntimeError):
    """A failure in another process. The message is the sentence for the user that `sentence` made there."""


def sentence(error: BaseException) -> str:
    """The sentence that a user reads for a failure.

    The messages of `VideoError`, `EditError`, `PromptError` and `EditFailedError` are written for users and are passed
    on. ZeroGPU's refusals, a lack of memory and a full disk have sentences here. Anything else is a bug: it is logged
    under a short number, and only the number is shown, so that no path or traceback reaches a page.

    """
    said = str(error)
    if isinstance(error, ReportedError):
        return said
    if isinstance(error, (VideoError, EditError, PromptError)):
        return said.replace(f"{ASSETS.parent}/", "")  # visitors need not know where the server keeps things
    if isinstance(error, EditFailedError):
        return f"{said} {KEPT}."
    title = str(getattr(error, "title", ""))
    said = f"{title} {said}".lower()
    if title.lower().startswith("zerogpu"):
        for part, words in _ZERO_GPU:
            if part in said:
                return words
    number = getattr(error, "errno", None)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or any(part in said for part in _NO_MEMORY):
        return f"The model ran out of memory. Choose fewer frames and try again. {KEPT}."
    if number == errno.ENOSPC:
        return f"The server's disk is full, so nothing could be saved. Try again later. {KEPT}."
    return f"The run failed (ref {log_failure(error)}). {KEPT}; try again."


def log_failure(error: BaseException) -> str:
    """Log an unexpected failure; returns the short number under which it is in the log."""
    number = secrets.token_hex(2)
    logger.error("failure %s", number, exc_info=error)
    return number
