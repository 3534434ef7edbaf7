"""Training and inference show the model the same for the same clip, prompt, noise and noise level, for the embedded
model's frozen parts and for Wan's: a feed and a stage on one side, a pipeline loaded on its own on the other."""

import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLWan
from transformers import UMT5Config, UMT5EncoderModel

from sama.model.semantics import anchor_tokens
from sama.pipeline import SamaPipeline
from sama.pipeline.conditioning import encode_clips
from sama.pipeline.schedule import shifted_sigmas
from sama.pipeline.types import SamaStep
from sama.shapes import Bucket
from sama.video import read_clip, write_clip
from tests.media import make_clip
from tests.tiny import TEXT_DIM, tiny_pipeline, tiny_tokenizer
from training.config import DataConfig, ManifestConfig, SetConfig, TrainConfig
from training.core.batch import EncodedBatch
from training.data.encoders import Encoders
from training.data.files.feed import ManifestFeed
from training.parallel.processes import DataRank
from training.stages.editor import EditStage

WORDS = 'add the red subtitle "good day" ; make it snowy'
STEPS = 3


def wan_pipeline() -> SamaPipeline:
    """The forms of Wan2.1: a causal VAE that is not residual, UMT5, 512 tokens, no spelling."""
    torch.manual_seed(0)
    words = tiny_tokenizer()
    text = UMT5Config(
        vocab_size=len(words), d_model=TEXT_DIM, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0
    )
    statistics = {"latents_mean": [0.01 * c for c in range(16)], "latents_std": [0.1 + 0.002 * c for c in range(16)]}
    vae = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1, **statistics)
    pipeline = tiny_pipeline(max_sequence_length=512, spell_quotes="")
    pipeline.register_modules(text_encoder=UMT5EncoderModel(text).eval(), vae=vae.eval())
    return pipeline


class Sides(NamedTuple):
    """A stage with a batch of its feed, and a pipeline, on one clip and one instruction."""

    stage: EditStage
    batch: EncodedBatch
    pipeline: SamaPipeline
    clip: np.ndarray
    target: np.ndarray


@pytest.fixture(scope="module", params=[tiny_pipeline, wan_pipeline])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement")
    request.param().save_pretrained(folder / "base")
    make_clip(folder / "source.mp4", frames=5, width=96, height=48)
    write_clip(folder / "target.mp4", 255 - read_clip(folder / "source.mp4"), 24)
    row = {"source": "source.mp4", "target": "target.mp4", "prompt": WORDS}
    (folder / "pairs.jsonl").write_text(json.dumps(row))
    manifest = ManifestConfig(sets=(SetConfig(str(folder / "pairs.jsonl")),), buckets="tiny", frames=(1, 5))
    config = TrainConfig(
        "sft", str(folder / "run"), base=str(folder / "base"), start_from_base=True, precision="float32",
        data=DataConfig(source="manifest", workers=0, text_dropout=0.0, manifest=manifest),
    )  # fmt: skip
    place = DataRank(0, 1, torch.device("cpu"))
    encoders = Encoders(config.base, config.tower, place.device, config.precision)
    pipeline = SamaPipeline.from_pretrained(folder / "base")
    pipeline.set_progress_bar_config(disable=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.data.files.buckets.tiny_buckets", lambda: (Bucket(96, 48),))
        stage = EditStage(config, Accelerator(cpu=True), ManifestFeed(config, encoders, place), encoders, place)
        clips = (read_clip(folder / f"{name}.mp4") for name in ("source", "target"))
        yield Sides(stage, next(stage.batches()), pipeline, *clips)


@pytest.fixture
def calls():
    """Begins to note what a transformer is given, call by call."""
    handles = []

    def watched(transformer) -> list[dict]:
        seen: list[dict] = []
        note = transformer.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
        handles.append(note)
        return seen

    yield watched
    for handle in handles:
        handle.remove()


def test_the_model_sees_in_training_what_it_sees_in_the_first_step_of_an_edit(both, calls):
    stage, batch, pipeline, clip, _ = both
    trained, edited = calls(stage.transformer), calls(pipeline.transformer)
    pipeline(clip[None], WORDS, num_inference_steps=STEPS, guidance_scale=1, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        stage.errors(stage.model, batch, torch.ones(1), torch.Generator().manual_seed(7))
    (one,), other = trained, edited[0]
    assert len(edited) == STEPS
    for name in (
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "source_hidden_states",
        "semantic_hidden_states",
    ):
        assert one[name].isfinite().all() and one[name].any(), name
        torch.testing.assert_close(one[name], other[name], atol=1e-4, rtol=1e-4, msg=name)
    assert one["encoder_hidden_states"].shape[1] == pipeline.config["max_sequence_length"]
    answers = []
    for model, given in ((stage.transformer.eval(), one), (pipeline.transformer, other)):
        with torch.no_grad():
            answers.append(model(**given | {"return_dict": False}))
    for mine, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


def test_a_noise_level_is_the_same_timestep_in_training_and_in_every_step_of_an_edit(both, calls):
    stage, batch, pipeline, clip, _ = both
    trained, edited = calls(stage.transformer), calls(pipeline.transformer)
    random = torch.Generator().manual_seed(7)
    steps = pipeline.stream(clip[None], WORDS, num_inference_steps=STEPS, guidance_scale=1, generator=random)
    levels = [event.sigma for event in steps if isinstance(event, SamaStep)]
    assert levels == pytest.approx(shifted_sigmas(STEPS, pipeline.config["shift"]), abs=1e-6) and levels[0] == 1
    with torch.no_grad():
        for sigma in levels:
            stage.errors(stage.model, batch, torch.tensor([sigma]), torch.Generator().manual_seed(7))
    for mine, theirs, sigma in zip(trained, edited, levels, strict=True):
        torch.testing.assert_close(mine["timestep"], theirs["timestep"])
        assert theirs["timestep"].item() == pytest.approx(1000 * sigma, rel=1e-5)


def test_the_state_at_a_noise_level_is_what_the_velocity_of_inference_leads_to(both, calls):
    """A step of the pipeline from noise with the velocity that training teaches lands on training's state there."""
    stage, batch, pipeline, _, _ = both
    trained = calls(stage.transformer)
    sigmas = [*shifted_sigmas(STEPS, pipeline.config["shift"]), 0.0]
    with torch.no_grad():
        for sigma in sigmas:
            stage.errors(stage.model, batch, torch.tensor([sigma]), torch.Generator().manual_seed(7))
    states = [given["hidden_states"] for given in trained]
    velocity = states[0] - batch.target.float()
    for here, there, high, low in zip(states, states[1:], sigmas, sigmas[1:], strict=False):
        torch.testing.assert_close(here + (low - high) * velocity, there, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("words", ["", WORDS, "make it snowy " * 200, 'add the subtitle "good day"', "add [PAD] cat"])
def test_prompts_are_read_alike_also_when_they_are_empty_or_too_long(both, words):
    encoders, pipeline = both.stage.encoders, both.pipeline
    states = encoders.text_states([encoders.prompt(words)])
    assert torch.equal(states, pipeline.encode_text([words])) and states.isfinite().all()
    (seen,) = pipeline.tokenizer([encoders.prompt(words)]).input_ids
    assert states.any(-1).sum() == min(len(seen), pipeline.config["max_sequence_length"])  # one for each token, no more
    assert (len(seen) > encoders.text_length) == (len(words) > 500)


def test_clips_are_encoded_alike(both):
    encoders, pipeline, clip = both.stage.encoders, both.pipeline, torch.from_numpy(both.clip)[None]
    expected = pipeline.encode_video(clip.float() / 255)
    assert expected.isfinite().all() and expected.std() > 0.1
    assert torch.equal(encode_clips(encoders.vae, clip, encoders._statistics), expected)
    exact = encoders._one_pass is None  # which adds in another order
    torch.testing.assert_close(encoders.latents(clip), expected, rtol=0, atol=0 if exact else 1e-5)


def test_anchors_are_those_of_the_pipelines_tower_on_the_first_frame_of_the_target(both):
    picture = torch.from_numpy(both.target[:1]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = anchor_tokens(both.pipeline.semantic_tower, picture)
    assert expected.isfinite().all() and expected.std() > 0.1
    torch.testing.assert_close(both.batch.anchors, expected, atol=1e-4, rtol=1e-4)
