"""The plan view: anchor tokens as colours and similarities. Clicks are handled in the browser."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from ui import text

if TYPE_CHECKING:
    from torch import Tensor

    from ui.media.tokens import Tokens

_HERE = Path(__file__).parent


def plan_view(**kwargs: Any) -> gr.HTML:
    """A plan view; its value is `plan_value(tokens)`, or {"message": words}, or None for an invitation."""
    return gr.HTML(
        None,
        html_template=(_HERE / "plan.html").read_text("utf-8"),
        css_template=(_HERE / "plan.css").read_text("utf-8"),
        js_on_load=(_HERE / "plan.js").read_text("utf-8"),
        apply_default_css=False,
        empty=text.EMPTY_ANCHORS,
        **kwargs,
    )


def plan_value(tokens: Tokens) -> dict[str, Any]:
    """The view's value for a run's tokens: an RGB colour a token, and cosine similarities as bytes (12 KB a step).

    All colours share one PCA basis. Tokens without a position are placed by matching the last step's plan with the
    result's tokens; the same placement is used at every step.

    """
    import torch

    from sama.model.semantics import cosines, fit_pca, match_to_grid, pca_colours, split_tokens

    plan, source, result = (torch.from_numpy(a.astype(np.float32)) for a in (tokens.plan, tokens.source, tokens.result))
    basis = fit_pca(torch.cat([source, result, plan.flatten(0, 1)]))
    (plan_local, plan_global), (source_local, _), (result_local, result_global) = map(
        split_tokens, (plan, source, result)
    )
    if not tokens.ordered:
        plan_local = plan_local[:, match_to_grid(plan_local[-1], result_local)]
    colours = torch.stack([pca_colours(part, basis) for part in (source_local, result_local, *plan_local)])
    pairs = [(source_local, source_local), (source_local, result_local), (result_local, result_local)]
    for step in plan_local:
        pairs += [(step, step), (source_local, step), (step, result_local)]
    blocks = [_as_bytes(cosines(*pair)) for pair in pairs]
    globals_ = torch.nn.functional.cosine_similarity(plan_global, result_global.unsqueeze(0), dim=-1)
    height, width = tokens.anchor_result.shape[:2]
    return {
        "steps": len(plan),
        "aspect": round(width / height, 4),
        "colours": _base64((colours * 255).round().byte().numpy()),
        "cosines": _base64(torch.stack(blocks).numpy()),
        "globals": [round(value, 4) for value in globals_.tolist()],
        "pictures": [picture_url(tokens.anchor_source), picture_url(tokens.anchor_result)],
        "note": text.ORDERED if tokens.ordered else text.UNORDERED,
        "planWords": "what the model means to paint",
    }


def picture_url(image: np.ndarray, quality: int = 85) -> str:
    """A picture (H, W, 3) uint8 as a JPEG data URL."""
    import cv2

    ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"a picture of shape {image.shape} cannot be encoded")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _as_bytes(cosine: Tensor) -> Tensor:
    """Cosines as bytes: 0 is -1, 127 is 0, 254 is 1."""
    return ((cosine.clamp(-1, 1) + 1) * 127).round().byte()


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
