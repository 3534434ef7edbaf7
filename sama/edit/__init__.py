"""From file to file: the request and its check, the edit, what is composed, and the settings beside the result."""

from sama.edit.editor import edit_video
from sama.edit.events import PHASES, EditEvent, EditResult
from sama.edit.request import EditRequest
from sama.errors import EditError, EditFailedError
from sama.loading import load_pipeline

__all__ = [
    "PHASES",
    "EditError",
    "EditEvent",
    "EditFailedError",
    "EditRequest",
    "EditResult",
    "edit_video",
    "load_pipeline",
]
