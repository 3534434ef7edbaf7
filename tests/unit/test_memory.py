"""Where weights wait, what is left out of a step, and that neither changes what comes out."""

import itertools

import pytest
import torch
from diffusers import AutoencoderKLWan
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn

from sama.checkpoints import load_transformer
from sama.device.memory import MEMORY_MODES, MemoryMode, Weights, Work, choose, peak_bytes
from sama.device.placement import (
    compile_blocks,
    place,
    placement_of,
    previews_by_map,
    put,
    usual_window,
    weights_of,
    work_of,
)
from sama.device.streaming import are_in_files, release, stream_blocks, streamer_of
from sama.loading import load_pipeline
from sama.model import vae_stripes
from sama.model.blocks import FusedGELU
from tests.tiny import tiny_clip, tiny_pipeline, tiny_transformer, tiny_vae

GIB = 2**30
WAN = Weights(blocks=28.1e9, block=0.7025e9, outside=0.53e9, text=11.4e9, text_visit=2.87e9, vae=0.51e9)
SHARES = (1.0, 0.625, 0.577, 0.5, 0.452)


def wan_work(**changes):
    return Work(
        **({"tokens": 65_585, "width": 5120, "size": 2, "pixels": 480 * 832, "frames": 81, "vae_size": 4,
            "compiled": True, "shares": SHARES} | changes)
    )  # fmt: skip


def needs(free, **changes):
    return {mode: peak_bytes(mode, WAN, wan_work(**changes), free) for mode in MemoryMode}


# --- The choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "host", "mode", "fits"),
    [
        (80, None, "resident", True),
        (40, 200, "offload", True),
        (24, 200, "streamed", True),
        (24, None, "streamed", True),
        (24, 20, "streamed-disk", True),
        (8, 200, "streamed", True),
        (6, 200, "streamed", False),
    ],
)
def test_the_mode_follows_from_what_is_free(free, host, mode, fits):
    host = None if host is None else host * 1e9
    choice = choose("auto", needs(free * GIB, shared=False), free * GIB, WAN.blocks + WAN.text, host)
    assert (choice.mode.value, choice.fits) == (mode, fits)
    assert f"{free * GIB / 1e9:.1f} GB" in choice.reason
    assert ("even block by block" in choice.reason) != fits


def test_a_mode_that_is_asked_for_is_taken_and_doubts_are_said():
    for name in MEMORY_MODES[1:]:
        sure, doubtful = (choose(name, needs(free), free) for free in (80 * GIB, 2 * GIB))
        assert sure.mode.value == doubtful.mode.value == name
        assert (sure.reason, sure.fits, doubtful.fits) == ("asked for", True, False)
        assert "may not fit" in doubtful.reason
    with pytest.raises(ValueError, match="choose one of auto, resident, offload, float8, streamed, streamed-disk"):
        choose("somewhere", needs(0), 0)


def test_each_mode_needs_less_than_the_one_before():
    sizes = [needs(8 * GIB)[mode] for mode in ("resident", "offload", "float8", "streamed")]
    assert all(more > 1.2 * less for more, less in itertools.pairwise(sizes))
    eager, shared, lean = (needs(8 * GIB, **how) for how in ({"compiled": False}, {}, {"shared": False}))
    assert eager["streamed"] > shared["streamed"] > lean["streamed"]


def test_the_autoencoder_takes_as_many_stripes_as_the_memory_wants():
    work = wan_work()
    whole = work.coding()
    assert [work.stripes(share * whole) for share in (1.1, 0.9, 0.6, 0.01)] == [1, 2, 4, 5]


# --- The ways give the same ------------------------------------------------------------------------------------------


TEXTS = {"prompt": "Make it snowy", "negative_prompt": ""}
SOURCE = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(5))


def painted(pipeline, **options):
    out = pipeline(
        num_inference_steps=2, generator=torch.Generator().manual_seed(0),
        **{"prompt": TEXTS["prompt"], "source_latents": SOURCE, "output_type": "latent"} | options,
    )  # fmt: skip
    assert torch.isfinite(out.frames).all()
    return out.frames


@pytest.fixture(scope="module")
def expected():
    return painted(tiny_pipeline(tower=False))


@pytest.mark.parametrize("mode", ["offload", "streamed", "streamed-disk"])
def test_every_exact_mode_paints_the_same_bits(mode, expected):
    pipeline = tiny_pipeline(tower=False)
    weights = weights_of(pipeline)
    put(pipeline, "cpu", MemoryMode(mode))
    assert torch.equal(painted(pipeline), expected)
    assert torch.equal(painted(pipeline), expected)  # slots were given back for the autoencoder in between
    assert (streamer_of(pipeline.transformer) is not None) == (mode != "offload")
    assert weights_of(pipeline) == weights


def test_a_pipeline_without_texts_takes_their_states(expected, tmp_path, monkeypatch):
    monkeypatch.setattr("sama.loading.fast_dtype", lambda _: torch.float32)
    whole = tiny_pipeline()
    states = {f"{name}_embeds": whole.encode_text([text]) for name, text in TEXTS.items()}
    whole.save_pretrained(tmp_path / "model")
    pipeline = load_pipeline("tiny", "cpu", model=tmp_path / "model", texts=False)
    assert pipeline.text_encoder is None and pipeline.semantic_tower is None
    put(pipeline, "cpu", MemoryMode.STREAMED)
    torch.testing.assert_close(painted(pipeline, prompt=None, **states), expected, atol=1e-4, rtol=1e-3)
    assert (weights_of(pipeline).text, weights_of(pipeline).text_visit) == (0, 0)
    with pytest.raises(ValueError, match="without its text encoder"):
        painted(pipeline)


def test_float8_is_close_and_keeps_what_is_small(expected):
    pipeline = tiny_pipeline(tower=False)
    put(pipeline, "cpu", MemoryMode.FLOAT8)
    types = {name: weight.dtype for name, weight in pipeline.transformer.named_parameters()}
    assert types["blocks.0.attn1.to_q.weight"] == types["blocks.1.ffn.net.2.weight"] == torch.float8_e4m3fn
    kept = ("segment_embedding.weight", "semantic_head.proj.weight", "proj_out.weight", "patch_embedding.weight")
    assert all(types[name] == torch.float32 for name in kept)
    error = (painted(pipeline) - expected).abs().mean()
    assert 0 < error < 0.1


def test_a_place_on_a_cpu_says_so_and_compiles_nothing():
    pipeline = tiny_pipeline(tower=False)
    told = place(pipeline, "cpu", "streamed", "on").sentence()
    assert told == "Memory: resident on cpu (all weights stay in main memory)"
    assert placement_of(pipeline).sentence() == told
    assert not previews_by_map(pipeline)


# --- Streaming -------------------------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Three layers, one of them larger, and something outside."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers = nn.ModuleList(
            [nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 600), nn.Linear(600, 4)), nn.Linear(4, 4)]
        )

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.fixture
def chain():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Chain().requires_grad_(False)


@pytest.mark.parametrize("source", ["host", "file"])
def test_blocks_visit_slots_that_are_as_large_as_the_largest(chain, source):
    x = torch.ones(1, 4)
    want = chain(x)
    streamer = stream_blocks(chain, list(chain.layers), "cpu", source)
    homes = [weight.data_ptr() for weight in chain.layers.parameters()]
    seen = []
    chain.layers[1][0].register_forward_hook(lambda module, *_: seen.append(module.weight.data_ptr()))
    assert torch.equal(chain(x), want)
    assert seen[0] not in homes  # it was computed with in a slot
    assert [weight.data_ptr() for weight in chain.layers.parameters()] == homes
    assert streamer.slot_bytes >= sum(4 * weight.numel() for weight in chain.layers[1].parameters())
    release(chain)
    assert torch.equal(chain(x), want)
    assert all(are_in_files([weight]) for weight in chain.layers.parameters() if weight.numel() > 2**18)
    streamer.remove()
    assert streamer_of(chain) is None and torch.equal(chain(x), want)


def test_weights_that_are_replaced_are_taken_up(chain):
    x = torch.ones(1, 4)
    stream_blocks(chain, list(chain.layers), "cpu")
    chain(x)
    chain.layers[0].weight.data += 1  # in place, as fusing an adapter does
    in_place = chain(x)
    chain.layers[2].weight.data = chain.layers[2].weight.data + 1
    replaced = chain(x)
    chain.layers[1].append(nn.Linear(4, 4))
    added = chain(x)
    plain = Chain().requires_grad_(False)
    plain.layers[1].append(nn.Linear(4, 4))
    plain.load_state_dict(chain.state_dict())
    assert torch.equal(plain(x), added)
    assert len({float(value.detach().sum()) for value in (in_place, replaced, added)}) == 3


def test_a_lora_acts_on_streamed_weights(tmp_path):
    weights = {}
    for block, name in itertools.product(range(2), ("attn1.to_q", "attn2.to_k")):
        for part, shape in (("lora_A", (4, 48)), ("lora_B", (48, 4))):
            weights[f"transformer.blocks.{block}.{name}.{part}.weight"] = torch.full(shape, 0.1 + 0.01 * block)
    save_file(weights, tmp_path / "lora.safetensors")
    results = []
    for streamed in (False, True):
        pipeline = tiny_pipeline(tower=False)
        if streamed:
            put(pipeline, "cpu", MemoryMode.STREAMED)
        without = painted(pipeline)
        pipeline.load_lora_weights(tmp_path / "lora.safetensors", adapter_name="a")
        worn = painted(pipeline)
        pipeline.disable_lora()
        results.append((without, worn, painted(pipeline)))
        assert not torch.equal(without, worn)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert torch.equal(results[0][0], results[0][2])


def test_weights_of_a_file_stay_in_it(tmp_path):
    model = tiny_transformer(ffn_dim=48 * 128)  # a matrix of more than a megabyte
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "m.safetensors")
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    loaded = load_transformer(tmp_path / "m.safetensors", config)
    where = loaded.blocks[0].ffn.net[2].weight.data_ptr()
    if not are_in_files([loaded.blocks[0].ffn.net[2].weight]):
        pytest.skip("this system does not tell which memory is a file's")
    stream_blocks(loaded, list(loaded.blocks), "cpu", "file")
    assert loaded.blocks[0].ffn.net[2].weight.data_ptr() == where
    stream_blocks(model, list(model.blocks), "cpu", "file")
    assert are_in_files([model.blocks[0].ffn.net[2].weight])  # it was put into a file


# --- The autoencoder in stripes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("residual", "size"), [(True, (16, 240)), (False, (240, 16))])
def test_stripes_are_the_whole_picture(residual, size, monkeypatch):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        small = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, "z_dim": 4}
        vae = tiny_vae() if residual else AutoencoderKLWan(**small, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
        for module in vae.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):  # so that far pixels matter
                nn.init.normal_(module.weight, std=1.5 * module.weight[0].numel() ** -0.5)
        clip = 2 * torch.rand(1, 3, 9, *size) - 1  # what is remembered matters from the third latent frame on
        latents = vae_stripes.encode(vae, clip)
        noise = torch.randn_like(latents)
        pixels = vae_stripes.decode(vae, noise)
        assert pixels.shape == clip.shape and pixels.std() > 0.1 and latents.std() > 0.01
        torch.testing.assert_close(vae_stripes.encode(vae, clip, 3), latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(vae_stripes.decode(vae, noise, 3), pixels, atol=1e-5, rtol=1e-5)
        monkeypatch.setattr(vae_stripes, "decoder_rim", lambda _: 2)
        monkeypatch.setattr(vae_stripes, "encoder_rim", lambda _: 2)
        assert (vae_stripes.encode(vae, clip, 2) - latents).abs().max() > 1e-4
        assert (vae_stripes.decode(vae, noise, 2) - pixels).abs().max() > 1e-4


def test_the_pipeline_cuts_when_memory_is_short(monkeypatch):
    pipeline, calls, asked = tiny_pipeline(tower=False), [], []
    put(pipeline, "cpu", MemoryMode.STREAMED)
    clip = tiny_clip(width=64).unsqueeze(0).float() / 255
    whole = pipeline.decode_latents(pipeline.encode_video(clip))
    painted(pipeline)
    assert streamer_of(pipeline.transformer)._slots
    monkeypatch.setattr("sama.pipeline.pipeline.stripes_that_fit", lambda _, shape: asked.append(tuple(shape)) or 2)
    monkeypatch.setattr(vae_stripes, "_stripes", lambda *a, real=vae_stripes._stripes: calls.append(1) or real(*a))
    cut = pipeline.decode_latents(pipeline.encode_video(clip))
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=0)
    assert asked == [(1, 5, 32, 64)] * 2 and len(calls) == 2
    assert not streamer_of(pipeline.transformer)._slots  # the transformer's slots made room


# --- What a step leaves out ------------------------------------------------------------------------------------------


def evaluations(model, given, texts):
    """Evaluations of one step: with everything computed, and with what can be left out left out."""
    with torch.no_grad():
        attended = []
        saved = [model(**given | {"encoder_hidden_states": text}, attended=attended) for text in texts]
    full = [model(**given | {"encoder_hidden_states": text}) for text in texts]
    return full, saved


@pytest.mark.parametrize("layers", [1, 3])
def test_what_is_left_out_changes_nothing(layers):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny_transformer(num_layers=layers)
        given = {
            "hidden_states": torch.randn(2, 16, 2, 4, 6), "source_hidden_states": torch.randn(2, 16, 2, 4, 6),
            "semantic_hidden_states": torch.randn(2, 65, 32), "timestep": torch.tensor([300.0, 700.0]),
        }  # fmt: skip
        texts = [torch.randn(2, 7, 32) for _ in range(2)]
    queries, attentions = [], []
    model.blocks[-1].ffn.register_forward_hook(lambda _, inputs, __: queries.append(inputs[0].shape[1]))
    model.blocks[0].attn1.norm_k.register_forward_hook(lambda *_: attentions.append(1))
    full, saved = evaluations(model, given, texts)
    assert queries == [65 + 12] * 2 + [12 + 65 + 12] * 2
    assert len(attentions) == 1 + 2
    for one, other in zip(full, saved, strict=True):
        torch.testing.assert_close(other.sample, one.sample, atol=1e-6, rtol=0)
        torch.testing.assert_close(other.semantic, one.semantic, atol=1e-6, rtol=0)
    assert (full[0].sample - full[1].sample).abs().max() > 1e-2  # the texts matter


def test_evaluations_of_a_step_share_and_those_of_others_do_not(expected):
    pipeline, attentions = tiny_pipeline(tower=False), []
    pipeline.transformer.blocks[0].attn1.register_forward_hook(lambda *_: attentions.append(1))
    assert torch.equal(painted(pipeline), expected)
    assert len(attentions) == 2  # two steps, each with two texts
    shared = painted(pipeline, source_guidance_scale=2.0)
    assert len(attentions) == 2 + 4  # what is without the source shares nothing
    pipeline.share_attention = False
    torch.testing.assert_close(painted(pipeline, source_guidance_scale=2.0), shared, atol=1e-6, rtol=0)
    assert len(attentions) == 6 + 6
    torch.testing.assert_close(painted(pipeline), expected, atol=1e-6, rtol=0)


def test_compiled_blocks_are_entered_by_their_hooks(monkeypatch, expected):
    pipeline, compiled = tiny_pipeline(tower=False), []

    def compiler(function):
        compiled.append(function)
        return lambda *args, **options: function(*args, **options)

    monkeypatch.setattr(torch, "compile", compiler)
    compile_blocks(pipeline)
    compile_blocks(pipeline)
    assert len(compiled) == len(pipeline.transformer.blocks)
    put(pipeline, "cpu", MemoryMode.STREAMED)
    assert torch.equal(painted(pipeline), expected)


def test_the_work_of_a_window_is_counted():
    work = work_of(tiny_pipeline(tower=False), 5, 32, 48)
    assert (work.tokens, work.width, work.size, work.pixels, work.frames) == (2 * 2 * 6 + 65, 48, 4, 32 * 48, 5)


def test_the_feed_forward_layer_stays_diffusers_own_where_one_kernel_cannot_be_used(monkeypatch):
    model, x = tiny_transformer(), torch.randn(1, 3, 48)
    layers = [block.ffn.net[0] for block in model.blocks]
    assert all(isinstance(layer, FusedGELU) for layer in layers)
    plain = nn.functional.gelu(layers[0].proj(x), approximate="tanh")
    assert torch.equal(layers[0](x), plain)  # on a CPU
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    with torch.no_grad():
        assert not layers[0]._fits(x)  # float32
        layer, x = layers[0].bfloat16(), x.bfloat16()
        assert layer._fits(x) and not layer._fits(x.half())
        layer.proj.weight.data = layer.proj.weight.data.to(torch.float8_e4m3fn)
        assert not layer._fits(x)
    adapter = LoraConfig(r=2, target_modules=["net.0.proj"])
    model.add_adapter(adapter)
    with torch.no_grad():
        assert not layers[1].bfloat16()._fits(x)


@pytest.mark.parametrize(
    ("canvas", "expected"),
    [
        ({}, (81, 480, 832)),
        ({"buckets": [[96, 64], [64, 48]], "window": 17}, (17, 64, 96)),
        ({"buckets": [[1280, 720]], "window": 81}, (81, 480, 832)),
    ],
)
def test_room_is_made_for_the_model_s_own_window_where_no_clip_is_known(canvas, expected):
    assert usual_window(tiny_pipeline(tower=False, **canvas)) == expected
