"""Configurations: what is shipped loads, what is written is taken, and a mistake is told in one sentence."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from training import train
from training.config import DataConfig, ManifestConfig, RenderedConfig, SetConfig, TrainConfig, load_config
from training.data import check
from training.errors import ConfigError
from training.synth.edits.tasks import TASKS

CONFIGS = sorted(Path("training/configs").glob("*.yaml"))
MILLIONS = {
    "wan_14b_pretrain": (14e3, 15e3),
    "wan_14b_sft": (14e3, 15e3),
    "lora_14b": (14e3, 15e3),
    "wan_1_3b_pretrain": (1.3e3, 1.5e3),
    "wan_1_3b_sft": (1.3e3, 1.5e3),
}
"""Parameters of the large models; the others are small."""
MINIMAL = """\
stage: sft
output: runs/x
data:
  workers: 2
  manifest:
    sets: [{manifest: pairs.jsonl}]
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(MINIMAL)
    return file


def value_at(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config


def refusal(path, *overrides):
    with pytest.raises(ConfigError) as refused:
        load_config(path, overrides)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# --- What is shipped -------------------------------------------------------------------------------------------------


def test_configurations_are_shipped():
    tiny = {"tiny_vae", "tiny_tower", "tiny_pretrain", "tiny_sft", "tiny_refine", "debug_cpu"}
    assert {path.stem for path in CONFIGS} >= tiny | {"wan_1_3b_pretrain", "wan_1_3b_sft", "wan_14b_sft"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_say_what_is_loaded(path):
    """Every value of the file arrives as it is written, and the end of the run is the file's and not a default."""
    written = yaml.safe_load(path.read_text())
    assert "max_steps" in written
    loaded = json.loads(json.dumps(dataclasses.asdict(load_config(path))))
    assert set(written["data"].get("rendered", {}).get("task_weights", {})) <= set(TASKS)
    assert_holds(loaded, written)


def assert_holds(loaded, written, key=""):
    if isinstance(written, dict):
        for name, value in written.items():
            assert_holds(loaded[name], value, f"{key}.{name}")
    elif isinstance(written, list) and written and isinstance(written[0], dict):
        assert len(loaded) == len(written)
        for one, other in zip(loaded, written, strict=True):
            assert_holds(one, other, key)
    else:
        assert loaded == written, key


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_dry_run_without_data_downloads_or_a_gpu(path, monkeypatch, capsys):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a dry run asks no network"))
    assert train.main(["--config", str(path), "--dry-run"]) == 0
    told, config = capsys.readouterr().out, load_config(path)
    assert f"stage {config.stage} to {config.output}, fingerprint {config.fingerprint()}\n" in told
    assert f"{config.optimiser.name}, learning rate {config.optimiser.learning_rate:g}" in told
    assert f"{config.max_steps} steps" in told and f" of {config.accumulate} micro-steps" in told
    parameters = int(re.search(r"^model +([\d,]+) parameters", told, re.MULTILINE)[1].replace(",", ""))
    low, high = MILLIONS.get(path.stem, (0.1, 30))
    assert low * 1e6 < parameters < high * 1e6
    *parts, together = (float(size) for size in re.findall(r" ([\d.]+) GiB", told))
    assert together == pytest.approx(sum(parts), abs=0.05)
    assert together * 2**30 >= 2 * parameters - 0.01 * 2**30  # at the least all weights in bfloat16
    assert told.partition("\ndata\n")[2].strip()


# --- What is written -------------------------------------------------------------------------------------------------


GOOD_VALUES = [
    ("optimiser.learning_rate", "2e-5", 2e-5),
    ("optimiser.learning_rate", "1E-3", 1e-3),
    ("optimiser.learning_rate", "1", 1.0),
    ("optimiser.weight_decay", ".01", 0.01),
    ("optimiser.weight_decay", "0", 0.0),
    ("optimiser.ema_decay", "0.5", 0.5),
    ("data.rendered.refresh_per_step", "2", 2.0),
    ("max_steps", "1_000", 1000),
    ("seed", "010", 10),
    ("compile", "true", True),
    ("compile", "yes", True),
    ("precision", "float32", "float32"),
    ("data.rendered.task_weights", "{add: 3, move: 1e-1}", {"add": 3.0, "move": 0.1}),
    ("data.manifest.frames", "[1, 81]", (1, 81)),
    ("data.manifest.sets", "[{manifest: a.csv, weight: 2}]", (SetConfig("a.csv", weight=2.0),)),
    ("watch.trackers", "[]", ()),
    ("model", "{num_layers: 3, eps: 1e-6}", {"num_layers": 3, "eps": 1e-6}),
    ("start_from", "''", ""),
    ("output", "2026-01-02", "2026-01-02"),
    ("output", "'7'", "7"),
    ("lora.trigger", "1:30", "1:30"),
]


@pytest.mark.parametrize(("key", "written", "value"), GOOD_VALUES)
def test_values_are_taken_as_people_write_them(path, key, written, value):
    """By `--set`, and in the file."""
    of_set = value_at(load_config(path, [f"{key}={written}"]), key)
    *sections, last = key.split(".")
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    lines += [f"{'  ' * len(sections)}{last}: {written}", "stage: sft", *(["output: x"] if last != "output" else [])]
    path.write_text("\n".join(lines))
    of_file = value_at(load_config(path), key)
    assert of_set == value and type(of_set) is type(value)
    assert of_file == value and type(of_file) is type(value)


def test_an_override_reaches_into_sections_that_the_file_does_not_have(path):
    config = load_config(path, ["model.num_layers=3", "data.rendered.task_weights.add=2", "start_from="])
    assert config.model == {"num_layers": 3} and config.data.rendered.task_weights == {"add": 2.0}
    assert config.data.workers == 2 and config.start_from == ""


def test_later_overrides_win(path):
    assert load_config(path, ["seed=1", "seed=2"]).seed == 2


def test_what_is_left_out_has_defaults_that_may_be_written_out(path):
    """Every default is within its own bounds: the whole configuration, spelled out, is the same."""
    config = TrainConfig(stage="sft", output="runs/x")
    path.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    assert load_config(path) == config
    path.write_text("stage: sft\noutput: runs/x\n")
    assert load_config(path) == config


# --- What cannot be --------------------------------------------------------------------------------------------------

BAD_VALUES = {
    "max_steps=-5": "max_steps must be a whole number of at least 1, not -5",
    "max_steps=0": "max_steps must be a whole number of at least 1, not 0",
    "max_steps=1e5": "max_steps must be a whole number of at least 1, not 100000.0: write 100000",
    "max_minutes=-1": "max_minutes must be a number of at least 0, not -1",
    "max_minutes=.inf": "max_minutes must be a number of at least 0, not Infinity",
    "batch_size=0": "batch_size must be a whole number of at least 1, not 0",
    "batch_size=many": "batch_size must be a whole number of at least 1, not 'many'",
    "batch_size=[4]": "batch_size must be a whole number of at least 1, not a list",
    "batch_size=": "batch_size must be a whole number of at least 1, not ''",
    "batch_size=~": "batch_size must be a whole number of at least 1, not left empty",
    "accumulate=0": "accumulate must be a whole number of at least 1, not 0",
    "seed=true": "seed must be a whole number from 0 to below 9223372036854775808, not true",
    "seed=-1": "seed must be a whole number from 0 to below 9223372036854775808, not -1",
    "compile=1": "compile must be true or false, not 1",
    "float8_share=1.5": "float8_share must be a number from 0 to 1, not 1.5",
    "stage=vea": "stage must be one of vae, tower, pretrain, sft, lora, not 'vea': did you mean vae?",
    "stage={a: 1}": "stage must be one of vae, tower, pretrain, sft, lora, not a section of keys",
    "precision=bf16": "precision must be one of float32, bfloat16, not 'bf16': did you mean bfloat16?",
    "output=7": "output must be text of at least one character, not 7: write it in quotes",
    "output=": "output must be text of at least one character, not ''",
    "model=3": "model must be a section of keys, not 3",
    "data=3": "data must be a section of keys, not 3",
    "data=~": "data must be a section of keys, not left empty: give it keys, or leave it out",
    "data.workers=1.5": "data.workers must be a whole number of at least 0, not 1.5",
    "data.text_dropout=2": "data.text_dropout must be a number from 0 to 1, not 2",
    "data.rendered.frames=16": "data.rendered.frames: 16 is not of the form 4k+1; 17 is",
    "data.rendered.frames=0": "data.rendered.frames must be a whole number of at least 1, not 0",
    "data.rendered.task_weights={add: -1}": "data.rendered.task_weights.add must be a number of at least 0, not -1",
    "data.manifest.frames=[1, 16]": "data.manifest.frames[1]: 16 is not of the form 4k+1; 17 is",
    "data.manifest.frames=17": (
        "data.manifest.frames must be a list, with at least one entry, each a whole number of at least 1, not 17"
    ),
    "data.manifest.frames=[]": (
        "data.manifest.frames must be a list, with at least one entry, each a whole number of at least 1, "
        "not an empty list"
    ),
    "data.manifest.sets=[3]": "data.manifest.sets[0] must be a section of keys, not 3",
    "data.manifest.sets=[{}]": (
        "the key data.manifest.sets[0].manifest is missing: it must be text of at least one character"
    ),
    "data.manifest.sets=[{manifest: a, weight: -1}]": (
        "data.manifest.sets[0].weight must be a number of at least 0, not -1"
    ),
    "data.manifest.image_share=1.5": "data.manifest.image_share must be a number from 0 to 1, not 1.5",
    "optimiser.learning_rate=0": "optimiser.learning_rate must be a number above 0, not 0",
    "optimiser.learning_rate=fast": "optimiser.learning_rate must be a number above 0, not 'fast'",
    "optimiser.ema_decay=1": "optimiser.ema_decay must be a number from 0 to below 1, not 1",
    "parallel.sequence=0": "parallel.sequence must be a whole number of at least 1, not 0",
    "save.keep=0": "save.keep must be a whole number of at least 1, not 0",
    "lora.rank=0": "lora.rank must be a whole number of at least 1, not 0",
    "lora.name=a/b": "lora.name: 'a/b' is no file name: write it without folders",
    "watch.log_every=0": "watch.log_every must be a whole number of at least 1, not 0",
    "watch.validation_samples=0": "watch.validation_samples must be a whole number of at least 1, not 0",
    "watch.trackers=tensorboard": (
        "watch.trackers must be a list, each one of tensorboard, wandb, trackio, not 'tensorboard'"
    ),
    "watch.trackers=[wanbd]": (
        "watch.trackers[0] must be one of tensorboard, wandb, trackio, not 'wanbd': did you mean wandb?"
    ),
    "max_stepz=1": "unknown key max_stepz: did you mean max_steps?",
    "data.rendered.group=1": "unknown key data.rendered.group: did you mean data.rendered.groups?",
    "data.manifest.sets=[{manifest: a, wieght: 1}]": (
        "unknown key data.manifest.sets[0].wieght: did you mean data.manifest.sets[0].weight?"
    ),
    "optimizer.learning_rate=1": "unknown key optimizer: did you mean optimiser?",
    "learning_rate=1": "unknown key learning_rate: did you mean optimiser.learning_rate?",
    "frames=5": "unknown key frames: did you mean data.rendered.frames or data.manifest.frames?",
    "objective.xyzzy=1": (
        "unknown key objective.xyzzy: known: semantic_weight, edit_weight, timesteps, sigma_shift, pretext"
    ),
}

BAD_OVERRIDES = {
    "seed": "--set seed sets nothing: write key=value, with dots for nested keys",
    "=3": "--set =3 sets nothing: write key=value, with dots for nested keys",
    "data..workers=1": "--set data..workers=1 sets nothing: write key=value, with dots for nested keys",
    "stage.x=1": "--set stage.x=1 cannot be: stage is 'sft' and has no keys; set it whole",
    "data.workers.x.y=1": "--set data.workers.x.y=1 cannot be: data.workers is 2 and has no keys; set it whole",
    "data.manifest.sets.0=1": (
        "--set data.manifest.sets.0=1 cannot be: data.manifest.sets is a list and has no keys; set it whole"
    ),
    "model={a: 1": "--set model={a: 1 is no YAML: expected ',' or '}', but got '<stream end>'",
    "model={a: 1, a: 2}": "--set model={a: 1, a: 2} is no YAML: the key 'a' stands here for the second time",
}

BAD_FILES = {
    "": " is empty: see training/configs for configurations to begin with",
    "# nothing\n": " is empty: see training/configs for configurations to begin with",
    "- stage\n": " must hold keys with values, `key: value`, not a list",
    "sft\n": " must hold keys with values, `key: value`, not 'sft'",
    "stage: sft\noutput: [\n": ", line 3, is no YAML: expected the node content, but found '<stream end>'",
    "stage: sft\noutput: a: b\n": ", line 2, is no YAML: mapping values are not allowed here",
    "stage: sft\n\tseed: 1\n": ", line 2, is no YAML: found character '\\t' that cannot start any token",
    "stage: sft\noutput: x\nstage: lora\n": ", line 3, is no YAML: the key 'stage' stands here for the second time",
    "stage: sft\n---\nstage: lora\n": (
        ", line 2, is no YAML: expected a single document in the stream, but found another document"
    ),
    "stage: \x00\n": " is no YAML: unacceptable character #x0000: special characters are not allowed",
}

BAD_KEYS_OF_FILES = {
    "stage: sft\n": "the key output is missing: it must be text of at least one character",
    "output: x\n": "the key stage is missing: it must be one of vae, tower, pretrain, sft, lora",
    "stge: sft\noutput: x\n": "unknown key stge: did you mean stage?",
    "stage: sft\noutput: x\nlora:\n": "lora must be a section of keys, not left empty: give it keys, or leave it out",
    "stage: sft\noutput: x\nmodel: &m {a: *m}\n": "the configuration contains itself: write anchors (&, *) out",
}


@pytest.mark.parametrize(("override", "sentence"), (BAD_VALUES | BAD_OVERRIDES).items(), ids=lambda text: text[:40])
def test_a_bad_value_is_told_with_its_key_and_what_is_allowed(path, override, sentence):
    assert refusal(path, override) == sentence


@pytest.mark.parametrize(("override", "sentence"), BAD_VALUES.items(), ids=lambda text: text[:40])
def test_a_bad_value_in_the_file_is_told_in_the_same_words(path, override, sentence):
    key, _, written = override.partition("=")
    sections = key.split(".")
    lines = [f"{'  ' * depth}{section}:" for depth, section in enumerate(sections)]
    lines[-1] += f" {written or repr(written)}"
    lines += [line for line in ("stage: sft", "output: x") if line.partition(":")[0] != key]
    path.write_text("\n".join(lines))
    assert refusal(path) == sentence


@pytest.mark.parametrize(("text", "sentence"), BAD_FILES.items(), ids=range(len(BAD_FILES)))
def test_a_bad_file_is_named_with_the_line(path, text, sentence):
    path.write_text(text)
    assert refusal(path) == f"{path}{sentence}"


@pytest.mark.parametrize(("text", "sentence"), BAD_KEYS_OF_FILES.items(), ids=range(len(BAD_KEYS_OF_FILES)))
def test_keys_that_are_missing_or_empty_are_named(path, text, sentence):
    path.write_text(text)
    assert refusal(path) == sentence


def test_a_file_that_cannot_be_read_is_named(path, tmp_path):
    other = tmp_path / "other.yaml"
    assert refusal(other) == f"there is no configuration {other}: see training/configs for those that are shipped"
    assert refusal(tmp_path) == f"{tmp_path} cannot be read: Is a directory"
    path.write_bytes(b"stage: \xff\xfe")
    assert refusal(path) == f"{path} is no YAML: it is not text in UTF-8"


def test_bounds_hold_in_python_too_and_nothing_can_be_changed():
    config = TrainConfig(stage="sft", output="runs/x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        dataclasses.replace(config, batch_size=0)
    with pytest.raises(ValidationError, match="4k\\+1"):
        DataConfig(manifest=ManifestConfig(frames=(16,)))
    with pytest.raises(ValidationError, match="valid integer"):
        DataConfig(workers="2")
    with pytest.raises(ValidationError, match="Unexpected keyword"):
        RenderedConfig(group=1)


@pytest.mark.parametrize("override", ["stage.x=1", "data.rendered.frames=16", "max_steps=-5", "seed=[", "nowhere=1"])
@pytest.mark.parametrize("command", [train.main, check.main])
def test_the_commands_end_with_status_2_and_one_sentence(path, capsys, command, override):
    assert command(["--config", str(path), "--set", override]) == 2
    told = capsys.readouterr()
    assert told.err == refusal(path, override) + "\n" and not told.out


# --- What does not go together ---------------------------------------------------------------------------------------


def test_a_dry_run_knows_what_does_not_go_together(path, capsys):
    path.write_text(
        "stage: sft\noutput: runs/x\nmodel: {num_layers: 1, num_attention_heads: 2, attention_head_dim: 24}\n"
    )
    for overrides, message in (
        (("parallel.sequence=3", "--dry-run", "8"), "parallel.sequence=3 does not divide the 8 processes"),
        (("parallel.weights=shard", "--dry-run", "2"), "Muon needs whole matrices"),
        (("stage=lora", "--dry-run"), "an adapter needs a trained model"),
        (("model={}", "--dry-run"), "the section `model` is empty"),
        (("data.rendered.task_weights.ad=2", "--dry-run"), "there is no task 'ad': did you mean add?"),
    ):
        assert train.main(["--config", str(path), "--set", *overrides]) == 2
        assert message in capsys.readouterr().err


BAD_MODELS = [
    (
        "tiny_sft",
        "model.num_layerz=1",
        "unknown key model.num_layerz (SamaTransformer3DModel): did you mean model.num_layers?",
    ),
    ("tiny_sft", "model.num_layers=0", "model.num_layers must be a whole number of at least 1, not 0"),
    ("tiny_sft", "model.ffn_dim=1e3", "model.ffn_dim must be a whole number of at least 1, not 1000.0: write 1000"),
    ("tiny_sft", "model.image_dim=many", "model.image_dim must be a whole number, not 'many'"),
    ("tiny_sft", "model.patch_size=[1, a]", "model.patch_size[1] must be a whole number, not 'a'"),
    (
        "tiny_sft",
        "model.semantic_positions=gird",
        "the section `model` cannot be built: semantic_positions must be one of",
    ),
    ("tiny_sft", "model.attention_head_dim=7", "the section `model` cannot be built: AssertionError"),
    ("tiny_vae", "model={base_dim: 8}", "the key model.z_dim is missing: AutoencoderKLWan needs it"),
    ("tiny_vae", "model.zdim=3", "unknown key model.zdim (AutoencoderKLWan): did you mean model.z_dim?"),
    ("tiny_vae", "model.dim_mult=[]", "the section `model` cannot be built: "),
    (
        "tiny_tower",
        "model.hiden_size=3",
        "unknown key model.hiden_size (SiglipVisionConfig): did you mean model.hidden_size?",
    ),
    ("tiny_tower", "model.hidden_size=wide", "the section `model` cannot be built: "),
    ("tiny_tower", "model.num_attention_heads=5", "the section `model` cannot be built: embed_dim must be divisible"),
]


@pytest.mark.parametrize(("name", "override", "sentence"), BAD_MODELS)
def test_a_model_that_cannot_be_is_told_before_anything_runs(name, override, sentence, capsys):
    assert train.main(["--config", f"training/configs/{name}.yaml", "--dry-run", "--set", override]) == 2
    told = capsys.readouterr().err
    assert told.startswith(sentence) and told.count("\n") == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("base=/nowhere/at/all", "/nowhere/at/all/text_encoder cannot be loaded"),
        ("data.rendered.pack=/nowhere", "/nowhere is not here: python -m training.synth.ingredients"),
        ("data.manifest.sets=[]", "data.manifest.sets is empty"),
        ("max_stepz=1", "unknown key max_stepz: did you mean max_steps?"),
    ],
)
def test_what_is_missing_is_told_in_one_sentence_with_status_2(path, capsys, override, message):
    source = "manifest" if "sets" in override else "rendered"
    overrides = [f"data.rendered.pack={path.parent}", "model={num_layers: 1}", f"data.source={source}", override]
    assert train.main(["--config", str(path), *(word for one in overrides for word in ("--set", one))]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert message in told[-1]


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


def test_the_fingerprint_is_of_what_decides(path):
    one = load_config(path).fingerprint()
    for neutral in (
        "data.workers=3",
        "output=elsewhere",
        "watch.log_every=1",
        "save.keep=9",
        "parallel.checkpointing=full",
        "max_steps=9",
        "max_minutes=3",
        "lora.trigger=Make it blue",
        "data.manifest.cache=here",
        "optimiser.learning_rate=2",
        "optimiser.learning_rate=2.0",
    ):
        of_neutral = load_config(path, [neutral]).fingerprint()
        expected = load_config(path, ["optimiser.learning_rate=2e0"]).fingerprint() if "rate" in neutral else one
        assert of_neutral == expected, neutral
    for deciding in (
        "seed=1",
        "data.text_dropout=0.2",
        "optimiser.ema_decay=0.5",
        "parallel.sequence=2",
        "lora.rank=3",
    ):
        assert one != load_config(path, [deciding]).fingerprint(), deciding
