"""What a run writes about itself, read back with the readers that people use."""

import json

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.core.tracking import METRICS_FILE, Tracker, read_metrics
from training.errors import ConfigError

CONFIG = {"stage": "sft", "optimiser": {"learning_rate": 1e-3}}


def lines(folder):
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def session(folder, steps, value=1.0, names=(), **options):
    tracker = Tracker(folder, names, CONFIG, **options)
    for step in steps:
        tracker.log({"loss": value}, step)
    tracker.close()


def board(folder):
    return EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0}).Reload()


def test_metrics_are_written_at_once_and_without_trackers(tmp_path):
    tracker = Tracker(tmp_path / "run", (), CONFIG)
    assert not (tmp_path / "run").exists()
    tracker.log({"flow": 0.25, "samples": 7}, 20)
    assert lines(tmp_path / "run") == [{"step": 20, "flow": 0.25, "samples": 7}]
    assert isinstance(lines(tmp_path / "run")[0]["samples"], int)
    tracker.log({"flow": float("nan"), "grad_norm": float("inf"), "samples": 14}, 40)
    assert lines(tmp_path / "run")[1] == {"step": 40, "samples": 14}


def test_figures_of_one_step_are_joined(tmp_path):
    tracker = Tracker(tmp_path, (), CONFIG)
    tracker.log({"flow": 0.5}, 20)
    tracker.log({"validation/raw/flow": 0.75}, 20)
    tracker.log({"flow": 0.25}, 40)
    assert read_metrics(tmp_path) == [
        {"step": 20, "flow": 0.5, "validation/raw/flow": 0.75},
        {"step": 40, "flow": 0.25},
    ]
    assert read_metrics(tmp_path / "nothing") == []


@pytest.mark.parametrize("names", [(), ("tensorboard",)])
def test_a_resumed_run_tells_no_step_twice(tmp_path, names):
    session(tmp_path, (10, 20, 30, 40), 1.0, names)
    session(tmp_path, (30, 40, 50), 2.0, names, step=25)
    told = [(line["step"], line["loss"]) for line in lines(tmp_path)]
    assert told == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]
    if names:
        assert [(event.step, event.value) for event in board(tmp_path).Scalars("loss")] == told


def test_without_a_step_records_are_cut_from_the_first_that_comes(tmp_path):
    session(tmp_path, (10, 20, 30), 1.0)
    session(tmp_path, (), 2.0)  # died before its first figure
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]
    session(tmp_path, (20, 30), 2.0)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(10, 1.0), (20, 2.0), (30, 2.0)]
    session(tmp_path, (10,), 3.0, step=0)  # from the beginning
    assert lines(tmp_path) == [{"step": 10, "loss": 3.0}]


def test_a_line_that_a_crash_cut_off_is_no_trouble(tmp_path):
    session(tmp_path, (10, 20))
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 30, "lo')
    assert [record["step"] for record in read_metrics(tmp_path)] == [10, 20]
    session(tmp_path, (30,), step=20)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]


def test_tensorboard_reads_figures_pictures_and_the_configuration(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(24, 36, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grid.png")
    tracker = Tracker(tmp_path / "run", ("tensorboard",), CONFIG)
    tracker.log({"flow": 0.5, "samples": 16}, 20)
    tracker.image("samples", tmp_path / "grid.png", 20)
    tracker.close()
    tracker.log({"flow": 0.25}, 40)
    assert len(lines(tmp_path / "run")) == 1  # a closed tracker takes nothing more

    events = board(tmp_path / "run")
    assert {"flow", "samples"} <= set(events.Tags()["scalars"])
    assert [(event.step, event.value) for event in events.Scalars("flow")] == [(20, 0.5)]
    shown = events.Images("samples")[0]
    assert (shown.step, shown.width, shown.height) == (20, 36, 24)
    assert b"learning_rate" in events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0]
    assert [folder.name for folder in (tmp_path / "run").iterdir() if folder.is_dir()] == ["tensorboard"]


def test_a_tracker_that_is_not_installed_is_told_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [])
    monkeypatch.delitem(__import__("sys").modules, "wandb", raising=False)
    with pytest.raises(ConfigError, match="wandb is not installed: pip install wandb"):
        Tracker(tmp_path / "run", ("wandb",), CONFIG)
    assert not (tmp_path / "run").exists()
