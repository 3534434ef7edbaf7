"""The theme: neutral greys, one warm colour for what changes, the system's fonts."""

from __future__ import annotations

import gradio as gr

_FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "monospace")


def theme() -> gr.Theme:
    """The theme, light and dark. Words on any ground reach a contrast of 4.5, borders of fields 3."""
    base = gr.themes.Soft(
        primary_hue="orange", secondary_hue="orange", neutral_hue="zinc", font=_FONT, font_mono=_MONO,
        text_size=gr.themes.sizes.text_md, radius_size=gr.themes.sizes.radius_md,
    )  # fmt: skip
    title = {"background_fill": "transparent", "text_color": "*body_text_color", "padding": "0", "text_weight": "600"}
    both = {
        **{f"block_title_{name}": value for name, value in title.items()},
        "block_label_background_fill": "*background_fill_primary",
        "block_label_text_color": "*body_text_color",
        "block_shadow": "none",
        "button_primary_background_fill": "#f97316",
        "button_primary_background_fill_hover": "#fb8b3c",
        "button_primary_text_color": "#1c0f04",  # 7.6:1 on the orange
        "button_primary_shadow": "none",
    }
    dark = {f"{name}_dark": value for name, value in both.items() if not name.endswith(("weight", "padding"))}
    return base.set(
        **both,
        **dark,
        body_background_fill="#fafafa",
        body_background_fill_dark="#131316",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1c1c20",
        background_fill_secondary="#f1f1f3",
        background_fill_secondary_dark="#27272c",
        block_background_fill_dark="#1c1c20",
        body_text_color="#18181b",
        body_text_color_dark="#f4f4f5",
        body_text_color_subdued="#52525b",  # 7.4:1 on the ground
        body_text_color_subdued_dark="#b4b4bd",
        block_info_text_color="#52525b",
        block_info_text_color_dark="#b4b4bd",
        block_border_width="1px",
        border_color_primary="#dededf",
        border_color_primary_dark="#3a3a41",
        input_background_fill="#ffffff",
        input_background_fill_dark="#131316",
        input_border_width="1px",
        input_border_color="#85858f",  # 3.7:1 on white
        input_border_color_dark="#7b7b85",
        input_border_color_focus="#c2410c",
        input_border_color_focus_dark="#fb923c",
        input_placeholder_color="#62626b",
        input_placeholder_color_dark="#a1a1aa",
        color_accent="#c2410c",
        slider_color="#c2410c",
        slider_color_dark="#fb923c",
        link_text_color="#9a3412",
        link_text_color_dark="#fdba74",
    )
