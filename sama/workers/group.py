"""The caller's side: workers that live across jobs, are restarted when one dies, and end with their caller."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from enum import Enum
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sama.errors import EditError, EditFailedError
from sama.model.split import not_a_number
from sama.workers import worker
from sama.workers.worker import Ended, Item, Load, Member, Order, Prepare, Ready, Stop, Work

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

logger = logging.getLogger(__name__)

STOP_SECONDS = 120.0
"""How long a job may take to stop: the longest step of the largest model. Workers that take longer are restarted."""
_CLOSE_SECONDS = 5.0
_GOSSIP_SECONDS = 2.0  # after a failure: was it that another worker died?


class State(Enum):
    """The state of a group of workers."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    """The model could not be loaded, and trying again at once would fail too."""
    LOST = "lost"
    """A worker died, or they cannot work together any more."""
    CLOSED = "closed"


class Workers:
    """`count` processes, one per GPU, that run one job at a time.

    load: makes the pipeline of a worker, see `sama.workers.worker.Load`; it must be picklable (a function of a module).
    device: "cuda", "cpu", or None for CUDA.
    describe: what `facts` will be, computed in the first worker.
    restart: whether workers that were lost are started again at once; otherwise with the next job.
    quiet: whether libraries' warnings are hidden in the workers.
    Raises EditError for fewer than one worker.
    """

    def __init__(
        self,
        count: int,
        load: Load,
        device: str | None = None,
        describe: Callable[[SamaPipeline], Any] | None = None,
        restart: bool = True,
        quiet: bool = False,
    ) -> None:
        if count < 1:
            raise EditError(not_a_number(count))
        self.count = count
        self._make = (load, device, describe or _nothing, quiet)
        self._restart = restart
        self._turn = threading.Lock()
        self._change = threading.Lock()
        self._numbers = itertools.count(1)
        self._group: _Group | None = None
        self._closed = False

    def start(self) -> None:
        """Start the workers unless they are there; returns at once."""
        with self._change:
            if not self._closed and (self._group is None or self._group.state in (State.FAILED, State.LOST)):
                self._group = _Group(self.count, *self._make, self._lost)

    @property
    def state(self) -> State:
        group = self._group
        return State.CLOSED if group is None else group.state

    @property
    def alive(self) -> int:
        """How many worker processes there are now."""
        group = self._group
        return 0 if group is None else group.alive

    @property
    def numbers(self) -> list[int]:
        """The process numbers of the workers that were started last, by rank."""
        group = self._group
        return [] if group is None else group.numbers

    @property
    def facts(self) -> Any:
        """The value that `describe` returned in the first worker; None before the workers are ready."""
        group = self._group
        return None if group is None else group.facts

    def wait(self) -> None:
        """Wait until the workers are ready. Raises the error that loading raised."""
        self.start()
        group = self._group
        if group is None:
            raise EditFailedError("The workers are shut down; start the program again.")
        group.settled.wait()
        if group.state is not State.READY:
            raise group.error or EditFailedError("The workers could not be started; try again.")

    def run(
        self, work: Work, prepare: Prepare | None = None, seconds: float | None = None
    ) -> Generator[Any, None, None]:
        """Run `work` on the first worker's pipeline and yield its items. Closing this generator closes it there.

        prepare: called in every worker before. Both must be picklable, and what is yielded too.
        seconds: the longest that the job may take.
        Raises the errors of `work`; EditFailedError when a worker dies or the time is over.
        """
        with self._turn:
            self.wait()
            group = self._group
            assert group is not None  # it has just been waited for
            number = next(self._numbers)
            ended = False
            group.begin(Order(number, prepare or _unprepared, work))
            try:
                for message in group.messages(number, seconds):
                    if isinstance(message, Item):
                        yield message.value
                    elif message.error is not None:
                        ended = True
                        raise message.error
                ended = True
            finally:
                if not ended and not group.stop(number, STOP_SECONDS):
                    logger.warning("the workers did not stop in time and are started again")
                    group.lose("they did not stop in time")

    def close(self) -> None:
        """End all workers, at once if a job is running."""
        with self._change:
            self._closed = True
            group, self._group = self._group, None
        if group is not None:
            group.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _lost(self, group: _Group) -> None:
        if self._restart and group is self._group:
            logger.warning("a worker ended (%s): all are started again", group.reason)
            self.start()


class _Group:
    """One generation of workers, and the thread that listens to them."""

    def __init__(
        self,
        count: int,
        load: Load,
        device: str | None,
        describe: Callable[[SamaPipeline], Any],
        quiet: bool,
        lost: Callable[[_Group], None],
    ) -> None:
        self.count, self.facts = count, None
        self.error: BaseException | None = None
        self.state, self.settled, self.reason = State.LOADING, threading.Event(), ""
        self._lost = lost
        self._lock = threading.Lock()
        self._ready = 0
        self._number, self._over = 0, 0
        self._first: Ended | None = None
        self._inbox: queue.SimpleQueue[Item | Ended] = queue.SimpleQueue()
        self._gone = threading.Event()
        """Whether no process of these workers is left."""
        self._folder = Path(tempfile.mkdtemp(prefix="sama-workers-"))
        threads = max(1, len(os.sched_getaffinity(0)) // count) if hasattr(os, "sched_getaffinity") else 1
        context = _context(device)
        self._connections: list[Connection] = []
        self.processes = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            member = Member(rank, count, f"file://{self._folder}/meeting", device, threads, quiet)
            process = context.Process(
                target=worker.main, args=(member, theirs, load, describe), name=f"worker-{rank}", daemon=True
            )
            process.start()
            theirs.close()
            self._connections.append(ours)
            self.processes.append(process)
        self.numbers = [process.pid for process in self.processes]
        threading.Thread(target=self._listen, name="workers", daemon=True).start()

    @property
    def alive(self) -> int:
        with suppress(ValueError):  # closed
            return sum(process.is_alive() for process in self.processes)
        return 0

    # --- A job -------------------------------------------------------------------------------------------------------

    def begin(self, order: Order) -> None:
        with self._lock:
            self._number, self._over, self._first = order.number, 0, None
            if self.state is not State.READY:  # lost since somebody waited for them
                self._inbox.put(Ended(order.number, self.error, broken=True))
        self._send(order)

    def messages(self, number: int, seconds: float | None) -> Generator[Item | Ended, None, None]:
        """Yield the workers' messages about a job; the last one is its `Ended`. Raises EditFailedError when they are
        lost."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                message = self._inbox.get(timeout=left)
            except queue.Empty:
                raise EditFailedError(too_long(seconds or 0)) from None
            if message.number == number:
                yield message
                if isinstance(message, Ended):
                    return

    def stop(self, number: int, seconds: float) -> bool:
        """Stop a job and drop what it still yields. Returns whether it has ended."""
        self._send(Stop(number))
        try:
            for _ in self.messages(number, seconds):
                pass
        except EditFailedError:
            return False
        return True

    def _send(self, message: Order | Stop) -> None:
        for connection in self._connections:
            with suppress(OSError, ValueError):  # that worker is gone, which the listener finds out
                connection.send(message)

    # --- Their end ---------------------------------------------------------------------------------------------------

    def lose(self, reason: str, error: BaseException | None = None) -> None:
        """Give these workers up: kill those that are left, and end the job with a sentence."""
        with self._lock:
            if self.state in (State.LOST, State.FAILED, State.CLOSED):
                return
            loading = self.state is State.LOADING
            self.state, self.reason = State.FAILED if loading else State.LOST, reason
            self.error = error or EditFailedError((_not_started if loading else _died)(self.count, reason))
            number = self._number
        self._kill()
        self._inbox.put(Ended(number, self.error, broken=True))
        self.settled.set()
        if not loading:
            self._lost(self)

    def close(self) -> None:
        with self._lock:
            was, self.state = self.state, State.CLOSED
        if was in (State.LOST, State.FAILED):
            return
        if was in (State.LOADING, State.READY):
            for connection in self._connections:
                with suppress(OSError, ValueError):
                    connection.send(None)
            deadline = time.monotonic() + (_CLOSE_SECONDS if was is State.READY else 0)
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
            self._kill()
        self.settled.set()
        self._inbox.put(Ended(self._number, EditFailedError("The workers were shut down; try again later.")))

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._gone.set()

    # --- The listener ------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        sentinels = {process.sentinel: rank for rank, process in enumerate(self.processes)}
        open_ = {connection: rank for rank, connection in enumerate(self._connections)}
        while self.state in (State.LOADING, State.READY):
            found = wait([*open_, *sentinels], timeout=1.0)
            for one in found:
                if isinstance(one, Connection) and one in open_:
                    try:
                        self._hear(open_[one], one.recv())
                    except (EOFError, OSError):
                        del open_[one]
                elif one in sentinels and not any(isinstance(other, Connection) and other in open_ for other in found):
                    self._bury(sentinels.pop(one))
        self._gone.wait()
        for held in (*self._connections, *self.processes):
            held.close()

    def _hear(self, rank: int, message: Any) -> None:
        if isinstance(message, Ready):
            with self._lock:
                self._ready += 1
                self.facts = message.facts if rank == 0 else self.facts
                complete = self._ready == self.count and self.state is State.LOADING
                if complete:
                    self.state = State.READY
            if complete:
                self.settled.set()
        elif isinstance(message, Item):
            self._inbox.put(message)
        elif isinstance(message, Ended):
            self._note_end(rank, message)

    def _note_end(self, rank: int, message: Ended) -> None:
        if message.broken:
            dead = self._first_dead(_GOSSIP_SECONDS)
            if dead is not None and self.state is State.READY:
                self._bury(dead)
            else:
                self.lose("they could not work together any more", message.error)
            return
        with self._lock:
            self._over += 1
            self._first = message if rank == 0 else self._first
            over = self._over == self.count
        if over and self._first is not None:
            self._inbox.put(self._first)

    def _first_dead(self, seconds: float) -> int | None:
        """A worker that has died, or dies within some seconds."""
        sentinels = {process.sentinel: rank for rank, process in enumerate(self.processes)}
        found = wait(list(sentinels), timeout=seconds if self.state is State.READY else 0)
        return sentinels[found[0]] if found else None

    def _bury(self, rank: int) -> None:
        if self.state in (State.LOADING, State.READY):
            process = self.processes[rank]
            process.join()
            self.lose(_how(process.exitcode))


def _context(device: str | None) -> Any:
    """How worker processes start: for a CPU they are forked from one that has imported the libraries, where the system
    can fork. For CUDA each imports them itself: the libraries ask for GPUs on import, and CUDA does not survive a fork
    after that."""
    if device != "cpu" or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sama.workers.preload"])
    return context


def _how(code: int | None) -> str:
    if code == -9:
        return "killed, perhaps because the memory ran out"
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


def _died(count: int, reason: str) -> str:
    return f"One of the {count} worker processes ended ({reason}), so the edit was lost; try again."


def _not_started(count: int, reason: str) -> str:
    return f"One of the {count} worker processes ended while it was started ({reason}); try again."


def too_long(seconds: float) -> str:
    """The error message of a job that was stopped because its time was over."""
    told = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    return f"The edit took longer than the {told} allowed here and was stopped; choose fewer frames or steps."


def _nothing(_pipeline: SamaPipeline) -> None:
    return None


def _unprepared(_pipeline: SamaPipeline) -> None:
    return None
