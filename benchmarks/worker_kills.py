"""Workers that are killed in the middle of edits: is anything lost but the edit, and does memory leak?

    python -m benchmarks.worker_kills --kills 20 --gpus 2 --device cpu --out runs/kills.json

Each round starts an edit of one of the repository's examples on the app's jobs, kills one worker (in turn) with SIGKILL
after the edit's first step, and notes what was said to the visitor, how soon, and how long the workers took to be ready
again. After every fifth round a whole edit must give the bytes that the first one gave. Memory is what this process,
the one of the page, holds for itself, and what the workers hold; processes, open files and shared memory are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

    from sama.edit.request import EditRequest
    from ui.jobs.jobs import Jobs

EXAMPLE = Path(__file__).resolve().parents[1] / "assets" / "examples" / "snowy-rabbit" / "source.mp4"
FRAMES, STEPS, WHOLE_EVERY = 5, 2, 5


def main() -> int:
    import psutil

    from ui.jobs.jobs import Jobs
    from ui.jobs.remote import WorkerEngine
    from ui.settings import Settings

    parser = argparse.ArgumentParser(description="Kill workers in the middle of edits.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--device")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    settings = Settings(preset=options.preset, gpus=options.gpus, device=options.device, warm=False)
    jobs = Jobs(settings)
    jobs.engine = WorkerEngine(settings)  # with one GPU, too, where the app runs the model itself
    page = psutil.Process()
    rows: list[dict[str, Any]] = []
    for row in rounds(jobs, page, options):
        rows.append(row)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
    jobs.close()
    left = page.children(recursive=True)
    helpers = {"forkserver", "resource_tracker"}  # Python's own: they end with this process
    lost = [child for child in left if not any(word in " ".join(child.cmdline()) for word in helpers)]
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps({"device": options.device, "rounds": rows}, indent=1) + "\n", encoding="utf-8"
        )
    return 1 if lost else 0


def rounds(jobs: Jobs, page: psutil.Process, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rounds, each as a row of figures; the last one kills nothing. Raises RuntimeError where a whole edit gives
    other bytes than the first one, or an edit does not notice its worker's end."""
    from sama.edit.request import EditRequest

    with tempfile.TemporaryDirectory() as folder:
        request = EditRequest(EXAMPLE, "Make it snowy", Path(folder) / "out.mp4", preset=options.preset, frames=FRAMES,
                              steps=STEPS, keep_source="off", detail="off")  # fmt: skip
        first = b""
        for number in range(options.kills + 1):
            if number % WHOLE_EVERY == 0:
                list(jobs.edit(request))
                first = first or request_bytes(request)
                if request_bytes(request) != first:
                    raise RuntimeError(f"the edit after {number} kills is another one")
            row: dict[str, Any] = {"kills": number, **held(page)}
            if number < options.kills:
                row |= kill_one(jobs, request, number % options.gpus)
            yield row


def kill_one(jobs: Jobs, request: EditRequest, rank: int) -> dict[str, Any]:
    """Kill the worker of this rank after the first step of an edit: what was said, how soon, and the seconds until the
    workers were ready again."""
    from sama.errors import EditFailedError
    from ui.jobs.remote import WorkerEngine
    from ui.jobs.work import JobStep

    run = jobs.edit(request)
    next(step for step in run if isinstance(step, JobStep) and step.step == 1)
    assert isinstance(jobs.engine, WorkerEngine)
    victim, began = jobs.engine.worker_numbers[rank], time.monotonic()
    os.kill(victim, signal.SIGKILL)
    try:
        list(run)
        raise RuntimeError("the edit did not notice that a worker was killed")
    except EditFailedError as error:
        row = {"said": str(error), "told_after": round(time.monotonic() - began, 2)}
    jobs.engine.load()
    return row | {"ready_after": round(time.monotonic() - began, 2)}


def held(page: psutil.Process) -> dict[str, Any]:
    """Memory, processes, open files, threads and shared memory of the page's process and of its workers."""
    import psutil

    family = [child for child in page.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    return {
        "page_mib": round(page.memory_full_info().uss / 2**20, 1),
        "family_mib": round(sum(child.memory_full_info().uss for child in family) / 2**20, 1),
        "processes": len(family),
        "files": page.num_fds(),
        "threads": page.num_threads(),
        "shared_memory": len(list(Path("/dev/shm").glob("*"))) if Path("/dev/shm").is_dir() else 0,
        "folders": len(list(Path(tempfile.gettempdir()).glob("sama-workers-*"))),
    }


def request_bytes(request: Any) -> bytes:
    """The file that an edit wrote."""
    return Path(request.output).read_bytes()


if __name__ == "__main__":
    raise SystemExit(main())
