"""A complete pipeline of random weights, small enough to edit a clip in a fraction of a second."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, SiglipVisionConfig, SiglipVisionModel

from sama.model.transformer import SamaTransformer3DModel
from sama.pipeline import SamaPipeline

GOLDEN = Path(__file__).parent / "golden"
SEMANTIC_DIM = 32
TEXT_DIM = 32
WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] [ ] video edit complete the missing regions in restore to normal playback speed "
    "correct spatio - temporal order of segments . make it snowy add remove replace a with red green blue cat dog swan "
    'balloon subtitle " : | ; style background night day good'
)
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = dict.fromkeys([*WORDS.split(), *LETTERS, *(f"##{letter}" for letter in LETTERS)])
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def tiny_transformer(semantic_positions: str = "grid", **config) -> SamaTransformer3DModel:
    """Every weight is random and large, the type embedding's too, so that nothing is invisible to a test."""
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "text_dim": TEXT_DIM,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": 2,
        "semantic_dim": SEMANTIC_DIM,
        "semantic_hidden_dim": 32,
        "semantic_positions": semantic_positions,
    }
    model = SamaTransformer3DModel(**(settings | config)).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.segment_embedding.weight)
        for block in model.blocks:
            for parameter in block.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(3)
    return model


def tiny_vae() -> AutoencoderKLWan:
    """Its statistics suit its random weights, so that different clips have different normalised latents."""
    return AutoencoderKLWan(
        is_residual=True,
        patch_size=2,
        base_dim=8,
        dim_mult=[1, 2, 2],
        temperal_downsample=[True, True],
        num_res_blocks=1,
        z_dim=16,
        latents_mean=[0.01 * channel for channel in range(16)],
        latents_std=[0.1 + 0.002 * channel for channel in range(16)],
        in_channels=12,
        out_channels=12,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    ).eval()


def tiny_tower() -> SiglipVisionModel:
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=SEMANTIC_DIM,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
        )
    ).eval()


def tiny_pipeline(semantic_positions: str = "grid", tower: bool = True, seed: int = 0, **config) -> SamaPipeline:
    """The pipeline; the same weights for the same seed, the global generator untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        text_encoder = BertModel(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_DIM,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
            )
        ).eval()
        settings = {"max_sequence_length": 64, "spell_quotes": "first", "default_steps": 2, "default_guidance": 3.0}
        pipeline = SamaPipeline(
            transformer=tiny_transformer(semantic_positions),
            vae=tiny_vae(),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            semantic_tower=tiny_tower() if tower else None,
            **(settings | config),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_clip(frames: int = 5, height: int = 32, width: int = 48, seed: int = 0) -> torch.Tensor:
    """A clip (T, H, W, 3), uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (frames, height, width, 3), generator=generator, dtype=torch.uint8)


def golden_arguments() -> dict:
    """The arguments of the official tiny model in `tests/golden`."""
    described = json.loads((GOLDEN / "tiny.json").read_text())
    config = described["config"]
    return {
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": config["dim"] // config["num_heads"],
        "text_dim": config["text_dim"],
        "freq_dim": config["freq_dim"],
        "ffn_dim": config["ffn_dim"],
        "num_layers": config["num_layers"],
        "semantic_dim": described["siglip_dim"],
        "semantic_hidden_dim": described["siglip_hidden"],
    }


def golden_tensors() -> dict[str, torch.Tensor]:
    """Inputs and outputs of the official inference code for that model, float32 on a CPU: single forwards at
    `timestep`, and a loop of 4 Euler steps with guidance 5 and shift 5."""
    return load_file(GOLDEN / "tiny_io.safetensors")


class Copier:
    """The pipeline with its painting replaced: it decodes to the source, except for a box."""

    def __init__(self, pipe, box=None):
        self._pipe, self._box = pipe, box

    def __getattr__(self, name):
        return getattr(self._pipe, name)

    def encode_video(self, frames):
        latents = self._pipe.encode_video(frames)
        self._source, self._latents = frames, latents
        return latents

    def decode_latents(self, latents):
        out = self._source[:, : 1 + 4 * (latents.shape[2] - 1)].clone()
        if self._box is not None and latents is not self._latents:
            out[(slice(None), slice(None), *self._box)] = torch.tensor([1.0, 0.0, 0.0])
        return out


def held_pipeline(go_on: threading.Event, steps: int) -> SamaPipeline:
    """A pipeline that stops after every step until `go_on` is set, or for two minutes."""
    pipeline = tiny_pipeline(default_steps=steps)
    stream = pipeline.stream

    def held(*args, **kwargs):
        for item in stream(*args, **kwargs):
            yield item
            go_on.wait(120)

    pipeline.stream = held
    return pipeline
