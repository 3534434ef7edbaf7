"""Every failure as one sentence that says what to do next."""

from __future__ import annotations

import logging
import secrets

from ui.settings import ASSETS

logger = logging.getLogger(__name__)

KEPT = "Your clip and settings are kept"

_ZERO_GPU = (  # parts of the titles that ZeroGPU raises, lower case
    ("quota exceeded", "Your free GPU time is used up. Try again later, sign in for more, or open a finished example."),
    ("illegal duration", "This setting needs more GPU time than your account allows. Choose fewer frames or steps."),
    ("queue timeout", "No GPU became free in time. Nothing was generated; try again."),
    ("client error", "No GPU became free in time. Nothing was generated; try again."),
    ("pending credits", "You already have edits running. Wait for one to finish."),
    ("task aborted", "The run went over its time limit and was stopped. Choose fewer frames or steps."),
)


def sentence(error: BaseException) -> str:
    """What the user is told.

    Mistakes of the user's own (`VideoError`, `EditError`, both ValueErrors raised on purpose) say themselves what to
    do; out of memory and ZeroGPU's refusals are translated; anything else is ours and is logged under a short number,
    so that no path or trace reaches a page.
    """
    from sama.edit import EditError
    from sama.video import VideoError

    if isinstance(error, (VideoError, EditError, PromptError)):
        return str(error).replace(f"{ASSETS.parent}/", "")  # visitors need not know where the server keeps things
    said = f"{getattr(error, 'title', '')} {error}".lower()
    for part, words in _ZERO_GPU:
        if part in said:
            return words
    if isinstance(error, MemoryError) or "out of memory" in said:
        return f"The model ran out of memory. Choose fewer frames and try again. {KEPT}."
    reference = secrets.token_hex(2)
    logger.error("failure %s", reference, exc_info=error)
    return f"The run failed (ref {reference}). {KEPT}; try again."


class PromptError(ValueError):
    """An input of the page that cannot be used; the message is one sentence for the user."""
