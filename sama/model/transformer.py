"""The SAMA transformer: Wan2.1's backbone over one sequence of source, semantic and target tokens.

        source latents      semantic anchors      target latents
        (clean, type 0)     (noisy, type 1)       (noisy, type 2)
              |                    |                     |
        patch embedding    semantic projector     patch embedding      + type embedding, once
              |                    |                     |
              +---------- one sequence, L blocks --------+             every token attends to every other
                                   |                     |
                            semantic head          output projection
                                   |                     |
                           semantic velocity       video velocity

Blocks, rotary frequencies, text and time embedders are diffusers'. What is ours stands here: the sequence, the type
embedding, the projector, the head, and where the anchors sit in the rotary tables. See the paper (arXiv 2603.19228),
sections 3.1 and 3.2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformer3DModel
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn

from sama.model.blocks import FusedGELU, SamaBlock, may_drop_queries, may_share
from sama.model.caches import SamaCacheMixin
from sama.shapes import NUM_SEMANTIC_TOKENS, SEMANTIC_GRID

SOURCE, SEMANTIC, TARGET = 0, 1, 2
SEMANTIC_POSITIONS = ("none", "grid")
SOURCE_POSITIONS = ("shared", "shifted")


class PatchGrid(NamedTuple):
    """Patches of a clip's latents along time, height and width."""

    frames: int
    height: int
    width: int


@dataclass
class SamaTransformerOutput(Transformer2DModelOutput):
    """Velocities (noise minus clean) of both streams.

    sample: (B, C, F, H, W), of the target latents.
    semantic: (B, 65, semantic_dim), of the semantic anchors, or None when none were given.
    """

    sample: Tensor
    semantic: Tensor | None = None


class SamaRotaryPosEmbed(WanRotaryPosEmbed):
    """Rotary tables of the whole sequence.

    Source and target share Wan's 3-D positions from (0, 0, 0), so that a target patch finds its source patch by
    position alone (`source_positions="shared"`); `"shifted"`, the alternative in the paper's ablation, puts the source
    behind the target in time, at frames F to 2F - 1. The anchors have either no position (`"none"`: zero factors, as
    the released checkpoint was trained; q and k become 0) or the place of their cell of the anchor frame's 8 x 8 grid
    (`"grid"`); the one global anchor, which belongs to no place, has zero factors in both.
    """

    def __init__(
        self,
        attention_head_dim: int,
        patch_size: tuple[int, ...],
        max_seq_len: int,
        positions: str,
        source_positions: str = "shared",
    ) -> None:
        super().__init__(attention_head_dim, patch_size, max_seq_len)
        self.positions, self.source_positions = positions, source_positions

    def forward(
        self, hidden_states: Tensor, num_semantic_tokens: int = 0, with_source: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Tables for target latents (B, C, F, H, W): cosines and sines, (1, tokens, 1, head_dim) each."""
        video = source = super().forward(hidden_states)
        if with_source and self.source_positions == "shifted":
            both = super().forward(torch.cat([hidden_states] * 2, dim=2))  # positions of 2F frames
            source = tuple(table[:, table.shape[1] // 2 :] for table in both)
        grid = patch_grid(hidden_states, self.patch_size)
        tables = []
        for part, table in enumerate(video):
            segments = [source[part]] if with_source else []
            if num_semantic_tokens:
                segments.append(self._semantic_table(part, grid, num_semantic_tokens, table))
            tables.append(torch.cat([*segments, table], dim=1))
        return tables[0], tables[1]

    def _semantic_table(self, part: int, grid: PatchGrid, count: int, like: Tensor) -> Tensor:
        table = like.new_zeros(1, count, 1, like.shape[-1])
        if self.positions == "grid":
            cells = torch.arange(SEMANTIC_GRID, device=like.device, dtype=torch.float32)
            rows = (cells + 0.5) * grid.height / SEMANTIC_GRID - 0.5  # centres of the cells, in patches
            columns = (cells + 0.5) * grid.width / SEMANTIC_GRID - 0.5
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            axes = ((self.t_dim, torch.zeros_like(y)), (self.h_dim, y), (self.w_dim, x))
            # The function takes tensors of fractional positions, whatever its annotation says.
            factors = [get_1d_rotary_pos_embed(d, position.flatten(), use_real=True)[part] for d, position in axes]
            table[0, : SEMANTIC_GRID**2, 0] = torch.cat(factors, dim=-1).to(like.dtype)
        return table


class SemanticProjector(nn.Module):
    """Anchor latents (B, N, semantic_dim) to tokens (B, N, dim): LayerNorm and a two-layer MLP."""

    def __init__(self, semantic_dim: int, hidden_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = FP32LayerNorm(semantic_dim, eps=1e-6)
        self.fc1 = nn.Linear(semantic_dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, semantic_hidden_states: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.norm(semantic_hidden_states))))


class SemanticHead(nn.Module):
    """Tokens of the last block (B, N, dim) to the anchors' velocity (B, N, semantic_dim). It reads them before the
    output norm, without modulation."""

    def __init__(self, dim: int, semantic_dim: int) -> None:
        super().__init__()
        self.norm = FP32LayerNorm(dim, eps=1e-6)
        self.proj = nn.Linear(dim, semantic_dim)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.normal_(self.proj.bias, std=1e-3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.proj(self.norm(tokens))


def patch_grid(latents: Tensor, patch_size: tuple[int, ...]) -> PatchGrid:
    """How many patches latents of (B, C, F, H, W) have along each axis."""
    return PatchGrid(*(side // patch for side, patch in zip(latents.shape[2:], patch_size, strict=True)))


class SamaTransformer3DModel(SamaCacheMixin, WanTransformer3DModel):
    """Wan's transformer with semantic anchors and an in-context source clip.

    Config beyond Wan's: `semantic_dim` (width of an anchor, 1152 for SigLIP-so400m), `semantic_hidden_dim`,
    `num_semantic_tokens` (8 x 8 local + 1 global of one anchor frame; 0 for a model that was trained without anchors),
    `semantic_positions` (`"none"` or `"grid"`) and `source_positions` (`"shared"` or `"shifted"`), for which see
    `SamaRotaryPosEmbed`. With shifted positions the type embedding stays as it was initialised, at zero.

    On a base Wan checkpoint the type embedding starts at zero, so that training begins at the base model.
    """

    # diffusers' context parallelism needs an even number of tokens; `sama.model.parallel` shares any number.
    _cp_plan = None
    _no_split_modules = ["WanTransformerBlock", "SamaBlock"]  # noqa: RUF012 - diffusers' interface
    _repeated_blocks = ["WanTransformerBlock", "SamaBlock"]  # noqa: RUF012 - diffusers' interface

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        semantic_dim: int = 1152,
        semantic_hidden_dim: int = 1024,
        num_semantic_tokens: int = NUM_SEMANTIC_TOKENS,
        semantic_positions: str = "none",
        source_positions: str = "shared",
    ) -> None:
        if semantic_positions not in SEMANTIC_POSITIONS:
            raise ValueError(f"semantic_positions must be one of {SEMANTIC_POSITIONS}, not {semantic_positions!r}")
        if source_positions not in SOURCE_POSITIONS:
            raise ValueError(f"source_positions must be one of {SOURCE_POSITIONS}, not {source_positions!r}")
        if semantic_positions == "grid" and num_semantic_tokens not in (0, NUM_SEMANTIC_TOKENS):
            raise ValueError(f'semantic_positions="grid" needs {NUM_SEMANTIC_TOKENS} tokens, not {num_semantic_tokens}')
        super().__init__(
            patch_size, num_attention_heads, attention_head_dim, in_channels, out_channels, text_dim, freq_dim,
            ffn_dim, num_layers, cross_attn_norm, qk_norm, eps, image_dim, added_kv_proj_dim, rope_max_seq_len,
            pos_embed_seq_len,
        )  # fmt: skip
        dim = num_attention_heads * attention_head_dim
        for block in (self.blocks[0], self.blocks[-1]):
            SamaBlock.take_over(block)
        for block in self.blocks:
            FusedGELU.take_over(block.ffn.net[0])
        self.rope = SamaRotaryPosEmbed(
            attention_head_dim, patch_size, rope_max_seq_len, semantic_positions, source_positions
        )
        self.segment_embedding = nn.Embedding(3, dim)
        nn.init.zeros_(self.segment_embedding.weight)
        self.segment_embedding.requires_grad_(source_positions == "shared")
        self.semantic_projector = SemanticProjector(semantic_dim, semantic_hidden_dim, dim)
        self.semantic_head = SemanticHead(dim, semantic_dim)
        # Both ends of the blocks, where `sama.model.parallel` splits the sequence and gathers it again.
        self.before_blocks, self.after_blocks = nn.Identity(), nn.Identity()

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path_or_dict: str | os.PathLike[str] | dict[str, Tensor],
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        torch_dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> SamaTransformer3DModel:
        """The model from one file of weights, as released or as ComfyUI has it, strictly: see
        `sama.checkpoints.load_transformer`.

        pretrained_model_link_or_path_or_dict: a file, a link to one on the Hub, or tensors by name.
        config: a preset's name, the model's arguments, or a folder with a `config.json`; None finds the preset by the
            shapes of the weights.
        kwargs: of the download, as in diffusers: token, cache_dir, revision, local_files_only, ...
        Raises CheckpointError for weights that do not fit.
        """
        from diffusers.loaders.single_file_utils import load_single_file_checkpoint

        from sama.checkpoints import load_transformer

        weights: Any = pretrained_model_link_or_path_or_dict
        if not isinstance(weights, dict):
            weights = load_single_file_checkpoint(os.fspath(weights), **kwargs)
        chosen: Any = config
        if isinstance(config, str | os.PathLike) and Path(config).is_dir():
            stored = cls.load_config(config)
            chosen = {name: value for name, value in stored.items() if not name.startswith("_")}
        return load_transformer(weights, chosen, torch_dtype, device)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        source_hidden_states: Tensor | None = None,
        semantic_hidden_states: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,  # noqa: ARG002 - read by the decorator
        attended: list[Tensor] | None = None,
    ) -> SamaTransformerOutput | tuple[Tensor, Tensor | None]:
        """One evaluation of the velocity field.

        hidden_states: noisy target latents, (B, C, F, H, W).
        timestep: (B,), 0 to 1000; every token is modulated by it, the clean source's too.
        encoder_hidden_states: text states, (B, T, text_dim), padded rows zero.
        source_hidden_states: clean source latents, (B, C, F, H, W), or None to generate without a source.
        semantic_hidden_states: noisy anchors, (B, N, semantic_dim), or None to run without a plan.
        attended: an empty list to be filled with what evaluations that differ in their text alone have in common, or
            one that the first of them filled.
        """
        if source_hidden_states is not None and source_hidden_states.shape != hidden_states.shape:
            raise ValueError(
                f"source latents {tuple(source_hidden_states.shape)} must have the shape of the target latents "
                f"{tuple(hidden_states.shape)}"
            )
        grid = patch_grid(hidden_states, self.config["patch_size"])
        num_video = grid.frames * grid.height * grid.width
        num_semantic = 0 if semantic_hidden_states is None else semantic_hidden_states.shape[1]

        # 1. Conditions: one modulation for all tokens, text for the cross-attention, positions
        temb, modulation, text, _ = self.condition_embedder(timestep, encoder_hidden_states)
        modulation = modulation.unflatten(1, (6, -1))  # (B, 6, D)
        rotary = self.rope(hidden_states, num_semantic, with_source=source_hidden_states is not None)

        # 2. One sequence of three segments, each marked once by its type
        segments = []
        if source_hidden_states is not None:
            segments.append(self._mark(self._embed_patches(source_hidden_states), SOURCE))
        if semantic_hidden_states is not None:
            segments.append(self._mark(self.semantic_projector(semantic_hidden_states), SEMANTIC))
        segments.append(self._mark(self._embed_patches(hidden_states), TARGET))
        tokens = torch.cat(segments, dim=1)  # (B, source + semantic + target, D)
        del segments  # a copy of all tokens, which would stay through the blocks

        # 3. The blocks
        tokens = self.before_blocks(tokens)
        savings = self._savings(attended, num_semantic + num_video if source_hidden_states is not None else None)
        for index, block in enumerate(self.blocks):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens, text, modulation, rotary)
            else:
                tokens = block(tokens, text, modulation, rotary, **savings.get(index, {}))
        tokens = self.after_blocks(tokens)

        # 4. Both heads
        semantic = None
        if semantic_hidden_states is not None:
            semantic = self.semantic_head(tokens[:, -num_video - num_semantic : -num_video])
        sample = self._to_latents(tokens[:, -num_video:], temb, grid)
        return SamaTransformerOutput(sample, semantic) if return_dict else (sample, semantic)

    def _savings(self, attended: list[Tensor] | None, kept: int | None) -> dict[int, dict[str, Any]]:
        """The work that the first and the last block may leave out, see `sama.model.blocks`; nothing in training."""
        last = len(self.blocks) - 1
        savings: dict[int, dict[str, Any]] = {0: {}, last: {}}
        if attended is not None and may_share(self.blocks[0]):
            savings[0]["attended"] = attended
        if kept is not None and may_drop_queries(self.blocks[last]):
            savings[last]["kept"] = kept
        return savings

    def _embed_patches(self, latents: Tensor) -> Tensor:
        return self.patch_embedding(latents).flatten(2).transpose(1, 2)  # (B, C, F, H, W) -> (B, patches, D)

    def _mark(self, tokens: Tensor, segment: int) -> Tensor:
        # Called as a module, because offload and low-precision storage hook the call.
        index = torch.full((1, 1), segment, dtype=torch.long, device=tokens.device)
        return tokens + self.segment_embedding(index).to(tokens.dtype)

    def _to_latents(self, tokens: Tensor, temb: Tensor, grid: PatchGrid) -> Tensor:
        shift, scale = (self.scale_shift_table.to(temb.device) + temb.unsqueeze(1)).to(tokens.device).chunk(2, dim=1)
        tokens = (self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens)
        patches = self.proj_out(tokens).unflatten(-1, (*self.config["patch_size"], -1)).unflatten(1, grid)
        # (B, f, h, w, p_t, p_h, p_w, C) -> (B, C, f p_t, h p_h, w p_w)
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
