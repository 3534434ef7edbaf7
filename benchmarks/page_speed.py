"""Measures how long the page takes: from process start to the first answer, and from there to a visible finished edit.

python -m benchmarks.page_speed --runs 3

Starts `app.py` in a process of its own and opens the page in the system's Chromium, driven by playwright (both are
needed: `make test` installs them). Prints a line of JSON for each run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

APP = Path(__file__).resolve().parents[1] / "app.py"
SHOWN = """() => {
    const video = document.querySelector('#viewer video');
    return video !== null && video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA && video.videoWidth > 0;
}"""
"""True once the viewer has a frame of a finished edit to show."""
LIMIT = 300.0
"""Seconds after which a run is given up."""


def free_port() -> int:
    """A free port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for_answer(url: str, app: subprocess.Popen[bytes]) -> None:
    """Wait until the address answers. Raises RuntimeError when the app ends or takes too long."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and app.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError("app.py did not answer: run it by itself to see why")


def time_page(chromium: str, arguments: list[str]) -> dict[str, float]:
    """Measure one start; returns seconds: `answers` from process start, `shows` from the first answer."""
    from playwright.sync_api import sync_playwright

    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        start = time.monotonic()
        command = [sys.executable, str(APP), "--host", "127.0.0.1", "--port", str(port), *arguments]
        app = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_answer(url, app)
            answered = time.monotonic()
            page.goto(url, wait_until="commit")
            page.wait_for_function(SHOWN, timeout=LIMIT * 1000)
            shown = time.monotonic()
        finally:
            app.terminate()
            app.wait()
            browser.close()
    return {"answers": round(answered - start, 2), "shows": round(shown - answered, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how long the page takes to open.")
    parser.add_argument("--runs", type=int, default=3)
    options, arguments = parser.parse_known_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        parser.error("no Chromium found: install the Debian package 'chromium'")
    for _ in range(options.runs):
        result: dict[str, object] = dict(time_page(chromium, arguments))
        sys.stdout.write(json.dumps(result | {"cores": len(os.sched_getaffinity(0))}) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
