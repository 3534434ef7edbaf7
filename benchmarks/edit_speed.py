"""Measures seconds and peak memory of an edit from the command line, from process start to the written file.

python -m benchmarks.edit_speed --runs 3

The clip is one of the repository's examples, enlarged to 1280x720, with its sound. Prints a line of JSON for each run.
Further options go to `python -m sama edit`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1] / "assets" / "examples" / "snowy-rabbit" / "source.mp4"
SIZE = (1280, 720)
FRAMES = 17


def time_edit(clip: Path, result: Path, arguments: list[str]) -> dict[str, float]:
    """Run one edit in a process of its own; returns `seconds` and `memory_gb`, the peak resident memory. Raises
    RuntimeError when it fails."""
    command = [sys.executable, "-m", "sama", "edit", str(clip), "Make it snowy", "-o", str(result)]
    command += ["--frames", str(FRAMES), *arguments]
    start = time.monotonic()
    process = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds = time.monotonic() - start
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError("the edit failed; its message is above")
    return {"seconds": round(seconds, 1), "memory_gb": round(usage.ru_maxrss * 1024 / 1e9, 2)}


def main() -> int:
    from sama.video import probe, read_clip, write_clip

    parser = argparse.ArgumentParser(description="Measure an edit of 17 frames of 1280x720.")
    parser.add_argument("--runs", type=int, default=3)
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "in.mp4"
        write_clip(clip, read_clip(EXAMPLE, size=SIZE), probe(EXAMPLE).fps, audio_from=EXAMPLE)
        for number in range(options.runs):
            result: dict[str, object] = dict(time_edit(clip, Path(folder) / f"out{number}.mp4", arguments))
            sys.stdout.write(json.dumps(result | {"cores": len(os.sched_getaffinity(0))}) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
