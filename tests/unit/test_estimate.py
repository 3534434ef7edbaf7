import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from sama.edit.estimate import Speed, architecture_of, estimate, measure_speed
from sama.edit.outlook import outlook, weights_of_architecture
from sama.edit.request import EditRequest
from sama.errors import EditError
from sama.flops import block_flops, shared_flops, unread_flops
from sama.model.transformer import SamaTransformer3DModel
from sama.presets import PRESETS
from sama.video import VideoInfo
from sama.workers.estimate import on_several
from tests.tiny import tiny_pipeline

FAST = Speed(linear=1e12, attention=1e12, convolution=1e12, basis="given")


def clip_of(frames=81, width=832, height=480):
    return VideoInfo("clip.mp4", width, height, frames, Fraction(16), frames / 16, False, "h264", 0, False, 8)


def request(**changes):
    return EditRequest(**({"video": "clip.mp4", "instruction": "", "output": "", "device": "cpu"} | changes))


def test_the_formula_counts_what_the_model_computes():
    dim, ffn, blocks, text = 48, 96, 3, 20
    with torch.device("meta"):
        model = SamaTransformer3DModel(
            num_attention_heads=2, attention_head_dim=24, text_dim=32, freq_dim=32, ffn_dim=ffn, num_layers=blocks,
            semantic_dim=32, semantic_hidden_dim=32,
        )  # fmt: skip
    latents, tokens = torch.zeros(1, 16, 2, 8, 8, device="meta"), 2 * 2 * 16 + 65

    def counted(attended=None):
        with FlopCounterMode(display=False) as counter:
            model(
                latents, torch.zeros(1, device="meta"), torch.zeros(1, text, 32, device="meta"), latents,
                torch.zeros(1, 65, 32, device="meta"), attended=attended,
            )  # fmt: skip
        per_module = counter.get_flop_counts()
        return sum(sum(per_module[f"SamaTransformer3DModel.blocks.{index}"].values()) for index in range(blocks))

    whole = block_flops(tokens, text, dim, ffn, blocks).total
    assert counted() == whole
    with torch.no_grad():
        unread, attended = unread_flops(2 * 16, tokens, text, dim, ffn).total, []
        assert counted() == counted(attended) == whole - unread
        assert counted(attended) == whole - unread - shared_flops(tokens, dim).total


def test_the_14b_edit_takes_what_is_published():
    told = estimate(request(preset="14b", keep_source="off", detail="off"), clip_of(), FAST)
    assert (told.tokens.total, told.windows, told.steps, told.forwards) == (65_585, 1, 50, 100)
    assert told.forward_flops == pytest.approx(5.12e15, rel=0.01)
    cuda = estimate(request(preset="14b", device="cuda"), clip_of(), FAST)
    assert cuda.memory_bytes == pytest.approx(39.8e9, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"steps": 25}, 0.5),
        ({"guidance": 1.0}, 0.5),
        ({"source_guidance": 2.0}, 1.5),
        ({"source_guidance": 1.0}, 1),
        ({"quality": "balanced"}, 0.5),
        ({"guidance_interval": (0.0, 1.0)}, 1),
        ({"guidance_interval": (0.0, 0.01)}, 0.5),
        ({"guidance_interval": (5 / 6, 1.0)}, 0.76),  # 26 of 50 levels
    ],
)
def test_forwards_follow_steps_and_scales(changes, factor):
    base = estimate(request(preset="14b"), clip_of(), FAST)
    assert estimate(request(preset="14b", **changes), clip_of(), FAST).forwards == factor * base.forwards


def test_longer_clips_take_more_windows_and_more_time():
    short, long = (estimate(request(preset="14b"), clip_of(frames), FAST) for frames in (81, 200))
    assert (short.windows, long.windows) == (1, 3)
    assert long.seconds > 2.5 * short.seconds
    assert long.memory_bytes == short.memory_bytes


H100 = Speed(linear=730e12, attention=566e12, convolution=250e12, basis="known", kernels_only=True)


@pytest.mark.parametrize(
    ("free", "mode", "largest"), [(80, "resident", 81), (40, "offload", 81), (24, "streamed", 81), (7, "streamed", 65)]
)
def test_the_outlook_names_the_mode_and_what_fits(free, mode, largest):
    told = outlook(request(preset="14b", device="cuda"), clip_of(), H100, free * 2**30, 200e9)
    assert (told.choice.mode.value, told.compiled, told.largest) == (mode, True, largest)
    lines = told.sentences()
    assert lines[0].startswith(f"Memory mode: {mode}, compiled (") and f"{free * 2**30 / 1e9:.1f} GB" in lines[0]
    assert [line.split()[0] for line in lines[1:-1]] == ["resident", "offload", "float8", "streamed", "streamed-disk"]
    assert sum("does not fit" in line for line in lines[1:-1]) == {80: 0, 40: 1, 24: 2, 7: 5}[free]
    assert lines[-1] == f"Largest window that is safe on this card: {largest} frames of 832 x 480"


def test_the_outlooks_times_are_those_that_were_measured():
    def step(frames=81, **changes):
        told = outlook(request(preset="14b", **changes), clip_of(frames), H100, 80 * 2**30)
        return {one.mode.value: one.step_seconds for one in told.modes}

    # docs/performance.md: two evaluations of a 14B on an H200
    assert step(compile="off")["resident"] == pytest.approx(2 * 9.34, rel=0.1)
    assert step(compile="on")["resident"] == pytest.approx(2 * 8.42, rel=0.1)
    assert step(17, compile="off")["resident"] == pytest.approx(2 * 1.15, rel=0.1)
    assert step()["streamed"] == step()["resident"]  # the weights come while the blocks compute
    assert step(5)["streamed"] > 1.5 * step(5)["resident"]
    assert step(17)["streamed-disk"] > 5 * step(17)["streamed"]
    with_room = outlook(request(preset="14b", compile="on"), clip_of(), H100, 80 * 2**30, 200e9)
    told = {one.mode.value: one.step_seconds for one in with_room.modes} | {"float8": step(compile="off")["float8"]}
    rows = [row for row in json.loads(Path("docs/performance/results.json").read_text()) if "mode" in row]
    assert len({row["mode"] for row in rows}) == 4
    for row in rows:
        assert told[row["mode"]] == pytest.approx(row["predicted_step_seconds"], rel=1e-3)
        assert told[row["mode"]] == pytest.approx(row["step_seconds"], rel=0.1), row["name"]
    asked = outlook(request(preset="14b", memory="float8", compile="on"), clip_of(), H100, 80 * 2**30)
    assert (asked.choice.reason, asked.compiled) == ("asked for", False)


def test_keeping_the_source_costs_one_more_decoding():
    off, on = (
        estimate(request(preset="14b", keep_source=keep, detail="off"), clip_of(), FAST) for keep in ("off", "on")
    )
    assert 1.3 < on.vae_flops / off.vae_flops < 2


def test_the_autoencoder_is_counted_to_a_few_per_cent():
    told = estimate(request(preset="14b", keep_source="off", detail="off", frames=17), clip_of(), FAST)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae = AutoencoderKLWan()
        vae.decode(vae.encode(torch.zeros(1, 3, 17, 480, 832)).latent_dist.mode())
    assert told.vae_flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_saved_model_is_measured_on_this_machine(tmp_path):
    tiny_pipeline(tower=False).save_pretrained(tmp_path)
    model = architecture_of("tiny", tmp_path)
    assert (model.width, model.ffn, model.blocks, model.steps, model.guidance) == (48, 64, 2, 2, 3.0)
    told = estimate(request(model=tmp_path), clip_of(17))
    assert "measured" in told.basis
    assert told.tokens.total == 2 * 5 * 9 * 16 + 65
    assert 0 < told.seconds < 120
    assert told.total_flops > told.vae_flops > 0


def test_a_block_and_the_autoencoder_are_timed(tmp_path):
    folder = tmp_path / "saved"
    tiny_pipeline(tower=False).save_pretrained(folder)
    model = architecture_of("tiny", folder)
    speed = measure_speed("cpu", 500, model)
    assert "measured" in speed.basis
    assert speed.linear == speed.attention > 0
    assert speed.convolution > 0


def test_a_large_picture_takes_longer_to_write():
    small, large = (estimate(request(preset="14b"), clip_of(81, *size), FAST) for size in ((832, 480), (3328, 1920)))
    assert large.seconds - small.seconds == pytest.approx(81 * (3328 * 1920 - 832 * 480) * 40e-9)


def test_a_start_beyond_the_clip_is_refused():
    with pytest.raises(EditError, match="beyond"):
        estimate(request(preset="14b", start=81), clip_of(), FAST)


def test_weights_by_formula_are_those_of_the_layers():
    model = architecture_of("14b")
    with torch.device("meta"):
        transformer = SamaTransformer3DModel(**PRESETS["14b"].transformer)
    block = 2 * sum(weight.numel() for weight in transformer.blocks[0].parameters())
    told = weights_of_architecture(model)
    assert told.block == pytest.approx(block, rel=0.001)
    assert told.blocks == 40 * told.block
    outside = 2 * sum(weight.numel() for name, weight in transformer.named_parameters() if "blocks." not in name)
    assert told.outside == pytest.approx(outside, rel=0.2)  # some of it is in float32


def test_an_incomplete_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="incomplete"):
        estimate(request(model=tmp_path), clip_of(), FAST)


def test_several_gpus_shorten_the_steps_and_nothing_else():
    asked = request(preset="14b", device="cuda", steps=10, guidance=5.0)
    alone = estimate(asked, clip_of(), FAST)
    two, three, four = (on_several(alone, asked, gpus) for gpus in (2, 3, 4))
    assert two.step_seconds == pytest.approx(alone.step_seconds / 2)  # a guidance pass each
    assert three == two  # 40 heads cannot be shared by three
    assert alone.step_seconds / 4 < four.step_seconds < alone.step_seconds / 3.8  # sharing a sequence costs a little
    for several in (two, four):
        assert alone.seconds - several.seconds == pytest.approx(10 * (alone.step_seconds - several.step_seconds))
    assert on_several(alone, asked, 1) == alone
    on_cpu = replace(alone, device="cpu")
    assert on_several(on_cpu, asked, 2) == on_cpu  # its processes have the same cores
    with pytest.raises(EditError, match="cannot be 0"):
        on_several(alone, asked, 0)
