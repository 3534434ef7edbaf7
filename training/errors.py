"""The errors that tell whoever trains or evaluates what to put right. Each message is one sentence; commands print it
and end with exit status 2.

Standard library only. All of them survive pickling, because workers raise them too.
"""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


class DataError(RuntimeError):
    """Samples that passed the checks cannot be read; the message says which and what to do."""


class NotFiniteError(ValueError):
    """Values that cannot be trained on or kept; the message says whose they are and what to do."""


class RunStoppedError(RuntimeError):
    """A run that cannot go on usefully; the message says why and what to do."""


class PackError(RuntimeError):
    """The pack is missing or broken; the message says which command makes it."""


class IngredientError(RuntimeError):
    """A package could not be fetched or is not what it should be; the message says what to do."""


class CaseError(ValueError):
    """The case list is missing, broken, or not what this renderer draws; the message says what to do."""


class JudgeError(RuntimeError):
    """A fault of the judge's settings, server or results that a person can put right."""
