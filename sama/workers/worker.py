"""One worker: a process with its own GPU and the whole pipeline. What it runs, and what it tells the caller."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from sama.errors import EditError

if TYPE_CHECKING:
    from sama.model.processes import Processes
    from sama.pipeline import SamaPipeline

Load = Callable[[str, bool], "SamaPipeline"]
"""A function that makes the pipeline on a device; it runs in every worker. Its second argument says whether this is the
first one, which alone encodes prompts."""
Work = Callable[["SamaPipeline"], Generator[Any, None, None]]
Prepare = Callable[["SamaPipeline"], None]


@dataclass(frozen=True)
class Member:
    """Which worker this is: `rank` of `size`, which meet at `meeting` (an init method of torch.distributed).

    device: "cuda", "cpu", or None for CUDA where there is some. threads: for a CPU. quiet: whether libraries' warnings
    are hidden.
    """

    rank: int
    size: int
    meeting: str
    device: str | None
    threads: int
    quiet: bool


# --- Messages, by what they are about --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """Message to each worker: call `prepare`; then the first one runs `work` and the others follow."""

    number: int
    prepare: Prepare
    work: Work


@dataclass(frozen=True)
class Stop:
    """Message to each worker: close the job of this number at its next item."""

    number: int


@dataclass(frozen=True)
class Ready:
    """Message from a worker whose pipeline is loaded. facts: the value of `describe`, from the first worker only."""

    facts: Any = None


@dataclass(frozen=True)
class Item:
    """Message from the first worker: one item that a job yielded."""

    number: int
    value: Any


@dataclass(frozen=True)
class Ended:
    """Message from a worker whose part of a job is over. broken: whether the workers cannot work together any more."""

    number: int
    error: BaseException | None = None
    broken: bool = False


def main(member: Member, connection: Connection, load: Load, describe: Callable[[SamaPipeline], Any]) -> None:
    """Run a worker: load the pipeline and do what the caller orders. It ends when the caller closes the connection or
    dies, in the middle of a job too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the caller stops the job
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if "fork" in multiprocessing.get_all_start_methods():
        # Otherwise the locks of libraries (tqdm's) have names in shared memory, which a killed process leaves behind.
        multiprocessing.set_start_method("fork", force=True)
    if member.quiet:
        _be_quiet()
    inbox = _Inbox(connection)
    try:
        pipeline, processes = _join(member, load)
        facts = describe(pipeline) if member.rank == 0 else None
    except Exception as error:
        inbox.send(Ended(0, portable(error), broken=True))
        return
    inbox.send(Ready(facts))
    while (order := inbox.next_order()) is not None:
        inbox.send(_do(order, pipeline, processes, inbox))


def _join(member: Member, load: Load) -> tuple[SamaPipeline, Processes]:
    import torch

    device = own_device(member.device, member.rank, member.size)
    if device == "cpu":
        torch.set_num_threads(member.threads)
    join_group(device, init_method=member.meeting, rank=member.rank, world_size=member.size)
    pipeline = load(device, member.rank == 0)
    return pipeline, pipeline.enable_parallel()


def own_device(wanted: str | None, rank: int, size: int) -> str:
    """The device of a machine's worker: a GPU of its own, or the CPU, which all share. Raises EditError."""
    import torch

    there = torch.cuda.device_count()
    if wanted in (None, "auto"):
        if not there:
            raise EditError(
                f"There is no GPU for {size} workers; name the device cpu to let them share the processor, or leave "
                "the number of GPUs out."
            )
        wanted = "cuda"
    if wanted == "cpu":
        return "cpu"
    if wanted != "cuda":
        raise EditError(f"Several workers cannot share the device {wanted!r}; name cuda or cpu, or one GPU only.")
    if size > there:
        raise EditError(f"There are {there} GPUs here, not {size}; ask for at most {there}.")
    return f"cuda:{rank}"


def join_group(device: str, **where: Any) -> None:
    """Become a process of a group. where: arguments of `init_process_group`; none for a launcher's environment."""
    import torch
    import torch.distributed as dist

    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", **where)


def _do(order: Order, pipeline: SamaPipeline, processes: Processes, inbox: _Inbox) -> Ended:
    from sama.edit.failures import user_errors

    try:
        with user_errors():
            if processes.rank:
                order.prepare(pipeline)
                pipeline.follow()
            else:
                with pipeline.lead():
                    order.prepare(pipeline)
                    with closing(order.work(pipeline)) as items:
                        for item in items:
                            inbox.send(Item(order.number, item))
                            if inbox.stopped(order.number):
                                break
    except Exception as error:
        return Ended(order.number, portable(error), broken=processes.broken or processes.rank > 0)
    return Ended(order.number)


class _Inbox:
    """The connection to the caller, read by a thread of its own: Stop is heard in the middle of a step, and so is the
    caller's end, which ends this process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._stopped = 0
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next_order(self) -> Order | None:
        """Waits for the next job; None when there will be none."""
        return self._orders.get()

    def stopped(self, number: int) -> bool:
        return self._stopped >= number

    def send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:  # the caller is gone
            os._exit(1)

    def _read(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)  # the main thread may wait for others, who are going too
            if isinstance(message, Stop):
                self._stopped = max(self._stopped, message.number)
            else:
                self._orders.put(message)


def portable(error: Exception) -> Exception:
    """The error as it can be sent: itself where it survives that, with where it happened as a note."""
    error.add_note("".join(traceback.format_exception(error)))
    with suppress(Exception):
        again = pickle.loads(pickle.dumps(error))
        if type(again) is type(error) and str(again) == str(error):
            return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _be_quiet() -> None:
    import warnings

    warnings.simplefilter("ignore")
    logging.getLogger("sama").setLevel(logging.ERROR)
