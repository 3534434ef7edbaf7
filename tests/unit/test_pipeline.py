import inspect
import threading
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, UniPCMultistepScheduler, WanPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

from sama.checkpoints import load_transformer, save_official
from sama.errors import CheckpointError
from sama.loading import assemble
from sama.model.pretext import PRETEXT_TASKS
from sama.model.transformer import SamaTransformer3DModel
from sama.pipeline import SamaPipeline, SamaPipelineOutput, SamaStep
from sama.pipeline.caching import first_block_cache
from sama.pipeline.frames import as_frames
from sama.pipeline.inputs import SamaInputs
from sama.pipeline.schedule import shifted_sigmas
from sama.presets import PRESETS, transformer_config
from tests.tiny import GOLDEN, golden_arguments, golden_tensors, tiny_clip, tiny_pipeline, tiny_transformer

PROMPT = "Make it snowy"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def edit(pipe, **changes):
    return pipe(**({"video": tiny_clip(), "prompt": PROMPT, "generator": seeded()} | changes))


def count_passes(pipe, **changes):
    calls = []
    handle = pipe.transformer.register_forward_hook(
        lambda _module, _args, kwargs, _out: calls.append(kwargs["source_hidden_states"] is not None), with_kwargs=True
    )
    edit(pipe, **changes)
    handle.remove()
    return calls


# --- What comes out --------------------------------------------------------------------------------------------------


def test_an_edit_returns_the_clip_and_its_plan(pipe):
    out = edit(pipe, num_inference_steps=3)
    assert out.frames.shape == (1, 5, 32, 48, 3)
    assert out.frames.dtype == np.float32
    assert 0 <= out.frames.min() < out.frames.max() <= 1
    assert out.semantic_tokens.shape == (1, 3, 65, 32)
    assert edit(pipe, num_inference_steps=3, return_dict=False)[1].shape == (1, 3, 65, 32)


def test_output_types_show_the_same_frames(pipe):
    frames = edit(pipe).frames
    tensors = edit(pipe, output_type="pt").frames
    assert tensors.shape == (1, 5, 3, 32, 48), "as video pipelines of diffusers give them"
    assert np.array_equal(tensors.movedim(2, -1).numpy(), frames)
    pictures = edit(pipe, output_type="pil").frames
    assert np.array_equal(np.stack([np.asarray(p) for p in pictures[0]]), (frames[0] * 255).round().astype(np.uint8))
    latents = edit(pipe, output_type="latent").frames
    assert torch.equal(pipe.decode_latents(latents), torch.from_numpy(frames))


def test_the_loop_agrees_with_the_official_code():
    golden = golden_tensors()
    pipe = tiny_pipeline()
    pipe.register_modules(transformer=load_transformer(GOLDEN / "tiny_weights.safetensors", golden_arguments()))
    events = list(
        pipe.stream(
            source_latents=golden["source_latents"],
            prompt_embeds=golden["context"],
            negative_prompt_embeds=golden["negative_context"],
            latents=golden["noise"],
            semantic_latents=golden["semantic_noise"],
            num_inference_steps=4,
            guidance_scale=5.0,
            output_type="latent",
        )
    )
    torch.testing.assert_close(events[-1].frames, golden["out_loop_latents"], atol=1e-4, rtol=0)
    torch.testing.assert_close(events[-2].semantic_latents, golden["out_loop_semantic"], atol=1e-4, rtol=0)
    # The last step ends at the clean sample, so the plan's last estimate is the finished plan.
    torch.testing.assert_close(events[-1].semantic_tokens[:, -1], golden["out_loop_semantic"], atol=1e-4, rtol=0)


# --- Seeds and batches -----------------------------------------------------------------------------------------------


def test_a_seed_decides_frames_and_plan(pipe):
    first, again, other = edit(pipe), edit(pipe), edit(pipe, generator=seeded(1))
    assert np.array_equal(first.frames, again.frames)
    assert torch.equal(first.semantic_tokens, again.semantic_tokens)
    assert not np.array_equal(first.frames, other.frames)
    assert not torch.equal(first.semantic_tokens, other.semantic_tokens)


def test_the_video_noise_is_drawn_first_and_then_the_plan_s(pipe):
    generator = seeded()
    noise = torch.randn(1, 16, 2, 4, 6, generator=generator)
    semantic = torch.randn(1, 65, 32, generator=generator)
    given = edit(pipe, latents=noise, semantic_latents=semantic, generator=None)
    assert np.array_equal(given.frames, edit(pipe).frames)


def test_several_seeds_are_several_single_runs(pipe):
    batch = edit(pipe, generator=[seeded(seed) for seed in range(3)])
    for seed in range(3):
        single = edit(pipe, generator=seeded(seed))
        np.testing.assert_allclose(batch.frames[seed], single.frames[0], atol=1e-5)
        torch.testing.assert_close(batch.semantic_tokens[seed], single.semantic_tokens[0], atol=1e-5, rtol=0)


def test_several_clips_and_prompts_are_several_single_runs(pipe):
    clips, prompts = torch.stack([tiny_clip(seed=0), tiny_clip(seed=1)]), ["add a red balloon", "remove the cat dog"]
    batch = edit(pipe, video=clips, prompt=prompts, generator=[seeded(0), seeded(1)])
    for index in range(2):
        single = edit(pipe, video=clips[index], prompt=prompts[index], generator=seeded(index))
        np.testing.assert_allclose(batch.frames[index], single.frames[0], atol=1e-5)


def test_results_of_one_prompt_lie_next_to_each_other(pipe):
    prompts = ["add a red balloon", "remove the cat"]
    generators = [seeded(seed) for seed in (0, 1, 0, 1)]
    batch = edit(pipe, prompt=prompts, num_videos_per_prompt=2, generator=generators)
    single = edit(pipe, prompt=prompts[1], generator=seeded(0))
    np.testing.assert_allclose(batch.frames[2], single.frames[0], atol=1e-5)
    assert edit(pipe, num_videos_per_prompt=2).frames.shape[0] == 2


# --- Conditions ------------------------------------------------------------------------------------------------------


def test_prompt_source_prefix_and_negative_prompt_matter(pipe):
    frames = edit(pipe).frames
    changes = (
        {"prompt": "remove the cat"},
        {"video": tiny_clip(seed=1)},
        {"prompt_prefix": PRETEXT_TASKS["speed"].prefix},
        {"negative_prompt": "red"},
        {"guidance_scale": 5.0},
        {"source_guidance_scale": 2.0},
    )
    for change in changes:
        assert np.abs(edit(pipe, **change).frames - frames).max() > 1e-4, change


def test_restoring_needs_no_caption(pipe):
    out = edit(pipe, prompt="", prompt_prefix=PRETEXT_TASKS["cube"].prefix)
    assert out.frames.shape == (1, 5, 32, 48, 3)


def test_each_scale_costs_the_passes_it_needs(pipe):
    assert count_passes(pipe, num_inference_steps=1, guidance_scale=1.0) == [True]
    assert count_passes(pipe, num_inference_steps=1, guidance_scale=3.0) == [True, True]
    assert count_passes(pipe, num_inference_steps=1, guidance_scale=1.0, source_guidance_scale=2.0) == [True, False]
    assert count_passes(pipe, num_inference_steps=1, source_guidance_scale=2.0) == [True, True, False]
    assert count_passes(pipe, num_inference_steps=1, source_guidance_scale=1.0) == [True, True]


def test_outside_its_interval_guidance_costs_nothing_and_changes_nothing(pipe):
    sigmas = shifted_sigmas(4, pipe.config["shift"])
    middle = (sigmas[2], sigmas[1])
    both = {"num_inference_steps": 4, "source_guidance_scale": 2.0}
    assert count_passes(pipe, **both, guidance_interval=middle) == [True] + 2 * [True, True, False] + [True]
    plain, guided, part, whole, none = (
        edit(pipe, num_inference_steps=4, guidance_scale=scale, guidance_interval=interval).frames
        for scale, interval in ((1.0, None), (3.0, None), (3.0, middle), (3.0, (0.0, 1.0)), (3.0, (0.0, 0.1)))
    )
    assert np.array_equal(whole, guided)
    assert np.array_equal(none, plain)
    assert not np.array_equal(part, guided)
    assert not np.array_equal(part, plain)


@torch.no_grad()
def test_guidance_acts_on_both_streams_and_keeps_the_source_in_the_negative_pass(pipe):
    frames = as_frames(tiny_clip())
    source, text = pipe.encode_video(frames), pipe.encode_text([PROMPT])
    generator = seeded()
    noise, semantic = torch.randn(source.shape, generator=generator), torch.randn(1, 65, 32, generator=generator)

    def evaluate(states, with_source):
        given = source if with_source else None
        out = pipe.transformer(noise, torch.tensor([1000.0]), states, given, semantic)
        return out.sample, out.semantic

    negative = pipe.encode_text(["red"])
    answers = [evaluate(text, True), evaluate(negative, True), evaluate(negative, False)]
    events = list(
        pipe.stream(
            video=tiny_clip(), prompt=PROMPT, negative_prompt="red", num_inference_steps=1, guidance_scale=4.0,
            source_guidance_scale=1.5, generator=seeded(), output_type="latent",
        )
    )  # fmt: skip
    video, plan = (p + 0 * n + 3 * (p - n) + 0.5 * (n - w) for p, n, w in zip(*answers, strict=True))
    torch.testing.assert_close(events[-1].frames, noise - video, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(events[0].semantic_latents, semantic - plan, atol=1e-4, rtol=1e-4)


def test_padded_text_is_zero_and_has_one_length(pipe):
    states = pipe.encode_text(["red", "add a red balloon"])
    assert states.shape == (2, 64, 32)
    tokens = len(pipe.tokenizer("[Video edit] red").input_ids)
    assert states[0, :tokens].abs().sum(dim=-1).min() > 0
    assert not states[0, tokens:].any()
    torch.testing.assert_close(states[:1], pipe.encode_text(["red"]), atol=1e-6, rtol=0)


def test_a_t5_text_encoder_fits():
    pipe = tiny_pipeline()
    config = UMT5Config(vocab_size=len(pipe.tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    pipe.register_modules(text_encoder=UMT5EncoderModel(config).eval())
    assert np.isfinite(edit(pipe).frames).all()


def test_unipc_is_an_option(pipe):
    other = tiny_pipeline()
    other.scheduler = UniPCMultistepScheduler()
    out = edit(other, num_inference_steps=4)
    assert np.isfinite(out.frames).all()
    assert not np.array_equal(out.frames, edit(pipe, num_inference_steps=4).frames)
    assert np.array_equal(out.frames, edit(other, num_inference_steps=4).frames)


def test_timesteps_can_be_rounded_as_the_official_code_does():
    seen = {}
    for rounded in (False, True):
        pipe = tiny_pipeline(round_timestep_to_bf16=rounded)
        timesteps = []
        pipe.transformer.register_forward_pre_hook(
            lambda _module, _args, kwargs, kept=timesteps: kept.append(kwargs["timestep"].item()), with_kwargs=True
        )
        edit(pipe, num_inference_steps=3, guidance_scale=1.0)
        seen[rounded] = timesteps
    assert seen[False] == pytest.approx([1000, 909.0909, 714.2857], abs=1e-3)
    assert seen[True] == [1000, 908, 716]


# --- The stream ------------------------------------------------------------------------------------------------------


def test_a_stream_reports_every_step_and_then_the_result(pipe):
    *steps, out = pipe.stream(video=tiny_clip(), prompt=PROMPT, num_inference_steps=3, generator=seeded())
    assert all(isinstance(step, SamaStep) for step in steps)
    assert isinstance(out, SamaPipelineOutput)
    assert [(step.step, step.num_steps) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert [step.sigma for step in steps] == pytest.approx([1.0, 10 / 11, 5 / 7])
    assert [step.timestep for step in steps] == pytest.approx([1000 * step.sigma for step in steps])
    assert torch.equal(torch.stack([step.semantic_tokens for step in steps], dim=1), out.semantic_tokens)
    assert torch.equal(pipe.decode_latents(steps[-1].latents), torch.from_numpy(out.frames))
    torch.testing.assert_close(steps[-1].clean_latents, steps[-1].latents, atol=1e-5, rtol=0)


def test_closing_a_stream_stops_the_work_and_leaves_the_pipeline_usable():
    pipe = tiny_pipeline()
    expected = edit(pipe).frames
    calls = []
    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    stream = pipe.stream(video=tiny_clip(), prompt=PROMPT, num_inference_steps=5, guidance_scale=1.0)
    next(stream)
    stream.close()
    assert len(calls) == 1
    assert pipe.current_timestep is None
    assert np.array_equal(edit(pipe).frames, expected)


def test_caches_do_not_outlive_a_run():
    pipe = tiny_pipeline()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    expected = edit(pipe, num_inference_steps=4).frames
    stream = pipe.stream(video=tiny_clip(seed=1), prompt=PROMPT, num_inference_steps=4)
    next(stream)
    stream.close()
    assert np.array_equal(edit(pipe, num_inference_steps=4).frames, expected)


def test_the_cache_leaves_out_blocks_and_leaves_no_trace():
    pipe, computed = tiny_pipeline(), []
    watch = pipe.transformer.blocks[-1].ffn.register_forward_hook(lambda *_: computed.append(1))

    def run(**changes):
        computed.clear()
        frames = edit(pipe, num_inference_steps=4, guidance_interval=(0.8, 1.0), **changes).frames
        assert np.isfinite(frames).all()
        return frames, len(computed)

    plain, evaluations = run()
    kept, all_ = run(cache_threshold=0.0)
    assert all_ == evaluations == 4 + sum(sigma >= 0.8 for sigma in shifted_sigmas(4, pipe.config["shift"]))
    np.testing.assert_allclose(kept, plain, atol=1e-5)
    cached, some = run(cache_threshold=1e9)
    assert some == 2, "the first step of each pass is computed, and nothing after it"
    assert not np.allclose(cached, plain, atol=1e-3)
    again, _ = run()
    assert np.array_equal(again, plain)
    assert not pipe.transformer.is_cache_enabled
    watch.remove()


def test_the_cache_judges_by_the_targets_tokens_alone():
    transformer = tiny_transformer()
    latents, source = torch.randn(1, 16, 2, 4, 6), torch.randn(1, 16, 2, 4, 6)
    given = {"timestep": torch.tensor([500.0]), "encoder_hidden_states": torch.randn(1, 8, 32)}
    computed = []
    transformer.blocks[-1].ffn.register_forward_hook(lambda *_: computed.append(1))

    def evaluate(source, latents):
        with transformer.cache_context("cond"), torch.no_grad():
            transformer(hidden_states=latents, source_hidden_states=source, **given)
        return len(computed)

    mean = torch.zeros_like(transformer.blocks[0].attn1.to_v.weight)
    with torch.no_grad():  # blocks that do not mix tokens, so that a change of the source stays in its own tokens
        transformer.blocks[0].attn1.to_v.weight.copy_(mean)
    with first_block_cache(transformer, 0.01):
        assert evaluate(source, latents) == 1
        assert evaluate(10 * source, latents) == 1, "a change of the source alone is no reason to compute"
        assert evaluate(source, latents + 1) == 2


def test_a_callback_sees_and_replaces_tensors(pipe):
    seen = []

    def callback(pipeline, step, timestep, tensors):
        seen.append((pipeline is pipe, step, float(timestep), sorted(tensors)))
        return {"semantic_latents": torch.zeros_like(tensors["semantic_latents"])}

    names = ["latents", "semantic_latents"]
    out = edit(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    assert seen == [(True, 0, 1000.0, names), (True, 1, pytest.approx(833.333, abs=1e-2), names)]
    assert not np.array_equal(out.frames, edit(pipe).frames)


def test_a_callback_can_stop_the_steps(pipe):
    def callback(pipeline, step, timestep, tensors):
        pipeline._interrupt = step == 1
        return tensors

    out = edit(pipe, num_inference_steps=5, callback_on_step_end=callback)
    assert out.semantic_tokens.shape[1] == 2
    assert edit(pipe, num_inference_steps=3).semantic_tokens.shape[1] == 3


# --- Video in and out ------------------------------------------------------------------------------------------------


def test_every_form_of_a_clip_is_the_same_clip(pipe):
    clip = tiny_clip()
    floats = clip.float() / 255
    forms = [
        clip.numpy(),
        floats,
        floats.numpy().astype(np.float64),
        clip.permute(0, 3, 1, 2),
        clip[None],
        clip.permute(0, 3, 1, 2)[None],
        [Image.fromarray(frame) for frame in clip.numpy()],
        list(clip.numpy()),
        [[Image.fromarray(frame) for frame in clip.numpy()]],
    ]
    expected = as_frames(clip)
    assert expected.shape == (1, 5, 32, 48, 3)
    for form in forms:
        torch.testing.assert_close(as_frames(form), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (tiny_clip(frames=4), "4 frames cannot be encoded whole: pad them to 5"),
        (tiny_clip(height=40), "48x40 is not divisible by 16"),
        (tiny_clip().float(), r"must lie in \[0, 1\]"),
        (tiny_clip()[..., :1], "frames of RGB pixels"),
        (torch.full((5, 32, 48, 3), float("nan")), r"must lie in \[0, 1\]"),
        ("clip.mp4", "must be an array"),
        ([], "must be an array"),
        ([tiny_clip(), tiny_clip(height=48)], "one size"),
        (None, "needs a video"),
    ],
)
def test_clips_that_do_not_fit_are_refused_at_once(pipe, video, message):
    with pytest.raises(ValueError, match=message):
        pipe.stream(video=video, prompt=PROMPT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "needs a prompt"),
        ({"prompt": ["a", "b"], "video": torch.stack([tiny_clip()] * 3)}, "equally many"),
        ({"generator": [seeded()] * 3, "num_videos_per_prompt": 2}, "3 generators cannot seed 2"),
        ({"num_inference_steps": 0}, "at least one denoising step"),
        ({"num_videos_per_prompt": 0}, "at least one"),
        ({"output_type": "gif"}, "output_type"),
        ({"callback_on_step_end_tensor_inputs": ["weights"]}, "weights"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(pipe, changes, message):
    with pytest.raises(ValueError, match=message):
        pipe.stream(**({"video": tiny_clip(), "prompt": PROMPT} | changes))


def test_latents_are_normalised_as_wan_s(pipe):
    frames = as_frames(tiny_clip())
    raw = pipe.vae.encode(frames.movedim(-1, 1) * 2 - 1).latent_dist.mode()
    mean, std = (torch.tensor(pipe.vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    torch.testing.assert_close(pipe.encode_video(frames), (raw - mean) / std)
    decoded = pipe.vae.decode(raw).sample.clamp(-1, 1) / 2 + 0.5
    torch.testing.assert_close(pipe.decode_latents((raw - mean) / std), decoded.movedim(1, -1), atol=1e-5, rtol=0)


def test_one_vae_serves_several_threads(pipe):
    clips = [as_frames(tiny_clip(frames=9, seed=seed)) for seed in range(4)]
    expected = [pipe.encode_video(clip) for clip in clips]
    results = [None] * 4

    def work(index):
        results[index] = pipe.encode_video(clips[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, value in zip(results, expected, strict=True):
        assert torch.equal(result, value)


# --- On disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", [True, False])
def test_a_saved_pipeline_is_the_same_pipeline(tmp_path, tower):
    pipe = tiny_pipeline(tower=tower, prompt_prefix="[Edit]", shift=3.0)
    pipe.save_pretrained(tmp_path)
    loaded = SamaPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.transformer) is SamaTransformer3DModel
    assert (loaded.semantic_tower is not None) == tower
    assert loaded.config["prompt_prefix"] == "[Edit]"
    assert loaded.config["shift"] == 3.0
    np.testing.assert_allclose(edit(loaded).frames, edit(pipe).frames, atol=1e-5)
    again = SamaPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert np.array_equal(edit(again).frames, edit(loaded).frames)


def test_weights_in_float8_are_computed_with_in_full(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    for file in tmp_path.glob("*/*.safetensors"):
        small = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(file).items()}
        save_file(small, file, metadata={"format": "pt"})
    stored = load_file(tmp_path / "text_encoder" / "model.safetensors")
    names = ("transformer", "vae", "text_encoder", "semantic_tower")
    for arguments, expected in (({}, torch.float32), ({"torch_dtype": torch.bfloat16}, torch.bfloat16)):
        pipe = SamaPipeline.from_pretrained(tmp_path, **arguments)
        pipe.set_progress_bar_config(disable=True)
        for name in names:
            dtypes = {parameter.dtype for parameter in getattr(pipe, name).parameters()}
            assert dtypes <= {expected, torch.float32} and expected in dtypes
        weight = pipe.text_encoder.state_dict()["embeddings.word_embeddings.weight"]
        assert torch.equal(weight.float(), stored["embeddings.word_embeddings.weight"].float())
        assert np.isfinite(edit(pipe).frames).all()


def test_the_tiny_preset_loads_from_its_folder(tmp_path, monkeypatch):
    folder = tmp_path / "sama-tiny"
    tiny_pipeline().save_pretrained(folder)
    tuned = tiny_transformer()
    tuned.save_pretrained(tmp_path / "tuned")
    presets = {**PRESETS, "tiny": type(PRESETS["tiny"])("tiny", folder=folder)}
    monkeypatch.setattr("sama.presets.PRESETS", presets)
    assert isinstance(assemble("tiny"), SamaPipeline)
    loaded = assemble("tiny", weights=tmp_path / "tuned").transformer
    assert torch.equal(loaded.proj_out.weight, tuned.proj_out.weight.to(loaded.dtype))
    presets["tiny"] = type(PRESETS["tiny"])("tiny", folder=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere"):
        assemble("tiny")


def test_a_wan_preset_joins_its_base_components_and_the_released_weights(tmp_path, monkeypatch):
    tiny = tiny_pipeline(tower=False)
    components = {name: getattr(tiny, name) for name in ("vae", "text_encoder", "tokenizer")}
    wan = WanPipeline(**components, transformer=None, scheduler=UniPCMultistepScheduler())
    wan.save_pretrained(tmp_path / "base")
    save_official(tiny.transformer, tmp_path / "released.safetensors")
    asked = []

    def download(repo, file, revision):
        asked.append((repo, file, revision))
        return tmp_path / "released.safetensors"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    preset = replace(PRESETS["14b"], base_repo=str(tmp_path / "base"), transformer=tiny.transformer_arguments)
    monkeypatch.setattr("sama.presets.PRESETS", {"14b": preset})
    pipe = assemble("14b")
    assert asked == [("syxbb/SAMA-14B", "sama_14b_ema.safetensors", preset.weights_revision)]
    assert pipe.transformer.dtype == pipe.text_encoder.dtype == torch.bfloat16
    assert pipe.vae.dtype == torch.float32
    assert type(pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    assert (pipe.config["shift"], pipe.config["default_steps"], pipe.config["default_guidance"]) == (5.0, 50, 5.0)
    assert pipe.config["prompt_prefix"] == "[Video edit]"
    assert pipe.config["max_sequence_length"] == 512
    assert torch.equal(pipe.transformer.proj_out.weight, tiny.transformer.proj_out.weight.bfloat16())


def test_a_prompt_that_is_too_long_is_not_cut_in_silence(pipe, caplog):
    pipe.encode_text(["red"])
    assert not caplog.text
    pipe.encode_text(["red balloon " * 40])
    assert "its end is lost" in caplog.text


def test_presets_name_real_models():
    with pytest.raises(ValueError, match=r"choose one of tiny, 14b, 1\.3b"):
        assemble("15b")
    with pytest.raises(CheckpointError, match=r"No weights are released for 1\.3b"):
        assemble("1.3b")
    with torch.device("meta"):
        large = SamaTransformer3DModel(**transformer_config("14b"))
        small = SamaTransformer3DModel(**transformer_config("1.3b"))
    added = ("segment_embedding", "semantic_projector", "semantic_head")
    counts = [sum(p.numel() for n, p in m.named_parameters() if n.startswith(added)) for m in (large, small)]
    assert counts[0] == 12_355_968  # the paper's figure for the 14B
    assert large.patch_embedding.weight.shape[0] == 5120
    assert small.patch_embedding.weight.shape[0] == 1536


@pytest.mark.parametrize("method", [SamaPipeline.__call__, SamaPipeline.stream])
def test_the_arguments_stand_once_and_every_method_shows_them(method, pipe):
    shown = inspect.signature(method).parameters
    names = [field.name for field in fields(SamaInputs)]
    assert list(shown) == ["self", *names] and shown["output_type"].default == "np"
    assert all(name in SamaInputs.__doc__ for name in names)
    assert method.__doc__.endswith(inspect.getdoc(SamaInputs)) and not method.__doc__.startswith("What")
    with pytest.raises(TypeError, match="strength"):
        method(pipe, tiny_clip(), PROMPT, strength=1)
    with pytest.raises(ValueError, match="needs a prompt"):  # before the first step is asked for
        method(pipe, tiny_clip())
