"""A model's numbers come from its saved configuration: nothing else says them a second time."""

import inspect
import json
from dataclasses import replace

import pytest

from sama.edit import edit_video
from sama.edit.estimate import Speed, architecture_of, estimate
from sama.edit.request import EditRequest, check_request
from sama.errors import EditError
from sama.pipeline import SamaPipeline
from sama.presets import PRESETS, TINY_FOLDER, Preset, canvas_of, saved_transformer
from sama.shapes import OFFICIAL_BUCKETS, Bucket, Canvas
from tests.media import make_clip
from tests.tiny import tiny_pipeline
from training.config import DataConfig, ManifestConfig, TrainConfig
from training.data.files import buckets
from training.data.files.buckets import ModelWidth, model_width
from training.errors import ConfigError
from ui.settings import Settings

TRANSFORMER = json.loads((TINY_FOLDER / "transformer" / "config.json").read_text())
INDEX = json.loads((TINY_FOLDER / "model_index.json").read_text())


@pytest.mark.parametrize("loader", [None, lambda: None])
def test_the_page_offers_the_steps_and_guidance_that_the_model_was_saved_with(loader):
    info = Settings(preset="tiny", pipeline_loader=loader).info
    assert (info.steps, info.guidance) == (INDEX["default_steps"], INDEX["default_guidance"])


@pytest.mark.parametrize("preset", ["14b", "1.3b"])
def test_a_model_that_is_not_here_has_the_defaults_of_the_pipeline(preset):
    defaults = {name: value.default for name, value in inspect.signature(SamaPipeline.__init__).parameters.items()}
    model, info = architecture_of(preset), Settings(preset=preset).info
    assert (model.steps, model.guidance) == (info.steps, info.guidance) == (50, 5.0)
    assert (defaults["default_steps"], defaults["default_guidance"]) == (50, 5.0)
    assert model.text_tokens == defaults["max_sequence_length"] == 512


def test_the_published_sizes_are_those_of_the_preset():
    assert saved_transformer(PRESETS["tiny"]) == TRANSFORMER
    model = architecture_of("14b")
    assert (model.width, model.ffn, model.blocks, model.heads) == (5120, 13824, 40, 40)


def config(sizes, **model):
    return TrainConfig(
        stage="sft",
        output="x",
        base="elsewhere/base",
        model=model,
        data=DataConfig(source="manifest", manifest=ManifestConfig(buckets=sizes)),
    )


def test_batches_are_sized_for_the_model_that_the_buckets_belong_to():
    width = TRANSFORMER["num_attention_heads"] * TRANSFORMER["attention_head_dim"]
    assert model_width(config("tiny")) == ModelWidth(width, TRANSFORMER["ffn_dim"])
    assert model_width(config("official")) == ModelWidth(5120, 13824)
    assert model_width(config("tiny", ffn_dim=96)) == ModelWidth(width, 96)
    own = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96}
    assert model_width(config("official", **own)) == ModelWidth(48, 96)


def test_a_model_of_unknown_width_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "PRESETS", {"tiny": Preset("tiny", folder=tmp_path)})
    with pytest.raises(ConfigError, match=r"set model\.num_attention_heads"):
        model_width(config("tiny"))


# --- Sizes and window ------------------------------------------------------------------------------------------------

OWN = {"buckets": [[64, 48], [48, 64]], "window": 5, "window_overlap": 2}


def test_a_pipeline_carries_its_sizes_and_window_to_disk_and_back(tmp_path):
    pipeline = tiny_pipeline(tower=False, **OWN)
    pipeline.save_config(tmp_path / "own")
    assert pipeline.canvas == canvas_of("14b", tmp_path / "own") == Canvas((Bucket(64, 48), Bucket(48, 64)), 5, 2)
    assert {name: INDEX[name] for name in OWN} == canvas_of("tiny").settings()
    assert canvas_of("14b") == canvas_of("1.3b") == Canvas(OFFICIAL_BUCKETS, 81, 5)


def test_a_pipeline_that_was_saved_without_them_has_those_of_the_preset(tmp_path):
    pipeline = tiny_pipeline(tower=False)
    pipeline.save_config(tmp_path)
    file = tmp_path / "model_index.json"
    file.write_text(
        json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name not in OWN})
    )
    assert pipeline.canvas is None
    assert canvas_of("14b", tmp_path) == canvas_of("14b") and canvas_of("tiny", tmp_path) == canvas_of("tiny")


def test_an_edit_is_cut_as_the_pipeline_says_whatever_the_preset_is(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=8, width=64, height=48)
    pipeline = tiny_pipeline(tower=False, **OWN)
    pipeline.save_pretrained(tmp_path / "own")
    asked = EditRequest(clip, "make it snowy", tmp_path / "out.mp4", preset="14b", steps=1, detail="off")
    saved = check_request(replace(asked, model=tmp_path / "own"))
    assert (saved.plan.bucket, saved.plan.windows) == ((64, 48), [(0, 5), (4, 8)])
    assert estimate(replace(asked, model=tmp_path / "own"), saved.info, Speed(1e12, 1e12, 1e12, "given")).windows == 2
    list(edit_video(asked, pipeline))
    settings = json.loads((tmp_path / "out.json").read_text())
    assert (settings["bucket"], settings["windows"]) == ([64, 48], 2)


@pytest.mark.parametrize(
    "wrong", [{"window": 6}, {"buckets": []}, {"buckets": [[60, 48]]}, {"buckets": 3}, {"window_overlap": 5}]
)
def test_sizes_and_windows_that_cannot_be_are_refused_where_they_are_read(wrong, tmp_path):
    with pytest.raises(ValueError, match=r"."):
        tiny_pipeline(tower=False, **(OWN | wrong))
    (tmp_path / "model_index.json").write_text(json.dumps(OWN | wrong))
    clip = make_clip(tmp_path / "clip.mp4", frames=1, width=64, height=48)
    with pytest.raises(EditError, match="incomplete"):
        check_request(EditRequest(clip, "make it snowy", tmp_path / "out.mp4", model=tmp_path))
