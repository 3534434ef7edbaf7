"""SAMA: instruction-guided video editing that plans with semantic anchors.

The names below are loaded on first use, so that ``import sama`` costs nothing: no torch, no device, no disk.

    from sama import SamaPipeline
    pipe = SamaPipeline.from_pretrained("assets/sama-tiny")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from sama.edit import EditRequest, EditResult, edit_video
    from sama.model.transformer import SamaTransformer3DModel
    from sama.pipeline import SamaPipeline

__version__ = "0.1.0"

# diffusers looks up `ModelMixin` in the module that a saved pipeline names for its custom components.
_HOMES = {
    "EditRequest": "sama.edit",
    "EditResult": "sama.edit",
    "ModelMixin": "diffusers",
    "SamaPipeline": "sama.pipeline",
    "SamaTransformer3DModel": "sama.model.transformer",
    "edit_video": "sama.edit",
}

__all__ = ["EditRequest", "EditResult", "ModelMixin", "SamaPipeline", "SamaTransformer3DModel", "edit_video"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sama' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
