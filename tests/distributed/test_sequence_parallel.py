"""Processes that share a sequence compute what one process computes: outputs, loss and every gradient."""

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from sama.model.parallel import sequence_parallel, tokens_per_process
from tests.distributed.processes import CONTEXT
from tests.tiny import SEMANTIC_DIM, TEXT_DIM, tiny_transformer

pytestmark = pytest.mark.distributed
ADAPTER = {"r": 4, "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]}

# What each pair of processes computes; tokens = segments of 12 patches, 9 where odd, and the 65 anchors.
CASES = {
    "everything": {},  # 12 + 65 + 12 = 89 tokens
    "two_samples": {"samples": 2},
    "without_source": {"source": False},  # 77
    "without_anchors": {"semantic": False},  # 24
    "target_alone": {"source": False, "semantic": False, "shape": (3, 2, 6)},  # 9
    "checkpointing": {"checkpointing": True, "samples": 2},
    "adapter_before": {"adapter": "before"},
    "adapter_after": {"adapter": "after", "checkpointing": True},
    "autocast": {"autocast": True, "checkpointing": True},
}


def build_model(adapter=False, checkpointing=False, **_):
    torch.manual_seed(0)
    model = tiny_transformer("grid", num_attention_heads=4, attention_head_dim=12).train()
    if checkpointing:
        model.enable_gradient_checkpointing()
    if adapter == "before":
        add_adapter(model)
    return model


def add_adapter(model):
    torch.manual_seed(1)
    model.add_adapter(LoraConfig(**ADAPTER, init_lora_weights=False))


def build_inputs(samples=1, source=True, semantic=True, shape=(2, 4, 6), seed=0, **_):
    generator = torch.Generator().manual_seed(seed)

    def noise(*rest):
        return torch.randn(samples, *rest, generator=generator)

    inputs = {
        "hidden_states": noise(16, *shape),
        "timestep": torch.rand(samples, generator=generator) * 1000,
        "encoder_hidden_states": noise(8, TEXT_DIM),
        "source_hidden_states": noise(16, *shape),
        "semantic_hidden_states": noise(65, SEMANTIC_DIM),
    }
    kept = {"source_hidden_states": source, "semantic_hidden_states": semantic}
    return {name: value for name, value in inputs.items() if kept.get(name, True)}


def loss_of(out):
    loss = (out.sample - 0.3).square().mean()
    return loss if out.semantic is None else loss + 0.1 * (out.semantic - 0.2).abs().mean()


def compute(model, inputs, autocast=False, **_):
    """Outputs, loss and gradients of one batch."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model(**inputs)
        loss = loss_of(out)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    outputs = {"sample": out.sample.detach(), "loss": loss.detach()}
    if out.semantic is not None:
        outputs["semantic"] = out.semantic.detach()
    return {"outputs": outputs, "gradients": gradients}


def shared(case, group):
    model = build_model(**case)
    sequence_parallel(model, group)
    if case.get("adapter") == "after":
        add_adapter(model)
    result = compute(model, build_inputs(**case), **case)
    for gradient in result["gradients"].values():
        dist.all_reduce(gradient, group=group)
        gradient.div_(group.size())
    return result


def refusals(group):
    """What two processes say to too few heads, to a second sharing, and to batches that differ."""
    said = {}

    def note(name, action):
        try:
            action()
        except ValueError as error:
            said[name] = str(error)

    note("heads", lambda: sequence_parallel(tiny_transformer(num_attention_heads=3, attention_head_dim=16), group))
    model = tiny_transformer()
    sequence_parallel(model, group)
    note("twice", lambda: sequence_parallel(model, group))
    note("inputs", lambda: model(**build_inputs(seed=dist.get_rank())))
    return said


def removed(group):
    model = build_model()
    with sequence_parallel(model, group):
        pass
    # Each process has its own batch: nothing is shared any more.
    return {"seed": dist.get_rank(), **compute(model, build_inputs(seed=dist.get_rank()))}


def inference(group):
    """Outputs without gradients, by name of the context."""
    model = build_model().eval()
    model.set_attention_backend("_native_math")
    sequence_parallel(model, group)
    assert model.blocks[0].attn1.processor._attention_backend == "_native_math"
    outputs = {}
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            outputs[context.__name__] = model(**build_inputs()).sample.clone()
    return outputs


def two_groups(wrap):
    """Four processes in two groups, each with a batch of its own; every process must find the average gradient."""
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    mine = dist.get_rank() // 2
    model = build_model(checkpointing=True)
    sequence_parallel(model, groups[mine])
    if wrap == "ddp":
        result = compute(DistributedDataParallel(model), build_inputs(seed=mine))
        return {name.removeprefix("module."): gradient for name, gradient in result["gradients"].items()}
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    result = compute(model, build_inputs(seed=mine))
    return {name: gradient.full_tensor() for name, gradient in result["gradients"].items()}


def process(rank, folder, size):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    group = dist.group.WORLD
    if size == 2:
        found = {name: shared(case, group) for name, case in CASES.items()}
        found |= {"refusals": refusals(group), "removed": removed(group), "inference": inference(group)}
    else:
        found = {"everything": shared({}, group), "ddp": two_groups("ddp"), "fsdp": two_groups("fsdp")}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def run(folder, size):
    processes = [CONTEXT.Process(target=process, args=(rank, str(folder), size)) for rank in range(size)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(180)
    assert [one.exitcode for one in processes] == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    return run(tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="module")
def of_four(tmp_path_factory):
    return run(tmp_path_factory.mktemp("four"), 4)


def alone(case):
    model = build_model(**case)
    if case.get("adapter") == "after":
        add_adapter(model)
    return compute(model, build_inputs(**case), **case)


def assert_same(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", [name for name in CASES if name != "autocast"])
def test_two_processes_compute_what_one_computes(of_two, name):
    expected = alone(CASES[name])
    assert all(gradient.any() for name, gradient in expected["gradients"].items())
    for found in of_two:
        assert_same(found[name]["outputs"], expected["outputs"])
        assert_same(found[name]["gradients"], expected["gradients"])


def test_four_processes_compute_what_one_computes(of_four):
    expected = alone({})
    for found in of_four:
        assert_same(found["everything"]["outputs"], expected["outputs"])
        assert_same(found["everything"]["gradients"], expected["gradients"])


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_groups_with_batches_of_their_own_find_the_average_gradient(of_four, wrap):
    first, second = (compute(build_model(), build_inputs(seed=seed))["gradients"] for seed in (0, 1))
    expected = {name: (first[name] + second[name]) / 2 for name in first}
    for found in of_four:
        assert_same(found[wrap], expected)


def test_bfloat16_differs_by_its_rounding_only(of_two):
    exact = alone(CASES["everything"])["gradients"]
    expected = alone(CASES["autocast"])["gradients"]
    found = of_two[0]["autocast"]["gradients"]
    for name, gradient in exact.items():
        rounding = (expected[name] - gradient).norm()
        assert (found[name] - gradient).norm() <= 2 * rounding + 1e-6, name


def test_what_cannot_be_shared_is_refused(of_two):
    for found in of_two:
        said = found["refusals"]
        assert "3 attention heads" in said["heads"]
        assert said["heads"].endswith("use 1, 3.")
        assert "already" in said["twice"]
        assert "same batch" in said["inputs"]


def test_a_sharing_can_be_removed(of_two):
    for found in of_two:
        expected = compute(build_model(), build_inputs(seed=found["removed"]["seed"]))
        assert_same(found["removed"]["gradients"], expected["gradients"], 1e-7)


@pytest.mark.parametrize("context", ["no_grad", "inference_mode"])
def test_inference_is_shared_too(of_two, context):
    with torch.no_grad():
        expected = build_model().eval()(**build_inputs()).sample
    assert expected.isfinite().all() and expected.abs().mean() > 0.1
    for found in of_two:
        torch.testing.assert_close(found["inference"][context], expected, atol=1e-5, rtol=0)


def test_tokens_are_spread_as_evenly_as_can_be():
    assert tokens_per_process(65_585, 4) == [16_397, 16_396, 16_396, 16_396]
    assert tokens_per_process(3, 4) == [1, 1, 1, 0]
