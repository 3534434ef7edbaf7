"""The app as a server: it is started, watched by a monitor, and stopped without losing anything."""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ui.app import build_app, launch_options
from ui.jobs.jobs import Jobs
from ui.media.folders import sweep
from ui.media.limits import SWEEP_SECONDS
from ui.settings import Settings
from ui.web.calls import Calls
from ui.web.headers import Compression, SecurityHeaders
from ui.web.quiet import quiet_gradio
from ui.web.uploads import Uploads
from ui.web.visitors import Visitors

_LAST_WORDS = 1.0  # seconds in which a page gets the sentence about its job


def launch(settings: Settings) -> None:
    """Build the app and serve it until Ctrl-C or SIGTERM: the job at work is stopped within its step, its visitor is
    told, and no process is left behind."""
    _log_to_stderr()
    threading.Thread(target=_housekeeping, name="housekeeping", daemon=True).start()
    jobs, over = Jobs(settings), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    try:
        demo = build_app(settings, jobs)
        demo.launch(**launch_options(settings), app_kwargs=app_options(demo, jobs), prevent_thread_lock=True)
        over.wait()
    finally:
        jobs.close()
    time.sleep(_LAST_WORDS)
    demo.close()


def app_options(demo: gr.Blocks, jobs: Jobs) -> dict[str, Any]:
    """Arguments of the web server around the page: middleware that keeps strangers within limits, and `/healthz` for a
    monitor. It answers 200, or 503 while the app stops, with numbers as JSON and no word of any visitor's."""

    def health(_request: Request) -> JSONResponse:
        facts = jobs.health()
        return JSONResponse(facts, 503 if facts["status"] == "stopping" else 200)

    def statistics(_request: Request) -> JSONResponse:
        return JSONResponse({"functions": {}})  # gradio's API page asks for them, and calls their absence an error

    settings = jobs.settings
    middleware = [
        Middleware(Visitors, proxies=settings.trusted_proxies),
        Middleware(SecurityHeaders),
        Middleware(Compression),
        Middleware(Calls, blocks=demo, limits=settings.limits),
        Middleware(Uploads, limits=settings.limits),
    ]
    quiet_gradio()
    return {"routes": [Route("/healthz", health), Route("/monitoring/summary", statistics)], "middleware": middleware}


def _log_to_stderr() -> None:
    """How jobs went, and failures; no request, no file name and no prompt is logged."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("ui", "sama"):
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)


def _housekeeping() -> None:
    while True:
        sweep()
        time.sleep(SWEEP_SECONDS)
