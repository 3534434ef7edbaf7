"""Blocks that leave out what nobody reads, and a feed-forward layer in one kernel less.

Wan's block is three steps: self-attention, cross-attention to the text, feed-forward. Two facts about this model save
some of it without changing the result:

- Guidance evaluates the model on the same tokens at the same noise level with other texts. Until the first
  cross-attention the evaluations are the same: the first block's self-attention is computed once for all of them.
- Of the last block's output only anchors and target are read: its source tokens are attended to, but need no queries,
  no cross-attention and no feed-forward.

In every block, the first half of the feed-forward network is one product with its activation.
"""

from __future__ import annotations

import dataclasses

import torch
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.models.activations import GELU
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformerBlock
from torch import Tensor, nn

Rotary = tuple[Tensor, Tensor]


class SamaBlock(WanTransformerBlock):
    """Wan's block, with the same weights, names and result; see `forward` for what it can leave out."""

    @classmethod
    def take_over(cls, block: WanTransformerBlock) -> None:
        """Make a block of Wan's one of this class, with its weights."""
        block.__class__ = cls

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: Rotary,
        attended: list[Tensor] | None = None,
        kept: int | None = None,
    ) -> Tensor:
        """Tokens (B, N, D) to tokens (B, N, D), or of the last `kept` of them.

        attended: what self-attention made of the same tokens before; it is put there where the list is empty.
        """
        if attended is None and kept is None:
            result: Tensor = super().forward(hidden_states, encoder_hidden_states, temb, rotary_emb)
            return result
        modulation = (self.scale_shift_table + temb.float()).chunk(6, dim=1)
        if attended:
            tokens = attended[0]
        else:
            tokens = self._attend(hidden_states, modulation, rotary_emb, kept)
            if attended is not None:
                attended.append(tokens)
        return self._finish(tokens, encoder_hidden_states, modulation)

    def _attend(self, tokens: Tensor, modulation: tuple[Tensor, ...], rotary: Rotary, kept: int | None) -> Tensor:
        shift, scale, gate = modulation[:3]
        normed = (self.norm1(tokens.float()) * (1 + scale) + shift).type_as(tokens)
        if kept is None:
            out = self.attn1(normed, None, None, rotary)
        else:
            tokens, out = tokens[:, -kept:], self._queries_of_kept(normed, rotary, kept)
        return (tokens.float() + out * gate).type_as(tokens)

    def _queries_of_kept(self, normed: Tensor, rotary: Rotary, kept: int) -> Tensor:
        """Self-attention of the last tokens to all of them."""
        attn, tables = self.attn1, tuple(table[0, :, 0] for table in rotary)
        query = attn.norm_q(attn.to_q(normed[:, -kept:]))
        key, value = attn.norm_k(attn.to_k(normed)), attn.to_v(normed)
        query, key, value = (part.unflatten(2, (attn.heads, -1)) for part in (query, key, value))
        query = apply_rotary_emb(query, tuple(table[-kept:] for table in tables), sequence_dim=1)
        key = apply_rotary_emb(key, tables, sequence_dim=1)
        out = dispatch_attention_fn(query, key, value, backend=attn.processor._attention_backend)
        return attn.to_out[1](attn.to_out[0](out.flatten(2).type_as(query)))

    def _finish(self, tokens: Tensor, text: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        shift, scale, gate = modulation[3:]
        tokens = tokens + self.attn2(self.norm2(tokens.float()).type_as(tokens), text, None, None)
        normed = (self.norm3(tokens.float()) * (1 + scale) + shift).type_as(tokens)
        return (tokens.float() + self.ffn(normed).float() * gate).type_as(tokens)


class FusedGELU(GELU):
    """A linear layer and its GELU, as diffusers has them, in one kernel where there is one: on a GPU, in half
    precision, without gradients and adapters. The activation is then computed before the product is rounded."""

    @classmethod
    def take_over(cls, layer: nn.Module) -> None:
        """Make the first layer of a feed-forward network one of this class, with its weights."""
        if type(layer) is GELU and layer.approximate == "tanh":
            layer.__class__ = cls

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not self._fits(hidden_states):
            result: Tensor = super().forward(hidden_states)
            return result
        rows, layer = hidden_states.flatten(0, -2), self.proj
        out = torch._addmm_activation(layer.bias, rows, layer.weight.t(), use_gelu=True)
        return out.unflatten(0, hidden_states.shape[:-1])

    def _fits(self, x: Tensor) -> bool:
        layer = self.proj
        if torch.is_grad_enabled() or type(layer) is not nn.Linear or layer.bias is None:
            return False
        # Weights that are stored in another type or place are brought by hooks on the layer, which this passes by.
        there = layer.weight.is_cuda and layer.weight.dtype == layer.bias.dtype == x.dtype
        return there and x.dtype in (torch.bfloat16, torch.float16)


def may_share(block: torch.nn.Module) -> bool:
    """Whether evaluations may share a block's self-attention: nobody watches what goes in and comes out, as diffusers'
    caches do, and no gradient is wanted."""
    if not isinstance(block, SamaBlock) or torch.is_grad_enabled():
        return False
    return not _is_watched(block) and not _is_watched(block.attn1)


def may_drop_queries(block: torch.nn.Module) -> bool:
    """Whether a block may be asked for some of its tokens only: as `may_share`, and self-attention is Wan's own."""
    if not isinstance(block, SamaBlock) or not may_share(block):
        return False
    return type(block.attn1.processor) is WanAttnProcessor and not getattr(block.attn1, "fused_projections", False)


def _is_watched(module: torch.nn.Module) -> bool:
    return bool(getattr(getattr(module, "_diffusers_hook", None), "hooks", None))


# diffusers' caches ask for what they know of a block's class.
TransformerBlockRegistry.register(SamaBlock, dataclasses.replace(TransformerBlockRegistry.get(WanTransformerBlock)))
