"""Training processes for tests: forked from a server that has imported everything once, killed for real."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.distributed.train_tiny", "tests.distributed.train_line"])


class Session:
    """One start of a run: `main(arguments)` in so many processes that find each other as a launcher would have them.

    What they say goes to `told`.
    """

    def __init__(self, main: Callable[[list[str]], int], arguments: list[str], count: int, told: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.told = told
        each = (main, arguments, count, port, told)
        self.processes = [CONTEXT.Process(target=_run, args=(rank, *each)) for rank in range(count)]
        for process in self.processes:
            process.start()

    def wait_until(self, happened: Callable[[], bool], seconds: float = 400) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert all(process.is_alive() for process in self.processes), self.words()
            assert time.monotonic() < deadline, self.words()
            time.sleep(0.002)

    def kill(self) -> None:
        """kill -9, all at once, with the workers that they started."""
        for process in self.processes:
            for number in (process.pid, *_descendants(process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        for process in self.processes:
            process.join()

    def join(self, seconds: float = 400) -> None:
        """Wait for the end, whatever it is: gloo may abort a process that closes its sockets last."""
        for process in self.processes:
            process.join(seconds)

    def finish(self, seconds: float = 400, status: int = 0) -> None:
        """Wait for the end. status: the exit status that every process must have."""
        self.join(seconds)
        assert [process.exitcode for process in self.processes] == [status] * len(self.processes), self.words()

    def words(self) -> str:
        return self.told.read_text(errors="replace")[-3000:]


def _run(rank: int, main: Callable[[list[str]], int], arguments: list[str], count: int, port: int, told: Path) -> None:
    with told.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    if count > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    raise SystemExit(main(arguments))


def _descendants(number: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{number}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):
            for child in path.read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found
