"""A model's numbers come from its saved configuration: nothing else says them a second time."""

import inspect
import json

import pytest

from sama.edit.estimate import architecture_of
from sama.pipeline import SamaPipeline
from sama.presets import PRESETS, TINY_FOLDER, Preset, saved_transformer
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
