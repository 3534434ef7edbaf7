"""The transformers of the variants: what the editor's own class does not offer, because no released model needs it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor

from sama.model.transformer import SamaRotaryPosEmbed, SamaTransformer3DModel, SamaTransformerOutput
from training.config import TrainConfig
from training.evaluation.ablation.plan import Variant
from training.stages.model import Sizes, build_transformer, model_arguments


class AnchorlessTransformer(SamaTransformer3DModel):
    """A model without a plan. A pipeline denoises 65 anchors with the video; this one overlooks them and gives them no
    velocity, so that it can be sampled by the same pipeline."""

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        source_hidden_states: Tensor | None = None,
        semantic_hidden_states: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> SamaTransformerOutput | tuple[Tensor, Tensor | None]:
        """As the parent's; `semantic` is zero where anchors were given."""
        sample, _ = super().forward(
            hidden_states, timestep, encoder_hidden_states, source_hidden_states, None, False, attention_kwargs
        )
        semantic = None if semantic_hidden_states is None else torch.zeros_like(semantic_hidden_states)
        return SamaTransformerOutput(sample, semantic) if return_dict else (sample, semantic)


class ShiftedRotaryPosEmbed(SamaRotaryPosEmbed):
    """The source's positions follow the target's in time: frames F to 2F - 1 where the target has 0 to F - 1."""

    def forward(
        self, hidden_states: Tensor, num_semantic_tokens: int = 0, with_source: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As the parent's: source, anchors, target."""
        tables = super().forward(hidden_states, num_semantic_tokens, with_source)
        if not with_source:
            return tables
        batch, channels, frames, height, width = hidden_states.shape
        longer = WanRotaryPosEmbed.forward(self, hidden_states.new_empty(batch, channels, 2 * frames, height, width))
        shifted = []
        for table, long in zip(tables, longer, strict=True):
            count = long.shape[1] // 2
            shifted.append(torch.cat([long[:, count:], table[:, count:]], dim=1))
        return shifted[0], shifted[1]


class ShiftedTransformer(SamaTransformer3DModel):
    """Source and target told apart by shifted positions, without the type embedding (paper, section 3.1)."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        rope = self.rope
        self.rope = ShiftedRotaryPosEmbed(
            rope.attention_head_dim, rope.patch_size, rope.max_seq_len, self.config["semantic_positions"]
        )
        self.segment_embedding.requires_grad_(False)

    def _mark(self, tokens: Tensor, segment: int) -> Tensor:  # noqa: ARG002 - nothing is marked
        return tokens


def build_variant(config: TrainConfig, sizes: Sizes, variant: Variant) -> SamaTransformer3DModel:
    """The variant's transformer. Those of one seed begin with the same weights."""
    plain = build_transformer(config, sizes)
    kind = SamaTransformer3DModel
    if variant.told_apart == "shifted":
        kind = ShiftedTransformer
    elif not variant.anchors:
        kind = AnchorlessTransformer
    if kind is SamaTransformer3DModel:
        return plain
    model = kind(**model_arguments(config, sizes))
    model.load_state_dict(plain.state_dict())
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        own.requires_grad_(own.requires_grad and other.requires_grad)
    return model.train()
