"""The feed-forward layer in one kernel gives what two give, and streamed weights reach it."""

import pytest
import torch
from diffusers.models.activations import GELU

from sama.device.memory import MemoryMode
from sama.device.placement import compile_blocks, put
from sama.model.blocks import FusedGELU
from tests.tiny import tiny_clip, tiny_pipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def fused_calls(profile):
    return sum(event.count for event in profile.key_averages() if event.key == "aten::_addmm_activation")


def test_one_kernel_gives_what_two_give():
    torch.manual_seed(0)
    layer = GELU(256, 512, approximate="tanh").to("cuda", torch.bfloat16)
    x = torch.randn(2, 33, 256, device="cuda", dtype=torch.bfloat16)
    exact = torch.nn.functional.gelu(x.double() @ layer.proj.weight.double().t() + layer.proj.bias, approximate="tanh")
    with torch.no_grad():
        plain = layer(x)
        FusedGELU.take_over(layer)
        fused = layer(x)
    assert not torch.equal(plain, fused)  # other kernels
    error, usual = ((out.double() - exact).norm() / exact.norm() for out in (fused, plain))
    assert error < 1.05 * usual < 1e-2
    layer(x).sum().backward()
    assert layer.proj.weight.grad.isfinite().all() and layer.proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("mode", "expected"), [("resident", True), ("streamed", True), ("float8", False)])
def test_it_is_used_where_the_weights_are_at_hand(mode, expected, compiled):
    if compiled and mode == "float8":
        pytest.skip("blocks of this mode are not compiled")
    pipeline = tiny_pipeline(tower=False)
    pipeline.transformer.to(torch.bfloat16)
    put(pipeline, "cuda", MemoryMode(mode))
    if compiled:
        compile_blocks(pipeline)
    given = {"video": tiny_clip(), "prompt": "a", "output_type": "pt", "num_inference_steps": 1}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        frames = pipeline(**given, generator=torch.Generator().manual_seed(0)).frames
    assert frames.isfinite().all() and frames.std() > 0.05
    assert (fused_calls(profile) > 0) == expected
