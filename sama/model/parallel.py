"""Several processes share one sequence: Ulysses sequence parallelism (arXiv 2309.14509) for training and inference.

    the sequence's N tokens, the same on every process
          |
        split            process 0: n0 tokens     process 1: n1 tokens      any N; none is padded, masked or dropped
          |
       blocks            norms, linears and cross-attention on a process's own tokens
          |                  self-attention: all-to-all, all N tokens of some heads, all-to-all back
        gather
          |
    all N tokens, both heads, the loss: the same on every process

Inputs (latents, noise, timestep, text) must be the same on all processes of the group, and outputs are. The first
forward checks it.

Gradients. Every process computes the whole loss. The backward of the gather hands each process its own slice of the
gradient times the number of processes, so that from there on each holds that multiple of what its own tokens
contribute. The *average over all processes*, which DDP and FSDP take anyway, is then the gradient of one process: for
the blocks and what stands before them (contributions that are summed), and for what stands behind them (the same
gradient everywhere). With several groups, each with a batch of its own, it is the average over the groups, as always.

diffusers' context parallelism cannot serve here. Source, 65 anchors and target are an odd number of tokens: its plain
mode splits evenly only, its mode for uneven shapes has no backward. And its gradients are to be summed, which would
count the modules behind the gather once for every process.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sama.model.transformer import SamaTransformer3DModel


class SequenceParallel:
    """The changes that `sequence_parallel` made to a model; `remove`, or leaving it as a context manager, undoes
    them."""

    def __init__(self, processors: dict[WanAttention, WanAttnProcessor], hooks: list[RemovableHandle]) -> None:
        self._processors, self._hooks = processors, hooks

    def remove(self) -> None:
        """Leave the model as it was. A second call does nothing."""
        for attention, processor in self._processors.items():
            attention.set_processor(processor)
        for hook in self._hooks:
            hook.remove()
        self._processors, self._hooks = {}, []

    def __enter__(self) -> SequenceParallel:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def sequence_parallel(model: SamaTransformer3DModel, group: dist.ProcessGroup) -> SequenceParallel:
    """Let the processes of `group` share every sequence that `model` sees. Each of them calls it.

    Adapters, gradient checkpointing, compilation of the blocks, FSDP and DDP may come before it or after it; the
    attention backend stays as it is. A batch of any size will do.

    Raises ValueError: the attention heads cannot be shared evenly, or the model shares its sequences already.
    """
    size, heads = group.size(), model.config["num_attention_heads"]
    if heads % size:
        degrees = ", ".join(str(degree) for degree in range(1, heads + 1) if heads % degree == 0)
        raise ValueError(f"{size} processes cannot share {heads} attention heads evenly: use {degrees}.")
    processors = {block.attn1: block.attn1.processor for block in model.blocks}
    if any(isinstance(processor, UlyssesProcessor) for processor in processors.values()):
        raise ValueError("The model shares its sequences already: call `remove` on the first sharing.")
    if size == 1:
        return SequenceParallel({}, [])
    for attention, processor in processors.items():
        attention.set_processor(UlyssesProcessor(group, processor))
    sharing = _Sharing(group)
    hooks = [
        model.register_forward_pre_hook(sharing.check, with_kwargs=True),
        model.before_blocks.register_forward_hook(sharing.split),
        model.after_blocks.register_forward_hook(sharing.gather),
    ]
    return SequenceParallel(processors, hooks)


class UlyssesProcessor(WanAttnProcessor):
    """Wan's self-attention over a sequence of which each process holds a slice.

    The rotary tables are those of the whole sequence. Between the two exchanges the attention is an ordinary one over
    fewer heads, so that every backend of diffusers serves, with its own backward. Values and keys travel while keys
    and queries are computed.
    """

    def __init__(self, group: dist.ProcessGroup, replaced: WanAttnProcessor) -> None:
        super().__init__()
        self.group = group
        self._attention_backend = replaced._attention_backend

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Own tokens (B, n, D) to own tokens (B, n, D)."""
        if encoder_hidden_states is not None or attention_mask is not None or rotary_emb is None:
            raise ValueError("a shared sequence attends to itself, without a mask and with rotary tables")
        counts = tokens_per_process(rotary_emb[0].shape[1], self.group.size())
        own = [table[0, :, 0].split(counts)[self.group.rank()] for table in rotary_emb]  # (n, head_dim)

        def by_heads(part: Tensor) -> Tensor:
            return part.unflatten(2, (attn.heads, -1))

        def rotated(part: Tensor) -> Tensor:
            return apply_rotary_emb(by_heads(part), (own[0], own[1]), sequence_dim=1)

        value = attn.to_v(hidden_states)
        values = tokens_to_heads(by_heads(value), counts, self.group)
        # Norms may come out in float32 under autocast: the exchange carries the projections' own type.
        keys = tokens_to_heads(rotated(attn.norm_k(attn.to_k(hidden_states)).type_as(value)), counts, self.group)
        queries = tokens_to_heads(rotated(attn.norm_q(attn.to_q(hidden_states)).type_as(value)), counts, self.group)
        query, key, whole = (part.arrived().transpose(0, 1) for part in (queries, keys, values))  # (B, N, H / size, d)
        attended = dispatch_attention_fn(query, key, whole, backend=self._attention_backend).type_as(value)
        return attn.to_out[1](attn.to_out[0](heads_to_tokens(attended, counts, self.group).flatten(2)))


def tokens_per_process(total: int, size: int) -> list[int]:
    """How many of `total` tokens each of `size` processes holds: as even as can be, the first ones one more."""
    return [total // size + (rank < total % size) for rank in range(size)]


def tokens_to_heads(part: Tensor, counts: list[int], group: dist.ProcessGroup) -> Exchange:
    """Own tokens of all heads (B, n, H, d), on their way to all tokens of own heads (N, B, H / size, d)."""
    size = len(counts)
    sent = part.unflatten(2, (size, -1)).permute(2, 1, 0, 3, 4).flatten(0, 1)  # (size n, B, H / size, d)
    return Exchange(sent, [part.shape[1]] * size, counts, group)


def heads_to_tokens(part: Tensor, counts: list[int], group: dist.ProcessGroup) -> Tensor:
    """All tokens of own heads (B, N, H / size, d) to own tokens of all heads (B, n, H, d)."""
    size, own = len(counts), counts[group.rank()]
    received = Exchange(part.transpose(0, 1), counts, [own] * size, group).arrived()  # (size n, B, H / size, d)
    return received.unflatten(0, (size, own)).permute(2, 1, 0, 3, 4).flatten(2, 3)


class Exchange:
    """An all-to-all of rows that has begun; `arrived` waits for it, on a GPU without holding up the CPU.

    sent, received: how many rows go to each process, and come from it.
    """

    def __init__(self, rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> None:
        # The differentiable exchange has an autograd kernel only, which `torch.inference_mode` skips: CUDA then finds
        # none. It waits by itself, when its result is first used.
        self._differentiable = torch.is_grad_enabled()
        rows = rows.contiguous()
        if self._differentiable:
            self._rows = collectives.all_to_all_single_autograd(rows, received, sent, group)
        else:  # the operator itself: its wrapper would wait at once in compiled code
            self._rows = torch.ops._c10d_functional.all_to_all_single(rows, received, sent, group.group_name)

    def arrived(self) -> Tensor:
        """The received rows."""
        return self._rows if self._differentiable else torch.ops._c10d_functional.wait_tensor(self._rows)


class _Sharing:
    """The hooks on the model and at both ends of its blocks."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.total, self.checked = group, 0, False

    def check(self, model: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:  # noqa: ARG002
        """Processes with different batches or noise would compute a gradient of nothing, without any other sign."""
        if self.checked:
            return
        self.checked = True
        given = [value if isinstance(value, Tensor) else None for value in (*args, *inputs.values())]
        device = next(value.device for value in given if value is not None)
        marks = [0.0 if value is None else float(value.detach().double().abs().mean()) for value in given]
        own = torch.tensor(marks, device=device)
        everyone = [torch.empty_like(own) for _ in range(self.group.size())]
        dist.all_gather(everyone, own, group=self.group)
        if not all(torch.allclose(own, other, rtol=1e-4, equal_nan=True) for other in everyone):
            raise ValueError(
                "The processes that share a sequence were given different inputs: give all of them the same batch, "
                "noise and timesteps."
            )

    def split(self, module: nn.Module, inputs: tuple[Any, ...], tokens: Tensor) -> Tensor:  # noqa: ARG002
        counts = tokens_per_process(tokens.shape[1], self.group.size())
        self.total = tokens.shape[1]
        # A copy: a view would keep the whole sequence in memory until the backward pass.
        return tokens.split(counts, dim=1)[self.group.rank()].clone(memory_format=torch.contiguous_format)

    def gather(self, module: nn.Module, inputs: tuple[Any, ...], tokens: Tensor) -> Tensor:  # noqa: ARG002
        return _Gather.apply(tokens, tokens_per_process(self.total, self.group.size()), self.group)


class _Gather(torch.autograd.Function):
    """Own tokens (B, n, D) to all tokens (B, N, D). Backward: see the head of this file."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.counts, ctx.rank = counts, group.rank()
        # The transport wants equal shapes; the filling is cut off again.
        sent = F.pad(own, (0, 0, 0, counts[0] - own.shape[1])).contiguous()
        parts = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(parts, sent, group=group)
        return torch.cat([part[:, :count] for part, count in zip(parts, counts, strict=True)], dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.split(ctx.counts, dim=1)[ctx.rank] * len(ctx.counts), None, None
