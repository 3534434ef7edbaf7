"""What users of diffusers expect of its models and pipelines: caches, offload, callbacks, names and loaders."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
)
from diffusers.hooks import apply_faster_cache

from sama import cli
from sama.checkpoints import save_official
from sama.errors import CheckpointError
from sama.model.transformer import SamaTransformer3DModel
from sama.pipeline import SamaPipeline
from tests.tiny import TEXT_DIM, tiny_clip, tiny_pipeline, tiny_transformer

STEPS = 4
CLIP = {"video": tiny_clip(), "num_inference_steps": 1, "output_type": "np"}


@pytest.fixture
def pipe():
    return tiny_pipeline()


def edit(pipe, **changes):
    """Latents of an edit, so that no time is spent in the VAE."""
    given = {"prompt": "make it snowy", "negative_prompt": "red", "num_inference_steps": STEPS, "output_type": "latent"}
    source = {} if "video" in changes else {"source_latents": inputs()["source_hidden_states"]}
    frames = pipe(**(given | source | changes), generator=torch.Generator().manual_seed(0)).frames
    assert np.isfinite(np.asarray(frames)).all()
    return np.asarray(frames)


def inputs(seed=0, batch=1):
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(batch, *shape, generator=generator)

    return {
        "hidden_states": noise(16, 2, 4, 6),
        "timestep": torch.full((batch,), 600.0),
        "encoder_hidden_states": noise(8, TEXT_DIM),
        "source_hidden_states": noise(16, 2, 4, 6),
        "semantic_hidden_states": noise(65, 32),
    }


# --- Caches ----------------------------------------------------------------------------------------------------------

# Each method as strong as it goes, so that everything after the first step or two is left out where it may be.
CACHES = {
    "first block": lambda _: FirstBlockCacheConfig(threshold=1e9),
    "mag": lambda _: MagCacheConfig(
        threshold=100.0, num_inference_steps=STEPS, retention_ratio=0.0, mag_ratios=[1.0] * STEPS
    ),
    "sea": lambda _: SeaCacheConfig(threshold=1e9),
    "pyramid": lambda now: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=3, cross_attention_block_skip_range=3, current_timestep_callback=now,
        spatial_attention_timestep_skip_range=(-1, 1001), cross_attention_timestep_skip_range=(-1, 1001),
    ),
    "faster": lambda now: FasterCacheConfig(
        spatial_attention_block_skip_range=3, spatial_attention_timestep_skip_range=(-1, 901),
        current_timestep_callback=now,
    ),
    "taylor": lambda _: TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=1),
    "taylor, lite": lambda _: TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=1, use_lite_mode=True),
}  # fmt: skip


@pytest.mark.parametrize("name", CACHES)
def test_every_cache_leaves_work_out_and_leaves_no_trace(pipe, name):
    """With guidance: two kinds of evaluation a step, which must not answer for each other."""
    model, attended = pipe.transformer, []
    for block in model.blocks:  # what a cache of blocks or of attention leaves out does not reach these
        for attention in (block.attn1, block.attn2):
            attention.to_out[0].register_forward_hook(lambda *_: attended.append(1))
    pipe.share_attention = False  # which caches end, too
    plain, cost = edit(pipe), len(attended)
    model.enable_cache(CACHES[name](lambda: pipe.current_timestep))
    assert model.is_cache_enabled
    with pytest.raises(ValueError, match="already been enabled"):
        model.enable_cache(FirstBlockCacheConfig())
    attended.clear()
    cached = edit(pipe)
    assert len(attended) < cost
    assert 1e-4 < np.abs(cached - plain).max() < np.abs(plain).max()
    assert np.array_equal(edit(pipe), cached), "a run starts with an empty cache"
    model.disable_cache()
    assert not model.is_cache_enabled
    assert np.array_equal(edit(pipe), plain)


@pytest.mark.parametrize("name", CACHES)
def test_kinds_of_evaluation_do_not_answer_for_each_other(name):
    model, texts = tiny_transformer(), {"cond": inputs(0), "uncond": inputs(1)}
    context = {"num_inference_steps": STEPS, "sigma": 0.6}

    @torch.no_grad()
    def first_step():
        found = {}
        for kind, given in texts.items():
            with model.cache_context(kind, step_index=0, **context):
                found[kind] = model(**given).sample
        return found

    plain = first_step()
    model.enable_cache(CACHES[name](lambda: 600))
    torch.testing.assert_close(first_step(), plain, atol=1e-5, rtol=0)


def test_taylor_seer_watches_attention_and_the_lite_one_both_outputs():
    model = tiny_transformer(num_layers=3)
    for lite, expected in ((False, 6), (True, 3 + 2)):
        model.enable_cache(TaylorSeerCacheConfig(use_lite_mode=lite))
        hooks = (getattr(module, "_diffusers_hook", None) for module in model.modules())
        assert sum("taylorseer_cache" in hook.hooks for hook in hooks if hook is not None) == expected
        model.disable_cache()


@torch.no_grad()
def test_faster_cache_takes_one_evaluation_or_a_batch_of_both():
    now = [1000]
    config = FasterCacheConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(-1, 901),
        current_timestep_callback=lambda: now[0], tensor_format="BCFHW",
    )  # fmt: skip
    model, plain = tiny_transformer(), tiny_transformer()
    plain.load_state_dict(model.state_dict())
    model.enable_cache(dataclasses.replace(config))
    first = model(**inputs(0), return_dict=False)[0]
    torch.testing.assert_close(first, plain(**inputs(0)).sample)
    now[0] = 600
    second, whole = (each(**inputs(1), return_dict=False)[0] for each in (model, plain))
    assert second.isfinite().all() and (second - whole).abs().max() > 1e-4
    apply_faster_cache(plain, config)  # the library's own way: the two halves of guidance as one batch
    assert plain(**inputs(0, batch=2)).sample.isfinite().all()


def test_a_cache_for_another_model_is_refused():
    with pytest.raises(ValueError, match="TextKVCacheConfig works on"):
        tiny_transformer().enable_cache(TextKVCacheConfig())


# --- Memory and speed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["model", "block groups", "leaf groups", "pipeline's groups"])
def test_offloaded_pipelines_give_the_same_edit(pipe, way):
    expected = edit(pipe, **CLIP)
    cpu = torch.device("cpu")
    groups = {"onload_device": cpu, "offload_device": cpu}
    if way == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    elif way == "pipeline's groups":
        pipe.enable_group_offload(
            **groups, offload_type="leaf_level", exclude_modules=["text_encoder", "semantic_tower"]
        )
    elif way == "block groups":
        pipe.transformer.enable_group_offload(**groups, offload_type="block_level", num_blocks_per_group=1)
    else:
        pipe.transformer.enable_group_offload(**groups, offload_type="leaf_level")
    hooked = [hasattr(part, "_hf_hook") or hasattr(part, "_diffusers_hook") for part in pipe.transformer.modules()]
    assert any(hooked)
    for _ in range(2):
        np.testing.assert_allclose(edit(pipe, **CLIP), expected, atol=1e-5)


def test_a_pipeline_with_weights_stored_in_float8_edits(pipe):
    expected = edit(pipe)
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert pipe.transformer.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    assert 0 < np.abs(edit(pipe) - expected).mean() < 0.1


@torch.no_grad()
def test_the_model_and_its_blocks_compile_as_one_graph():
    model = tiny_transformer()
    expected = model(**inputs()).sample
    whole = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(**inputs()).sample, expected, atol=1e-5, rtol=0)
    model.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(model(**inputs()).sample, expected, atol=1e-5, rtol=0)


# --- Callbacks and prompts -------------------------------------------------------------------------------------------


def scales(pipe, start, change, steps=STEPS):
    """Passes of every step of a run whose callback sets guidance scales, and the result."""
    passes, seen = [], []
    watch = pipe.transformer.register_forward_hook(lambda *_: seen.append(1))

    def callback(pipeline, step, timestep, tensors):
        passes.append(len(seen))
        seen.clear()
        pipeline._guidance_scale = change(step, pipeline.guidance_scale)
        return {}

    frames = edit(pipe, guidance_scale=start, callback_on_step_end=callback, num_inference_steps=steps)
    watch.remove()
    return passes, frames


def test_a_callback_changes_the_guidance(pipe):
    passes, risen = scales(pipe, 2.0, lambda _, scale: scale + 1.0)
    assert passes == [2] * STEPS
    assert pipe.guidance_scale == 2.0 + STEPS == 2.0 + pipe.num_timesteps and pipe.do_classifier_free_guidance
    assert not np.allclose(risen, edit(pipe, guidance_scale=2.0), atol=1e-3)
    assert np.array_equal(scales(pipe, 2.0, lambda _, scale: scale)[1], edit(pipe, guidance_scale=2.0))
    for end in (0.0, 1.0):  # diffusers' own cut-off sets 0
        passes, cut = scales(pipe, 2.0, lambda step, scale, end=end: end if step == 1 else scale)
        assert passes == [2, 2, 1, 1]
        assert np.array_equal(cut, scales(pipe, 2.0, lambda step, scale: 1.0 if step == 1 else scale)[1])
    assert not pipe.do_classifier_free_guidance
    with pytest.raises(ValueError, match="starts with a guidance scale of 1"):
        scales(pipe, 1.0, lambda _, scale: 3.0)
    assert np.array_equal(edit(pipe, guidance_scale=2.0), edit(pipe, guidance_scale=2.0))


def test_prompts_are_encoded_by_the_librarys_names(pipe):
    expected = edit(pipe, guidance_scale=3.0)
    texts = SamaPipeline(
        None, None, pipe.text_encoder, pipe.tokenizer, None, max_sequence_length=64, spell_quotes="first"
    )
    positive, negative = texts.encode_prompt(
        prompt="make it snowy", negative_prompt="red", do_classifier_free_guidance=True
    )
    assert positive.shape == negative.shape == (1, 64, TEXT_DIM) and not torch.equal(positive, negative)
    given = edit(pipe, prompt=None, negative_prompt="", guidance_scale=3.0, prompt_embeds=positive,
                 negative_prompt_embeds=negative)  # fmt: skip
    assert np.array_equal(given, expected)
    assert texts.encode_prompt("red", do_classifier_free_guidance=False)[1] is None
    both, rest = texts.encode_prompt(["red", "blue"], num_videos_per_prompt=2)
    assert len(both) == len(rest) == 4
    torch.testing.assert_close(both[::2], texts.encode_text(["red", "blue"]))
    torch.testing.assert_close(rest[:1], texts.encode_text([""]))


# --- Loading ---------------------------------------------------------------------------------------------------------


def test_a_single_file_loads_strictly(tmp_path):
    model = tiny_transformer()
    model.save_pretrained(tmp_path / "folder")
    save_official(model, tmp_path / "official.safetensors")
    arguments = {name: value for name, value in model.config.items() if not name.startswith("_")}
    for config in (tmp_path / "folder", arguments):
        loaded = SamaTransformer3DModel.from_single_file(str(tmp_path / "official.safetensors"), config=config)
        with torch.no_grad():
            torch.testing.assert_close(loaded(**inputs()).sample, model(**inputs()).sample)
    weights = model.state_dict()
    half = SamaTransformer3DModel.from_single_file(weights, config=arguments, torch_dtype=torch.bfloat16)
    assert half.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16 and half.scale_shift_table.dtype == torch.float32
    with pytest.raises(CheckpointError, match="lacks semantic_head"):
        few = {name: value for name, value in weights.items() if not name.startswith("semantic_head")}
        SamaTransformer3DModel.from_single_file(few, config=arguments)
    with pytest.raises(CheckpointError, match="name the preset"):
        SamaTransformer3DModel.from_single_file(weights)


LOADED_ELSEWHERE = """
import sys, importlib.util, torch
assert importlib.util.find_spec("sama") is None, "this package must not be there"
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({folder!r}, custom_pipeline="pipeline", trust_remote_code=True)
assert type(pipe).__name__ == "SamaPipeline" and type(pipe.transformer).__name__ == "SamaTransformer3DModel"
assert sys.modules["sama"].__file__.endswith("pipeline.py")
given = torch.load({inputs!r})
torch.save(pipe(**given, generator=torch.Generator().manual_seed(0)).frames, {outputs!r})
"""


def test_a_bundled_pipeline_runs_without_this_package(pipe, tmp_path, capsys):
    folder = tmp_path / "saved"
    pipe.save_pretrained(folder)
    assert cli.main(["bundle", str(folder)]) == 0 and capsys.readouterr().out.strip() == str(folder / "pipeline.py")
    given = {"source_latents": inputs()["source_hidden_states"], "prompt": "red", "output_type": "latent"}
    places = {"inputs": str(tmp_path / "given"), "outputs": str(tmp_path / "made")}
    torch.save(given, places["inputs"])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    code = LOADED_ELSEWHERE.format(folder=str(folder), **places)
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
    assert run.returncode == 0, run.stderr
    expected = pipe(**given, generator=torch.Generator().manual_seed(0)).frames
    assert expected.isfinite().all()
    torch.testing.assert_close(torch.load(places["outputs"]), expected, atol=1e-5, rtol=0)
    assert cli.main(["bundle", str(folder)]) == 0, "again"
    (folder / "pipeline.py").write_text("mine = True")
    for place, says in ((folder, "is a file of yours"), (tmp_path, "no saved pipeline")):
        assert cli.main(["bundle", str(place)]) == 2 and says in capsys.readouterr().err
    assert (folder / "pipeline.py").read_text() == "mine = True"
