"""Configurations: what is shipped loads, and a mistake is named."""

from pathlib import Path

import pytest

from training import train
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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_dry_run_without_data_downloads_or_a_gpu(path, monkeypatch, capsys):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a dry run asks no network"))
    assert train.main(["--config", str(path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "parameters" in told and "memory" in told and "data" in told


def test_a_dry_run_knows_what_does_not_go_together(path, capsys):
    path.write_text(
        "stage: sft\noutput: runs/x\nmodel: {num_layers: 1, num_attention_heads: 2, attention_head_dim: 24}\n"
    )
    for overrides, message in (
        (("parallel.sequence=3", "--dry-run", "8"), "parallel.sequence=3 does not divide the 8 processes"),
        (("parallel.weights=shard", "--dry-run", "2"), "Muon needs whole matrices"),
        (("stage=lora", "--dry-run"), "an adapter needs a trained model"),
        (("model={num_layerz: 1}", "--dry-run"), "model.num_layerz is no argument"),
        (("model={}", "--dry-run"), "the section `model` is empty"),
    ):
        assert train.main(["--config", str(path), "--set", *overrides]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("base=/nowhere/at/all", "/nowhere/at/all/text_encoder cannot be loaded"),
        ("data.rendered.pack=/nowhere", "/nowhere is not here: python -m training.procedural.ingredients"),
        ("data.source=manifest", "data.manifest.sets is empty"),
        ("max_stepz=1", "unknown key max_stepz: did you mean max_steps?"),
    ],
)
def test_what_is_missing_is_told_in_one_sentence_with_status_2(path, capsys, override, message):
    overrides = ["--set", f"data.rendered.pack={path.parent}", "--set", "model={num_layers: 1}", "--set", override]
    assert train.main(["--config", str(path), *overrides]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert message in told[-1]


def test_configurations_are_shipped():
    tiny = {"tiny_vae", "tiny_tower", "tiny_pretrain", "tiny_sft", "tiny_refine", "debug_cpu"}
    assert {path.stem for path in CONFIGS} >= tiny | {
        "wan_1_3b_pretrain",
        "wan_1_3b_sft",
        "wan_14b_pretrain",
        "wan_14b_sft",
    }


@pytest.mark.parametrize(
    ("name", "places"), [("1_3b_pretrain", 8), ("1_3b_sft", 8), ("14b_pretrain", 16), ("14b_sft", 16)]
)
def test_the_wan_configurations_hold_what_the_paper_publishes(name, places):
    config = load_config(Path(f"training/configs/wan_{name}.yaml"))
    assert (config.optimiser.learning_rate, config.optimiser.ema_decay) == (2e-5, 0.9998)
    assert (config.objective.semantic_weight, config.objective.edit_weight) == (0.1, 1.0)
    assert config.stage == name.split("_")[-1] and config.objective.pretext == (config.stage == "pretrain")
    manifest, micro_steps = config.data.manifest, places * config.accumulate
    images = micro_steps * manifest.image_share / (manifest.image_share + (1 - manifest.image_share) * 4)
    assert (round(images) * manifest.image_batch, micro_steps - round(images)) == (448, 112)
    first = name.replace("sft", "pretrain")
    assert config.start_from == (f"runs/wan_{first}" if config.stage == "sft" else config.base)
    adapters = {"nhr_edit", "gpt_image_edit", "x2edit", "koala", "motion_bench"}
    if config.stage == "sft":
        adapters = {"nhr_edit", "pico_banana", "ditto_style", "openve", "reco"}
    assert {one.adapter for one in manifest.sets} == adapters


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
    for neutral in (
        "data.workers=3",
        "output=elsewhere",
        "watch.log_every=1",
        "save.keep=9",
        "parallel.checkpointing=full",
    ):
        assert one == load_config(path, [neutral]).fingerprint()
    for deciding in ("seed=1", "data.text_dropout=0.2", "optimiser.ema_decay=0.5", "parallel.sequence=2"):
        assert one != load_config(path, [deciding]).fingerprint()
