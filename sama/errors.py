"""The errors that tell a user what to do next. Each message is one sentence; programs show it as it is.

Standard library only, so that a refusal need not wait for torch. All of them survive pickling, because other processes
raise them too.
"""

from __future__ import annotations

__all__ = ["CheckpointError", "EditError", "EditFailedError", "VideoError"]


class EditError(ValueError):
    """An edit that cannot be done as asked. The message is one sentence for the user."""


class EditFailedError(RuntimeError):
    """An edit that was possible as asked and failed all the same. The message is one sentence for the user."""


class VideoError(ValueError):
    """A video that cannot be read or written as asked. The message is one sentence for the user."""


class CheckpointError(ValueError):
    """A file that cannot be loaded; the message is one sentence for the user and names the keys at fault."""
