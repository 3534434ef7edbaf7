"""A complete pipeline of random weights, small enough to edit a clip in a fraction of a second."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, SiglipVisionConfig, SiglipVisionModel

from sama.pipeline import SamaPipeline
from sama.transformer import SamaTransformer3DModel

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
    """Every parameter is random, the type embedding too, so that nothing is invisible to a test."""
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
    torch.nn.init.normal_(model.segment_embedding.weight)
    return model


def tiny_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        is_residual=True,
        patch_size=2,
        base_dim=8,
        dim_mult=[1, 2, 2],
        temperal_downsample=[True, True],
        num_res_blocks=1,
        z_dim=16,
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
        settings = {"max_sequence_length": 64, "spell_quotes": True, "default_steps": 2, "default_guidance": 3.0}
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
