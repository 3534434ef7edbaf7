"""The one-pass view of the VAE gives the latents and clips of the library's own VAE, which works chunk by chunk.

The library's chunks of one and four frames pad explicitly; one frame in bfloat16 is where oneDNN's AMX kernel gave NaN.
"""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from tests.tiny import tiny_clip, tiny_vae
from training.data.whole_clip_vae import OnePassVAE

SHIPPED = Path(__file__).parents[2] / "assets" / "sama-tiny" / "vae"
LARGEST_ERROR = {torch.float32: 1e-4, torch.bfloat16: 4e-2}
"""Root mean square, relative to the library's result in float32. Rounding to bfloat16 alone is 4e-3 a layer."""


@pytest.fixture(scope="module", params=["tiny", "shipped"])
def library(request) -> AutoencoderKLWan:
    if request.param == "shipped":
        return AutoencoderKLWan.from_pretrained(SHIPPED, torch_dtype=torch.float32).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny_vae()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    assert found.isfinite().all() and expected.isfinite().all()
    assert expected.std() > 1e-2, "there is something to compare"
    return float((found.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("dtype", LARGEST_ERROR, ids=str)
@pytest.mark.parametrize("frames", [1, 5, 17])
@torch.no_grad()
def test_latents_and_clips_are_those_of_the_library(library, frames, dtype):
    seeds = range(2 if frames == 1 else 1)
    clips = torch.stack([tiny_clip(frames, 48, 64, seed) for seed in seeds]).permute(0, 4, 1, 2, 3) / 127.5 - 1
    expected = library.encode(clips).latent_dist.mode()
    decoded = library.decode(expected, return_dict=False)[0]
    one_pass = OnePassVAE(copy.deepcopy(library)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):  # as `training.data.encoders` runs it
        latents, again = one_pass.encode(clips)[0], one_pass.decode(expected).clamp(-1, 1)
    assert relative_error(latents, expected) < LARGEST_ERROR[dtype]
    assert relative_error(again, decoded) < LARGEST_ERROR[dtype]
    plain = copy.deepcopy(library).to(dtype)  # as the pipeline runs it
    assert relative_error(plain.encode(clips.to(dtype)).latent_dist.mode(), expected) < LARGEST_ERROR[dtype]
    assert relative_error(plain.decode(expected.to(dtype), return_dict=False)[0], decoded) < LARGEST_ERROR[dtype]
