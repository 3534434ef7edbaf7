"""Components of the page's own: a gr.HTML from three files of one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr


def component(base: Path, value: Any = None, **kwargs: Any) -> gr.HTML:
    """A component of the files `base`.html, .css and .js. kwargs: of gr.HTML; others are `props` of the script.

    A function, not a subclass: gradio writes a stub file beside the source of every subclass it meets.
    """
    return gr.HTML(
        value,
        html_template=base.with_suffix(".html").read_text("utf-8"),
        css_template=base.with_suffix(".css").read_text("utf-8"),
        js_on_load=base.with_suffix(".js").read_text("utf-8"),
        apply_default_css=False,
        **kwargs,
    )
