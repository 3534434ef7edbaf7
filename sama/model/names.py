"""Names of the transformer's parameters: the official release's (DiffSynth's, which ComfyUI and most tools share), and
ours (diffusers' for the backbone). They map onto each other one to one."""

from __future__ import annotations

import re
from collections.abc import Mapping

PREFIXES = ("module.", "pipe.dit.", "model.diffusion_model.", "diffusion_model.")
"""Prefixes that trainers and ComfyUI put before the official names."""

# Module and parameter names outside the blocks: official to ours.
_TOP = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.modulation": "scale_shift_table",
    "head.head": "proj_out",
    "segment_embedding": "segment_embedding",
    "siglip_feat_mlp.norm": "semantic_projector.norm",
    "siglip_feat_mlp.fc1": "semantic_projector.fc1",
    "siglip_feat_mlp.fc2": "semantic_projector.fc2",
    "semantic_head.norm": "semantic_head.norm",
    "semantic_head.proj": "semantic_head.proj",
}
# The same inside `blocks.N`.
_BLOCK = {
    **{
        f"{official}.{theirs}": f"{ours}.{mine}"
        for official, ours in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for theirs, mine in (
            ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"), ("norm_q", "norm_q"), ("norm_k", "norm_k"),
        )
    },
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "norm3": "norm2",
    "modulation": "scale_shift_table",
}  # fmt: skip
# Module names as kohya's tools write them, with underscores for dots, to ours; both official and our own.
_FLAT_TOP = {name.replace(".", "_"): ours for official, ours in _TOP.items() for name in (official, ours)}
_FLAT_BLOCK = {name.replace(".", "_"): ours for official, ours in _BLOCK.items() for name in (official, ours)}
_TOP_BACK = {ours: official for official, ours in _TOP.items()}
_BLOCK_BACK = {ours: official for official, ours in _BLOCK.items()}


def from_official_name(name: str) -> str | None:
    """The name that a parameter or a module of the official release has in our model, or None for a foreign one."""
    return _translate(strip_prefixes(name), _TOP, _BLOCK)


def to_official_name(name: str) -> str | None:
    """The official name of one of our parameters or modules, or None for a foreign one."""
    return _translate(name, _TOP_BACK, _BLOCK_BACK)


def from_flat_name(name: str) -> str | None:
    """The name in our model of a module whose official (or our) name is written with underscores for dots, such as
    `blocks_0_self_attn_q`, or None for a foreign one."""
    found = re.fullmatch(r"blocks_(\d+)_(\w+)", name)
    if found is None:
        return _FLAT_TOP.get(name)
    inner = _FLAT_BLOCK.get(found[2])
    return None if inner is None else f"blocks.{found[1]}.{inner}"


def strip_prefixes(name: str, prefixes: tuple[str, ...] = PREFIXES) -> str:
    """A key without the prefixes that wrappers add, in whatever order they were added."""
    while True:
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if prefix is None:
            return name
        name = name.removeprefix(prefix)


def _translate(name: str, top: Mapping[str, str], block: Mapping[str, str]) -> str | None:
    head, table, rest = "", top, name
    if name.startswith("blocks."):
        _, index, *inner = name.split(".", 2)
        if not inner or not index.isdigit():
            return None
        head, table, rest = f"blocks.{index}.", block, inner[0]
    if rest in table:
        return head + table[rest]
    module, _, leaf = rest.rpartition(".")
    if module in table and leaf in ("weight", "bias"):
        return f"{head}{table[module]}.{leaf}"
    return None
