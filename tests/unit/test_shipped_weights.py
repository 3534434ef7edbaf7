"""A floor below the embedded model's edits: short clips of `assets/examples` in few steps, measured against exact
targets or against what the words say. It notices broken weights, guidance or encoders in seconds; how good edits are
is the benchmark's matter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sama.edit import load_pipeline
from sama.video import read_clip

EXAMPLES = Path("assets/examples")
FRAMES, STEPS = 5, 4
"""A quarter of what an edit takes: enough to tell an edit from none."""


def source(name: str) -> np.ndarray:
    """The first frames of an example's source at half size, (5, 144, 256, 3) uint8."""
    clip = read_clip(EXAMPLES / name / "source.mp4")[:FRAMES]
    pixels = torch.from_numpy(clip).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(pixels, (144, 256), mode="area")
    return small.round().byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def edit():
    pipeline = load_pipeline("tiny", "cpu")
    pipeline.set_progress_bar_config(disable=True)

    def edited(clip: np.ndarray, words: str) -> np.ndarray:
        random = torch.Generator().manual_seed(0)
        found = pipeline(torch.from_numpy(clip[None]), words, num_inference_steps=STEPS, generator=random).frames[0]
        assert np.isfinite(found).all()
        return (found * 255).round().astype(np.uint8)

    return edited


def instruction(name: str) -> str:
    return json.loads((EXAMPLES / name / "settings.json").read_text())["instruction"]


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean over colours of the absolute difference, (T, H, W), of 255."""
    return np.abs(one.astype(float) - other).mean(axis=-1)


@pytest.mark.parametrize("name", ["blue-bowl", "remove-pepper"])
def test_an_object_is_recoloured_or_removed_and_the_rest_is_left_alone(edit, name):
    """The examples show one drawn scene in several states: a blue bowl and no pepper are the exact target of both."""
    before, wanted = source(name), source("red-background")
    changed = distance(before, wanted) > 12
    assert 0.02 < changed.mean() < 0.1, "the examples have changed: choose others"
    found = edit(before, instruction(name))
    assert distance(found, wanted)[changed].mean() < 0.5 * distance(before, wanted)[changed].mean()
    assert distance(found, wanted)[~changed].mean() < 6


def test_colours_go_and_the_picture_stays(edit):
    before = source("snowy-rabbit")
    found = edit(before, "Make it black and white")
    spread = [float((clip.max(-1).astype(int) - clip.min(-1)).mean()) for clip in (before, found)]
    assert spread[1] < 0.5 * spread[0]
    assert np.corrcoef(before.mean(-1).ravel(), found.mean(-1).ravel())[0, 1] > 0.95


def test_the_background_turns_red_and_the_objects_stay(edit):
    before = source("red-background")
    found = edit(before, instruction("red-background"))
    newspaper = np.s_[:, 56:124, 172:246]
    for place in (np.s_[:, 8:36, 60:240], np.s_[:, 120:140, 110:160]):  # sky, sand
        red, green, blue = np.median(found[place], axis=(0, 1, 2))
        assert red > 180 and green < 100 and blue < 100
    assert distance(found, before)[newspaper].mean() < 25
