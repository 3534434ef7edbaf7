"""The formula of a step's cost, against what torch counts, and the devices whose peak is known."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sama.flops import Flops, known_gpu, peak_flops
from sama.shapes import LatentShape, TokenCounts, token_counts
from tests.tiny import SEMANTIC_DIM, TEXT_DIM, tiny_transformer
from training.core.meter import forward_flops, mfu, training_flops

WAN = {
    "attention_head_dim": 128, "in_channels": 16, "out_channels": 16, "text_dim": 4096, "freq_dim": 256,
    "semantic_dim": 1152, "semantic_hidden_dim": 1024,
}  # fmt: skip
WAN_14B = WAN | {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
WAN_1_3B = WAN | {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
LATENTS, TEXT = LatentShape(3, 4, 6), 11


def run(model, source=True, semantic=True):
    shape = (1, 16, *LATENTS)
    return model(
        hidden_states=torch.randn(shape),
        timestep=torch.tensor([500.0]),
        encoder_hidden_states=torch.randn(1, TEXT, TEXT_DIM),
        source_hidden_states=torch.randn(shape) if source else None,
        semantic_hidden_states=torch.randn(1, 65, SEMANTIC_DIM) if semantic else None,
        return_dict=False,
    )


def counted(job):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        job()
    by_kind = counter.get_flop_counts()["Global"]
    attention = sum(count for kind, count in by_kind.items() if "bmm" in str(kind))
    return Flops(sum(by_kind.values()) - attention, attention)


@pytest.mark.parametrize(("source", "semantic"), [(True, True), (False, True), (True, False)])
def test_the_formula_is_what_torch_counts(source, semantic):
    model = tiny_transformer()
    tokens = token_counts(LATENTS, with_source=source, semantic_tokens=65 if semantic else 0)
    found = counted(lambda: run(model, source, semantic))  # as in training: nothing is left out
    assert forward_flops(model.config, tokens, TEXT) == found


@pytest.mark.parametrize("frozen", [False, True])
def test_training_is_three_forward_passes_or_less_where_weights_are_frozen(frozen):
    model = tiny_transformer().requires_grad_(not frozen)
    model.segment_embedding.requires_grad_(True)  # gradients reach every block

    def step():
        sample, semantic = run(model)
        (sample.sum() + semantic.sum()).backward()

    expected = training_flops(forward_flops(model.config, token_counts(LATENTS), TEXT), frozen)
    # Inputs take no gradients: the first layers and the text's branch are a little cheaper than the rule.
    assert sum(counted(step)) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(
    ("config", "tokens", "expected"),
    [(WAN_14B, 3_185, 8.8e13), (WAN_14B, 65_585, 5.1e15), (WAN_1_3B, 28_145, 2.2e14), (WAN_1_3B, 65_585, 9.6e14)],
)
def test_the_figures_of_the_planning_table(config, tokens, expected):
    half = (tokens - 65) // 2
    assert forward_flops(config, TokenCounts(half, 65, half), 512).total == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H20", 148.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_peaks_of_known_devices(name, tera):
    assert peak_flops(name) == tera * 1e12


@pytest.mark.parametrize(
    "name",
    ["cpu", "", "NVIDIA A10G", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "H1000"],
)
def test_an_unknown_device_has_no_peak_and_no_mfu(name):
    assert peak_flops(name) is None
    assert mfu(1e15, 1.0, 1, peak_flops(name)) is None


@pytest.mark.parametrize(
    ("name", "known", "linear"),
    [
        ("NVIDIA H100 80GB HBM3", "H100", 730e12),
        ("NVIDIA H100 PCIe", "H100 PCIe", 730e12),
        ("NVIDIA GH200 480GB", "GH200", 730e12),
        ("NVIDIA A100-SXM4-80GB", "A100", 250e12),
        ("NVIDIA L40S", "L40S", 200e12),
        ("NVIDIA GeForce RTX 3090", "RTX 3090", 65e12),
    ],
)
def test_rates_of_known_devices(name, known, linear):
    gpu = known_gpu(name)
    assert gpu.name == known
    assert gpu.rates.linear == linear
    assert max(gpu.rates) < gpu.peak


def test_a_device_may_have_a_peak_and_no_rates():
    assert known_gpu("NVIDIA L4").rates is None
    assert known_gpu("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None


def test_mfu_is_a_share_of_all_devices_together():
    assert mfu(8e14, 2.0, 4, 1e14) == 1.0
    assert mfu(8e14, 0.0, 4, 1e14) is None
