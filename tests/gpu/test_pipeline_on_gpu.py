"""What a CUDA device must give: the CPU's results."""

import pytest
import torch

from tests.tiny import tiny_clip, tiny_pipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def edited(device: str) -> torch.Tensor:
    pipeline = tiny_pipeline().to(device)
    out = pipeline(
        video=tiny_clip(),
        prompt="make it snowy",
        num_inference_steps=3,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(0),  # drawn on the CPU, so that both start from one noise
        output_type="pt",
    )
    return out.frames.cpu()


def test_an_edit_is_the_same_on_cpu_and_gpu():
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    assert torch.allclose(edited("cpu"), edited("cuda"), atol=1e-3)


def test_same_seed_twice_on_the_gpu_is_the_same_edit():
    assert torch.equal(edited("cuda"), edited("cuda"))


@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_offload"])
def test_an_offloaded_pipeline_gives_the_same_edit(way):
    pipeline = tiny_pipeline(tower=False)
    options = {"onload_device": torch.device("cuda"), "offload_type": "leaf_level", "use_stream": True}
    getattr(pipeline, way)(**(options if way == "enable_group_offload" else {}))
    given = {"video": tiny_clip(), "prompt": "make it snowy", "num_inference_steps": 3, "guidance_scale": 2.0}
    frames = pipeline(**given, generator=torch.Generator().manual_seed(0), output_type="pt").frames
    torch.testing.assert_close(frames, edited("cuda"), atol=1e-3, rtol=0)
