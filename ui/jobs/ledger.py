"""The book of jobs: which run, how others ended, and when no more will begin; counts and times, never a user's
words."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sama.errors import EditFailedError
from sama.workers.group import too_long

logger = logging.getLogger(__name__)

STOPPING = "The server is being stopped; try again in a few minutes."


class Ledger:
    """The jobs of one app."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        self._change = threading.Condition()
        self._numbers = 0
        self._running = 0
        self._ended: Counter[str] = Counter()

    @contextmanager
    def job(self, kind: str, limit: float | None) -> Iterator[Callable[[], None]]:
        """Around a job. Gives a function to call at every step, which raises EditFailedError when the job has to end.

        kind: for the log. limit: seconds that it may take, None for any.
        """
        began = time.monotonic()

        def check() -> None:
            self.check()
            if limit is not None and time.monotonic() - began > limit:
                raise EditFailedError(too_long(limit))

        check()
        with self._change:
            self._numbers += 1
            self._running += 1
            number = self._numbers
        ending = "done"
        try:
            yield check
        except GeneratorExit:
            ending = "stopped"
            raise
        except BaseException as error:
            ending = "refused" if isinstance(error, ValueError) else "failed"
            raise
        finally:
            logger.info("job %d (%s): %s after %.1f s", number, kind, ending, time.monotonic() - began)
            with self._change:
                self._running -= 1
                self._ended[ending] += 1
                self._change.notify_all()

    def check(self) -> None:
        """Raise EditFailedError when the app is being stopped."""
        if self.closing.is_set():
            raise EditFailedError(STOPPING)

    def counts(self) -> dict[str, int]:
        """How many jobs run, and how many ended in which way."""
        with self._change:
            return {"running": self._running, **{name: self._ended[name] for name in ("done", "stopped", "failed")}}

    def close(self, seconds: float) -> None:
        """No job begins from now on, and those that run are told to end; return when they have, or after `seconds`."""
        self.closing.set()
        with self._change:
            self._change.wait_for(lambda: self._running == 0, timeout=seconds)
