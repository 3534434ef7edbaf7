"""The recipe of docs/lora.md: its pairs, its configuration, and a run of both on a tiny random model."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

from sama.edit import load_pipeline
from sama.video import read_clip, write_clip
from tests.tiny import tiny_clip, tiny_pipeline
from training.config import load_config
from training.data.files.feed import ManifestData
from training.synth.edits.styles import STYLES
from training.tiny.recipes import score_style
from training.tiny.recipes.make_style_pairs import CUTS, FRAMES, PROMPTS, SIZE, make_pairs, sources
from training.tiny.recipes.thermal import thermal
from training.train import train

CONFIG = Path("training/configs/lora_tiny_style.yaml")


@pytest.fixture(scope="module")
def clips():
    return list(sources())


@pytest.fixture(scope="module")
def manifest(clips, tmp_path_factory):
    return make_pairs(clips[:2], tmp_path_factory.mktemp("pairs"))


def configured(manifest, output, *more):
    overrides = [
        f"data.manifest.sets=[{{manifest: {manifest}}}]", f"data.manifest.cache={output}/cache", f"output={output}",
    ]  # fmt: skip
    return load_config(CONFIG, [*overrides, *more])


def test_sixteen_clips_that_move_and_differ_from_each_other(clips):
    assert len(clips) == 16
    for clip in clips:
        assert clip.shape == (FRAMES, SIZE[1], SIZE[0], 3) and clip.dtype == np.uint8
        assert np.abs(clip[0].astype(int) - clip[-1]).mean() > 0.5
    middles = np.stack([clip[FRAMES // 2] for clip in clips]).astype(int)
    assert all(np.abs(middles[i] - middles[j]).mean() > 5 for i in range(16) for j in range(i))
    assert all(np.array_equal(clip, again) for clip, again in zip(clips[::5], list(sources())[::5], strict=True))


def test_the_clip_to_try_the_style_on_is_not_among_them():
    assert "snowy-rabbit" not in {cut.clip for cut in CUTS}


def test_the_style_is_new_and_orders_colours_by_light():
    assert "thermal" not in STYLES and all("Make it" in p or "thermal" in p for p in PROMPTS)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(64, axis=0)
    light = cv2.cvtColor(thermal(ramp), cv2.COLOR_RGB2GRAY)[32].astype(int)
    assert (np.diff(light) >= -1).all() and light[-1] - light[0] > 200
    assert np.abs(thermal(ramp).astype(int) - ramp).max(axis=2).mean() > 50


def test_targets_are_the_styled_sources(manifest, clips):
    from sama.video import FrameReader

    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == list(PROMPTS[:2])
    with FrameReader(manifest.parent / rows[1]["target_video"]) as reader:
        target = np.stack([frame.image for frame in reader]).astype(int)
    assert np.abs(target - np.stack([thermal(frame) for frame in clips[1]])).mean() < 4


def test_the_configuration_takes_every_pair(manifest, tmp_path):
    data = ManifestData(configured(manifest, tmp_path))
    assert not data.dropped and (data.chosen >= 0).sum() == 2
    assert {str(data.known[number]) for number in data.chosen} == {"256x144x5"}


def test_a_run_ends_with_a_file_that_changes_edits(manifest, tmp_path):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "base")
    run = ("max_steps=3", "precision=float32", f"base={tmp_path}/base", "optimiser.warmup_steps=0", "lora.rank=2")
    assert train(configured(manifest, tmp_path / "thermal", *run)) == 0
    (path,) = (tmp_path / "thermal" / "lora").iterdir()
    assert path.name == "thermal.safetensors"
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata()["modelspec.trigger_phrase"] == "Make it thermal"
    clip = tiny_clip(5, 48, 64)

    def edited(*lora):
        pipeline = load_pipeline("tiny", "cpu", lora, model=tmp_path / "base")
        return pipeline(video=clip, prompt="red", generator=torch.Generator().manual_seed(0)).frames

    assert np.abs(edited(str(path)) - edited()).max() > 1e-3


def test_results_are_scored_against_the_style_itself(tmp_path, clips, capsys):
    source = clips[0]
    write_clip(tmp_path / "source.mp4", source, 12)
    read = read_clip(tmp_path / "source.mp4")
    styled = np.stack([thermal(frame) for frame in read[:5]])
    for name, clip in {"styled": styled, "off": 255 - styled, "same": read, "small": read[:, ::2, ::2]}.items():
        write_clip(tmp_path / f"{name}.mp4", clip, 12)
    paths = [str(tmp_path / f"{name}.mp4") for name in ("source", "styled", "off", "same")]
    assert score_style.main(paths) == 0
    decibels = [float(line.split()[-2]) for line in capsys.readouterr().out.splitlines()]
    assert decibels[0] > 25 > 12 > max(decibels[1:])
    with pytest.raises(SystemExit) as stopped:
        score_style.main([paths[0], str(tmp_path / "small.mp4")])
    assert stopped.value.code == 2 and "no edit of a source" in capsys.readouterr().err
