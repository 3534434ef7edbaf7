"""The page: three tabs, one theme, and the functions of the API."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr

from ui import text
from ui.api import add_api
from ui.jobs.jobs import Jobs
from ui.media.clips import PageClip, source_clip
from ui.media.folders import keep, leave
from ui.media.limits import CACHE_SECONDS, KEEP_SECONDS, MAX_FILE_SIZE, SWEEP_SECONDS, limits_table
from ui.media.runs import FinishedEdit
from ui.media.towers import PlanReader
from ui.page.header import header
from ui.page.theme import theme
from ui.repair import words
from ui.repair.session import RepairSession
from ui.repair.shipped import load_shipped
from ui.settings import Settings
from ui.stage import STYLES
from ui.tabs.controls import PageState
from ui.tabs.edit import EditTab
from ui.tabs.examples import load_examples
from ui.tabs.plan import PlanTab
from ui.tabs.repair import RepairTab

_EVENTS = 200  # that gradio may hold; jobs wait in the line of `Jobs`, and each visitor's requests are counted


def build_app(settings: Settings, jobs: Jobs | None = None) -> gr.Blocks:
    """The app, ready to launch with `launch_options(settings)`. Loads no weights, except on ZeroGPU.

    jobs: the app's, made here if None.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    jobs = jobs or Jobs(settings)
    examples = load_examples(settings.examples)
    with gr.Blocks(
        title=f"{text.TITLE}: {text.TAGLINE}", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, CACHE_SECONDS)
    ) as demo:
        header(settings, elem_id="header")
        session = PageState(
            clip=gr.State(source_clip(examples[0]) if examples else None),
            runs=gr.State([]),
            where=gr.State(None),
        )
        with gr.Tabs():
            with gr.Tab("Edit"):
                edit = EditTab(jobs, examples, session)
            with gr.Tab(words.TAB) as tab:
                repair = RepairTab(tab, jobs, examples, load_shipped(settings.examples), session)
            with gr.Tab("Plan") as plan:
                PlanTab(plan, examples, session, PlanReader(settings.vision_tower))
        edit.wire_load(demo)
        with gr.Accordion("Limits and privacy", open=False):
            gr.Markdown(limits_table(settings.info.max_frames))
        gr.HTML(f'<p class="privacy">{text.PRIVACY}</p>')
        add_api(jobs)
        gr.Timer(KEEP_SECONDS).tick(
            _keep,
            [session.clip, session.runs, edit.mask, repair.state],
            None,
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
        demo.unload(_leave)
    demo.queue(api_open=False, max_size=_EVENTS, default_concurrency_limit=4)
    jobs.start()
    return demo


def launch_options(settings: Settings) -> dict[str, Any]:
    """Arguments of `Blocks.launch`. Monitoring, run history and error details are off."""
    return {
        "server_name": settings.address,
        "server_port": settings.port,
        "share": settings.share,
        "max_file_size": MAX_FILE_SIZE,
        "show_error": False,
        "enable_monitoring": False,
        "mcp_server": find_spec("mcp") is not None,
        "run_history": False,
        "allowed_paths": [str(settings.examples)] if settings.examples.is_dir() else [],
        "footer_links": ["api"],
        "pwa": False,
        "ssr_mode": False,
        "theme": theme(),
        "css_paths": [Path(__file__).with_name("app.css"), STYLES, Path(__file__).with_name("repair") / "page.css"],
    }


def _keep(
    clip: PageClip | None,
    runs: list[FinishedEdit],
    mask: Path | None = None,
    repairs: RepairSession | None = None,
) -> None:
    """Mark the clip, mask, runs and repairs of an open page as in use, so that they are not removed."""
    keep(
        [clip.path if clip else None, mask, *(edit.folder for edit in runs), *(repairs.folders if repairs else [])],
        shown=True,
    )


def _leave(request: gr.Request) -> None:
    """A page was closed."""
    if request.session_hash:
        leave(request.session_hash)
