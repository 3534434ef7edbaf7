"""Two GPUs that share a sequence, or a picture, compute what one computes: the sequence with gradients, under no_grad
and under inference_mode."""

import pytest
import torch
import torch.distributed as dist

from sama.model import vae_parallel, vae_stripes
from sama.model.parallel import sequence_parallel
from tests.distributed.test_sequence_parallel import build_inputs, build_model, loss_of
from tests.tiny import tiny_vae

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
CONTEXTS = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "grad": torch.enable_grad}


def on(device, values):
    return {name: value.to(device) for name, value in values.items()}


def small_vae(device):
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    vae = tiny_vae().to(device)
    return vae, 2 * torch.rand(1, 3, 9, 48, 112, generator=torch.Generator().manual_seed(1)).to(device) - 1


def process(rank, folder):
    torch.cuda.set_device(rank)
    device = torch.device("cuda", rank)
    dist.init_process_group("nccl", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, device_id=device)
    model = build_model().to(device)
    sequence_parallel(model, dist.group.WORLD)
    found = {}
    for name, context in CONTEXTS.items():
        with context():
            out = model(**on(device, build_inputs()))
            found[name] = {"sample": out.sample.detach().cpu().clone(), "semantic": out.semantic.detach().cpu().clone()}
    loss_of(out).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad, dist.ReduceOp.AVG)
    found["gradients"] = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    vae, clip = small_vae(device)
    found["latents"] = vae_parallel.encode(vae, clip, dist.group.WORLD)
    found["pixels"] = vae_parallel.decode(vae, found["latents"], dist.group.WORLD).cpu()
    found["latents"] = found["latents"].cpu()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(process, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def of_one():
    # Training in this process may have asked for TF32, which two processes of their own do not have.
    torch.backends.cuda.matmul.allow_tf32 = False
    model = build_model().to("cuda")
    out = model(**on("cuda", build_inputs()))
    loss_of(out).backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return {"sample": out.sample.detach().cpu(), "semantic": out.semantic.detach().cpu(), "gradients": gradients}


@pytest.mark.parametrize("context", CONTEXTS)
def test_outputs_are_those_of_one_gpu(of_one, of_two, context):
    for stream in ("sample", "semantic"):
        assert of_one[stream].isfinite().all() and of_one[stream].abs().mean() > 0.1
        for found in of_two:
            torch.testing.assert_close(found[context][stream], of_one[stream], atol=2e-5, rtol=1e-4)


def test_a_picture_in_two_parts_is_that_of_one_gpu(of_two):
    vae, clip = small_vae("cuda")
    with torch.no_grad():
        latents = vae_stripes.encode(vae, clip)
        pixels = vae_stripes.decode(vae, latents)
    for found in of_two:
        for name, expected in (("latents", latents), ("pixels", pixels)):
            assert expected.isfinite().all() and expected.std() > 1e-3
            torch.testing.assert_close(found[name], expected.cpu(), atol=2e-5, rtol=1e-4)


def test_gradients_are_those_of_one_gpu(of_one, of_two):
    expected = of_one["gradients"]
    assert len(expected) > 20
    for found in of_two:
        assert found["gradients"].keys() == expected.keys()
        for name, value in expected.items():
            assert value.isfinite().all()
            torch.testing.assert_close(found["gradients"][name], value, atol=2e-5, rtol=1e-3, msg=name)
