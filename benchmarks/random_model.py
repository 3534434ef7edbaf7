"""Pipelines of random weights at the true sizes, for measuring speed and memory: nothing is downloaded.

Weights are drawn once, seeded, and kept in main memory; each pipeline that is made from them shares them until it is
placed, so that many ways of placing can be measured one after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from sama.pipeline import SamaPipeline

PARTS = ("transformer", "vae", "text_encoder")
UMT5_XXL = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "is_encoder_decoder": False,
}  # fmt: skip
"""Wan2.1's text encoder."""
_TIED = "encoder.embed_tokens.weight"  # to shared.weight
_TOY_TEXT = UMT5_XXL | {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
_TOY_TRANSFORMER = {
    "num_attention_heads": 2, "attention_head_dim": 24, "text_dim": 32, "ffn_dim": 64, "num_layers": 4,
    "semantic_dim": 32, "semantic_hidden_dim": 32,
}  # fmt: skip
_TOY_VAE = {"base_dim": 8}


@dataclass
class RandomModel:
    """Parts of a model: arguments, and the weights of each by name, in main memory.

    name: "14b", "1.3b" or "toy".
    """

    name: str
    arguments: Mapping[str, Mapping[str, Any]]
    weights: dict[str, dict[str, torch.Tensor]]

    @classmethod
    def draw(cls, name: str, device: str, parts: Sequence[str] = PARTS) -> RandomModel:
        """Draw the weights of these parts: on `device`, which is quicker, one at a time. The others stay empty."""
        import torch

        from sama.presets import transformer_config

        toy = name == "toy"
        arguments = {
            "transformer": _TOY_TRANSFORMER if toy else transformer_config(name),
            "vae": _TOY_VAE if toy else {},
            "text_encoder": _TOY_TEXT if toy else UMT5_XXL,
        }
        model = cls(name, arguments, {})
        random = torch.Generator(device).manual_seed(0)
        for part, module in model._modules().items():
            if part not in parts:
                continue
            kept = (module._keep_in_fp32_modules or ()) if part == "transformer" else ()
            model.weights[part] = {
                path: _drawn(path, weight, part == "vae" or any(one in path.split(".") for one in kept), device, random)
                for path, weight in module.named_parameters()
                if path != _TIED
            }
        return model

    def pipeline(self) -> SamaPipeline:
        """A pipeline in main memory that shares the weights. Its VAE computes in float32."""
        import torch
        from diffusers import FlowMatchEulerDiscreteScheduler

        from sama.pipeline import SamaPipeline

        parts = self._modules()
        for name, module in parts.items():
            for path, weight in self.weights.get(name, {}).items():
                owner, _, leaf = path.rpartition(".")
                setattr(module.get_submodule(owner), leaf, torch.nn.Parameter(weight, requires_grad=False))
        encoder = parts["text_encoder"]
        encoder.encoder.embed_tokens.weight = encoder.shared.weight
        pipeline = SamaPipeline(
            **parts, tokenizer=_tokenizer(), scheduler=FlowMatchEulerDiscreteScheduler(), max_sequence_length=512
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _modules(self) -> dict[str, Any]:
        """The parts without storage, but for their buffers."""
        import torch
        from accelerate import init_empty_weights
        from diffusers import AutoencoderKLWan
        from transformers import UMT5Config, UMT5EncoderModel

        from sama.model.transformer import SamaTransformer3DModel

        with torch.random.fork_rng(devices=[]), init_empty_weights():
            modules = {
                "transformer": SamaTransformer3DModel(**self.arguments["transformer"]),
                "vae": AutoencoderKLWan(**self.arguments["vae"]),
                "text_encoder": UMT5EncoderModel(UMT5Config(**self.arguments["text_encoder"])),
            }
        return {name: module.eval() for name, module in modules.items()}


def _drawn(path: str, weight: Any, exact: bool, device: str, random: torch.Generator) -> torch.Tensor:
    import torch

    values = torch.empty(weight.shape, device=device, dtype=torch.float32 if exact else torch.bfloat16)
    if path.endswith("scale_shift_table"):
        values.normal_(std=values.shape[-1] ** -0.5, generator=random)
    elif values.ndim == 5 or values.ndim == 4:  # convolutions that keep the size of what goes through
        values.normal_(std=(values[0].numel()) ** -0.5, generator=random)
    elif values.ndim > 1:
        values.normal_(std=0.02, generator=random)
    else:
        values.fill_(0.0 if path.endswith("bias") else 1.0)
    return values.cpu()


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
