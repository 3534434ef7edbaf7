"""The plan view: questions to a run's plan, answered over its pictures. Everything after loading is in the browser."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from ui import plan_text, text

if TYPE_CHECKING:
    from sama.model.named import Named
    from ui.media.plan import PlanFacts
    from ui.media.runs import FinishedEdit

_HERE = Path(__file__).parent
_LONGEST = 960  # pixels of the large picture


def plan_view(**kwargs: Any) -> gr.HTML:
    """A plan view; its value is `plan_value(edit, facts)`, or {"message": words}, or None for an invitation."""
    return gr.HTML(
        None,
        html_template=(_HERE / "plan.html").read_text("utf-8"),
        css_template=(_HERE / "plan.css").read_text("utf-8"),
        js_on_load=(_HERE / "plan.js").read_text("utf-8"),
        apply_default_css=False,
        empty=text.EMPTY_PLAN,
        questions=text.PLAN_QUESTIONS,
        **kwargs,
    )


def plan_value(edit: FinishedEdit, facts: PlanFacts) -> dict[str, Any]:
    """The view's value for a finished edit: its pictures, distances and names, and cosines of all pairs of cells as
    bytes (12 KB a step)."""
    from sama.video import FrameReader

    tokens = facts.tokens

    def first(video: Path, start: int = 0) -> str:
        with FrameReader(video, start, 1) as frames:
            return picture_url(next(iter(frames)).image, longest=_LONGEST)

    height, width = tokens.anchor_result.shape[:2]
    return {
        "steps": len(facts.planned),
        "title": edit.instruction,
        "aspect": round(width / height, 4),
        "limit": round(facts.limit, 4),
        "planned": _rounded(facts.planned),
        "done": _rounded(facts.done),
        "missed": _rounded(facts.missed),
        "settled": _rounded(facts.settled),
        "followed": _rounded(facts.followed),
        "whole": _rounded(facts.whole),
        "colours": _base64(_colours(facts)),
        "cosines": _base64(((facts.cosines().clip(-1, 1) + 1) * 127).round().astype(np.uint8)),
        "pictures": {
            "source": first(edit.source, edit.start),
            "painted": picture_url(tokens.anchor_result),
            "got": first(edit.result),
            "steps": [_jpeg_url(picture) for picture in tokens.pictures],
        },
        "names": None if facts.named is None else _names(facts.named),
        "told": plan_text.told(facts),
        "origin": plan_text.origin(facts, edit.frames, int(edit.settings.get("windows", 1))),
        "place": plan_text.likeness_note(tokens.ordered),
    }


def picture_url(image: np.ndarray, quality: int = 85, longest: int = 65_500) -> str:
    """A picture (H, W, 3) uint8 as a JPEG data URL; its longer side is at most `longest` pixels."""
    from ui.media.tokens import small_jpeg

    return _jpeg_url(small_jpeg(image, longest, quality))


def _jpeg_url(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def _colours(facts: PlanFacts) -> np.ndarray:
    """RGB bytes (2 + steps, 64, 3) of source, result and every step's plan, by one basis.

    Lengths do not count, and source, result and the last plan have the same weight: ten nearly equal steps would
    otherwise decide the colours, and the source would be one colour. The range holds every token, so that none is
    saturated.
    """
    import torch

    from sama.model.semantics import fit_pca, pca_colours
    from ui.media.plan import as_tensor

    tokens = facts.tokens
    assert tokens.source is not None and tokens.result is not None  # facts are of complete records
    local = torch.stack([as_tensor(part)[:64] for part in (tokens.source, tokens.result, *tokens.plan)])
    unit = torch.nn.functional.normalize(local, dim=-1)
    basis = fit_pca(torch.stack([unit[0], unit[1], unit[-1]]))
    spread = ((unit - basis.mean) @ basis.components).flatten(0, 1)
    basis = basis._replace(low=spread.amin(dim=0), high=spread.amax(dim=0))
    return (pca_colours(unit, basis) * 255).round().byte().numpy()


def _names(named: Named) -> dict[str, Any]:
    return {
        "words": list(named.words),
        "indices": _base64(named.indices[..., 0].astype("<u2")),
        "scores": _base64((named.scores[..., 0].clip(0, 1) * 100).round().astype(np.uint8)),
        "sure": _base64(named.sure.astype(np.uint8)),
        "note": named.note,
    }


def _rounded(values: np.ndarray) -> list[Any]:
    return np.round(values.astype(float), 3).tolist()


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
