"""Lets many visitors use the app at once and says what became of them: crashes, mixed results, order, memory, times.

python -m benchmarks.page_load --visitors 20 --minutes 5

Starts `app.py` in a process of its own. Each visitor comes from an address of its own, uploads a clip that no other
has, and asks for short edits one after another, as a program does. A result is a visitor's own if its frames carry the
visitor's number. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.page_speed import APP, free_port, wait_for_answer
from sama.video import VideoWriter, read_clip

FRAMES, WIDTH, HEIGHT = 5, 96, 64
_BITS = 6
_IDLE = 20.0  # seconds after the last visitor, for what is removed a moment later
_MEMORY = 300e6  # bytes that may be left over


def marked_clip(path: Path, number: int) -> None:
    """Write a clip that shows a number: a bar of black and white fields over a grey picture."""
    frames = np.full((FRAMES, HEIGHT, WIDTH, 3), 110, np.uint8)
    for bit in range(_BITS):
        left = bit * WIDTH // _BITS
        frames[:, : HEIGHT // 2, left : left + WIDTH // _BITS] = 235 if number >> bit & 1 else 20
    with VideoWriter(path, WIDTH, HEIGHT, Fraction(8)) as writer:
        for frame in frames:
            writer.write(frame)


def mark_of(frame: NDArray[np.uint8]) -> int:
    """The number that a frame (H, W, 3) shows."""
    fields = frame[4 : HEIGHT // 2 - 4].mean(axis=(0, 2)).reshape(_BITS, -1)[:, 3:-3].mean(axis=1)
    return sum(1 << bit for bit, value in enumerate(fields) if value > 128)


@dataclass
class Seen:
    """What the visitors met."""

    edits: int = 0
    refused: int = 0
    mixed: int = 0
    failures: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    told: list[tuple[float, float]] = field(default_factory=list)
    """Seconds that were told when a job began, and that it took."""
    entered: dict[str, float] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Visitor(threading.Thread):
    """One visitor, until its time is over."""

    def __init__(self, number: int, url: str, folder: Path, until: float, seen: Seen, steps: int) -> None:
        super().__init__(name=f"visitor-{number}")
        self.number, self.until, self.seen, self.steps = number, until, seen, steps
        self.clip = folder / f"{number}.mp4"
        marked_clip(self.clip, number)
        headers = {"X-Forwarded-For": f"81.2.69.{number + 1}"}
        self.client = httpx.Client(base_url=f"{url}/gradio_api", headers=headers, timeout=120)

    def run(self) -> None:
        edit = 0
        while time.monotonic() < self.until:
            try:
                self._edit(f"{self.number}.{edit}")
            except Exception as error:
                with self.seen.lock:
                    self.seen.failures.append(f"{type(error).__name__}: {error}"[:200])
            edit += 1

    def _edit(self, name: str) -> None:
        files = {"files": (self.clip.name, self.clip.read_bytes())}
        (path,) = self.client.post("/upload", files=files).raise_for_status().json()
        video = {"path": path, "meta": {"_type": "gradio.FileData"}}
        data = [video, f"Make picture {name} snowy", 0, 0, self.number, self.steps, 0, "auto", "auto", None, "default"]
        entered = time.monotonic()
        event = self.client.post("/call/edit_video", json={"data": data}).raise_for_status().json()["event_id"]
        began, told = 0.0, None
        for state, result in self._states(event):
            if isinstance(result, dict) and result.get("error"):
                self._refused(str(result["error"]))
                return
            words = result[2] if isinstance(result, list) else ""
            if not began and words and "ahead of you" not in words and "next" not in words:
                began = time.monotonic()
                with self.seen.lock:
                    self.seen.entered[name] = entered
                    self.seen.begun.append(name)
                    self.seen.waits.append(began - entered)
            if began and told is None and (left := re.search(r"about (?:(\d+) min )?(\d+) s left", words)):
                told = 60 * int(left[1] or 0) + int(left[2])
            if state == "complete":
                self._check(result[0], time.monotonic() - began, told)

    def _states(self, event: str) -> Any:
        with self.client.stream("GET", f"/call/edit_video/{event}") as stream:
            state = ""
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    state = line.removeprefix("event: ")
                elif line.startswith("data: ") and state != "heartbeat":
                    yield state, json.loads(line.removeprefix("data: "))

    def _check(self, result: Any, took: float, told: float | None) -> None:
        file = result.get("video", result)
        content = self.client.get(f"/file={file['path']}").raise_for_status().content
        made = self.clip.with_suffix(".result.mp4")
        made.write_bytes(content)
        frames = read_clip(made, 0, FRAMES)
        with self.seen.lock:
            self.seen.edits += 1
            self.seen.mixed += mark_of(frames[0]) != self.number or len(frames) != FRAMES
            if told is not None:
                self.seen.told.append((told, took))

    def _refused(self, words: str) -> None:
        with self.seen.lock:
            if "queue is full" in words:
                self.seen.refused += 1
            else:
                self.seen.failures.append(words[:200])
        time.sleep(2)


def memory_of(process: int) -> int:
    """Bytes of memory of a process and of those that it started."""
    import psutil

    root = psutil.Process(process)
    return sum(one.memory_info().rss for one in (root, *root.children(recursive=True)))


def overtakings(seen: Seen) -> int:
    """How many jobs began before one that had come more than a second earlier."""
    came = [seen.entered[name] for name in seen.begun]
    return sum(any(later < one - 1.0 for later in came[place + 1 :]) for place, one in enumerate(came))


def load(visitors: int, minutes: float, steps: int, arguments: list[str]) -> dict[str, Any]:
    """Run the visitors; returns the figures."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "cache")}
        command = [sys.executable, str(APP), "--port", str(port), "--proxies", "1", *arguments]
        with (folder / "log").open("wb") as log:
            app = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for_answer(f"{url}/healthz", app)
            while httpx.get(f"{url}/healthz", timeout=30).json()["status"] != "ok":
                time.sleep(0.2)
            seen = Seen()
            warm = Visitor(0, url, folder, time.monotonic() + 0.1, seen, steps)
            warm.start()
            warm.join()
            before, seen = memory_of(app.pid), Seen()
            until = time.monotonic() + 60 * minutes
            everybody = [Visitor(number, url, folder, until, seen, steps) for number in range(visitors)]
            for visitor in everybody:
                visitor.start()
            for visitor in everybody:
                visitor.join()
            time.sleep(_IDLE)
            after, alive = memory_of(app.pid), app.poll() is None
            health = httpx.get(f"{url}/healthz", timeout=30).json()
        finally:
            app.terminate()
            app.wait(60)
        words = (folder / "log").read_text("utf-8", "replace")
    ratios = sorted(told / took for told, took in seen.told if took > 0)
    return {
        "visitors": visitors, "minutes": minutes, "edits": seen.edits, "told_that_the_line_is_full": seen.refused,
        "failures": len(seen.failures), "first_failures": seen.failures[:3], "mixed_results": seen.mixed,
        "alive": alive, "still_running": health["running"], "overtakings": overtakings(seen),
        "wait_seconds": _spread(seen.waits), "told_over_took": _spread(ratios),
        "within_1.5": round(sum(1 / 1.5 <= ratio <= 1.5 for ratio in ratios) / max(1, len(ratios)), 2),
        "memory_mb_before": before // 1_000_000, "memory_mb_after": after // 1_000_000,
        "memory_is_back": after - before < _MEMORY, "words_in_log": "Make picture" in words,
        "edits_of_each": [sum(name.startswith(f"{number}.") for name in seen.begun) for number in range(visitors)],
        "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0],
    }  # fmt: skip


def _spread(values: list[float]) -> list[float]:
    """Smallest, median and largest."""
    return [round(value, 2) for value in (min(values), statistics.median(values), max(values))] if values else []


def main() -> int:
    parser = argparse.ArgumentParser(description="Let many visitors use the app at once.")
    parser.add_argument("--visitors", type=int, default=20, choices=range(1, 2**_BITS), metavar="N")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=1, help="denoising steps of each edit")
    options, arguments = parser.parse_known_args()
    figures = load(options.visitors, options.minutes, options.steps, arguments)
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if figures["alive"] and not figures["failures"] and not figures["mixed_results"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
