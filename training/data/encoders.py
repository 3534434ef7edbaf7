"""The frozen parts: what turns clips, prompts and first frames into what the transformer is trained on."""

from __future__ import annotations

import copy
import hashlib
import inspect
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, SiglipVisionConfig, SiglipVisionModel
from transformers.utils.hub import cached_file

from sama import fingerprint
from sama.model.pretext import EDIT_PREFIX
from sama.model.semantics import anchor_tokens
from sama.pipeline import SamaPipeline
from sama.pipeline.conditioning import LatentStatistics, encode_clips, text_states, tokenise
from sama.pipeline.prompts import Spelling, model_prompt
from sama.presets import TINY_FOLDER, WAN_CANVAS, WAN_GUIDANCE, WAN_STEPS, WAN_TEXT_TOKENS, saved_settings
from training.core.precision import autocast
from training.data.whole_clip_vae import OnePassVAE
from training.errors import ConfigError

CLIPS_AT_ONCE = 4
"""Clips that the VAE encodes at a time, a group's last ones padded to it: one shape for each bucket. Kernels are tuned
(`cudnn.benchmark`) for every shape that a convolution meets, which takes seconds."""

TOWER_FOLDER = "semantic_tower"

_STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
_FORMATS = ("safetensors", "bin")


@dataclass(frozen=True)
class FrozenSizes:
    """The sizes that the frozen parts decide, read from their configurations alone.

    small: whether the text encoder is the embedded model's, with short prompts.
    settings: see `pipeline_settings`.
    assumed: parts that are not on this machine, whose sizes are those of Wan2.1 and SigLIP-so400m.
    """

    latent_channels: int
    text_dim: int
    semantic_dim: int
    small: bool
    settings: Mapping[str, Any]
    text_class: str
    assumed: tuple[str, ...] = ()

    @property
    def text_length(self) -> int:
        """Tokens of a prompt, padding included."""
        length: int = self.settings["max_sequence_length"]
        return length

    @property
    def spelling(self) -> Spelling:
        """Whether and where quoted texts are spelled, see `sama.pipeline.prompts.model_prompt`."""
        spelling: Spelling = self.settings["spell_quotes"]
        return spelling

    @classmethod
    def read(cls, base: str, tower: str, fetch: bool = True) -> FrozenSizes:
        """base, tower: see `Encoders`. fetch: get what is missing from the Hub; ConfigError if it is not there. Without
        it, sizes are assumed."""
        assumed = []

        def read(kind: Any, name: str, **options: Any) -> Any:
            try:
                return _found(kind, name, local_files_only=not fetch, **options)
            except ConfigError:
                if fetch:
                    raise
                assumed.append("/".join(filter(None, (name, options.get("subfolder")))))
                return None

        text = read(AutoConfig, base, subfolder="text_encoder")
        vision = read(SiglipVisionConfig, tower) if tower else read(SiglipVisionConfig, base, subfolder=TOWER_FOLDER)
        vae = read(_VaeConfig, base, subfolder="vae")
        name = "UMT5EncoderModel" if text is None else (text.architectures or ["UMT5EncoderModel"])[0]
        return cls(
            16 if vae is None else vae["z_dim"],
            4096 if text is None else text.hidden_size,
            1152 if vision is None else vision.hidden_size,
            name == "BertModel",
            pipeline_settings(base, name == "BertModel"),
            name,
            tuple(assumed),
        )


def pipeline_settings(base: str, small: bool) -> dict[str, Any]:
    """Arguments of `SamaPipeline`, beside its parts, for a model that is trained on the frozen parts of `base`.

    They are those that `base` was saved with. What it does not name, and everything where it is not a whole pipeline
    yet, is as in the embedded model (small) or as Wan2.1 was published. Raises ConfigError where they cannot be read.
    """
    usual: dict[str, Any] = {
        "max_sequence_length": WAN_TEXT_TOKENS,
        "spell_quotes": "",
        "default_steps": WAN_STEPS,
        "default_guidance": WAN_GUIDANCE,
        **WAN_CANVAS.settings(),
    }
    own: dict[str, Any] = {}
    try:
        if small:
            usual = saved_settings(TINY_FOLDER)
        if (Path(base) / "model_index.json").is_file():
            own = {"spell_quotes": ""} | saved_settings(base)  # older pipelines spelled nothing and did not say so
    except (OSError, ValueError) as error:
        raise ConfigError(f"the settings of the pipeline cannot be read: {error}") from error
    known = inspect.signature(SamaPipeline.__init__).parameters
    own = {name: value for name, value in own.items() if value is not None}
    return {name: value for name, value in (usual | own).items() if name in known}


class _VaeConfig:
    """The VAE's configuration by the name that the other parts' have."""

    @staticmethod
    def from_pretrained(name: str, **options: Any) -> dict[str, Any]:
        config: dict[str, Any] = AutoencoderKLWan.load_config(name, **options)
        return config


class Encoders:
    """VAE, text encoder with tokenizer, and semantic tower, on one device and without gradients.

    What a size depends on is known at once; text encoder and tower are loaded when they are first used, and may be
    released when everything is cached.
    """

    def __init__(self, base: str, tower: str, device: torch.device, precision: str) -> None:
        """base: folder or Hub name of a pipeline with `vae`, `text_encoder` and `tokenizer`. tower: folder or Hub name
        of a SigLIP vision tower; `base`/semantic_tower if empty. precision: see `TrainConfig`. Raises ConfigError
        naming what is not there."""
        self.base, self.device, self.precision = base, device, precision
        sizes = FrozenSizes.read(base, tower)
        self._tower_from: tuple[str, dict[str, str]] = (tower, {}) if tower else (base, {"subfolder": TOWER_FOLDER})
        self._text_class = getattr(transformers, sizes.text_class)
        self.latent_channels, self.text_dim = sizes.latent_channels, sizes.text_dim
        self.semantic_dim, self.text_length, self.small = sizes.semantic_dim, sizes.text_length, sizes.small
        self.spelling, self.settings = sizes.spelling, sizes.settings
        self.tokenizer = _found(AutoTokenizer, base, subfolder="tokenizer")
        # Autocast would round these weights anew for every clip; rounded once, they give the same latents, bit for bit.
        stored = torch.bfloat16 if precision == "bfloat16" else torch.float32
        vae = _found(AutoencoderKLWan, base, subfolder="vae", torch_dtype=torch.float32)
        self._statistics = LatentStatistics.of(vae, device)
        self._one_pass: OnePassVAE | None = None
        if vae.config["is_residual"]:
            self._one_pass = _frozen(OnePassVAE(copy.deepcopy(vae)).to(stored), device)
        self.vae: AutoencoderKLWan = _frozen(vae if self._one_pass is not None else vae.to(stored), device)
        """The VAE for decoding, and for encoding where there is no one-pass view."""
        self._fingerprints: dict[str, str] = {}

    @cached_property
    def text(self) -> transformers.PreTrainedModel:
        """The text encoder: the small one in float32, UMT5-XXL in the type of the run."""
        dtype = torch.float32 if self.small or self.precision == "float32" else torch.bfloat16
        options = {"add_pooling_layer": False} if self.small else {}
        return _frozen(
            _found(self._text_class, self.base, subfolder="text_encoder", dtype=dtype, **options), self.device
        )

    @cached_property
    def tower(self) -> SiglipVisionModel:
        """The semantic tower, float32."""
        name, place = self._tower_from
        return _frozen(_found(SiglipVisionModel, name, dtype=torch.float32, **place), self.device)

    @cached_property
    def bare_ids(self) -> Tensor:
        """Token ids (text_length,) of an instruction that was dropped: the task's prefix alone; see `tokenise`."""
        return self.token_ids([self.prompt("")])[0].long().to(self.device)

    def release(self) -> None:
        """Let go of text encoder and tower; they are loaded again if they are used again."""
        for name in ("text", "tower"):
            self.__dict__.pop(name, None)

    def prompt(self, text: str, prefix: str = EDIT_PREFIX) -> str:
        """The complete prompt that the model sees for an instruction or a caption."""
        return model_prompt(text, prefix, self.spelling)

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Complete prompts as token ids (N, text_length), int32 on the host; see `tokenise`."""
        return tokenise(self.tokenizer, prompts, self.text_length)

    @torch.no_grad()
    def latents(self, clips: Tensor) -> Tensor:
        """Clips (N, T, H, W, 3) uint8, T = 4k+1, as normalised latents (N, C, F, H/8, W/8), float32.

        N is any number, and a multiple of `CLIPS_AT_ONCE` where speed matters."""
        with autocast(self.precision, self.device):
            parts = clips.to(self.device).split(CLIPS_AT_ONCE)
            return torch.cat([encode_clips(self.vae, part, self._statistics, self._means) for part in parts])

    def _means(self, pixels: Tensor) -> Tensor:
        if self._one_pass is not None:
            return self._one_pass.encode(pixels)[0]
        means: Tensor = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        return means

    def text_states(self, prompts: Sequence[str]) -> Tensor:
        """Complete prompts, prefix included, as states (N, text_length, text_dim), padded rows zero."""
        return self.states_of(self.token_ids(prompts).to(self.device))

    @torch.no_grad()
    def states_of(self, token_ids: Tensor) -> Tensor:
        """States (N, L, text_dim) of token ids (N, L) on the device; see `sama.pipeline.conditioning`."""
        with autocast(self.precision, self.device):
            return text_states(self.text, self.tokenizer, token_ids)

    @torch.no_grad()
    def anchors(self, pictures: Tensor) -> Tensor:
        """First frames (N, 3, H, W) uint8 on the device as anchors (N, 65, semantic_dim), float32."""
        with autocast(self.precision, self.device):
            return anchor_tokens(self.tower, pictures.float() / 255).float()

    def fingerprint(self) -> str:
        """A hash of the weights in use and of how they are used, for the keys of caches. Reads the files and loads no
        model. Raises ConfigError naming the part whose weights are not there."""
        tower, options = self._tower_from
        parts = {"vae": (self.base, "vae"), "text": (self.base, "text_encoder"), "tower": (tower, *options.values())}
        for name, place in parts.items():
            if name not in self._fingerprints:
                self._fingerprints[name] = fingerprint.of_large_files(_weight_files(*place))
        everything = (self.precision, self.text_length, self.spelling, *sorted(self._fingerprints.items()))
        return hashlib.blake2b(repr(everything).encode(), digest_size=12).hexdigest()


def _frozen(module: Any, device: torch.device) -> Any:
    return module.to(device).eval().requires_grad_(False)


def _found(kind: Any, name: str, **options: Any) -> Any:
    """`kind.from_pretrained(name)`, or a ConfigError that says what is missing where."""
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        part = "/".join(filter(None, (name, options.get("subfolder"))))
        hint = "" if not Path(name).exists() else " (the folder is there, this part of it is not)"
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{part} cannot be loaded{hint}: set `base` and `tower` to what there is. {reason}"
        ) from error


def _weight_files(name: str, subfolder: str = "") -> list[Path]:
    """The files of a part's weights in a folder, or in the Hub's cache (fetched where they are missing)."""

    def find(file: str) -> Path | None:
        try:
            found = cached_file(name, file, subfolder=subfolder, _raise_exceptions_for_missing_entries=False)
        except OSError as error:
            raise ConfigError(f"{name}/{subfolder} cannot be read: {str(error).strip().splitlines()[0]}") from error
        return Path(found) if found else None

    for stem, kind in itertools.product(_STEMS, _FORMATS):
        if (single := find(f"{stem}.{kind}")) is not None:
            return [single]
        if (index := find(f"{stem}.{kind}.index.json")) is not None:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            return [shard for shard in map(find, shards) if shard is not None]
    raise ConfigError(f"{name}/{subfolder} has no weights: set `base` and `tower` to what there is")
