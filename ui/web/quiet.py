"""Keeps visitors' words out of the log: gradio prints what it was given when a call fails."""

from __future__ import annotations

import logging
import sys
import traceback
from types import SimpleNamespace

logger = logging.getLogger(__name__)


def quiet_gradio() -> None:
    """From now on gradio's own failures are logged by their kind and place, without their message."""
    from gradio import queueing, route_utils, routes

    for module in (queueing, routes, route_utils):
        vars(module)["traceback"] = SimpleNamespace(print_exc=_log_place)


def _log_place() -> None:
    error = sys.exc_info()[1]
    last = traceback.extract_tb(error.__traceback__)[-1] if error is not None and error.__traceback__ else None
    place = f" at {last.name}, line {last.lineno}" if last else ""
    logger.warning("a call failed: %s%s", type(error).__name__, place)
