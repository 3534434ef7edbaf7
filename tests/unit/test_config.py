"""Configurations: what is shipped loads, and a mistake is named."""

from pathlib import Path

import pytest

from training.config import ConfigError, load_config
from training.data.rendered import ALL_TASKS

CONFIGS = sorted(Path("training/configs").glob("*.yaml"))


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("stage: sft\noutput: runs/x\ndata:\n  workers: 2\n")
    return file


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_load(path):
    config = load_config(path)
    assert config.max_minutes > 0 or config.max_steps
    assert set(config.data.rendered.task_weights) <= set(ALL_TASKS)


def test_configurations_are_shipped():
    assert {path.stem for path in CONFIGS} >= {"tiny_vae", "tiny_tower", "tiny_sft"}


def test_an_unknown_key_is_named_with_the_right_one(path):
    with pytest.raises(ConfigError, match=r"unknown key data\.rendered\.(\w+): did you mean data\.rendered\.groups"):
        load_config(path, ["data.rendered.group=1"])
    with pytest.raises(ConfigError, match=r"unknown key xyzzy: known keys: stage, output"):
        load_config(path, ["xyzzy=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=many", "batch_size must be a int, not 'many'"),
        ("compile=1", "compile must be a bool, not 1"),
        ("seed=true", "seed must be a int, not True"),
        ("data=3", "data must be a section"),
        ("stage=vea", "stage must be one of vae, tower, pretrain, sft, lora, not 'vea'"),
        ("data.workers=1.5", "data.workers must be a int"),
    ],
)
def test_a_wrong_type_is_named(path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])


def test_overrides(path):
    config = load_config(
        path, ["data.rendered.refresh_per_step=2", "optimiser.ema_decay=0.5", "data.rendered.task_weights={add: 3.0}"]
    )
    rendered = config.data.rendered
    assert rendered.refresh_per_step == 2.0 and isinstance(rendered.refresh_per_step, float)
    assert config.data.workers == 2 and config.optimiser.ema_decay == 0.5
    assert rendered.task_weights == {"add": 3.0}
    with pytest.raises(ConfigError, match="write key=value"):
        load_config(path, ["seed"])


def test_what_is_missing_is_named(path):
    path.write_text("stage: sft\n")
    with pytest.raises(ConfigError, match="the key output is missing"):
        load_config(path)
    with pytest.raises(ConfigError, match="no configuration"):
        load_config(path.with_name("other.yaml"))


def test_the_fingerprint_is_of_what_decides(path):
    one = load_config(path).fingerprint()
    for neutral in ("data.workers=3", "output=elsewhere", "watch.log_every=1", "save.keep=9", "lora.name=x"):
        assert one == load_config(path, [neutral]).fingerprint()
    for deciding in ("seed=1", "data.text_dropout=0.2", "optimiser.ema_decay=0.5", "parallel.sequence=2"):
        assert one != load_config(path, [deciding]).fingerprint()
