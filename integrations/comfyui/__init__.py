"""SAMA's nodes for ComfyUI: put or link this folder into `custom_nodes`, see README.md.

ComfyUI that has the V3 schema (`comfy_api.latest`) gets V3 nodes, an older one classic nodes: the same names, inputs
and outputs, made from the same descriptions.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from .nodes import NODES
from .schemas import classic_node, v3_node


def _has_v3() -> bool:
    try:
        return find_spec("comfy_api.latest") is not None
    except ModuleNotFoundError:
        return False


NODE_CLASS_MAPPINGS: dict[str, type] = {node.id: (v3_node if _has_v3() else classic_node)(node) for node in NODES}
NODE_DISPLAY_NAME_MAPPINGS = {node.id: node.title for node in NODES}


async def comfy_entrypoint() -> Any:
    """The extension, for programs that ask for V3 nodes."""
    from comfy_api.latest import ComfyExtension

    class SamaExtension(ComfyExtension):
        async def get_node_list(self) -> list[type]:
            return [v3_node(node) for node in NODES]

    return SamaExtension()


__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "comfy_entrypoint"]
