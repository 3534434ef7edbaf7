"""Losses by noise level, and the figures of a run's speed."""

import pytest
import torch

from sama.shapes import LatentShape, token_counts
from tests.tiny import SEMANTIC_DIM, TEXT_DIM, tiny_transformer
from training.core.batch import EncodedBatch
from training.core.meter import Cost, Meter, batch_cost, forward_flops
from training.stages.objective import BandMeans

CPU = torch.device("cpu")


def test_each_loss_counts_in_the_band_of_its_noise_level():
    bands = BandMeans(4, CPU)
    bands.add(torch.tensor([0.0, 0.1, 0.5]), torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.5, 0.7, 0.9]))
    bands.add(torch.tensor([0.74, 1.0]), torch.tensor([7.0, 9.0]))
    read = bands.read()
    expected = {
        "flow_band_0": 2.0,
        "flow_band_2": 6.0,
        "flow_band_3": 9.0,
        "semantic_band_0": 0.6,
        "semantic_band_2": 0.9,
    }
    assert read == pytest.approx(expected)
    assert bands.read() == {}


def test_a_broken_sample_hides_no_other():
    bands = BandMeans(2, CPU)
    bands.add(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([torch.nan, 2.0, torch.inf]))
    assert bands.read() == {"flow_band_0": 2.0}


def test_bands_stay_float32_under_autocast():
    bands = BandMeans(1, CPU)
    losses = torch.rand(512, generator=torch.Generator().manual_seed(0)) + 1000
    with torch.autocast("cpu", torch.bfloat16):
        bands.add(torch.zeros(512), losses)
    assert bands.read()["flow_band_0"] == pytest.approx(losses.double().mean().item(), rel=1e-6)


def test_a_resumed_run_goes_on_with_what_was_added():
    first, second = BandMeans(2, CPU), BandMeans(2, CPU)
    first.add(torch.tensor([0.1]), torch.tensor([1.0]))
    second.load_state_dict(first.state_dict())
    second.add(torch.tensor([0.1]), torch.tensor([3.0]))
    assert second.read() == {"flow_band_0": 2.0}


def batch(source=True, anchored=True):
    latents, anchors = torch.zeros(2, 16, 3, 4, 6), torch.zeros(2, 65, SEMANTIC_DIM)
    return EncodedBatch(
        latents if source else None, latents, torch.zeros(2, 7, TEXT_DIM), anchors if anchored else None
    )


def test_the_cost_of_a_batch_is_of_what_the_model_sees():
    config = tiny_transformer().config
    tokens = token_counts(LatentShape(3, 4, 6))
    each = forward_flops(config, tokens, 7)
    assert batch_cost(config, batch()) == Cost(2, 2 * tokens.total, 2 * 3 * each.total)
    assert batch_cost(config, batch(), frozen=True).flops < batch_cost(config, batch()).flops
    assert batch_cost(config, batch(source=False, anchored=False)).tokens == 2 * 18


def test_speed_counts_what_all_data_ranks_do_and_no_pauses(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("training.core.meter.time.monotonic", lambda: now[0])
    meter = Meter(CPU, devices=4, data_ranks=2)
    meter.peak = 1e6
    with meter.loading():
        now[0] += 0.5
    for _ in range(2):
        meter.add(Cost(3, 100, 50_000))
    now[0] += 1.5
    with meter.paused():
        now[0] += 20.0
    read = meter.read()
    assert read["samples_per_second"] == pytest.approx(12 / 2)
    assert read["tokens_per_second"] == pytest.approx(400 / 2)
    assert read["mfu"] == pytest.approx(200_000 / (2 * 4 * 1e6))
    assert read["data_share"] == pytest.approx(0.5 / 2)
    assert read["memory_gib"] > 0.01
    meter.add(Cost(1, 1, 1))
    now[0] += 4.0
    read = meter.read()
    assert read["data_share"] == 0.0 and read["samples_per_second"] == pytest.approx(2 / 4)


def test_a_device_of_unknown_peak_has_speed_and_no_mfu():
    meter = Meter(CPU)
    meter.add(Cost(1, 10, 1000))
    assert meter.peak is None and "mfu" not in meter.read()
